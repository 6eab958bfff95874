"""Were the answers kept? An artifact against ONNX Runtime on the untouched source file.

Both get the same feeds. Tensors are compared one by one, answers as what they decode to: keypoints
in input pixels, kept boxes by their overlap. The limits are in ``LIMITS``.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.prepare import Prepared
from edge.codecs import BOX_CODECS, KEYPOINT_CODECS
from edge.engines.onnxruntime import OnnxRuntimeSession
from edge.errors import ParityError
from edge.session import Array, EngineSettings, Feeds, Session
from edge.spec import ModelSpec, Precision

__all__ = ["FP16_MAX", "LIMITS", "Limits", "NamedFeeds", "ParityReport", "check_parity"]

FP16_MAX = 65504.0
KEPT_BOX_SCORE = 0.3
KEPT_KEYPOINT_SCORE = 0.3


@dataclass(frozen=True)
class Limits:
    """What a precision may change.

    - ``cosine_min``: of each output tensor and image, as one vector. Catches wrong weights and
      swapped layouts, says little of single cells: those are judged by what they decode to.
    - ``keypoint_mean_px``, ``keypoint_max_px``: distance in input pixels over the keypoints that
      the reference scores at ``KEPT_KEYPOINT_SCORE`` or more; below, a SimCC distribution is flat
      and its maximum arbitrary.
    - ``keypoint_score``: largest change of a score of those.
    - ``box_iou_min``, ``box_score``: over boxes that either side scores above ``KEPT_BOX_SCORE``;
      each must have its counterpart.
    """

    cosine_min: float
    keypoint_mean_px: float
    keypoint_max_px: float
    keypoint_score: float
    box_iou_min: float
    box_score: float


# Why these: fp32 differs from the reference by the order of summation alone, which may still move
# a maximum between two equal neighbouring bins (half a pixel each). fp16 keeps 11 bits of every
# weight (and activation on ARM): logits move by about 0.01, boxes by a fraction of a pixel, and a
# flat maximum by a few bins. Measured figures are in the README's table of variants.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(0.99999, 0.05, 1.0, 0.01, 0.995, 0.01),
    "fp16": Limits(0.999, 0.25, 3.0, 0.02, 0.98, 0.02),
}


@dataclass(frozen=True)
class NamedFeeds:
    """One image's feeds (a batch of one) and what to call it in messages."""

    name: str
    feeds: Feeds


