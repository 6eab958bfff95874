"""Data sets and pictures, as they are read."""
