"""The chain as a whole, on a tiny model: what it leaves, what it refuses, what it repeats."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import convert as convert_module
from converters import model_in_work
from converters.chain import Row
from converters.conversion import ConversionRequest
from converters.convert import Source, convert_model, verify_artifact
from converters.formats import ncnn as ncnn_module
from converters.formats.ncnn import rename_blobs
from converters.graph.prepare import prepare
from converters.job import FeedSource, Job, NamedFeeds
from converters.tools import version_of
from edge.artifact import MANIFEST, load_artifact, sha256_of
from edge.errors import ArtifactError, EdgeError, ParityError, SpecError, ToolError
from edge.session import open_session
from edge.spec import ModelSpec, Variant
from tests.conftest import ROOT, tiny_simcc_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("ncnn")
if find_spec("pnnx") is None:  # importing it would need PyTorch
    pytest.skip("pnnx is not installed", allow_module_level=True)

ONNX, NCNN = Variant("onnx", "fp32"), Variant("ncnn", "fp16")
OPENVINO = Variant("openvino", "fp16")


def noise(spec: ModelSpec) -> list[NamedFeeds]:
    rng = np.random.default_rng(11)
    shape = (1, 3, *spec.input_hw)
    return [
        NamedFeeds(f"noise {i}", {spec.input.name: rng.normal(0, 1, shape).astype(np.float32)})
        for i in range(3)
    ]


NOISE = FeedSource("noise, seed 11", noise)


def convert(
    path: Path,
    out: Path,
    *variants: Variant,
    images: FeedSource = NOISE,
    force: bool = False,
    **options: Any,
) -> tuple[list[Path], list[Row]]:
    """The folders and the table; the first variant that failed raises its error."""
    rows: list[Row] = []
    source, request = Source(path.stem, path), ConversionRequest(parity=images, **options)
    made = convert_model(source, variants or (NCNN,), out, request, rows.append, force=force)
    for one in made:
        if one.error:
            raise one.error
    return [one.folder for one in made], rows


def files_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) if folder.exists() else []


def test_artifacts_hold_what_they_promise(tiny_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "build"
    (first, second, third), rows = convert(tiny_onnx, out, ONNX, NCNN, OPENVINO)
    assert files_under(out) == [
        "tiny-ncnn-fp16",
        "tiny-ncnn-fp16/artifact.json",
        "tiny-ncnn-fp16/tiny.bin",
        "tiny-ncnn-fp16/tiny.param",
        "tiny-onnx-fp32",
        "tiny-onnx-fp32/artifact.json",
        "tiny-onnx-fp32/tiny.onnx",
        "tiny-openvino-fp16",
        "tiny-openvino-fp16/artifact.json",
        "tiny-openvino-fp16/tiny.bin",
        "tiny-openvino-fp16/tiny.xml",
    ]
    assert [row.step for row in rows] == [
        *("prepare", "onnx-fp32", "parity"),
        # Of ONNX's open batch one of 1 is made, and OpenVINO takes the open one.
        *("ncnn-fp16", "parity"),
        *("openvino-fp16", "parity"),
    ]
    assert rows[-1].verdict.startswith("pass: 51 keypoints")
    artifact = load_artifact(second)
    assert artifact.source["sha256"] == sha256_of(tiny_onnx)
    assert artifact.source["scale_norms_made_fp16_safe"] == 1
    assert artifact.tools["pnnx"] == version_of("pnnx")
    assert artifact.parity["passed"] is True
    assert {t["name"] for t in artifact.parity["tensors"]} == {"simcc_x", "simcc_y"}
    assert artifact.parity["fp16_peak"]["max_abs"] < 65504
    param = artifact.path("model").read_text()
    assert param.splitlines()[2].split() == ["Input", "in0", "0", "1", "input"]
    assert " simcc_x " in param
    assert load_artifact(first).spec.input.shape[0] is None
    half = load_artifact(third)
    assert half.spec.input.shape[0] is None
    assert half.tools["openvino"] == version_of("openvino")
    assert half.parity["engine"].startswith("openvino ")
    # Never what OpenVINO takes by itself.
    assert half.parity["inference_precision"] in ("fp32", "fp16")


@pytest.mark.parametrize("text", ["ncnn-fp16", "openvino-fp16", "openvino-fp32"])
def test_engines_agree_with_each_other(tiny_onnx: Path, tmp_path: Path, text: str) -> None:
    variant = Variant.parse(text)
    (first, second), _ = convert(tiny_onnx, tmp_path / "build", ONNX, variant)
    image = noise(load_artifact(first).spec)[0].feeds
    with open_session(load_artifact(first)) as a, open_session(load_artifact(second)) as b:
        want, got = a.run(image), b.run(image)
        assert b.engine.startswith(f"{variant.format} ")
    assert list(want) == list(got)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("texts", [["onnx-fp32", "ncnn-fp16"], ["ncnn-fp16", "onnx-fp32"]])
def test_a_model_is_prepared_once(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    """Whatever batches the variants need, and in whatever order."""
    batches = []

    def counted(*arguments: Any, **options: Any) -> Any:
        batches.append(options["batch"])
        return prepare(*arguments, **options)

    monkeypatch.setattr(model_in_work, "prepare", counted)
    folders, _ = convert(tiny_onnx, tmp_path, *(Variant.parse(text) for text in texts))
    assert batches == [None]
    sizes = [load_artifact(folder).spec.input.shape[0] for folder in folders]
    assert sizes == [None if text.startswith("onnx") else 1 for text in texts]


@pytest.mark.parametrize("text", ["onnx-fp16", "ncnn-fp16", "openvino-fp16", "tflite-fp32"])
def test_relative_folders_and_an_empty_cache(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """As `make convert` has it on a new machine: tools that run elsewhere find their files."""
    if text.startswith("tflite"):
        pytest.importorskip("ai_edge_quantizer")
        if not (ROOT / ".venv-onnx2tf/.ready").is_file():
            pytest.skip("onnx2tf's environment is not built: make setup-onnx2tf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPOSE_CACHE", "cache")
    source, out = Path(tiny_onnx.name), Path("build")
    (folder,), rows = convert(source, out, Variant.parse(text))
    assert folder == out / f"tiny-{text}"
    assert rows[-1].verdict.startswith("pass: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"build", "cache", "tiny.onnx"}


def test_nothing_to_do_does_nothing(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "build"
    (folder,), _ = convert(tiny_onnx, out)
    before = (folder / MANIFEST).stat().st_mtime_ns

    def must_not_run(*_: Any, **__: Any) -> Any:
        raise AssertionError("prepared again")

    monkeypatch.setattr(model_in_work, "prepare", must_not_run)
    _, rows = convert(tiny_onnx, out)
    assert [row.step for row in rows] == ["ncnn-fp16 up to date"]
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(AssertionError, match="prepared again"):
        convert(tiny_onnx, out, force=True)
    assert (folder / MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["source", "file", "images", "failed"])
def test_a_change_converts_again(tiny_onnx: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "build"
    (folder,), _ = convert(tiny_onnx, out)
    images = NOISE
    if change == "source":
        onnx.save(tiny_simcc_model(scale_norm=False), str(tiny_onnx))
    elif change == "file":
        (folder / "tiny.bin").write_bytes(b"broken")
    elif change == "images":
        images = FeedSource("other noise", noise)
    else:
        data = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(data | {"failed": True}))
    _, rows = convert(tiny_onnx, out, images=images)
    assert [row.step for row in rows] == ["prepare", "ncnn-fp16", "parity"]
    load_artifact(folder)


def wrong_weights(job: Job) -> dict[str, str]:
    """A converter that spoils the weights: the first tenth of them is doubled."""
    files = ncnn_module.convert_ncnn(job)
    path = job.folder / files["weights"]
    data = np.frombuffer(path.read_bytes(), np.float16).copy()
    # The first four bytes say that half floats follow.
    data[2 : len(data) // 10] *= 2
    path.write_bytes(data.tobytes())
    return files


def spoil(monkeypatch: pytest.MonkeyPatch, converter: Any) -> None:
    changed = replace(convert_module.CONVERTERS["ncnn-fp16"], converter=converter)
    monkeypatch.setitem(convert_module.CONVERTERS, "ncnn-fp16", changed)


def test_wrong_answers_leave_no_artifact(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, wrong_weights)
    out = tmp_path / "build"
    with pytest.raises(
        ParityError, match=r"tiny, step parity \(after prepare, ncnn-fp16\).*of noise 0.*\d"
    ):
        convert(tiny_onnx, out)
    assert files_under(out) == []


def test_a_failed_artifact_can_be_kept_for_study(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, wrong_weights)
    out = tmp_path / "build"
    with pytest.raises(ParityError, match=r"marked as failed: .*tiny-ncnn-fp16"):
        convert(tiny_onnx, out, keep_failed=True)
    folder = out / "tiny-ncnn-fp16"
    with pytest.raises(ArtifactError, match="failed its checks"):
        load_artifact(folder)
    kept = load_artifact(folder, allow_failed=True)
    assert kept.failed
    assert kept.parity["failures"]
    monkeypatch.undo()
    convert(tiny_onnx, out)
    assert not load_artifact(folder).failed


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ToolError("crashed")]
)
def test_an_interrupted_chain_leaves_nothing(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def stop(job: Job) -> dict[str, str]:
        (job.folder / "tiny.param").write_text("half")
        raise error

    spoil(monkeypatch, stop)
    out = tmp_path / "build"
    with pytest.raises(type(error)):
        convert(tiny_onnx, out)
    assert files_under(out) == []


def test_a_tool_that_lies_is_caught(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pnnx"
    program.write_text("#!/bin/sh\necho gave up\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setattr(ncnn_module, "pnnx_program", lambda: program)
    with pytest.raises(ToolError, match=r"pnnx left no tiny\.param; it said: gave up"):
        convert(tiny_onnx, tmp_path / "build")
    program.write_text("#!/bin/sh\necho cannot read it >&2\nexit 7\n")
    with pytest.raises(ToolError, match=r"exited with 7(.|\n)*cannot read it"):
        convert(tiny_onnx, tmp_path / "build")
    assert files_under(tmp_path / "build") == []


def test_an_operator_that_a_format_lacks_is_named(tmp_path: Path) -> None:
    model = tiny_simcc_model()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "input":
                node.input[index] = "tossed"
    model.graph.node.insert(0, onnx.helper.make_node("Bernoulli", ["input"], ["tossed"], "coin"))
    model.opset_import[0].version = max(15, model.opset_import[0].version)
    path = tmp_path / "coin.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ToolError, match=r"ncnn has no operator Bernoulli .*that have it: onnx"):
        convert(path, tmp_path / "build")


def test_images_without_an_answer_prove_nothing(tiny_onnx: Path, tmp_path: Path) -> None:
    def black(spec: ModelSpec) -> list[NamedFeeds]:
        return [NamedFeeds("black", {"input": np.zeros((1, 3, *spec.input_hw), np.float32)})]

    with pytest.raises(ParityError, match=r"finds nothing in one black picture.*--images DIR"):
        convert(tiny_onnx, tmp_path / "build", images=FeedSource("one black picture", black))


def test_values_beyond_half_precision_fail_the_fp16_variant(tmp_path: Path) -> None:
    from onnx import numpy_helper

    model = tiny_simcc_model()
    for tensor in model.graph.initializer:
        factor = {"conv.w": 1e5, "w_x": 1e-5, "w_y": 1e-5}.get(tensor.name)
        if factor:
            value = numpy_helper.to_array(tensor) * np.float32(factor)
            if tensor.name == "conv.w":
                # Weights that FP16 holds, with sums that it does not.
                value = np.clip(value, -6e4, 6e4)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), tensor.name))
    path = tmp_path / "huge.onnx"
    onnx.save(model, str(path))
    with pytest.raises(ParityError, match="beyond FP16's 65504: it overflows"):
        convert(path, tmp_path / "build")
    convert(path, tmp_path / "build", ONNX)


def test_unknown_variants_are_refused_before_any_work(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no converter makes tensorrt-fp32.*ncnn-fp16"):
        convert(tiny_onnx, tmp_path / "build", NCNN, Variant("tensorrt", "fp32"))
    assert files_under(tmp_path / "build") == []


def test_no_write_permission(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    make = os.mkdir

    def mkdir(path: str, *more: Any, **options: Any) -> None:
        # Root may write everywhere.
        if os.geteuid() == 0 and Path(path).is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))
        make(path, *more, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises((PermissionError, EdgeError)):
        convert(tiny_onnx, closed / "build")


def test_verify_repeats_the_comparison(tiny_onnx: Path, tmp_path: Path) -> None:
    (folder,), _ = convert(tiny_onnx, tmp_path / "build")
    report = verify_artifact(folder, NOISE)
    recorded = load_artifact(folder).parity
    assert report.passed
    assert report.to_json()["decoded"] == pytest.approx(recorded["decoded"])

    moved = tmp_path / "elsewhere.onnx"
    tiny_onnx.rename(moved)
    with pytest.raises(ArtifactError, match="--source FILE"):
        verify_artifact(folder, NOISE)
    assert verify_artifact(folder, NOISE, source_path=moved).passed
    onnx.save(tiny_simcc_model(scale_norm=False), str(moved))
    with pytest.raises(ArtifactError, match="not the file that"):
        verify_artifact(folder, NOISE, source_path=moved)


# --- blob names -----------------------------------------------------------------------------------

PARAM = """7767517
3 4
Input in0 0 1 in0
Split split 1 2 in0 1 2
BinaryOp mul 2 1 1 2 out0 0=2
"""


def test_blobs_are_renamed_and_layers_are_not() -> None:
    text = rename_blobs(PARAM, {"in0": "input", "out0": "simcc_x"})
    rows = [line.split() for line in text.splitlines()]
    assert rows == [
        ["7767517"],
        ["3", "4"],
        ["Input", "in0", "0", "1", "input"],
        ["Split", "split", "1", "2", "input", "1", "2"],
        ["BinaryOp", "mul", "2", "1", "1", "2", "simcc_x", "0=2"],
    ]


def test_impossible_names_are_refused() -> None:
    with pytest.raises(ToolError, match="no blob out1"):
        rename_blobs(PARAM, {"in0": "input", "out1": "b"})
    with pytest.raises(ToolError, match="already has a blob 2"):
        rename_blobs(PARAM, {"in0": "2", "out0": "b"})
