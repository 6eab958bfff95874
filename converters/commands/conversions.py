"""Conversions as `edge convert` asks for them, and `bench` and `deploy` where artifacts lack."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TextIO

from calibration.data.images import FindBoxes
from converters.chain import Row
from converters.commands import quantisation
from converters.commands.open_source import open_source
from converters.commands.parity_pictures import parity_images
from converters.conversion import ConversionRequest
from converters.convert import CONVERTERS, ConvertedVariant, convert_model
from converters.parity.answers import SessionJudge
from converters.source import Source
from converters.zoo.models import find_source
from edge.artifact import Artifact
from edge.classes import find_labels
from edge.cli.options import DEFAULT_DETECTOR, DEFAULT_MODEL
from edge.detector import Detector
from edge.errors import SpecError, StepError
from edge.session import EngineSettings
from edge.spec import QUANTISED, Variant
from edge.terminal import StatusLine

__all__ = ["ConversionTable", "LateChecks", "asked_variants", "make_artifacts", "raise_failures"]


class LateChecks(Protocol):
    """A check of artifacts on another CPU, which some of them may have to wait for.

    What it needs takes minutes to build: all is converted first, and the checks come last.
    """

    waiting: int
    """Artifacts whose check was put off."""

    def __call__(self, artifact: Artifact, judge: SessionJudge) -> dict[str, Any]:
        """Check one artifact; the record that it gets."""

    def catch_up(self) -> None:
        """Put nothing off from now on."""

    def is_waiting(self, made: ConvertedVariant) -> bool:
        """Whether an artifact's check was put off."""

    def rows_but_waiting(self, add: Callable[[Row], None]) -> Callable[[Row], None]:
        """Rows of conversions, without those that say that a check waits."""

    def rows_of_checks(self, add: Callable[[Row], None]) -> Callable[[Row], None]:
        """Rows of the checks that come last."""


def make_artifacts(
    arguments: argparse.Namespace,
    table: ConversionTable,
    *,
    target: str,
    variants: Sequence[Variant],
    checks: LateChecks | None,
) -> list[ConvertedVariant]:
    """Convert what is not up to date into the target's folder; a failure is in the answer.

    ``variants`` are made where the command line names none.
    """
    # The demo pair; whoever names a pose model names the detector that suits it.
    model = arguments.model or DEFAULT_MODEL
    detector = arguments.detector or (None if arguments.model else DEFAULT_DETECTOR)
    variants = asked_variants(arguments, tuple(variants))
    sources = [
        find_source(
            model,
            name=arguments.name,
            spec_file=arguments.spec,
            input_hw=None if detector else arguments.size,
            keypoint_set=arguments.keypoint_set,
        )
    ]
    if detector:
        sources.append(find_source(detector, input_hw=arguments.size))
    if len({source.name for source in sources}) < len(sources):
        raise SpecError(f"both models are called {sources[0].name!r}; choose a name with --name")

    request = replace(
        _request(arguments, variants, table.note, sources[1] if detector else None),
        on_arm=checks,
        on_note=table.note,
    )
    floats = [
        quantisation.float_parts(arguments, source, variants, table.note) for source in sources
    ]

    convert = partial(
        convert_model,
        out_dir=arguments.out / target,
        on_begin=table.begin,
        any_version=arguments.any_version,
    )
    add = checks.rows_but_waiting(table.add) if checks else table.add
    made: dict[tuple[str, Variant], ConvertedVariant] = {}
    for source, parts in zip(sources, floats, strict=True):
        own = replace(request, float_parts=parts)
        for one in convert(source, variants, request=own, on_row=add, force=arguments.force):
            made[one.model, one.variant] = one
    if checks and checks.waiting:
        checks.catch_up()
        add = checks.rows_of_checks(table.add)
        for source, parts in zip(sources, floats, strict=True):
            late = [one for one in variants if checks.is_waiting(made[source.name, one])]
            own = replace(request, float_parts=parts, on_note=None)  # it was told
            for one in convert(source, late, request=own, on_row=add) if late else ():
                made[one.model, one.variant] = one
    table.end()
    return list(made.values())


