"""What trtexec answers: exported times and tensors, warnings, the reason of a failure.

Formats of its sources, TensorRT 8.2 to 11.4 (github.com/NVIDIA/TensorRT,
``samples/common/sampleReporting.cpp``). Standard library and numpy only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.errors import EngineError, last_line
from edge.session import Array

__all__ = [
    "TrtexecTimes",
    "read_export_output",
    "read_export_times",
    "trtexec_failure",
    "trtexec_warnings",
]


@dataclass(frozen=True)
class TrtexecTimes:
    """Milliseconds of each measured run: ``latency_ms`` is the sum of the three parts after it.

    ``start_ms`` is when its transfer began, not when it was enqueued: that is while the run before
    it is still under way.
    """

    latency_ms: Array
    h2d_ms: Array
    compute_ms: Array
    d2h_ms: Array
    start_ms: Array


def read_export_times(path: Path, warmup_ms: float = 0.0) -> TrtexecTimes:
    """Read what ``--exportTimes`` wrote, float64 arrays of one value a run.

    Runs whose computation began before ``warmup_ms`` are left out, the rule that trtexec's own
    summary follows: the files of 8.2 and 8.4 hold the runs of the warm-up as well. Raises
    EngineError for any other file and where no run is left.
    """
    keys = ("latencyMs", "h2dMs", "computeMs", "d2hMs", "startH2dMs")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        table = np.array(
            [
                [float(row[key]) for key in keys]
                for row in rows
                if float(row["startComputeMs"]) >= warmup_ms
            ],
            np.float64,
        ).reshape(-1, len(keys))
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise EngineError(
            f"{path}: not the times that trtexec --exportTimes writes ({error!r})"
        ) from None
    if not len(table) or not np.isfinite(table).all():
        raise EngineError(f"{path}: trtexec measured no run; raise --iterations or --duration")
    return TrtexecTimes(*(table[:, index] for index in range(len(keys))))


def read_export_output(path: Path) -> dict[str, Array]:
    """Read what ``--exportOutput`` wrote: output name -> float64 array of the given dimensions.

    trtexec prints values with six significant digits, so that these are not the exact floats.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # C++ prints what JSON has no word for in lower case.
        text = re.sub(r"(?<=[\s\[,-])nan(?=[\s\],])", "NaN", text).replace("-NaN", "NaN")
        text = re.sub(r"(?<=[\s\[,-])inf(?=[\s\],])", "Infinity", text)
        outputs = {}
        for entry in json.loads(text):
            shape = [int(size) for size in str(entry["dimensions"]).split("x") if size]
            outputs[str(entry["name"])] = np.array(entry["values"], np.float64).reshape(shape)
        return outputs
    except (OSError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise EngineError(
            f"{path}: not the tensors that trtexec --exportOutput writes ({error!r})"
        ) from None


# [11/21/2026-10:00:00] [W] text, or ... [W] [TRT] text
_LINE = r"^(?:\[[\d/]+-[\d:]+\] )?\[{}\] (?:\[TRT\] )?(.*\S)\s*$"


def trtexec_warnings(output: str) -> list[str]:
    """What trtexec warned of, each line once: an unstable clock, a run bound by transfers, ..."""
    found = re.findall(_LINE.format("W"), output, re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in found))


def trtexec_failure(output: str) -> str:
    """The line that says why trtexec failed: its first error, or else its last line.

    A skipped tactic is logged as an error and is none: a kernel that was tried and did not fit.
    """
    found = re.findall(_LINE.format("E"), output, re.MULTILINE)
    found = [line for line in found if "Skipping tactic" not in line]
    return str(found[0]) if found else last_line(output) or "it printed nothing"
