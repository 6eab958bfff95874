"""``edge eval``: how good a model's answers are on a data set."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.data.data_set import DataSet, GivenBoxes, detected_boxes, load_data
from calibration.scores.accuracy import Scores, predict, score
from edge.cli.open import open_model
from edge.cli.options import add_engine, add_insecure_mirror
from edge.digits import parse_digits
from edge.errors import SpecError
from edge.files import write_bytes
from edge.session import Session
from edge.terminal import CountLine
from edge.texts import parse_json, read_text

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", help="artifact folder, or as for convert")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.json|synthetic:N",
        help="COCO annotations, or N rendered pictures",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="pictures of the annotations (default: beside)"
    )
    parser.add_argument(
        "--boxes",
        default="gt",
        metavar="gt|FILE.json",
        help="boxes of a pose model: annotated (default), or COCO detections",
    )
    parser.add_argument(
        "--box-score",
        type=float,
        default=0.0,
        help="use detections above this score (default: 0, as mmpose does)",
    )
    parser.add_argument(
        "--flip",
        action="store_true",
        help="average with the mirrored crop, as in published figures",
    )
    parser.add_argument(
        "--range",
        type=_range,
        metavar="FIRST:END",
        help="only these pictures, 0 the first; with --predictions a part of a longer run",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE.json", help="write the answers, to merge them"
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="FILE.json",
        help="score these predictions together instead of running the model",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_engine(parser)
    add_insecure_mirror(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score a model on a data set and print the figures."""
    if arguments.merge and (arguments.predictions or arguments.range):
        raise SpecError("--merge scores what was predicted: leave --predictions and --range out")
    if arguments.predictions and not arguments.predictions.absolute().parent.is_dir():
        raise SpecError(f"{arguments.predictions}: its folder does not exist")
    with open_model(arguments.model, arguments) as session:
        began_s = time.perf_counter()
        data = _load(arguments, session)
        if not arguments.json:
            for notice in data.notices:
                print(f"note: {notice}")
        scores = _scores(arguments, session, data)
        seconds = time.perf_counter() - began_s
    report = {
        "model": session.spec.name,
        "engine": session.engine,
        "inference_precision": session.inference_precision,
        "data": data.text,
        "file_sha256": data.file_sha256,
        "data_sha256": data.sha256,
        "boxes": _boxes_text(arguments, session),
        "flip": arguments.flip,
        **scores.to_json(),
        "notices": list(data.notices),
        "seconds": round(seconds, 2),
    }
    print(json.dumps(report, indent=2) if arguments.json else _table(report))
    return 0


def _load(arguments: argparse.Namespace, session: Session) -> DataSet:

    if arguments.images and arguments.data.startswith("synthetic"):
        raise SpecError("--images goes with annotations; rendered pictures need none")
    with CountLine("preparing pictures", "pictures") as progress:
        return load_data(arguments.data, session.spec, arguments.images, on_progress=progress)


def _scores(arguments: argparse.Namespace, session: Session, data: DataSet) -> Scores:

    about = {
        "model": session.spec.name,
        "data_sha256": data.sha256,
        "boxes": _boxes_text(arguments, session),
        "flip": arguments.flip,
    }
    if arguments.merge:
        return score(_merged(arguments.merge, about, data), data, session.spec)
    boxes = _given_boxes(arguments, session, data)
    if arguments.range:
        data = data.part(arguments.range)
    with CountLine(session.spec.name) as progress:
        predictions = predict(session, data, boxes=boxes, flip=arguments.flip, on_progress=progress)
    if arguments.predictions:
        images = [picture.image_id for picture in data.pictures]
        text = json.dumps({**about, "images": images, "results": predictions})
        write_bytes(arguments.predictions, text.encode())
    return score(predictions, data, session.spec)


def _given_boxes(
    arguments: argparse.Namespace, session: Session, data: DataSet
) -> Mapping[int, GivenBoxes] | None:

    if arguments.boxes == "gt":
        return None
    if session.spec.task != "pose":
        raise SpecError(
            f"{session.spec.name} is a {session.spec.task} model and looks at whole pictures: "
            "leave --boxes out"
        )
    return detected_boxes(Path(arguments.boxes), data, arguments.box_score)


def _boxes_text(arguments: argparse.Namespace, session: Session) -> str:
    if session.spec.task != "pose":
        return "none"
    if arguments.boxes == "gt":
        return "gt"
    return f"{Path(arguments.boxes).name} above {arguments.box_score:g}"


def _merged(paths: Sequence[Path], about: Mapping[str, Any], data: DataSet) -> list[dict[str, Any]]:
    """The answers of several files, which must be of one kind and cover every picture once."""
    results: list[dict[str, Any]] = []
    covered: dict[int, Path] = {}
    for path in paths:
        try:
            part = parse_json(read_text(path), str(path), large=True)
            images, rows = part["images"], part["results"]
            other = [key for key, value in about.items() if part[key] != value]
        except (KeyError, TypeError):
            raise SpecError(
                f"{path}: no predictions as `edge eval --predictions` writes them"
            ) from None
        if other:
            raise SpecError(
                f"{path}: its {other[0]} is {part[other[0]]!r}, asked for is {about[other[0]]!r}; "
                "merge with the options that the parts were made with"
            )
        twice = [image for image in images if image in covered]
        if twice:
            raise SpecError(f"image {twice[0]} is in both {covered[twice[0]]} and {path}")
        covered |= dict.fromkeys(images, path)
        results += rows
    missing = [one.image_id for one in data.pictures if one.image_id not in covered]
    if missing:
        raise SpecError(
            f"{len(missing)} of {len(data)} pictures are in none of the files, the first is image "
            f"{missing[0]}"
        )
    return results


def _table(report: Mapping[str, Any]) -> str:
    own = f", its sha256 {report['file_sha256'][:16]}" if report["file_sha256"] else ""
    head = (
        f"{report['model']} on {report['engine']} ({report['inference_precision']})\n"
        f"{report['data']}{own}, boxes: {report['boxes']}"
        f"{', flip test' if report['flip'] else ''}\n"
        f"fingerprint of pictures and truth: {report['data_sha256'][:16]}"
    )
    lines = [head]
    for name, value in report["figures"].items():
        shown = f"{value:.0f}" if name == "keypoints" else f"{value:.4f}"
        note = _NOTES.get(name, "")
        mark = "  <- decides" if name == report["metric"] else ""
        lines.append(f"  {name:<14} {shown:>9}{note}{mark}")
    pictures = "picture" if report["images"] == 1 else "pictures"
    return "\n".join([*lines, f"{report['images']} {pictures} in {report['seconds']:.1f} s"])


_NOTES = {
    "PCK@0.05": "  within 5 % of the box's long side",
    "PCK@0.1": "  within 10 %",
    "mean_px": "  mean error in px of the network's input",
    "keypoints": "  labelled keypoints, hidden ones included",
}


def _range(text: str) -> range:
    first, colon, end = text.partition(":")
    start, stop = parse_digits(first or "0"), parse_digits(end)
    if not colon or start is None or stop is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END, for example 0:250")
    return range(start, stop)
