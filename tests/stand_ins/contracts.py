"""What a converter, a quantiser, an engine and a codec promise, as checks of any that there are.

Each is called for every row of the kit's tables and for the examples of CONTRIBUTING.md. Those of
transports are the tests of ``tests/targets/transports/test_transport.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.formats.tensorrt import open_kit
from converters.graph.prepare import prepare
from converters.job import Converter, Job, OpenQuantiser
from converters.parity.limits import LIMITS
from edge.artifact import Artifact, sha256_of
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import EngineError, FeedError, SpecError
from edge.session import Array, EngineSettings, Feeds, Session, open_session
from edge.spec import ModelSpec, Precision, Variant
from tests.conftest import tiny_simcc_model

__all__ = [
    "check_box_codec",
    "check_converter",
    "check_engine",
    "check_keypoint_codec",
    "check_pose_codec",
    "check_quantiser",
    "job_of",
    "outputs_of",
    "reference",
]

ONE = EngineSettings(threads=1)
Opener = Callable[[Artifact, EngineSettings], Session]


# --- converters and quantisers --------------------------------------------------------------------


def images_of(spec: ModelSpec, count: int, seed: int = 3) -> list[Feeds]:
    """Feeds of one noisy image each."""
    rng = np.random.default_rng(seed)
    shape = [size or 1 for size in spec.input.shape]
    return [{spec.input.name: rng.normal(0, 1, shape).astype(np.float32)} for _ in range(count)]


def job_of(folder: Path, precision: Precision) -> Job:
    """A tiny network, prepared, with calibration feeds, and an empty private folder."""
    onnx = pytest.importorskip("onnx")
    source, private = folder / "source", folder / "private"
    source.mkdir()
    private.mkdir()
    onnx.save(tiny_simcc_model(scale_norm=True), str(source / "tiny.onnx"))
    prepared = prepare(source / "tiny.onnx", "tiny")
    onnx.save(prepared.model, str(source / "prepared.onnx"))
    return Job(
        source / "prepared.onnx", prepared.spec, precision, private, images_of(prepared.spec, 16)
    )


def reference(job: Job) -> list[dict[str, Array]]:
    """ONNX Runtime's answers on the prepared file, for pictures that calibrated nothing."""
    with OnnxRuntimeSession(job.onnx_path, job.spec, ONE) as session:
        return [session.run(feeds) for feeds in images_of(job.spec, 4, seed=99)]


def check_converter(convert: Converter, variant: Variant, folder: Path) -> None:
    """Files by role in its private folder, which answer like the source; the same bytes again."""
    job = job_of(folder, variant.precision)
    before = {path: sha256_of(path) for path in job.onnx_path.parent.iterdir()}
    want = reference(job)
    files = convert(job)
    _check_files(files, job, variant, want, LIMITS[variant.precision].cosine_min)
    assert {path: sha256_of(path) for path in job.onnx_path.parent.iterdir()} == before
    again = folder / "again"
    again.mkdir()
    convert(Job(job.onnx_path, job.spec, job.precision, again, job.feeds))
    _check_same(files, job.folder, again)


def check_quantiser(open_quantiser: OpenQuantiser, variant: Variant, folder: Path) -> None:
    """Parts by name; quantised for any choice of float ones, with all of them nearly the source."""
    job = job_of(folder, variant.precision)
    want = reference(job)
    quantiser = open_quantiser(job)
    parts = list(quantiser.parts)
    assert parts and len(set(parts)) == len(parts)
    assert set(quantiser.fragile_parts) <= set(parts)
    for name, floats in (("none", ()), ("fragile", tuple(quantiser.fragile_parts))):
        private = folder / name
        private.mkdir()
        files = quantiser.quantise(floats, private)
        own = Job(job.onnx_path, job.spec, job.precision, private)
        _check_files(files, own, variant, want, LIMITS[variant.precision].cosine_min)
        again = folder / f"{name} again"
        again.mkdir()
        assert quantiser.quantise(floats, again) == files
        _check_same(files, private, again)
    # It may refuse to quantise nothing at all.
    floating = folder / "all"
    floating.mkdir()
    try:
        files = quantiser.quantise(parts, floating)
    except SpecError:
        return
    own = Job(job.onnx_path, job.spec, job.precision, floating)
    _check_files(files, own, variant, want, LIMITS["fp16"].cosine_min)


