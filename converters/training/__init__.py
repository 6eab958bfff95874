"""Training of the demo models within a wall-clock budget: the loop, and what it is used for.

`loop` knows models, batches and a clock; `pose` and `detection` say what is learnt and how well.
"""
