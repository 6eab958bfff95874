"""Were the answers kept? An artifact against ONNX Runtime on the untouched source file.

Both get the same feeds; the judging is in ``converters.parity.judges``.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from converters.graph.prepare import Prepared
from converters.job import NamedFeeds
from converters.parity.boxes import BoxJudge
from converters.parity.judges import KeypointJudge, PoseJudge, TensorDifference, TensorJudge
from converters.parity.limits import LIMITS, NO_LIMIT, Limits
from converters.parity.nothing_found import NothingFound
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import ParityError
from edge.session import Array, EngineSettings, Session
from edge.spec import Precision, Task

__all__ = [
    "FP16_MAX",
    "ParityReport",
    "answered_images",
    "check_parity",
    "fp16_peak",
    "range_failure",
]

FP16_MAX = 65504.0


@dataclass
class ParityReport:
    """What was compared with what, the differences, and what is beyond the limits."""

    reference: str
    engine: str
    inference_precision: str
    machine: str
    images: str
    image_count: int
    limits: dict[str, float]
    tensors: list[TensorDifference] = field(default_factory=list)
    decoded: dict[str, float] = field(default_factory=dict)
    fp16_peak: dict[str, Any] | None = None
    failures: list[str] = field(default_factory=list)
    found_nothing: bool = False

    @property
    def passed(self) -> bool:
        """Whether everything is within its limit."""
        return not self.failures

    def summary(self) -> str:
        """The verdict on one line."""
        d = self.decoded
        if not d.get("keypoints") and not d.get("boxes"):
            return "FAIL: no answer to compare"
        parts = []
        if "boxes" in d:
            score = d.get("box_score", d["score"])
            text = f"{int(d['boxes'])} boxes, IoU >= {d['iou_min']:.4f}, score +-{score:.4f}"
            if d.get("box_ties"):
                text += f" ({int(d['box_ties'])} ties)"
            if d.get("most_boxes"):
                text += f", the best {int(d['most_boxes'])} of an image"
            parts.append(text)
        if "keypoints" in d:
            parts.append(
                f"{int(d['keypoints'])} keypoints, mean {d['mean_px']:.3f} px, "
                f"max {d['max_px']:.2f} px" + (f" ({int(d['ties'])} ties)" if d["ties"] else "")
            )
        text = "; ".join(parts)
        if self.passed and self.limits["keypoint_max_px"] >= NO_LIMIT:
            # One crop may change sides without harm: such a figure is neither a pass nor a fault.
            return f"not judged here ({text}); accuracy decides"
        return ("pass: " if self.passed else "FAIL: ") + text

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``artifact.json``."""
        return {"passed": self.passed, "summary": self.summary(), **asdict(self)}

    def raise_if_failed(self) -> None:
        """Raise ParityError that says which output of which image is off by how much."""
        if self.failures:
            more = len(self.failures) - 3
            changed = "the answers changed beyond the limits of this precision: "
            raise ParityError(
                ("" if self.found_nothing else changed)
                + "; ".join(self.failures[:3])
                + (f"; and {more} more" if more > 0 else "")
            )


def check_parity(
    prepared: Prepared,
    source: Any,
    session: Session,
    precision: Precision,
    images: Sequence[NamedFeeds],
    images_text: str,
    machine: str | None = None,
) -> ParityReport:
    """Compare a session with the untouched ``source`` model on the same images.

    ``prepared`` says which tensor of the source each output stands for. ``machine`` is what the
    session computes on, by default this one; engine and arithmetic are what the session calls them
    after the last image, for a device tells them with its answers.
    """
    if not images:
        raise ParityError("parity needs at least one image")
    limits = LIMITS[precision]
    settings = EngineSettings()
    taps = [prepared.taps[tensor.name] for tensor in session.spec.outputs]
    reference = _open_reference(source, prepared, taps, settings)
    tensors, nothing = TensorJudge(limits), NothingFound()
    answers = _JUDGES[session.spec.task](limits)
    with reference:
        for image, got in zip(images, _run_all(session, images), strict=True):
            want_all = reference.run(image.feeds)
            for tensor, tap in zip(session.spec.outputs, taps, strict=True):
                tensors.add(image.name, tensor.name, want_all[tap], got[tensor.name])
            same = {
                t.name: want_all[tap] for t, tap in zip(session.spec.outputs, taps, strict=True)
            }
            answers.add(image.name, prepared.source_spec, want_all, session.spec, got, same)
            if not answers.count:
                nothing.add(prepared.source_spec, want_all)
    report = ParityReport(
        reference=f"{reference.engine}, fp32, untouched source",
        engine=session.engine,
        inference_precision=session.inference_precision,
        machine=machine or platform.machine(),
        images=images_text,
        image_count=len(images),
        limits=asdict(limits),
        tensors=tensors.differences(),
        decoded=answers.summary(),
        # What is broken before what it decodes to, and that before a figure of the whole tensor.
        failures=tensors.broken + answers.failures + tensors.failures,
    )
    if not answers.count:
        report.found_nothing = not report.failures
        report.failures.append(nothing.text(prepared.source_spec, images_text))
    return report