@dataclass(frozen=True)
class TensorDifference:
    """Differences of one output over all images: the largest, the mean, the least cosine."""

    name: str
    max_abs: float
    mean_abs: float
    cosine_min: float


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

    @property
    def passed(self) -> bool:
        """Whether everything is within its limit."""
        return not self.failures

    def summary(self) -> str:
        """The verdict on one line."""
        d = self.decoded
        if not d.get("keypoints") and not d.get("boxes"):
            return "FAIL: no answer to compare"
        if "keypoints" in d:
            text = (
                f"{int(d['keypoints'])} keypoints, mean {d['mean_px']:.3f} px, "
                f"max {d['max_px']:.2f} px"
            )
        else:
            text = f"{int(d['boxes'])} boxes, IoU >= {d['iou_min']:.4f}, score +-{d['score']:.4f}"
        return ("pass: " if self.passed else "FAIL: ") + text

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``artifact.json``."""
        return {"passed": self.passed, "summary": self.summary(), **asdict(self)}

    def raise_if_failed(self) -> None:
        """Raise ParityError that says which output of which image is off by how much."""
        if self.failures:
            more = len(self.failures) - 3
            raise ParityError(
                "the answers changed beyond the limits of this precision: "
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
) -> ParityReport:
    """Compare a session with the untouched ``source`` model on the same images.

    ``prepared`` says which tensor of the source each output stands for. For fp16, every tensor of
    the prepared network is also held against FP16's range, on ONNX Runtime: an x86 machine
    computes ncnn's fp16 variant in fp32 and would never overflow.
    """
    if not images:
        raise ParityError("parity needs at least one image")
    limits = LIMITS[precision]
    settings = EngineSettings()
    taps = [prepared.taps[tensor.name] for tensor in session.spec.outputs]
    reference = _open_reference(source, prepared, taps, settings)
    report = ParityReport(
        reference=f"{reference.engine}, fp32, untouched source",
        engine=session.engine,
        inference_precision=session.inference_precision,
        machine=platform.machine(),
        images=images_text,
        image_count=len(images),
        limits=asdict(limits),
    )
    tensors = _TensorJudge(limits)
    answers: _KeypointJudge | _BoxJudge = (
        _KeypointJudge(limits) if session.spec.task == "pose" else _BoxJudge(limits)
    )
    with reference:
        for image in images:
            want_all = reference.run(image.feeds)
            got = session.run(image.feeds)
            for tensor, tap in zip(session.spec.outputs, taps, strict=True):
                tensors.add(image.name, tensor.name, want_all[tap], got[tensor.name])
            answers.add(image.name, prepared.source_spec, want_all, session.spec, got)
    report.tensors = tensors.differences()
    report.decoded = answers.summary()
    report.failures = answers.failures + tensors.failures
    if not answers.count:
        report.failures.append(
            f"the reference finds nothing in {images_text}: no box above {KEPT_BOX_SCORE} and no "
            f"keypoint at {KEPT_KEYPOINT_SCORE}, so there is no answer to compare; give pictures "
            "that suit the model with --images DIR"
        )
    if precision == "fp16":
        name, peak = _fp16_peak(prepared, images, settings)
        report.fp16_peak = {"tensor": name, "max_abs": peak, "limit": FP16_MAX}
        if not peak <= FP16_MAX:
            report.failures.insert(
                0,  # the cause before its consequences
                f"tensor {name!r} reaches {peak:.4g}, beyond FP16's {FP16_MAX:g}: it overflows on "
                "devices with FP16 arithmetic",
            )
    return report


def _open_reference(
    source: Any, prepared: Prepared, taps: list[str], settings: EngineSettings
) -> OnnxRuntimeSession:
    """The source with inner tensors as further outputs; the computation stays what it was."""
    names = [tensor.name for tensor in prepared.source_spec.outputs]
    extra = [tap for tap in taps if tap not in names]
    spec = replace(prepared.source_spec)
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


def _fp16_peak(
    prepared: Prepared, images: Sequence[NamedFeeds], settings: EngineSettings
) -> tuple[str, float]:
    """The largest magnitude of any float tensor of the prepared network, and its name."""
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
        model, prepared.spec, settings, output_names=[*names, *outputs]
    ) as session:
        for image in images:
            for name, value in session.run(image.feeds).items():
                peak = float(np.abs(value).max()) if value.size else 0.0
                if not peak <= worst[1]:  # also takes NaN
                    worst = (name, peak)
    return worst


class _TensorJudge:
    """Collects tensor differences over the images."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rows: dict[str, list[tuple[float, float, float]]] = {}
        self.failures: list[str] = []

    def add(self, image: str, name: str, want: Array, got: Array) -> None:
        if want.shape != got.shape:
            self.failures.append(f"{name} of {image} has shape {got.shape}, not {want.shape}")
            return
        if not np.isfinite(got).all():
            bad = int((~np.isfinite(got)).sum())
            self.failures.append(f"{name} of {image} holds {bad} values that are not finite")
            return
        a, b = want.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
        difference = np.abs(a - b)
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norm if norm > 0 else float(np.array_equal(a, b))
        self._rows.setdefault(name, []).append(
            (float(difference.max(initial=0)), float(difference.mean()), cosine)
        )
        if cosine < self._limits.cosine_min:
            self.failures.append(
                f"{name} of {image}: cosine {cosine:.6f} is below {self._limits.cosine_min} "
                f"(max abs difference {difference.max():.4g})"
            )

    def differences(self) -> list[TensorDifference]:
        return [
            TensorDifference(
                name,
                max(row[0] for row in rows),
                sum(row[1] for row in rows) / len(rows),
                min(row[2] for row in rows),
            )
            for name, rows in self._rows.items()
        ]


