"""Faults on purpose: damaged inputs by the thousand, SIGKILLs at random, full disks.

``make test-faults`` runs them all, `tests.test_faults` a small part. A mutated input must end in an
`EdgeError` or in a right answer, within ten seconds and 2 GB; whatever is killed must leave nothing
half-written and must start again.
"""
