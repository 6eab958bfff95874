"""TFLite as an engine: the spec's shapes whatever the file's axes, integers or floats."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.engines.tflite import import_interpreter, open_engine, quietly
from edge.errors import ArtifactError, EngineError, EngineMissingError, FeedError, SpecError
from edge.session import Array, EngineSettings
from edge.spec import Precision, TensorSpec
from tests.conftest import ROOT
from tests.stand_ins.tflite_convolution import (
    ONE,
    artifact_of,
    feed,
    formula,
    weights,
)

pytest.importorskip("ai_edge_litert")


def run(artifact: Artifact, array: Array) -> Array:
    with open_engine(artifact, ONE) as session:
        return session.run({"input": array})["heatmaps"]


# --- answers --------------------------------------------------------------------------------------


def test_axes_are_the_specs_where_shapes_are_mute(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    with open_engine(artifact, ONE) as session:
        assert session.engine.startswith("ai-edge-litert 2")
        assert session.inference_precision == "fp32"
        assert session.max_batch == 1
        got = session.run({"input": feed()})
    assert list(got) == ["heatmaps"]
    assert got["heatmaps"].dtype == np.float32
    np.testing.assert_allclose(got["heatmaps"], formula(feed()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "scale", "zero"), [("INT8", 0.03, -7), ("INT16", 2e-4, 0)])
def test_integer_inputs_and_outputs_stay_float_outside(
    tmp_path: Path, kind: str, scale: float, zero: int
) -> None:
    precision: Precision = "int8" if kind == "INT8" else "w8a16"
    artifact = artifact_of(tmp_path, precision, kind=kind, scale=scale, zero=zero)
    array = feed()
    with open_engine(artifact, ONE) as session:
        assert session.inference_precision == precision
        got = session.run({"input": array})["heatmaps"]
    low, high = (-128, 127) if kind == "INT8" else (-32768, 32767)
    steps = np.clip(np.rint(array / np.float32(scale) + zero), low, high) - zero
    own = weights()
    scales = np.abs(own).max(axis=1) / 127
    rounded = np.rint(own / scales[:, None]) * scales[:, None]
    exact = np.einsum("oc,nchw->nohw", rounded, steps * scale)
    want = np.clip(np.rint(exact / 0.05) + zero, low, high) - zero
    # The kernels' own fixed-point rounding may fall to the other side of a half.
    assert np.abs(got / 0.05 - want).max() <= 1.001
    assert np.mean(np.abs(got / 0.05 - want) > 0.5) < 0.02


def test_a_value_beyond_the_range_takes_its_end(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path, "int8", kind="INT8", scale=0.01, zero=0)
    far, end = np.full((1, 3, 16, 16), 9, np.float32), np.full((1, 3, 16, 16), 1.27, np.float32)
    np.testing.assert_array_equal(run(artifact, far), run(artifact, end))


def test_outputs_and_feeds_belong_to_the_caller(tmp_path: Path) -> None:
    array = feed()
    with open_engine(artifact_of(tmp_path), ONE) as session:
        first = session.run({"input": array})["heatmaps"]
        kept = first.copy()
        other = session.run({"input": feed(1)})["heatmaps"]
        np.testing.assert_array_equal(first, kept)
        first[:] = 0
        again = session.run({"input": array})["heatmaps"]
    np.testing.assert_array_equal(array, feed())
    np.testing.assert_array_equal(again, kept)
    assert np.abs(other - kept).max() > 0.1
    assert first.flags["C_CONTIGUOUS"] and first.flags["OWNDATA"]


def test_constants_come_with_the_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = {"table": np.arange(6, dtype=np.float32)}
    # A spec with constants is RTMO's, and its file would have a dozen outputs.
    monkeypatch.setattr("edge.engines.tflite.load_constants", lambda _: constants)
    with open_engine(artifact_of(tmp_path), ONE) as session:
        got = session.run({"input": feed()})
    assert list(got) == ["heatmaps", "table"]
    np.testing.assert_array_equal(got["table"], constants["table"])


def test_threads_are_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, _ = import_interpreter()
    real, asked = runtime.Interpreter, []

    def spy(**options: Any) -> Any:
        asked.append(options["num_threads"])
        return real(**options)

    monkeypatch.setattr(runtime, "Interpreter", spy)
    session = open_engine(artifact_of(tmp_path), EngineSettings(threads=3))
    session.close()
    session.close()  # twice is once
    assert asked == [3]


# --- bad input ------------------------------------------------------------------------------------


def test_a_wrong_feed_never_reaches_the_engine(tmp_path: Path) -> None:
    with (
        open_engine(artifact_of(tmp_path), ONE) as session,
        pytest.raises(FeedError, match="shape"),
    ):
        session.run({"input": np.zeros((1, 16, 16, 3), np.float32)})


def test_bf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="TFLite does not compute in bf16"):
        open_engine(artifact_of(tmp_path), EngineSettings(inference_precision="bf16"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, share: float) -> None:
    artifact = artifact_of(tmp_path)
    path = artifact.path("model")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    # In a process of its own: what must not happen is that the process dies.
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.stand_ins.tflite_convolution import ONE, square_spec\n"
        "from edge.artifact import Artifact\nfrom edge.spec import Variant\n"
        "from edge.engines.tflite import open_engine\nfrom edge.errors import EngineError\n"
        "files = {'model': 'square.tflite', 'layout': 'layout.json'}\n"
        "variant = Variant('tflite', 'fp32')\n"
        "try:\n"
        "    open_engine(Artifact(Path(sys.argv[1]), variant, square_spec(), files, {}), ONE)\n"
        "except EngineError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith(f"TFLite cannot load {path}: ")


def test_another_format_is_no_tflite(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    artifact.path("model").write_bytes(b"\x08\x08\x12\x07pytorch" * 20)
    with pytest.raises(EngineError, match="it is no TFLite model"):
        open_engine(artifact, ONE)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"input": [0, 2, 3, 1]}, "it has no tensor 'heatmaps'"),
        ({"input": [0, 1, 2, 3], "heatmaps": [0, 2, 3, 1]}, r"'input' is \[1, 16, 16, 3\]"),
        ({"input": [0, 2, 3, 1], "heatmaps": [0, 2, 3]}, "the spec says"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path: Path, layout: Any, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        open_engine(artifact_of(tmp_path, layout=layout), ONE)


def test_a_layout_that_is_none_is_refused(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    artifact.path("layout").write_text("[1, 2]")
    with pytest.raises(ArtifactError, match="how axes lie"):
        open_engine(artifact, ONE)


def test_a_spec_of_other_names_or_shapes_is_refused(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    other = replace(artifact.spec, outputs=(TensorSpec("maps", (1, 16, 16, 16)),))
    with pytest.raises(EngineError, match="it has no tensor 'maps'"):
        open_engine(replace(artifact, spec=other), ONE)
    other = replace(artifact.spec, input=TensorSpec("input", (1, 3, 32, 32)))
    with pytest.raises(EngineError, match="the spec says"):
        open_engine(replace(artifact, spec=other), ONE)


# --- runtimes and their noise ---------------------------------------------------------------------


def test_without_any_runtime_the_usual_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "tensorflow.lite.python.interpreter", None)
    with pytest.raises(EngineMissingError, match=r"ai_edge_litert.*edgepose\[tflite\]"):
        import_interpreter()


def test_the_older_runtime_serves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, _ = import_interpreter()
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", real)
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"2.14 of {name}")
    with open_engine(artifact_of(tmp_path), ONE) as session:
        assert session.engine == "tflite-runtime 2.14 of tflite-runtime"
        got = session.run({"input": feed()})["heatmaps"]
    np.testing.assert_allclose(got, formula(feed()), rtol=1e-5, atol=1e-5)


def test_only_the_runtimes_own_log_is_swallowed(capfd: pytest.CaptureFixture[str]) -> None:
    with quietly():
        os.write(2, b"INFO: Created a delegate.\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(artifact_of(tmp_path), feed())
    assert capfd.readouterr() == ("", "")
