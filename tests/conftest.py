"""Fixtures: the shared test data where it is present, and small models made on the spot.

Also the end of a run: what was skipped, a line a reason.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.files import cache_folder
from tests.skipped import counted, reason_of

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skips-to", type=Path, metavar="FILE", help="add why tests were skipped, for .ci/test"
    )


# What is compiled or fetched for many minutes, under the hash of all that it is made from.
_COMPILED = ("runner", "wheels")
_OWN_CACHE = "EDGEPOSE_TEST_CACHE"


def pytest_configure(config: pytest.Config) -> None:
    """Signals as a terminal gives them: started in the background or by nohup, some are ignored.

    Tests, and all that they start, would inherit that. And an empty cache, as a new user has it,
    but for what is compiled: nothing passes because it was converted before.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if _OWN_CACHE not in os.environ:  # workers get their parent's
        folder, user = Path(tempfile.mkdtemp(prefix="edgepose-cache-")), cache_folder()
        for name in _COMPILED:
            (user / name).mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(user / name)
        os.environ["EDGEPOSE_CACHE"] = os.environ[_OWN_CACHE] = str(folder)
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was skipped, grouped by reason; or left to the file that several runs fill."""
    if hasattr(config, "workerinput"):
        return
    # Every worker collects, and says anew that a module is skipped.
    reports = {
        report.nodeid if isinstance(report, pytest.CollectReport) else id(report): report
        for report in terminalreporter.stats.get("skipped", [])
    }
    reasons = [reason_of(report.longrepr) for report in reports.values()]
    path: Path | None = config.getoption("--skips-to")
    if path is not None:
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{reason}\n" for reason in reasons)
        return
    for line in counted(reasons):
        terminalreporter.write_line(line)


def shared(relative: str) -> Path:
    """A file of the shared folder beside the checkout; skips the test where it is absent."""
    path = SHARED / relative
    if not SHARED.is_dir():
        pytest.skip("the project's test data is not beside this checkout (../shared)")
    if not path.exists():
        pytest.skip(f"shared/{relative} is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def rtmdet_file() -> Path:
    """The real RTMDet-nano with its NMS inside."""
    return shared("data/rtmdet-nano-person/end2end.onnx")


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Four COCO photos with people; the first shows one person."""
    return sorted(shared("data/coco").glob("*.jpg"))


def tiny_simcc_model(
    *, keypoints: int = 17, input_hw: tuple[int, int] = (64, 48), scale_norm: bool = False
) -> Any:
    """A valid SimCC graph of a few nodes with fixed random weights and a dynamic batch."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    height, width = input_hw
    tokens = (height // 16) * (width // 16)

    def weight(name: str, *shape: int) -> Any:
        value = rng.normal(0, 0.3, shape).astype(np.float32)
        return numpy_helper.from_array(value, name)

    nodes = [
        helper.make_node(
            "Conv", ["input", "conv.w"], ["map"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Reshape", ["map", "shape"], ["tokens"]),
    ]
    last = "tokens"
    weights = [
        weight("conv.w", keypoints, 3, 16, 16),
        numpy_helper.from_array(np.array([-1, keypoints, tokens], np.int64), "shape"),
    ]
    if scale_norm:
        nodes += [
            helper.make_node("ReduceL2", ["tokens"], ["norm"], axes=[-1], keepdims=1),
            helper.make_node("Mul", ["norm", "dim"], ["scaled"]),
            helper.make_node("Clip", ["scaled", "eps"], ["clipped"]),
            helper.make_node("Div", ["tokens", "clipped"], ["unit"]),
            helper.make_node("Mul", ["unit", "g"], ["normed"]),
        ]
        weights += [
            numpy_helper.from_array(np.array(tokens**-0.5, np.float32), "dim"),
            numpy_helper.from_array(np.array(1e-5, np.float32), "eps"),
            numpy_helper.from_array(np.array([1.5], np.float32), "g"),
        ]
        last = "normed"
    for axis, bins in (("x", 2 * width), ("y", 2 * height)):
        nodes.append(helper.make_node("MatMul", [last, f"w_{axis}"], [f"simcc_{axis}"]))
        weights.append(weight(f"w_{axis}", tokens, bins))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, height, width])],
        [
            helper.make_tensor_value_info(
                f"simcc_{axis}", TensorProto.FLOAT, ["batch", keypoints, bins]
            )
            for axis, bins in (("x", 2 * width), ("y", 2 * height))
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """A tiny SimCC model as a file ``tiny.onnx``."""
    import onnx

    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_simcc_model(scale_norm=True), str(path))
    return path


def heed_interrupts() -> None:
    """For `preexec_fn`: what a script starts in the background is deaf to SIGINT by inheritance."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