def _check_files(
    files: Mapping[str, str],
    job: Job,
    variant: Variant,
    want: Sequence[Mapping[str, Array]],
    cosine_min: float,
) -> None:
    assert files
    for name in files.values():
        assert Path(name).name == name and (job.folder / name).stat().st_size > 0, name
    artifact = Artifact(job.folder, variant, job.spec, dict(files), sha256={})
    opened = open_kit if variant.format == "tensorrt" else open_session
    with opened(artifact, ONE) as session:
        for feeds, right in zip(images_of(job.spec, 4, seed=99), want, strict=True):
            found = session.run(feeds)
            assert list(found) == list(right)
            for name, value in found.items():
                a, b = value.ravel().astype(np.float64), right[name].ravel().astype(np.float64)
                assert a @ b / np.sqrt((a @ a) * (b @ b)) >= cosine_min, (str(variant), name)


def _check_same(files: Mapping[str, str], first: Path, second: Path) -> None:
    for name in files.values():
        a, b = ((folder / name).read_bytes() for folder in (first, second))
        if name.endswith(".xml"):
            # OpenVINO numbers constants without a name by a counter of the process (2026.4.1).
            a, b = (re.sub(rb"_\d+", b"", text) for text in (a, b))
        assert a == b, f"{name}: other bytes"


# --- engines --------------------------------------------------------------------------------------


def check_engine(
    open_engine: Opener, artifact: Artifact, want: Sequence[Mapping[str, Array]]
) -> None:
    """All that a session promises; ``want`` are the answers for ``images_of(spec, 4, seed=99)``."""
    spec = artifact.spec
    images = images_of(spec, len(want), seed=99)
    session = open_engine(artifact, ONE)
    assert session.spec == spec and " " in session.engine
    assert session.inference_precision
    assert session.max_batch == spec.input.shape[0]
    found = [session.run(feeds) for feeds in images]
    for right, got in zip(want, found, strict=True):
        assert list(got) == [tensor.name for tensor in (*spec.outputs, *spec.constants)]
        for tensor in spec.outputs:
            value = got[tensor.name]
            assert isinstance(value, np.ndarray) and value.dtype == tensor.dtype
            assert tensor.accepts(value.shape)
            # Its own memory: the calls after it changed nothing.
            np.testing.assert_allclose(value, right[tensor.name], rtol=0.02, atol=0.02)
    name = spec.input.name
    turned = np.asfortranarray(images[0][name])
    for key, value in session.run({name: turned}).items():
        np.testing.assert_array_equal(value, found[0][key])
    _check_wrong_feeds(session, images[0][name])
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(images[0])
    with open_engine(artifact, ONE) as one, open_engine(artifact, ONE) as other:
        for key, value in one.run(images[0]).items():
            np.testing.assert_array_equal(value, other.run(images[0])[key])


def _check_wrong_feeds(session: Session, image: Array) -> None:
    name = session.spec.input.name
    wrong: list[Any] = [{}, {"no such": image}, {name: image.astype(np.float64)}, {name: image[0]}]
    for feeds in (*wrong, {name: image.tolist()}, image):
        with pytest.raises(FeedError):
            session.run(feeds)


# --- codecs ---------------------------------------------------------------------------------------


