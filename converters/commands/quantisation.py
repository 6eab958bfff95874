"""What quantised variants are told on the command line: calibration, accuracy, float parts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from calibration.data.data_set import DataSet, load_data
from calibration.data.images import FindBoxes, calibration_set, folder_fingerprint
from calibration.scores.accuracy import Scores, evaluate_session
from converters.graph.data_files import source_digest
from converters.job import Calibration
from converters.parity.accuracy import AccuracyCheck
from converters.source import Source
from edge.errors import SpecError
from edge.files import sha256_of
from edge.session import Feeds, Session
from edge.spec import Format, ModelSpec, Variant
from edge.texts import read_json

__all__ = [
    "accuracy_check",
    "add_quantisation",
    "calibration",
    "default_report",
    "float_parts",
]

Say = Callable[[str], None]


def add_quantisation(parser: Any) -> None:
    """Add the options that quantised variants take."""
    parser.add_argument(
        "--calib",
        default="synthetic",
        metavar="DIR|FILE.json|synthetic[:N]",
        help="what to calibrate with: pictures, COCO annotations, or rendered people (default)",
    )
    parser.add_argument(
        "--calib-images", type=Path, metavar="DIR", help="pictures of --calib FILE.json"
    )
    parser.add_argument(
        "--eval-data",
        default="synthetic:500",
        metavar="FILE.json|synthetic:N",
        help="what accuracy is measured on: COCO annotations, or rendered people (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--eval-images", type=Path, metavar="DIR", help="pictures of --eval-data FILE.json"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="accuracy that quantising may cost; 1 point is 0.01 of AP (default: %(default)s)",
    )


def calibration(
    arguments: argparse.Namespace, say: Say, find_boxes: Callable[[], FindBoxes | None]
) -> Calibration:
    """What ``--calib`` names; ``find_boxes`` is asked for where plain pictures need boxes."""
    source = str(arguments.calib)
    path = Path(source)

    def load(spec: ModelSpec) -> tuple[Sequence[Feeds], dict[str, Any]]:
        plain = spec.task == "pose" and path.is_dir()
        made = calibration_set(
            source,
            spec,
            images_folder=arguments.calib_images,
            find_boxes=find_boxes() if plain else None,
        )
        for notice in made.notices:
            say(notice)
        return made, made.to_json()

    if path.is_dir():
        return Calibration(folder_fingerprint(path), load)
    return Calibration(_with_sha256(source), load)


def accuracy_check(arguments: argparse.Namespace, say: Say) -> AccuracyCheck:
    """The accuracy that quantised variants are held to."""
    source = str(arguments.eval_data)
    sets: dict[tuple[str, str | None], DataSet] = {}

    def score(session: Session) -> Scores:
        # Once for all variants of a model: rendered pictures are kept in it.
        key = (session.spec.task, session.spec.keypoint_set)
        if key not in sets:
            sets[key] = load_data(source, session.spec, arguments.eval_images)
            for notice in sets[key].notices:
                say(notice)
        return evaluate_session(session, sets[key])

    return AccuracyCheck(_with_sha256(source), arguments.max_loss, score)


def _with_sha256(source: str) -> str:
    path = Path(source)
    return f"{path.name}, sha256 {sha256_of(path)[:16]}" if path.is_file() else source


def float_parts(
    arguments: argparse.Namespace, source: Source, variants: Iterable[Variant], say: Say
) -> dict[Format, tuple[str, ...]]:
    """What mixed variants keep float, by format, where somebody has decided it.

    ``--float-parts`` has names or a file of `edge sensitivity`; without it, what `edge sensitivity`
    left under ``--out`` for the same model file holds.
    """
    text: str | None = arguments.float_parts
    found: dict[Format, tuple[str, ...]] = {}
    for variant in variants:
        if variant.precision != "mixed":
            continue
        default = default_report(arguments.out, source.name, Variant(variant.format, "int8"))
        if text is not None and not text.endswith(".json"):
            names = (part.strip() for part in text.split(","))
            found[variant.format] = tuple(dict.fromkeys(part for part in names if part))
        elif text is not None:
            found[variant.format] = _proposed(Path(text))
        elif default.is_file() and _of_source(default, source):
            found[variant.format] = _proposed(default)
            say(f"{source.name} {variant} keeps float what {default} proposes")
    return found


def default_report(out_dir: Path, model: str, variant: Variant) -> Path:
    """Where `edge sensitivity` leaves its result unless told otherwise."""
    return out_dir / "sensitivity" / f"{model}-{variant}.json"


def _of_source(path: Path, source: Source) -> bool:

    try:
        data = read_json(path)
    except SpecError:
        return False
    return (
        isinstance(data, dict)
        and "proposal" in data
        and data.get("source_sha256") == source_digest(source.path)
    )


def _proposed(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise SpecError(f"{path}: no such file; `edge sensitivity` writes it")
    try:
        proposal = read_json(path)["proposal"]
        return tuple(str(part) for part in proposal["float_parts"])
    except (SpecError, KeyError, TypeError):
        raise SpecError(
            f"{path}: holds no proposal of float parts; let `edge sensitivity` finish it"
        ) from None
