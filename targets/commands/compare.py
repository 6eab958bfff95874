"""``edge compare``: variants of models side by side, measured in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.data.data_set import DataSet, load_data
from calibration.scores.accuracy import evaluate_session
from calibration.scores.decoded_error import Answers, decoded_answers, decoded_error
from edge.artifact import MANIFEST, Artifact, load_artifact
from edge.choice.record import machine
from edge.detector import detector_feeds
from edge.errors import ArtifactError, EngineMissingError, SpecError
from edge.files import write_bytes
from edge.latency import P90_SAMPLES, LatencySettings, measure_in_turn, spread_reasons
from edge.pose import pose_feeds
from edge.printable import printable
from edge.runner import noise
from edge.session import (
    EngineSettings,
    InferencePrecision,
    Session,
    open_session,
    shipped_precision,
)
from edge.terminal import StatusLine, say
from targets.report.variant_plot import plot_svg
from targets.report.variants import VariantRow, markdown_table, rows_json, text_table

__all__ = ["add", "run"]

_ERROR_PICTURES = 48


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "artifacts", nargs="+", type=Path, metavar="ARTIFACT", help="folders, or a folder of them"
    )
    parser.add_argument(
        "--data",
        default="synthetic:500",
        metavar="FILE.json|synthetic:N",
        help="what accuracy is measured on (default: %(default)s)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures of --data FILE.json")
    parser.add_argument(
        "--min-seconds",
        dest="seconds",
        type=float,
        default=3.0,
        help="to time each for, in turns (default: 3)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        metavar="DIR",
        help="also write variants.md, variants.svg and .json",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


@dataclass
class _Candidate:
    artifact: Artifact
    session: Session
    feeds: dict[str, np.ndarray[Any, Any]]


def run(arguments: argparse.Namespace) -> int:
    """Measure artifacts of one or more models and set them side by side."""
    if arguments.threads < 1 or arguments.seconds <= 0:
        raise SpecError("--threads and --min-seconds must be positive")
    by_model: dict[tuple[str, tuple[int, int]], list[Artifact]] = {}
    for artifact in _artifacts(arguments.artifacts):
        by_model.setdefault((artifact.spec.name, artifact.spec.input_hw), []).append(artifact)
    sizes = {name: sum(one == name for one, _ in by_model) for name, _ in by_model}
    rows: list[VariantRow] = []
    engines: set[str] = set()
    for (name, (height, width)), artifacts in by_model.items():
        model = name if sizes[name] == 1 else f"{name} {height}x{width}"
        with StatusLine() as line, ExitStack() as stack:
            rows += _rows(model, artifacts, arguments, stack, line.show, engines)
    about = _about(arguments, engines)
    if arguments.json:
        print(json.dumps({"about": about, "rows": rows_json(rows)}, indent=2))
    else:
        print(text_table(rows))
        print(about)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = f"{about}.\n\n{markdown_table(rows)}"
        write_bytes(arguments.out / "variants.md", printable(text, lines=True).encode())
        write_bytes(arguments.out / "variants.svg", plot_svg(rows, about))
        report = json.dumps({"about": about, "rows": rows_json(rows)}, indent=1)
        write_bytes(arguments.out / "variants.json", report.encode())
        say(f"-> {arguments.out}/variants.md, .svg, .json")
    return 0


def _artifacts(paths: Sequence[Path]) -> list[Artifact]:
    """The artifacts that are, or lie in, the given folders, and that an engine runs here."""
    found = []
    for path in paths:
        if not path.is_dir():
            raise ArtifactError(f"{path}: no such folder")
        folders = [path] if (path / MANIFEST).is_file() else sorted(path.glob(f"*/{MANIFEST}"))
        if not folders:
            raise ArtifactError(f"{path}: no artifact here; `edge convert` makes them")
        found += [folder if folder.is_dir() else folder.parent for folder in folders]
    artifacts = [load_artifact(folder) for folder in dict.fromkeys(found)]
    # A kit has no engine yet, and a batch takes another time than a picture.
    return [
        one
        for one in artifacts
        if one.variant.format != "tensorrt" and one.spec.input.shape[0] in (None, 1)
    ]


def _rows(
    model: str,
    artifacts: Sequence[Artifact],
    arguments: argparse.Namespace,
    stack: ExitStack,
    show: Callable[[str], None],
    engines: set[str],
) -> list[VariantRow]:

    reference = next((one for one in artifacts if str(one.variant) == "onnx-fp32"), None)
    if reference is None:
        raise ArtifactError(
            f"{model}: its onnx-fp32 artifact is what the others are held against; make it with "
            "edge convert --formats onnx-fp32"
        )
    show(f"{model}: opening {len(artifacts)} artifacts")
    candidates = _candidates(artifacts, arguments.threads, stack)
    engines |= {one.session.engine for one in candidates}
    show(f"{model}: timing {len(candidates)} sessions")
    settings = LatencySettings(
        min_count=P90_SAMPLES,
        min_duration_s=arguments.seconds,
        max_duration_s=max(120.0, 4 * arguments.seconds),
    )
    timed = measure_in_turn([partial(one.session.run, one.feeds) for one in candidates], settings)
    data: DataSet = load_data(arguments.data, reference.spec, arguments.images)
    pictures = _error_feeds(data, reference)
    first = next(one for one in candidates if one.artifact is reference)
    truth: list[Answers] = decoded_answers(first.session, pictures)
    show(f"{model}: accuracy of onnx-fp32")
    base = evaluate_session(first.session, data)
    base_ms = timed[candidates.index(first)].percentile_ms(50)
    rows = []
    for one, result in zip(candidates, timed, strict=True):
        precision = one.session.inference_precision
        for doubt in (*result.reasons, *spread_reasons(result.samples_ns)):
            say(f"{model} {one.artifact.variant} in {precision}: {doubt}")
        show(f"{model}: accuracy of {one.artifact.variant} in {precision}")
        scores = base if one is first else evaluate_session(one.session, data)
        error = decoded_error(truth, one.session, pictures)
        rows.append(
            VariantRow(
                model=model,
                variant=str(one.artifact.variant),
                computes_in=precision,
                size_mb=one.artifact.size_bytes / 1e6,
                p50_ms=result.percentile_ms(50),
                p90_ms=result.summary.p90_ms,
                ratio=result.percentile_ms(50) / base_ms,
                decoded_error=error.value,
                error_unit=error.unit,
                metric=scores.metric,
                accuracy=scores.value,
                loss_points=100 * (base.value - scores.value),
                pck=scores.figures.get("PCK@0.05"),
                float_parts=tuple(one.artifact.quantisation.get("float_parts", ())),
            )
        )
    return rows


def _candidates(artifacts: Sequence[Artifact], threads: int, stack: ExitStack) -> list[_Candidate]:
    """A session of each artifact, and one more of those that may also compute in bf16."""
    found = []
    for artifact in artifacts:
        spec = artifact.spec
        wanted: list[InferencePrecision] = [shipped_precision(artifact)]
        if artifact.variant.format == "openvino":
            wanted.append("bf16")
        seen: set[str] = set()
        for precision in wanted:
            try:
                session = open_session(artifact, EngineSettings(threads, precision))
            except EngineMissingError as error:
                say(f"left out: {artifact.folder}: {error}")
                break
            stack.enter_context(session)
            if session.inference_precision in seen:
                continue
            seen.add(session.inference_precision)
            found.append(_Candidate(artifact, session, {spec.input.name: noise(spec)}))
    return found


def _error_feeds(data: DataSet, reference: Artifact) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Feeds of the first pictures, as the network sees them."""
    feeds = []
    for picture in data.part(range(min(_ERROR_PICTURES, len(data)))).pictures:
        image = picture.read()
        if reference.spec.task != "pose":
            feeds.append(dict(detector_feeds(reference.spec, image)[0]))
            continue
        boxes = data.true_boxes(picture).boxes_xyxy[:1]
        if len(boxes):
            feeds.append(dict(pose_feeds(reference.spec, image, boxes)[0]))
    return feeds


def _about(arguments: argparse.Namespace, engines: set[str]) -> str:
    """What was measured, where and how, on one line."""
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    return (
        f"{machine()['cpu']}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, {', '.join(sorted(engines))}; {threads}, batch 1, in turns; "
        f"accuracy on {arguments.data}; "
        f"`edge compare --threads {arguments.threads} --data {arguments.data}`"
    )
