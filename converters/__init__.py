"""Host room: an ONNX file or checkpoint becomes verified artifacts.

Reading order: ``graph`` (what may come in, what kind of model it is, ONNX -> ONNX), ``formats``
(one converter or quantiser a format), ``parity`` (were the answers kept), ``chain`` (steps, nothing
half-written), ``convert`` (all of it, cached), ``zoo`` (named models), ``sdk`` (mmdeploy).
Apart from these, ``architectures`` and ``training`` need PyTorch.
"""

from pathlib import Path

__all__ = ["CHECKOUT", "ROOM"]

ROOM = Path(__file__).resolve().parent
"""This room's folder: the data that ships with it lies below."""

CHECKOUT = ROOM.parent
"""The folder of the whole checkout: lock files, environments, licence."""
