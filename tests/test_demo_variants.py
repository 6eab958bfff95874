"""Both demo models in every variant that runs here: size, and what quantising cost, in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.formats.onnx2tf import LOCK
from edge.artifact import Artifact, load_artifact
from edge.cli import main
from tests.conftest import ROOT

pytest.importorskip("nncf")
pytest.importorskip("ai_edge_quantizer")
pytest.importorskip("pycocotools")

# Beside each of a format, the precisions that are held to a share of its fp32 size.
FORMATS = {
    "onnx": ("fp16", "int8"),
    "ncnn": ("fp16",),
    "openvino": ("fp16", "int8"),
    "tflite": ("fp16", "int8"),
}
LIMITS = {"fp16": 0.51, "int8": 0.3}
# RTMDet-nano has few weights (8-bit ones are 0.25 of fp32) and 133 quantisers, each a layer in XML.
EXCEPTIONS = {("rtmdet-nano-demo", "openvino", "int8"): 0.345}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rtmpose-t-demo", "rtmdet-nano-demo"])
def test_sizes_and_losses(model: str, tmp_path: Path) -> None:
    """At most half a point of AP on 500 pictures; half and a quarter of the size."""
    if not (ROOT / ".venv-onnx2tf" / ".ready").exists():
        pytest.skip(f"needs `make setup-onnx2tf` ({LOCK.name})")
    chosen = [f"{kind}-{p}" for kind, more in FORMATS.items() for p in ("fp32", *more)]
    options = ["--target", "x86", "--formats", ",".join(chosen), "--max-loss", "0.5"]
    assert main(["convert", "--model", model, *options, "--out", str(tmp_path)]) == 0

    def made(kind: str, precision: str) -> Artifact:
        return load_artifact(tmp_path / "x86" / f"{model}-{kind}-{precision}")

    for kind, precisions in FORMATS.items():
        full = made(kind, "fp32")
        for precision in precisions:
            artifact = made(kind, precision)
            share = artifact.size_bytes / full.size_bytes
            limit = EXCEPTIONS.get((model, kind, precision), LIMITS[precision])
            assert share <= limit, f"{artifact.variant}: {share:.3f}"
            if precision == "int8":
                assert artifact.accuracy["images"] == 500
                assert artifact.accuracy["loss_points"] <= 0.5
