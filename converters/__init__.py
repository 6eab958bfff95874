"""Host room: an ONNX file or checkpoint becomes verified artifacts.

Reading order: ``onnx_file`` (what may come in), ``recognise`` (what kind of model it is),
``prepare`` (ONNX -> ONNX), ``onnx`` and ``ncnn`` (one function a format), ``judges`` and ``parity``
(were the answers kept), ``chain`` (steps, nothing half-written), ``convert`` (all of it, cached),
``zoo`` (named models). Apart from these, ``architectures``, ``simcc_loss`` and ``training`` need
PyTorch.
"""

from pathlib import Path

__all__ = ["CHECKOUT", "ROOM"]

ROOM = Path(__file__).resolve().parent
"""This room's folder: the data that ships with it lies below."""

CHECKOUT = ROOM.parent
"""The folder of the whole checkout: lock files, environments, licence."""
