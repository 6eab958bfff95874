"""Versions on a board, and the service that runs there."""
