"""Calibration, accuracy and float parts on the command line, and ``edge sensitivity``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.artifact import sha256_of
from edge.errors import SpecError
from edge.session import EngineSettings, Feeds, Session
from edge.spec import Format, ModelSpec, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calibration.accuracy import Scores
    from calibration.images import FindBoxes
    from calibration.sensitivity import Measured, Proposal, RankedPart
    from converters.conversion import ModelInWork, Route
    from converters.gate import AccuracyCheck
    from converters.job import Calibration
    from converters.source import Source

__all__ = [
    "accuracy_check",
    "add_quantisation",
    "add_sensitivity",
    "calibration",
    "default_report",
    "float_parts",
    "sensitivity",
]

Say = Callable[[str], None]


def add_quantisation(parser: argparse.ArgumentParser) -> None:
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
        help="of accuracy that quantising may cost, 1 point being 0.01 (default: %(default)s)",
    )


def calibration(
    arguments: argparse.Namespace, say: Say, find_boxes: Callable[[], FindBoxes | None]
) -> Calibration:
    """What ``--calib`` names; ``find_boxes`` is asked for where plain pictures need boxes."""
    from calibration.images import calibration_set, folder_fingerprint
    from converters.job import Calibration

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
    from calibration.accuracy import evaluate_session
    from calibration.data_set import DataSet, load_data
    from converters.gate import AccuracyCheck

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
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return False
    return (
        isinstance(data, dict)
        and "proposal" in data
        and data.get("source_sha256") == sha256_of(source.path)
    )


def _proposed(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise SpecError(f"{path}: no such file; `edge sensitivity` writes it")
    try:
        proposal = json.loads(path.read_text(encoding="utf-8"))["proposal"]
        return tuple(str(part) for part in proposal["float_parts"])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError):
        raise SpecError(
            f"{path}: holds no proposal of float parts; let `edge sensitivity` finish it"
        ) from None


# --- edge sensitivity -----------------------------------------------------------------------------


def add_sensitivity(
    command: Callable[[str, Callable[[argparse.Namespace], int], str], Any],
) -> None:
    """Add the command; ``command(name, run, text)`` makes its parser."""
    parser = command(
        "sensitivity", sensitivity, "Which parts of a network must stay float, measured."
    )
    parser.add_argument("model", help="as for convert")
    parser.add_argument(
        "--format", required=True, choices=["onnx", "openvino", "tflite"], help="of the variant"
    )
    parser.add_argument(
        "--precision",
        choices=["int8", "w8a16"],
        default="int8",
        help="what the other parts become (default: int8; w8a16: tflite alone)",
    )
    parser.add_argument(
        "--direction",
        choices=["float-one", "quantise-one"],
        default="float-one",
        help="rank by quantising all parts but one (default), or one part alone",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=48,
        metavar="N",
        help="of the calibration data, to rank parts by their decoded error (default: 48)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help="the result is DIR/sensitivity/MODEL-FORMAT-PRECISION.json (default: build); an "
        "interrupted run goes on where it was",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_quantisation(parser)
    parser.epilog = (
        "Then `edge convert --model MODEL --formats FORMAT --precision mixed` applies it."
    )


def sensitivity(arguments: argparse.Namespace) -> int:
    """Rank the parts of a network and propose the smallest float set within --max-loss."""
    from edge.cli.host import need_checkout

    need_checkout("sensitivity")
    from calibration.sensitivity import propose, rank_parts
    from converters.chain import private_folder
    from converters.conversion import Asked, ModelInWork
    from converters.convert import CONVERTERS
    from converters.job import FeedSource
    from converters.zoo import find_source

    source = find_source(arguments.model)
    variant = Variant(arguments.format, arguments.precision)
    if str(variant) not in CONVERTERS:
        raise SpecError(f"no quantiser makes {variant}")
    out = default_report(arguments.out, source.name, variant)
    quiet = arguments.json

    def say(text: str) -> None:
        if not quiet:
            print(f"note: {text}", flush=True)

    check = accuracy_check(arguments, say)
    asked = Asked(
        parity=FeedSource("none", lambda _: ()),
        calibration=calibration(arguments, say, lambda: None),
        accuracy=check,
    )
    with private_folder(out.parent, f"{out.stem}.work") as work:
        model = ModelInWork(source, sha256_of(source.path), work, asked)
        search = _Search(model, variant, CONVERTERS[str(variant)], arguments, out)
        quantiser = model.quantiser(search.route, variant.precision, 1)
        ranking = rank_parts(
            quantiser.parts,
            search.error,
            arguments.direction,
            known=search.errors,
            on_measured=search.tell_error,
        )
        reference = model.reference_score(check)
        least = reference.value - arguments.max_loss / 100
        if not quiet:
            print(f"fp32: {reference.metric} {reference.value:.4f}; at least {least:.4f} wanted")
        proposal = propose(
            ranking,
            search.accuracy,
            least,
            known=search.accuracies,
            on_measured=search.tell_accuracy,
        )
        report = search.save(ranking, proposal, reference.metric, reference.value)
    print(json.dumps(report, indent=2) if quiet else _table(report, out))
    return 0 if proposal.enough else 1


class _Search:
    """Measurements of one network with changing float parts, kept in a file as they come."""

    def __init__(
        self,
        model: ModelInWork,
        variant: Variant,
        route: Route,
        arguments: argparse.Namespace,
        out: Path,
    ) -> None:
        from calibration.decoded_error import decoded_answers
        from calibration.sensitivity import known_from_json
        from converters.tools import version_of
        from edge.engines.onnxruntime import OnnxRuntimeSession

        self.model, self.variant, self.route, self.out = model, variant, route, out
        prepared = model.prepared(1)
        assert model.asked.calibration and model.asked.accuracy
        self.feeds = model.calibration(prepared.spec)[0][: arguments.pictures]
        self.about = {
            "model": model.source.name,
            "source_sha256": model.source_sha256,
            "variant": str(variant),
            "pictures": len(self.feeds),
            "calibration": model.asked.calibration.text,
            "data": model.asked.accuracy.text,
            "tools": {name: version_of(name) for name in ("edgepose", "onnx", *route.tools)},
        }
        kept = _kept(out, self.about)
        self.errors = known_from_json(kept.get("errors", []))
        self.accuracies = known_from_json(kept.get("accuracies", []))
        with OnnxRuntimeSession(model.prepared_path(1), prepared.spec, EngineSettings()) as session:
            self.reference = decoded_answers(session, self.feeds)
        self.unit = str(kept.get("unit", ""))
        self.quiet = arguments.json

    def _open(self, floats: frozenset[str]) -> Session:
        from converters.chain import private_folder
        from converters.conversion import open_quantised

        order = {name: place for place, name in enumerate(self.parts)}
        chosen = sorted(floats, key=order.__getitem__)
        with private_folder(self.model.folder, "candidate") as folder:
            return open_quantised(self.model, self.variant, self.route, chosen, folder)

    @property
    def parts(self) -> Sequence[str]:
        return self.model.quantiser(self.route, self.variant.precision, 1).parts

    def error(self, floats: frozenset[str]) -> float:
        """Decoded error with these parts float."""
        from calibration.decoded_error import decoded_error

        with self._open(floats) as session:
            found = decoded_error(self.reference, session, self.feeds)
        self.unit = found.unit
        return found.value

    def accuracy(self, floats: frozenset[str]) -> float:
        """Accuracy with these parts float."""
        check = self.model.asked.accuracy
        assert check is not None
        with self._open(floats) as session:
            return check.score(session).value

    def tell_error(self, one: Measured) -> None:
        self.keep()
        if not self.quiet:
            where = f"[{one.done}/{one.total}] {_named(one, self.parts)}"
            print(f"  {where}: {one.value:.4g} {self.unit}", flush=True)

    def tell_accuracy(self, one: Measured) -> None:
        self.keep()
        if not self.quiet:
            floats = ", ".join(sorted(one.float_parts)) or "nothing"
            print(f"  float: {floats}: {one.value:.4f}", flush=True)

    def keep(self, **more: Any) -> dict[str, Any]:
        """Write what was measured so far."""
        from calibration.sensitivity import known_to_json
        from edge.picture import write_bytes

        report = {
            **self.about,
            "unit": self.unit,
            **more,
            "errors": known_to_json(self.errors),
            "accuracies": known_to_json(self.accuracies),
        }
        write_bytes(self.out, json.dumps(report, indent=1).encode())
        return report

    def save(
        self, ranking: Sequence[RankedPart], proposal: Proposal, metric: str, reference: float
    ) -> dict[str, Any]:
        """Write the result; its content."""
        return self.keep(
            ranking=[part.__dict__ for part in ranking],
            metric=metric,
            reference=reference,
            proposal=proposal.__dict__,
        )


def _kept(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run of the same question measured."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError):
        return {}
    same = isinstance(data, dict) and all(data.get(key) == value for key, value in about.items())
    return data if same else {}


def _named(one: Measured, parts: Sequence[str]) -> str:
    if len(one.float_parts) <= 1:
        return f"float: {next(iter(one.float_parts), 'nothing')}"
    left = [part for part in parts if part not in one.float_parts]
    return f"quantised: {', '.join(left) or 'nothing'}"


def _table(report: dict[str, Any], out: Path) -> str:
    proposal = report["proposal"]
    lines = [f"{'part':<40} {'error':>10} {'to blame for':>14}   ({report['unit']})"]
    lines += [
        f"{part['name']:<40} {part['error']:>10.4g} {part['blame']:>14.4g}"
        for part in report["ranking"]
    ]
    metric, value = report["metric"], proposal["accuracy"]
    floats = ", ".join(proposal["float_parts"]) or "nothing"
    verdict = "keep float" if proposal["enough"] else "no set is good enough; the best keeps float"
    lines += [
        f"{verdict}: {floats}",
        f"{metric} {value:.4f}, fp32 {report['reference']:.4f}",
        f"-> {out}",
    ]
    return "\n".join(lines)
