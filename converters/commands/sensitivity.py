"""``edge sensitivity``: which parts of a network must stay float."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibration.scores.decoded_error import decoded_answers, decoded_error
from calibration.scores.sensitivity import (
    Measured,
    Proposal,
    RankedPart,
    known_from_json,
    known_to_json,
    propose,
    rank_parts,
)
from converters.commands.quantisation import (
    accuracy_check,
    add_quantisation,
    calibration,
    default_report,
)
from converters.conversion import ConversionRequest, ModelInWork, Route, open_quantised
from converters.convert import CONVERTERS, check_tools, tool_versions
from converters.graph.data_files import source_digest
from converters.job import FeedSource
from converters.zoo.models import find_source
from edge.cli.options import add_insecure_mirror
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import SpecError
from edge.files import private_folder, write_bytes
from edge.session import EngineSettings, Session
from edge.spec import Variant
from edge.texts import read_json

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
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
        help="pictures of the calibration data to rank the parts by (default: 48)",
    )
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help="the result is DIR/sensitivity/MODEL-FORMAT-PRECISION.json (default: build); an "
        "interrupted run goes on where it was",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_quantisation(parser)
    add_insecure_mirror(parser)
    parser.epilog = (
        "Then `edge convert --model MODEL --formats FORMAT --precision mixed` applies it."
    )


def run(arguments: argparse.Namespace) -> int:
    """Rank the parts of a network and propose the smallest float set within --max-loss."""
    source = find_source(arguments.model)
    variant = Variant(arguments.format, arguments.precision)
    if str(variant) not in CONVERTERS:
        raise SpecError(f"no quantiser makes {variant}; w8a16 is of tflite alone")
    if arguments.pictures < 1:
        raise SpecError(f"--pictures must be 1 or more, got {arguments.pictures}")
    route = CONVERTERS[str(variant)]
    check_tools(route)
    out = default_report(arguments.out, source.name, variant)
    quiet = arguments.json

    def say(text: str) -> None:
        if not quiet:
            print(f"note: {text}", flush=True)

    check = accuracy_check(arguments, say)
    request = ConversionRequest(
        parity=FeedSource("none", lambda _: ()),
        calibration=calibration(arguments, say, lambda: None),
        accuracy=check,
    )
    with private_folder(out.parent, f"{out.stem}.work") as work:
        model = ModelInWork(source, source_digest(source.path), work, request)
        search = _Search(model, variant, route, arguments, out)
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

        self.model, self.variant, self.route, self.out = model, variant, route, out
        prepared = model.prepared(1)
        assert model.request.calibration and model.request.accuracy
        self.feeds = model.calibration(prepared.spec)[0][: arguments.pictures]
        self.about = {
            "model": model.source.name,
            "source_sha256": model.source_sha256,
            "variant": str(variant),
            "pictures": len(self.feeds),
            "calibration": model.request.calibration.text,
            "data": model.request.accuracy.text,
            "tools": tool_versions(route),
        }
        kept = _kept(out, self.about)
        self.errors = known_from_json(kept.get("errors", []))
        self.accuracies = known_from_json(kept.get("accuracies", []))
        with OnnxRuntimeSession(model.prepared_path(1), prepared.spec, EngineSettings()) as session:
            self.reference = decoded_answers(session, self.feeds)
        self.unit = str(kept.get("unit", ""))
        self.quiet = arguments.json

    def _open(self, floats: frozenset[str]) -> Session:

        order = {name: place for place, name in enumerate(self.parts)}
        chosen = sorted(floats, key=order.__getitem__)
        with private_folder(self.model.folder, "candidate") as folder:
            return open_quantised(self.model, self.variant, self.route, chosen, folder)

    @property
    def parts(self) -> Sequence[str]:
        return self.model.quantiser(self.route, self.variant.precision, 1).parts

    def error(self, floats: frozenset[str]) -> float:
        """Decoded error with these parts float."""
        with self._open(floats) as session:
            found = decoded_error(self.reference, session, self.feeds)
        self.unit = found.unit
        return found.value

    def accuracy(self, floats: frozenset[str]) -> float:
        """Accuracy with these parts float."""
        check = self.model.request.accuracy
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
        data = read_json(path)
    except SpecError:
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
