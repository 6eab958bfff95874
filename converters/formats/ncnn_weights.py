"""What lies in an ncnn ``.bin``: the weights of each layer, to see what the writer lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edge.session import Array

__all__ = ["layer_weights"]

# ncnn 1.0.20261020, `ModelBin.load`: what follows in halves begins with this, floats with 0.
_HALVES = 0x01306B47
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise")


def layer_weights(param: str, data: bytes) -> dict[str, Array] | None:
    """Layer -> its weights, (n,) float16 or float32 as they are stored; biases are left out.

    None where a layer's data is of a kind that is not known here: then the blocks do not end with
    the file.
    """
    found: dict[str, Array] = {}
    place = 0
    for name, count, typed in _blocks(param):
        if typed:
            kind = int.from_bytes(data[place : place + 4], "little")
            if kind not in (_HALVES, 0):
                return None
            dtype = np.dtype("<f2" if kind == _HALVES else "<f4")
            block = data[place + 4 : place + 4 + count * dtype.itemsize]
            if len(block) < count * dtype.itemsize:
                return None
            found[name] = np.frombuffer(block, dtype)
            place += 4 + -(-len(block) // 4) * 4
        else:
            place += 4 * count
    return found if place == len(data) else None


def _blocks(param: str) -> Iterator[tuple[str, int, bool]]:
    """Layer, number of values, and whether the values are preceded by their type."""
    for line in param.splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        values: Mapping[int, int] = {
            int(key): int(value)
            for key, _, value in (
                text.partition("=") for text in rest[int(inputs) + int(outputs) :]
            )
            if value.lstrip("-").isdecimal() and int(key) >= 0
        }
        if kind in _CONVOLUTIONS or kind == "InnerProduct":
            yield name, values[6 if kind in _CONVOLUTIONS else 2], True
            if values.get(5 if kind in _CONVOLUTIONS else 1):
                yield name, values[0], False
        elif kind == "MemoryData":
            sizes = [values[key] for key in (0, 1, 2, 11) if values.get(key)]
            yield name, int(np.prod(sizes)), bool(values.get(21) == 0)
        elif kind == "Gemm":
            rows, columns, inner = (values.get(key, 0) for key in (7, 8, 9))
            sizes = [rows * inner, columns * inner]
            for constant, size in zip((4, 5), sizes, strict=True):
                if values.get(constant):
                    yield name, size, True
            if values.get(6) and values.get(10, 0) >= 0:
                counts = (1, rows, rows, rows * columns, columns)
                yield name, counts[values.get(10, 0)], True