def asked_variants(
    arguments: argparse.Namespace, defaults: tuple[Variant, ...]
) -> tuple[Variant, ...]:
    """The variants that were asked for; ``all``: whatever can be made with that batch."""
    formats: str | None = arguments.formats
    if arguments.precision is not None:
        if formats is None or "-" in formats:
            raise SpecError("--precision needs --formats with formats alone, for example tflite")
        names = [f"{text}-{arguments.precision}" for text in formats.split(",")]
    elif formats is None:
        return defaults
    elif formats == "all":
        names = [
            name
            for name, route in CONVERTERS.items()
            if arguments.batch in (None, 1) or route.batches
        ]
    else:
        names = [_with_precision(text.strip(), defaults) for text in formats.split(",")]
    return tuple(dict.fromkeys(Variant.parse(text) for text in names))


def _with_precision(text: str, defaults: Sequence[Variant]) -> str:
    """A variant's name; of a format alone the target's own, or the only one that there is."""
    name, dash, _ = text.partition("-")
    known = [variant for variant in CONVERTERS if variant.partition("-")[0] == name]
    if text in CONVERTERS or not known:
        return text
    own = [str(variant) for variant in defaults if variant.format == name] or known
    if not dash and len(own) == 1:
        return own[0]
    raise SpecError(f"unknown variant {text!r}: {name} has {', '.join(known)}")


def raise_failures(made: Sequence[ConvertedVariant]) -> None:
    """Sum up what failed; one failure alone is its own error."""
    errors = [(one, one.error) for one in made if one.error is not None]
    if not errors:
        return
    if len(made) == 1:
        raise errors[0][1]
    lines = [f"  {one.model} {one.variant}: {error}" for one, error in errors]
    raise StepError("\n".join([f"{len(errors)} of {len(made)} variants failed:", *lines]))


def _request(
    arguments: argparse.Namespace,
    variants: Sequence[Variant],
    say: Callable[[str], None],
    detector: Source | None,
) -> ConversionRequest:
    """The user's decisions; calibration and accuracy data only where something is quantised."""
    request = ConversionRequest(
        parity=parity_images(arguments.images),
        batch=arguments.batch,
        keep_failed=arguments.keep_failed,
    )
    if all(variant.precision not in QUANTISED for variant in variants):
        return request
    return replace(
        request,
        calibration=quantisation.calibration(arguments, say, lambda: _box_finder(detector)),
        accuracy=quantisation.accuracy_check(arguments, say),
    )


def _box_finder(detector: Source | None) -> FindBoxes | None:
    """People for calibration crops, by the detector that is converted as well."""
    if detector is None:
        return None
    session = open_source(detector, EngineSettings())
    find = Detector(session, score_threshold=0.5, label=find_labels(None, session.spec))
    return lambda image_bgr: find(image_bgr).boxes_xyxy


class ConversionTable:
    """Rows as they come, or all at once as JSON; on a terminal also what is going on now."""

    def __init__(self, stream: TextIO, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json
        self._rows: list[Row] = []
        self._line = StatusLine(stream)

    def begin(self, model: str, step: str) -> None:
        """A step starts."""
        if not self._as_json:
            self._line.show(f"{model:<22} {step:<22} ...")

    def add(self, row: Row) -> None:
        """A step is done."""
        self._line.close()
        if not self._as_json:
            if not self._rows:
                head = f"{'model':<22} {'step':<22} {'time':>8} {'size':>9}  verdict"
                print(head, file=self._stream)
            size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f} MB"
            print(
                f"{row.model:<22} {row.step:<22} {row.seconds:>6.2f} s {size:>9}  {row.verdict}",
                file=self._stream,
                flush=True,
            )
        self._rows.append(row)

    def note(self, text: str) -> None:
        """Something to know between the rows."""
        self._line.close()
        if not self._as_json:
            print(f"note: {text}", file=self._stream, flush=True)

    def end(self) -> None:
        """No more rows come."""
        self._line.close()
        if self._as_json:
            print(json.dumps([row.__dict__ for row in self._rows], indent=2), file=self._stream)
