"""onnx2tf, a program in an environment of its own: ONNX -> a float .tflite file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters import CHECKOUT, ROOM
from converters.tools import locked_versions, run_shown, run_tool
from edge.errors import ToolError, last_line

__all__ = [
    "LOCK",
    "MissingOperatorError",
    "onnx2tf_python",
    "onnx2tf_version",
    "refuse_flex",
    "run_onnx2tf",
]

LOCK = ROOM / "formats" / "onnx2tf.lock"
_ENVIRONMENT = CHECKOUT / ".venv-onnx2tf"
_SETUP_TIMEOUT_S = 1800.0
_TIMEOUT_S = 900.0
# It fetches pictures for a test run from the network unless a file of this name lies in its
# working folder (onnx2tf 1.29.24, `download_test_image_data`).
_TEST_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"
# Its script would not survive that the checkout is moved; TensorFlow's log hides what failed.
_PROGRAM = "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'; import onnx2tf; onnx2tf.main()"
_MISSING_OPERATOR = re.compile(r"(\w+) OP is not yet implemented")


class MissingOperatorError(ToolError):
    """An operator that the format lacks."""


def onnx2tf_version() -> str:
    """The version that the lock has, ``absent`` without a checkout; nothing is imported."""
    return locked_versions(LOCK).get("onnx2tf", "absent")


def onnx2tf_python(environment: Path = _ENVIRONMENT) -> Path:
    """The interpreter of onnx2tf's environment, built by `make setup-onnx2tf` on first need.

    The environment's mark holds the hash of the lock that it was built from: another lock, or a
    build that was broken off, and it is built anew. Raises ToolError where that fails.
    """
    mark, python = environment / ".ready", environment / "bin/python"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()

    def is_ready() -> bool:
        return python.exists() and mark.is_file() and mark.read_text().strip() == wanted

    if not is_ready():
        try:
            run_shown(["make", "--no-print-directory", "setup-onnx2tf"], CHECKOUT, _SETUP_TIMEOUT_S)
        except ToolError as error:
            reason = last_line(error)
            raise ToolError(
                f"onnx2tf's environment could not be built ({reason}); run `make setup-onnx2tf`, "
                "which needs the package index"
            ) from None
        if not is_ready():
            raise ToolError(f"`make setup-onnx2tf` left no {environment.name} of this lock")
    return python


def run_onnx2tf(onnx_path: Path, model: Any, folder: Path, *, search: bool = False) -> Path:
    """Convert a static ONNX file in a private folder; the float32 .tflite file in there.

    ``search`` looks for other axis orders where the plain conversion fails or computes something
    else, which takes minutes, and converts with what was found. Raises ToolError that names the
    operator and its node where onnx2tf lacks one.
    """
    python = onnx2tf_python()
    # onnx2tf runs in the folder: a relative path would be looked for in there.
    onnx_path, folder = onnx_path.absolute(), folder.absolute()
    _refuse_missing_operators(model, python)
    noise = np.random.default_rng(20).random((20, 128, 128, 3), np.float32)
    np.save(folder / _TEST_IMAGES, noise)

    def convert(out: str, *options: str) -> None:
        argv = [str(python), "-c", _PROGRAM, "-i", str(onnx_path), "-o", out, "-n", *options]
        run_tool(argv, folder, _TIMEOUT_S)

    out = "plain"
    try:
        if search:
            out = "found"
            # It writes what it found, exits with an error if it had to, and converts nothing anew.
            try:
                convert("search", "-agj", "-agje")
            except ToolError:
                if not list((folder / "search").glob("*_auto.json")):
                    raise
            found = sorted((folder / "search").glob("*_auto.json"))
            convert(out, *(["-prf", str(found[0])] if found else []))
        else:
            convert(out)
    except ToolError as error:
        missing = _MISSING_OPERATOR.search(str(error))
        if missing:
            raise MissingOperatorError(_lacks(missing[1], _node_of(model, missing[1]))) from None
        raise
    return folder / out / f"{onnx_path.stem}_float32.tflite"


def _refuse_missing_operators(model: Any, python: Path) -> None:
    """Before minutes are spent: onnx2tf has one module for each operator that it knows."""
    folders = list(python.parents[1].glob("lib/python3*/site-packages/onnx2tf/ops"))
    known = {path.stem for folder in folders for path in folder.glob("*.py")}
    for node in model.graph.node:
        if known and node.op_type not in known:
            raise MissingOperatorError(_lacks(node.op_type, node.name or node.output[0]))


def _lacks(operator: str, node: str) -> str:
    return (
        f"TFLite has no operator for {operator} (node {node!r}); onnx has it, and openvino may: "
        "choose such variants with --formats"
    )


def _node_of(model: Any, operator: str) -> str:
    names = [
        n.name or n.output[0] for n in model.graph.node if n.op_type.lower() == operator.lower()
    ]
    return str(names[0]) if names else "?"


def refuse_flex(operators: Sequence[str], model: Any) -> None:
    """Raise ToolError where a .tflite file needs TensorFlow's own kernels, or other custom ones.

    ``operators`` as in the file: ``CONV_2D``, ``FlexErf``. LiteRT and phones run the former only.
    """
    for operator in operators:
        if not operator.isupper():
            name = operator.removeprefix("Flex")
            raise MissingOperatorError(_lacks(name, _node_of(model, name)))