def outputs_of(spec: ModelSpec, images: int, seed: int = 0) -> dict[str, Array]:
    """Random outputs with boxes and people among them; of constants likewise."""
    rng = np.random.default_rng(seed)
    outputs = {
        tensor.name: rng.normal(0, 1, (images, *(size or 9 for size in tensor.shape[1:])))
        for tensor in spec.outputs
    }
    if spec.codec == "rtmdet":  # distances are above 0, or a box would be inside out
        outputs = {name: abs(v) if v.shape[1] == 4 else v for name, v in outputs.items()}
    if spec.codec == "detections":
        corners = np.arange(9)[:, None] * 10 + np.array([0, 0, 8, 8])
        rows = np.concatenate([corners, np.linspace(0.9, 0.5, 9)[:, None]], axis=1)
        outputs["dets"] = np.repeat(rows[None], images, axis=0)
        if "labels" in outputs:
            outputs["labels"] = np.zeros((images, 9))
    return {name: value.astype(np.float32) for name, value in outputs.items()}


def check_keypoint_codec(
    decode: Callable[..., Array], spec: ModelSpec, constants: Mapping[str, Array]
) -> None:
    """(N, K, 3) float32, an image alone as among others, nothing that is not finite."""
    outputs = outputs_of(spec, 2)
    kept = {name: value.copy() for name, value in outputs.items()}
    whole = decode(outputs | dict(constants), spec)
    assert whole.dtype == np.float32
    assert whole.shape == (2, len(spec.keypoints.keypoints), 3)
    for name, value in kept.items():
        np.testing.assert_array_equal(outputs[name], value)
    for index in range(2):
        alone = {name: value[index : index + 1] for name, value in outputs.items()}
        np.testing.assert_array_equal(decode(alone | dict(constants), spec)[0], whole[index])
    for bad in (np.nan, np.inf, -np.inf):
        broken = {name: np.full_like(value, bad) for name, value in outputs.items()}
        found = decode(broken | dict(constants), spec)
        assert np.isfinite(found).all() and (found[..., 2] == 0).all()


def check_box_codec(
    decode: Callable[..., Any], spec: ModelSpec, constants: Mapping[str, Array]
) -> None:
    """One pair an image, boxes (M, 5) best first and labels (M,); otherwise as for keypoints."""
    for boxes, labels in _check_pairs(decode, spec, constants):
        assert labels.dtype == np.int64 and labels.shape == (len(boxes),)
        assert (labels >= 0).all()


def check_pose_codec(
    decode: Callable[..., Any], spec: ModelSpec, constants: Mapping[str, Array]
) -> None:
    """One pair an image, boxes (M, 5) best first and keypoints (M, K, 3)."""
    for boxes, keypoints in _check_pairs(decode, spec, constants):
        assert keypoints.dtype == np.float32
        assert keypoints.shape == (len(boxes), len(spec.keypoints.keypoints), 3)
        assert np.isfinite(keypoints).all()


def _check_pairs(
    decode: Callable[..., Any], spec: ModelSpec, constants: Mapping[str, Array]
) -> list[tuple[Array, Array]]:
    outputs = outputs_of(spec, 2)
    kept = {name: value.copy() for name, value in outputs.items()}
    pairs: list[tuple[Array, Array]] = decode(outputs | dict(constants), spec)
    assert len(pairs) == 2
    for name, value in kept.items():
        np.testing.assert_array_equal(outputs[name], value)
    for index, (boxes, values) in enumerate(pairs):
        assert boxes.dtype == np.float32 and boxes.shape == (len(boxes), 5)
        assert 0 < len(boxes) <= spec.max_boxes
        assert np.isfinite(boxes).all()
        assert (boxes[:, 4] >= spec.score_threshold).all()
        assert (np.diff(boxes[:, 4]) <= 0).all(), "best first"
        assert (boxes[:, :2] <= boxes[:, 2:4]).all()
        alone = {name: value[index : index + 1] for name, value in outputs.items()}
        ((own_boxes, own_values),) = decode(alone | dict(constants), spec)
        np.testing.assert_array_equal(own_boxes, boxes)
        np.testing.assert_array_equal(own_values, values)
    for bad in (np.nan, np.inf, -np.inf):
        broken = {name: np.full_like(value, bad) for name, value in outputs.items()}
        assert all(len(boxes) == 0 for boxes, _ in decode(broken | dict(constants), spec))
    return pairs
