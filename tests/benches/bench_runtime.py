"""How long the runtime's own work takes, beside OpenCV in the same run: `make bench-runtime`.

Calls of both sides alternate, so that both meet the same machine; medians are shown, and the
ratio is the median of the pairs' ratios. OpenCV's side is its warp or resize followed by the same
normalisation in numpy, written the plain way (``(image - mean) / std``, then planar) and once
more tuned by hand (a channel at a time, in place), since the plain way is slow.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.codecs import rtmdet, simcc
from edge.image import Normalization, crop, letterbox
from edge.spec import ModelSpec
from tests.stand_ins.make_goal import end_with
from tests.stand_ins.specs import detector_spec, pose_spec

RGB = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), swap_channels=True)
BGR = Normalization((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


@dataclass(frozen=True)
class Case:
    """A call of ours and either OpenCV's counterpart (limit: ratio) or none (limit: ms)."""

    name: str
    ours: Callable[[], object]
    other: Callable[[], object] | None
    limit: float


@dataclass(frozen=True)
class Result:
    """Medians in ms; ``ratio`` is ours to OpenCV's, pair by pair."""

    name: str
    ours_ms: float
    opencv_ms: float | None
    ratio: float | None
    limit: float
    ok: bool


def plain(image: Any, normalization: Normalization) -> Any:
    if normalization.swap_channels:
        image = image[..., ::-1]
    mean, std = np.array(normalization.mean, np.float32), np.array(normalization.std, np.float32)
    return np.ascontiguousarray(((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None])


def tuned(image: Any, normalization: Normalization) -> Any:
    gain = 1 / np.array(normalization.std, np.float32)
    bias = -np.array(normalization.mean, np.float32) * gain
    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    for channel in range(3):
        planes[0, channel] = image[..., 2 - channel if normalization.swap_channels else channel]
    planes *= gain[:, None, None]
    planes += bias[:, None, None]
    return planes


def opencv_crop(image: Any, box: Any, normalise: Any) -> Any:
    x1, y1, x2, y2 = box
    scale = max((x2 - x1) * 1.25, (y2 - y1) * 1.25 * 0.75)
    k = 192 / scale
    matrix = np.array([[k, 0, 96 - (x1 + x2) / 2 * k], [0, k, 128 - (y1 + y2) / 2 * k]])
    warped = cv2.warpAffine(image, matrix, (192, 256), flags=cv2.INTER_LINEAR)
    return normalise(warped, RGB)


def opencv_letterbox(image: Any, normalise: Any) -> Any:
    height, width = image.shape[:2]
    s = min(320 / width, 320 / height)
    new_w, new_h = int(width * s + 0.5), int(height * s + 0.5)
    resized = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(
        resized, 0, 320 - new_h, 0, 320 - new_w, cv2.BORDER_CONSTANT, value=(114, 114, 114)
    )
    return normalise(padded, BGR)


def our_crop(image: Any, box: Any) -> Any:
    batch = np.empty((1, 3, 256, 192), np.float32)
    crop(image, box, (256, 192), RGB, out=batch[0])
    return batch


def our_letterbox(image: Any) -> Any:
    batch = np.empty((1, 3, 320, 320), np.float32)
    letterbox(image, (320, 320), 114, BGR, out=batch[0])
    return batch


def cases(picture_hw: tuple[int, int]) -> list[Case]:
    """Every figure that is claimed; the letterbox for a picture of any size."""
    rng = np.random.default_rng(0)
    photo = cv2.GaussianBlur(rng.integers(0, 256, (480, 640, 3)).astype(np.uint8), (5, 5), 1)
    other = rng.integers(0, 256, (*picture_hw, 3)).astype(np.uint8)
    rows = []
    for how, normalise in (("plain", plain), ("tuned", tuned)):
        for name, box in (
            ("60x150 box", (300, 120, 360, 270)),
            ("215x340 box", (220, 60, 435, 400)),
            ("whole picture", (0, 0, 640, 480)),
        ):
            rows.append(
                Case(
                    f"crop 256x192, {name}, OpenCV + {how}",
                    partial(our_crop, photo, box),
                    partial(opencv_crop, photo, box, normalise),
                    1.5,
                )
            )
        rows.append(
            Case(
                f"letterbox 320, OpenCV + {how}",
                partial(our_letterbox, other),
                partial(opencv_letterbox, other, normalise),
                1.5,
            )
        )
    pose = pose_spec()
    simcc_outputs = {
        t.name: rng.normal(0, 1, (1, *t.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
        for t in pose.outputs
    }
    rows.append(
        Case("SimCC decode, 17 keypoints", partial(simcc.decode, simcc_outputs, pose), None, 0.15)
    )
    detector = detector_spec()
    heads = crowded_heads(detector, rng)
    rows.append(
        Case("RTMDet decode + NMS, 320", partial(rtmdet.decode, heads, detector), None, 1.0)
    )
    return rows


def crowded_heads(spec: ModelSpec, rng: np.random.Generator) -> dict[str, Any]:
    """Raw heads as RTMDet-nano gives them for six people: some hundred cells above 0.05."""
    people = [(x, 160, 50, 120) for x in (40, 90, 140, 190, 240, 290)]
    heads: dict[str, Any] = {}
    for index, stride in enumerate(spec.strides):
        n = 320 // stride
        logits = rng.normal(-6, 0.5, (1, 1, n, n)).astype(np.float32)
        distances = rng.uniform(0, 40, (1, 4, n, n)).astype(np.float32)
        for x, y, w, h in people:
            for i in range(n):
                for j in range(n):
                    dx, dy = j * stride - x, i * stride - y
                    if abs(dx) < w / 3 and abs(dy) < h / 3:
                        logits[0, 0, i, j] = 1.5 - 4 * (abs(dx) / w + abs(dy) / h)
                        sides = (w / 2 + dx, h / 2 + dy, w / 2 - dx, h / 2 - dy)
                        distances[0, :, i, j] = np.array(sides) + rng.normal(0, 2, 4)
        heads[spec.outputs[index].name] = logits
        heads[spec.outputs[index + len(spec.strides)].name] = distances
    return heads


def time_case(case: Case, repeat: int, between: Callable[[], object]) -> Result:
    """Medians of pairs; ``between`` runs before every call and is not timed."""
    sides = [case.ours] + ([case.other] if case.other else [])
    for side in sides:
        for _ in range(10):
            side()
    samples: list[list[int]] = [[] for _ in sides]
    for _ in range(repeat):
        for side, times in zip(sides, samples, strict=True):
            between()
            start = time.perf_counter_ns()
            side()
            times.append(time.perf_counter_ns() - start)
    ours_ms = statistics.median(samples[0]) / 1e6
    if not case.other:
        return Result(case.name, ours_ms, None, None, case.limit, ours_ms <= case.limit)
    ratio = statistics.median(a / b for a, b in zip(*samples, strict=True))
    other_ms = statistics.median(samples[1]) / 1e6
    return Result(case.name, ours_ms, other_ms, ratio, case.limit, ratio <= case.limit)


def machine() -> dict[str, str]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "cpu": model,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=200, help="pairs a case (default: 200)")
    parser.add_argument("--threads", type=int, default=1, help="OpenCV threads (default: 1)")
    parser.add_argument(
        "--picture", default="480x640", metavar="HxW", help="to letterbox (default: 480x640)"
    )
    parser.add_argument(
        "--cold",
        type=int,
        default=0,
        metavar="MB",
        help="go through so much memory before every call, as a network does, so that little is "
        "left in the CPU's cache (default: 0)",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.picture.split("x"))
    cv2.setNumThreads(arguments.threads)
    about = {**machine(), "opencv threads": str(arguments.threads), "cold": f"{arguments.cold} MB"}
    swept = np.zeros(arguments.cold << 18, np.float32)
    between = partial(np.add, swept, 1, out=swept)
    results = [time_case(case, arguments.repeat, between) for case in cases((height, width))]
    if arguments.json:
        print(json.dumps({"machine": about, "results": [asdict(r) for r in results]}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{'case':<44} {'ours':>9} {'OpenCV':>9} {'ratio':>6} {'limit':>8}")
    for r in results:
        other = "" if r.opencv_ms is None else f"{r.opencv_ms:.3f} ms"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        limit = f"{r.limit:g} ms" if r.ratio is None else f"{r.limit:g}"
        verdict = "" if r.ok else "  over"
        print(f"{r.name:<44} {r.ours_ms:>6.3f} ms {other:>9} {ratio:>6} {limit:>8}{verdict}")


if __name__ == "__main__":
    end_with("bench_runtime", main)