class _KeypointJudge:
    """Compares decoded keypoints, one person an image."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._distances: list[npt.NDArray[np.float64]] = []
        self._scores: list[float] = []
        self.failures: list[str] = []

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
    ) -> None:
        reference = KEYPOINT_CODECS[want_spec.codec](want, want_spec)[0].astype(np.float64)
        answer = KEYPOINT_CODECS[got_spec.codec](got, got_spec)[0].astype(np.float64)
        kept = reference[:, 2] >= KEPT_KEYPOINT_SCORE
        distance = np.linalg.norm(reference[:, :2] - answer[:, :2], axis=1)
        score = np.abs(reference[:, 2] - answer[:, 2])
        self._distances.append(distance[kept])
        self._scores.append(float(score[kept].max(initial=0)))
        names = want_spec.keypoints.keypoints
        for index in np.flatnonzero(kept):
            if distance[index] > self._limits.keypoint_max_px:
                self.failures.append(
                    f"{names[index]} of {image} is {distance[index]:.2f} px off "
                    f"(limit {self._limits.keypoint_max_px:g})"
                )
            if score[index] > self._limits.keypoint_score:
                self.failures.append(
                    f"the score of {names[index]} of {image} is {score[index]:.4f} off "
                    f"(limit {self._limits.keypoint_score:g})"
                )
        if len(distance[kept]) and distance[kept].mean() > self._limits.keypoint_mean_px:
            self.failures.append(
                f"the keypoints of {image} are {distance[kept].mean():.3f} px off on average "
                f"(limit {self._limits.keypoint_mean_px:g})"
            )

    @property
    def count(self) -> int:
        return sum(len(distances) for distances in self._distances)

    def summary(self) -> dict[str, float]:
        every = np.concatenate(self._distances)
        return {
            "keypoints": float(len(every)),
            "mean_px": float(every.mean()) if len(every) else 0.0,
            "max_px": float(every.max(initial=0)),
            "score": max(self._scores),
        }


class _BoxJudge:
    """Compares kept boxes: each needs one counterpart of its class, and none may be left over."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ious: list[float] = []
        self._scores: list[float] = []
        self.failures: list[str] = []

    def add(
        self,
        image: str,
        want_spec: ModelSpec,
        want: dict[str, Array],
        got_spec: ModelSpec,
        got: dict[str, Array],
    ) -> None:
        boxes, labels = BOX_CODECS[want_spec.codec](want, want_spec)[0]
        answers, answer_labels = BOX_CODECS[got_spec.codec](got, got_spec)[0]
        # A counterpart may lie just below the score, a leftover may not lie clearly above it.
        slack = self._limits.box_score
        free = [i for i in range(len(answers)) if answers[i, 4] > KEPT_BOX_SCORE - slack]
        for box, label in zip(boxes, labels, strict=True):
            same = [i for i in free if answer_labels[i] == label]
            ious = [iou(box, answers[i]) for i in same]
            if box[4] <= KEPT_BOX_SCORE:
                # Takes its counterpart away from the leftovers, and is not judged itself.
                if ious and max(ious) >= self._limits.box_iou_min:
                    free.remove(same[int(np.argmax(ious))])
                continue
            where = f"the box of {image} at {np.round(box[:4], 1).tolist()}"
            if not ious or max(ious) < 0.5:
                self.failures.append(f"{where} with score {box[4]:.3f} is gone")
                continue
            best = same[int(np.argmax(ious))]
            free.remove(best)
            score = abs(float(box[4] - answers[best, 4]))
            self._ious.append(max(ious))
            self._scores.append(score)
            if max(ious) < self._limits.box_iou_min:
                self.failures.append(
                    f"{where} keeps an IoU of {max(ious):.4f} (limit {self._limits.box_iou_min})"
                )
            if score > self._limits.box_score:
                self.failures.append(
                    f"{where} has a score {score:.4f} off (limit {self._limits.box_score})"
                )
        for index in free:
            if answers[index, 4] > KEPT_BOX_SCORE + slack:
                self.failures.append(
                    f"{image} has a box too many at {np.round(answers[index, :4], 1).tolist()} "
                    f"with score {answers[index, 4]:.3f}"
                )

    @property
    def count(self) -> int:
        # Boxes that are gone were there to compare too.
        return len(self._ious) + len(self.failures)

    def summary(self) -> dict[str, float]:
        return {
            "boxes": float(len(self._ious)),
            "iou_min": min(self._ious, default=1.0),
            "score": max(self._scores, default=0.0),
        }


def iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2 (further columns are ignored)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return float(overlap / union) if union > 0 else 0.0
