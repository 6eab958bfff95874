"""PyTorch definitions of the supported networks, and how their checkpoints are loaded.

The one room that needs torch. Parameter names are those of the official checkpoints, so that a
published file loads strictly; each definition is written from the published formulas.
"""
