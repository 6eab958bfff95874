"""What values a network's tensors take on calibration images, and the range that int8 is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edge.errors import FeedError, ModelFileError, ToolError
from edge.session import Array, Feeds, check_feeds
from edge.spec import ModelSpec

__all__ = ["FEWEST_FEEDS", "Range", "best_range", "tensor_ranges"]

# Below this the ranges are those of single images, not of what the network will see.
FEWEST_FEEDS = 8

Range = tuple[float, float]

_STEPS = 255
_BINS = 2048
# Of the values of one tensor on one image; a prime stride meets every row and channel.
_MOST_VALUES = 16_384
_STRIDES = (1, 3, 7, 13, 29, 61, 127, 251, 509, 1021, 2039)
_SHARES = tuple(percent / 100 for percent in range(100, 25, -5))


def tensor_ranges(model: Any, spec: ModelSpec, feeds: Sequence[Feeds]) -> dict[str, Range]:
    """The range (low, high) to quantise each float tensor of an ONNX model with, by its name.

    The input and the outputs keep their extremes; every other tensor has the range with the least
    squared error over all images (``best_range``). Raises FeedError for fewer than 8 feeds and
    for one that does not fit or is not finite, ModelFileError where a tensor is not finite, with
    the names of the tensor and the image.
    """
    if len(feeds) < FEWEST_FEEDS:
        raise FeedError(
            f"{len(feeds)} calibration images are too few for {spec.name}: at least {FEWEST_FEEDS},"
            " better 200"
        )
    arrays = [_checked_feed(spec, index, feed) for index, feed in enumerate(feeds)]
    extremes: dict[str, Range] = {}
    tap = _Tap(model, spec)
    for index, array in enumerate(arrays):
        for name, values in tap.run(array):
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ModelFileError(
                    f"{spec.name}: NaN or Inf in tensor {name!r} on calibration image {index}; look"
                    " at the model's weights, or leave that image out"
                )
            known = extremes.get(name, (low, high))
            extremes[name] = (min(low, known[0]), max(high, known[1]))
    kept = {spec.input.name, *(tensor.name for tensor in spec.outputs)}
    searched = {n: r for n, r in extremes.items() if n not in kept and r[0] < r[1]}
    counts = {name: np.zeros(_BINS, np.int64) for name in searched}
    for array in arrays:
        for name, values in tap.run(array):
            if name in searched:
                counts[name] += _histogram(values, searched[name])
    return extremes | {name: best_range(counts[name], searched[name]) for name in searched}


def best_range(counts: Array, extremes: Range) -> Range:
    """The range whose 256 levels give the least squared error, of those that shrink an extreme.

    ``counts`` (bins,) is the histogram of the values between ``extremes``; each side is 0 or its
    extreme times a share of 0.3 to 1. Values beyond the range are clipped to it.
    """
    values = np.linspace(*extremes, len(counts))
    values, weights = values[counts > 0], counts[counts > 0]
    low, high = min(0.0, extremes[0]), max(0.0, extremes[1])
    best, found = np.inf, (low, high)
    for low_share in _SHARES if low else (1.0,):
        for high_share in _SHARES if high else (1.0,):
            tried = (low * low_share, high * high_share)
            scale = (tried[1] - tried[0]) / _STEPS
            zero = round(-tried[0] / scale)
            levels = np.clip(np.rint(values / scale) + zero, 0, _STEPS) - zero
            error = float(weights @ np.square(levels * scale - values))
            if error < best:
                best, found = error, tried
    return found


def _histogram(values: Array, extremes: Range) -> Array:
    stride = next((s for s in _STRIDES if values.size <= s * _MOST_VALUES), _STRIDES[-1])
    low, high = extremes
    bins = (values.reshape(-1)[::stride] - low) * ((_BINS - 1) / (high - low)) + 0.5
    return np.bincount(bins.astype(np.int32), minlength=_BINS)[:_BINS]


def _checked_feed(spec: ModelSpec, index: int, feed: Feeds) -> Array:
    """The input of one calibration image, as large as the network's batch."""
    array = feed.get(spec.input.name)
    batch = spec.input.shape[0]
    if batch and array is not None and array.shape[:1] == (1,):
        feed = {**feed, spec.input.name: np.repeat(array, batch, axis=0)}
    array = check_feeds(spec, feed)
    if not np.isfinite(array).all():
        raise FeedError(
            f"NaN or Inf in the input {spec.input.name!r} of calibration image {index}; leave that "
            "image out"
        )
    return array


class _Tap:
    """A session that gives every float tensor of a network."""

    def __init__(self, model: Any, spec: ModelSpec) -> None:
        import onnx
        import onnxruntime

        inferred = onnx.shape_inference.infer_shapes(model)
        outputs = {value.name for value in inferred.graph.output}
        inferred.graph.output.extend(
            value
            for value in inferred.graph.value_info
            if value.name not in outputs
            and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                inferred.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise ToolError(f"ONNX Runtime cannot run {spec.name}: {error}") from None
        self._input = spec.input.name
        # In the order of computation, so that the first tensor that breaks is the one named.
        given = {value.name for value in inferred.graph.output}
        self._names = [
            name for node in inferred.graph.node for name in node.output if name in given
        ]

    def run(self, array: Array) -> Iterator[tuple[str, Array]]:
        """Name and values of each tensor that has any, the input first."""
        values: Mapping[str, Array] = dict(
            zip(self._names, self._session.run(self._names, {self._input: array}), strict=True)
        )
        yield self._input, array
        for name in self._names:
            if values[name].size and values[name].dtype == np.float32:
                yield name, values[name]
