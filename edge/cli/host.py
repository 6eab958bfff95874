"""Commands that convert and verify: they need a checkout."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import edge
from edge.artifact import read_manifest
from edge.classes import find_labels
from edge.cli import arm, quantisation
from edge.cli.device import parity_lines
from edge.detector import Detector, detector_feeds
from edge.errors import CheckoutError, SpecError, StepError
from edge.media.inputs import tell
from edge.pose import pose_feeds
from edge.session import EngineSettings, Session
from edge.spec import QUANTISED, Variant

if TYPE_CHECKING:
    from calibration.data.images import FindBoxes
    from converters.chain import Row
    from converters.conversion import ConversionRequest
    from converters.convert import ConvertedVariant
    from converters.job import FeedSource
    from converters.source import Source
    from targets.profile import Profile

DEFAULT_MODEL = "rtmpose-t-demo"
DEFAULT_DETECTOR = "rtmdet-nano-demo"


def need_checkout(command: str) -> None:
    """Raise CheckoutError where only the wheel is installed."""
    missing = [
        room
        for room in ("converters", "calibration", "targets")
        if importlib.util.find_spec(room) is None
    ]
    if missing:
        raise CheckoutError(
            f"`edge {command}` needs a checkout of edgepose (the wheel holds the device runtime "
            "only): clone the repository and run `make setup` in it"
        )


def convert(arguments: argparse.Namespace) -> int:
    """Convert a pose model, and a detector if given, and say what comes next."""
    need_checkout("convert")
    from targets.profile import load_profile

    profile = load_profile(str(arguments.profile or arguments.target))
    made = make_artifacts(arguments, profile, Table(sys.stdout, arguments.json))
    good = [one for one in made if one.error is None]
    if good and not arguments.json:
        _say_next(good)
    _raise_failures(made)
    return 0


def make_artifacts(
    arguments: argparse.Namespace, profile: Profile, table: Table
) -> list[ConvertedVariant]:
    """Convert what is not up to date; a failure is in the answer."""
    from converters.convert import convert_model
    from converters.zoo.models import find_source

    # The demo pair; whoever names a pose model names the detector that suits it.
    model = arguments.model or DEFAULT_MODEL
    detector = arguments.detector or (None if arguments.model else DEFAULT_DETECTOR)
    variants = _variants(arguments, profile.variants)
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

    checks = arm.on_arm(arguments, profile)
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
        out_dir=arguments.out / profile.name,
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
            late = [one for one in variants if arm.is_waiting(made[source.name, one])]
            own = replace(request, float_parts=parts, on_note=None)  # it was told
            for one in convert(source, late, request=own, on_row=add) if late else ():
                made[one.model, one.variant] = one
    table.end()
    return list(made.values())


def _variants(arguments: argparse.Namespace, defaults: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """The variants that were asked for; ``all``: whatever can be made with that batch."""
    from converters.convert import CONVERTERS

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
        names = formats.split(",")
    return tuple(dict.fromkeys(Variant.parse(text) for text in names))


def _raise_failures(made: Sequence[ConvertedVariant]) -> None:
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
    from converters.conversion import ConversionRequest

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
    session = _open_source(detector, EngineSettings())
    find = Detector(session, score_threshold=0.5, label=find_labels(None, session.spec))
    return lambda image_bgr: find(image_bgr).boxes_xyxy


def _say_next(made: Sequence[ConvertedVariant]) -> None:
    print("\nartifacts:")
    for one in made:
        print(f"  {one.folder}")
    program = "edge" if shutil.which("edge") else os.path.relpath(Path(sys.prefix) / "bin" / "edge")
    print("next:")
    first = made[0]
    runnable = [one for one in made if one.variant.format != "tensorrt"]
    if runnable and read_manifest(runnable[0].folder)["spec"]["task"] != "detection":
        first = runnable[0]
        command = f"{program} run --model {first.folder}"
        partner = [
            one for one in runnable if one.model != first.model and one.variant == first.variant
        ]
        if partner:
            command += f" --detector {partner[0].folder}"
        print(f"  {command} PHOTO.jpg --out build/run")
    print(f"  {program} info {first.folder}")


def parity_images(folder: Path | None) -> FeedSource:
    """The pictures of a folder, or rendered people; made when first asked for."""
    from calibration.data.images import (
        PARITY_SEED,
        folder_fingerprint,
        folder_images,
        synthetic_images,
    )
    from converters.job import FeedSource, NamedFeeds

    counts = {"pose": 8, "detection": 4, "one-stage": 4}

    heard: set[str] = set()

    def say(line: str) -> None:
        if line not in heard:  # every model asks for its feeds
            heard.add(line)
            tell(line)

    def feeds(spec: edge.ModelSpec) -> list[NamedFeeds]:
        pose = spec.task == "pose"
        if folder:
            images = folder_images(folder, say)
        else:
            images = synthetic_images(counts[spec.task], crops=pose)
        return [
            NamedFeeds(
                image.name,
                pose_feeds(spec, image.image_bgr, image.boxes_xyxy[:1])[0]
                if pose
                else detector_feeds(spec, image.image_bgr)[0],
            )
            for image in images
        ]

    text = (
        folder_fingerprint(folder)
        if folder
        else f"synthetic people, seed {PARITY_SEED} "
        f"({counts['pose']} crops or {counts['detection']} scenes)"
    )
    return FeedSource(text, feeds)


def verify(arguments: argparse.Namespace) -> int:
    """Repeat an artifact's parity check; ParityError where it fails."""
    need_checkout("verify")
    from converters.convert import verify_artifact

    report = verify_artifact(
        arguments.artifact,
        parity_images(arguments.images),
        source_path=arguments.source,
        allow_failed=arguments.allow_failed,
        inference_precision=arguments.inference_precision,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(parity_lines(report.to_json())))
    report.raise_if_failed()
    return 0


class Table:
    """Rows as they come, or all at once as JSON; on a terminal also what is going on now."""

    def __init__(self, stream: TextIO, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json
        self._rows: list[Row] = []

    def begin(self, model: str, step: str) -> None:
        """A step starts."""
        if not self._as_json and self._stream.isatty():
            print(f"{model:<22} {step:<22} ...", end="\r", file=self._stream, flush=True)

    def add(self, row: Row) -> None:
        """A step is done."""
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
        if not self._as_json:
            print(f"note: {text}", file=self._stream, flush=True)

    def end(self) -> None:
        """No more rows come."""
        if self._as_json:
            print(json.dumps([row.__dict__ for row in self._rows], indent=2), file=self._stream)


def open_onnx(text: str, settings: EngineSettings) -> Session:
    """A session of an untouched ONNX file or zoo model on ONNX Runtime."""
    need_checkout("run with an ONNX file")
    from converters.zoo.models import find_source

    return _open_source(find_source(text), settings)


def _open_source(source: Source, settings: EngineSettings) -> Session:
    from converters.graph.file import load_onnx
    from converters.graph.recognise import recognise
    from edge.engines.onnxruntime import OnnxRuntimeSession

    model = load_onnx(source.path)
    found = recognise(
        model, source.path, source.name, source.spec, source.input_hw, source.keypoint_set
    )
    session = OnnxRuntimeSession(bytes(model.SerializeToString()), found.source_spec, settings)
    for note in source.assumed(found.notes):
        print(f"note: {source.name}: {note}", file=sys.stderr, flush=True)
    return session