def answered_images(
    prepared: Prepared, source: Any, images: Sequence[NamedFeeds], count: int
) -> list[NamedFeeds]:
    """The first images in which the reference finds something to compare, ``count`` at most.

    The first of all where it finds nothing in any.
    """
    spec = prepared.source_spec
    found = []
    with _open_reference(source, prepared, [], EngineSettings()) as reference:
        for image in images:
            own = reference.run(image.feeds)
            judge = _JUDGES[spec.task](LIMITS["fp32"])
            judge.add(image.name, spec, own, spec, own, own)
            if judge.count:
                found.append(image)
            if len(found) == count:
                break
    return found or list(images[:count])


def range_failure(peak: Mapping[str, Any] | None) -> str | None:
    """Why a network with this `fp16_peak` cannot compute in half floats; None where it can."""
    if not peak or peak["max_abs"] <= FP16_MAX:
        return None
    return (
        f"tensor {peak['tensor']!r} reaches {peak['max_abs']:.4g}, beyond FP16's {FP16_MAX:g}: it "
        "overflows on devices with FP16 arithmetic"
    )


_JUDGES: dict[Task, Callable[[Limits], KeypointJudge | BoxJudge | PoseJudge]] = {
    "pose": KeypointJudge,
    "detection": BoxJudge,
    "one-stage": PoseJudge,
}


def _run_all(session: Session, images: Sequence[NamedFeeds]) -> Iterator[dict[str, Array]]:
    """Each image's outputs as a batch of one, whatever batch the session is fixed at.

    A fixed batch is filled with the images that follow, from the first again after the last.
    """
    size = session.max_batch or 1
    name = session.spec.input.name
    outputs = {tensor.name for tensor in session.spec.outputs}
    for start in range(0, len(images), size):
        batch = [images[(start + row) % len(images)].feeds[name] for row in range(size)]
        answers = session.run({name: np.concatenate(batch)})
        for row in range(min(size, len(images) - start)):
            yield {
                key: value[row : row + 1] if key in outputs else value
                for key, value in answers.items()
            }


def _open_reference(
    source: Any, prepared: Prepared, taps: list[str], settings: EngineSettings
) -> OnnxRuntimeSession:
    """The source with inner tensors as further outputs; the computation stays what it was."""
    spec = prepared.source_spec
    names = [tensor.name for tensor in (*spec.outputs, *spec.constants)]
    extra = [tap for tap in taps if tap not in names]
    return OnnxRuntimeSession(
        _with_outputs(source, extra), spec, settings, output_names=names + extra
    )


def _with_outputs(model: Any, names: Sequence[str]) -> bytes:
    import onnx

    tapped = copy.deepcopy(model)
    for name in names:
        tapped.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    return bytes(tapped.SerializeToString())


def fp16_peak(prepared: Prepared, images: Sequence[NamedFeeds]) -> dict[str, Any]:
    """The float tensor of the prepared network with the largest magnitude, on ONNX Runtime.

    An x86 machine computes ncnn's fp16 variant in fp32 and would never overflow: this tells.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(prepared.model)
    names = [
        value.name
        for value in inferred.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    outputs = [tensor.name for tensor in prepared.spec.outputs]
    model = _with_outputs(prepared.model, names)
    worst = ("", 0.0)
    with OnnxRuntimeSession(
        model, prepared.spec, EngineSettings(), output_names=[*names, *outputs]
    ) as session:
        for answers in _run_all(session, images):
            for name, value in answers.items():
                finite = bool(np.isfinite(value).all())
                peak = float(np.abs(value).max(initial=0)) if finite else float("inf")
                if peak > worst[1]:
                    worst = (name, peak)
    return {"tensor": worst[0], "max_abs": worst[1], "limit": FP16_MAX}
