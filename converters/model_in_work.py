"""What is asked for, and what the variants of one model share while they are made."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from converters.formats.onnx2tf import onnx2tf_version
from converters.graph.file import load_onnx
from converters.graph.prepare import Prepared, prepare, with_batch
from converters.job import Calibration, Converter, FeedSource, Job, OpenQuantiser, Quantiser
from converters.parity.accuracy import AccuracyCheck, Score
from converters.parity.arm import OnArm
from converters.source import Source
from converters.tools import check_versions, version_of
from edge.artifact import Artifact
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import EdgeError, ModelFileError, SpecError
from edge.session import EngineSettings, Feeds, Session, open_session
from edge.spec import Format, ModelSpec, Precision

__all__ = ["ConversionRequest", "ModelInWork", "Route", "check_tools", "tool_versions"]

_T = TypeVar("_T")
_COMMON_TOOLS = ("numpy", "onnx", "onnxslim", "onnxruntime")


@dataclass(frozen=True)
class Route:
    """How a variant is made: by a converter, or by a quantiser that is calibrated first.

    ``tools`` are the distributions that decide what comes out; ``batches``: whether it can keep
    the batch open or fix another than 1; ``open``: what runs the artifact on this machine.
    """

    converter: Converter | None = None
    quantiser: OpenQuantiser | None = None
    tools: tuple[str, ...] = ()
    batches: bool = False
    open: Callable[[Artifact, EngineSettings], Session] = open_session


def check_tools(route: Route) -> None:
    """Raise ToolError where a tool of the route is missing or not of the lock's version."""
    # onnx2tf's environment bears the mark of its own lock.
    check_versions((*_COMMON_TOOLS, *(name for name in route.tools if name != "onnx2tf")))


def tool_versions(route: Route) -> dict[str, str]:
    """The versions of all that decides what a route makes."""
    names = ("edgepose", *_COMMON_TOOLS, *route.tools)
    versions = {"python": platform.python_version()} | {name: version_of(name) for name in names}
    if "onnx2tf" in versions:
        versions["onnx2tf"] = onnx2tf_version()  # in an environment of its own
    return versions


@dataclass(frozen=True)
class ConversionRequest:
    """What the user decided beyond model and variant; the same for all variants of a run.

    ``float_parts`` of mixed variants, by format; of one that is not named, the quantiser's fragile
    ones. ``on_arm`` runs what is meant for ARM there, None where the target is another. ``on_note``
    is told what was assumed of a model, once a model.
    """

    parity: FeedSource
    calibration: Calibration | None = None
    accuracy: AccuracyCheck | None = None
    float_parts: Mapping[Format, tuple[str, ...]] = field(default_factory=dict)
    batch: int | None = None
    keep_failed: bool = False
    on_arm: OnArm | None = None
    on_note: Callable[[str], None] | None = None


@dataclass
class ModelInWork:
    """What the variants of one model share while they are made; ``folder`` is a private one.

    ``batches`` are those that its variants will need. All of this is made once: what was refused
    is refused again without another try.
    """

    source: Source
    source_sha256: str
    folder: Path
    request: ConversionRequest
    batches: Collection[int | None] = ()
    _prepared: dict[int | None, Prepared] = field(default_factory=dict)
    _quantisers: dict[tuple[OpenQuantiser, Precision, int | None], Quantiser] = field(
        default_factory=dict
    )
    _calibration: tuple[Sequence[Feeds], dict[str, Any]] | None = None
    _reference: Score | None = None
    _refused: dict[object, EdgeError] = field(default_factory=dict)

    def prepared(self, batch: int | None) -> Prepared:
        """The prepared network with that batch; its file is ``prepared_path``.

        Where some variant needs an open batch the file is prepared with it, and the others' is
        that one fixed: what takes minutes is done once a model.
        """
        if batch not in self._prepared:
            made = self._once(("prepare", batch), lambda: self._prepare(batch))
            self.prepared_path(batch).write_bytes(made.model.SerializeToString())
            self._prepared[batch] = made
        return self._prepared[batch]

    def _prepare(self, batch: int | None) -> Prepared:
        if batch is not None and None in self.batches:
            return with_batch(self.prepared(None), batch, self.source.path)
        made = prepare(
            self.source.path,
            self.source.name,
            spec=self.source.spec,
            input_hw=self.source.input_hw,
            keypoint_set=self.source.keypoint_set,
            batch=batch,
        )
        said, found = self.source.class_count, made.spec.class_count
        if None not in (said, found) and said != found:
            raise ModelFileError(
                f"{self.source.path}: tells {found} classes apart, and the zoo says that "
                f"{self.source.name} has {said}: it is another model, or the zoo is wrong"
            )
        made = replace(made, notes=self.source.assumed(made.notes))
        if self.request.on_note and not self._prepared:
            for note in made.notes:
                self.request.on_note(f"{self.source.name}: {note}")
        return made

    def _once(self, key: object, make: Callable[[], _T]) -> _T:
        """What ``make`` gives, or the EdgeError that it gave the first time."""
        if key in self._refused:
            raise self._refused[key]
        try:
            return make()
        except EdgeError as error:
            self._refused[key] = error
            raise

    def prepared_path(self, batch: int | None) -> Path:
        """Where ``prepared`` leaves the network."""
        return self.folder / f"prepared-{batch or 'open'}.onnx"

    def is_prepared(self, batch: int | None) -> bool:
        """Whether a variant before needed the same, or an open batch."""
        return batch in self._prepared or None in self._prepared

    def calibration(self, spec: ModelSpec) -> tuple[Sequence[Feeds], dict[str, Any]]:
        """The calibration set's feeds and its record, made once."""
        if self.request.calibration is None:
            raise SpecError(f"{spec.name}: quantising needs pictures to calibrate with (--calib)")
        if self._calibration is None:
            load = self.request.calibration.load
            self._calibration = self._once("calibration", lambda: load(spec))
        return self._calibration

    def quantiser(self, route: Route, precision: Precision, batch: int | None) -> Quantiser:
        """The calibrated quantiser of a route, opened once for int8 and mixed together."""
        if route.quantiser is None:
            raise SpecError(f"nothing to choose: the {precision} route has no quantiser")
        activations: Precision = "w8a16" if precision == "w8a16" else "int8"
        key = (route.quantiser, activations, batch)
        if key not in self._quantisers:
            spec = self.prepared(batch).spec
            feeds = self.calibration(spec)[0]
            folder = Path(tempfile.mkdtemp(prefix="quantiser-", dir=self.folder))
            job = Job(self.prepared_path(batch), spec, activations, folder, feeds)
            open_quantiser = route.quantiser
            self._quantisers[key] = self._once(key, lambda: open_quantiser(job))
        return self._quantisers[key]

    def reference_score(self, check: AccuracyCheck) -> Score:
        """The accuracy of the untouched source in fp32, measured once."""
        if self._reference is None:
            spec = next(iter(self._prepared.values())).source_spec

            def score() -> Score:
                onnx = bytes(load_onnx(self.source.path).SerializeToString())
                with OnnxRuntimeSession(onnx, spec, EngineSettings()) as session:
                    return check.score(session)

            self._reference = self._once("reference", score)
        return self._reference
