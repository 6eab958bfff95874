"""Make the pictures of the manual again: ``python -m tests.docs_pictures [NAME ...]``.

Everything in them is this project's own: the demo models, and people that ``calibration`` renders.
Each is what a command or a program answered, not a drawing of what it might. A picture whose tools
are not installed stays as it is, and is named.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from calibration.people.synthetic import scene
from edge import Pose, PoseEstimator, load_artifact, open_session
from edge.cli import main as edge
from edge.keypoints import KEYPOINT_SETS
from edge.picture import draw_poses
from edge.sdk_image import sdk_detect, sdk_pose_feeds
from targets.app.assets import write_assets
from targets.report.page import html_page
from tests.benches.mmdeploy_runtime import sdk_runtime
from tests.conftest import ROOT
from tests.stand_ins.chromium import Chromium
from tests.stand_ins.header_app import MODELS, jni_example, run
from tests.stand_ins.make_goal import end_with
from tests.stand_ins.moving_people import read_frames, write_video
from tests.stand_ins.synthetic_runs import hot_phone_run, interleaved_runs, phone_run
from tests.stand_ins.walking_people import walk

__all__ = ["PICTURES", "main", "people_image"]

Image = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_COCO = KEYPOINT_SETS["coco17"]
_SEEN = 0.3
_FPS = 12
# Before two people meet, while one hides the other, and after.
_FOLLOWED = (14, 26, 40)
# Both people are seen, and a reader has had time to connect.
_SERVED = 14


def people_image() -> Image:
    """``people.jpg`` before it was compressed: four people, (480, 640, 3)."""
    return scene(2026, 4, people=(2, 4), variety=0.0).image_bgr


def people(folder: Path) -> list[Path]:
    """The picture to try everything on."""
    return [_jpeg(folder / "people.jpg", people_image())]


def people_found(folder: Path) -> list[Path]:
    """``edge run`` on it."""
    _edge("run", *_models(folder), ROOT / "docs/pictures/people.jpg", "--out", folder / "run")
    return [_jpeg(folder / "people-found.jpg", _read(folder / "run/people.jpg"))]


def people_followed(folder: Path) -> list[Path]:
    """Three frames of the video that ``edge run`` draws."""
    video = write_video(folder / "walk.mp4", walk(48), fps=_FPS)
    _edge("run", *_models(folder), video, "--out", folder / "video")
    frames = read_frames(folder / "video/walk.mp4")
    shown = []
    for number in _FOLLOWED:
        frame = frames[number].copy()
        _write(frame, f"{number / _FPS:.1f} s", (14, frame.shape[0] - 16))
        shown.append(cv2.resize(frame, (480, 360), interpolation=cv2.INTER_AREA))
    return [_jpeg(folder / "people-followed.jpg", np.hstack(shown))]


def report(folder: Path) -> list[Path]:
    """The top of the page of ``edge report --html``, of runs that are made up."""
    page = folder / "report.html"
    runs = [*(phone_run(number) for number in (1, 2, 4)), hot_phone_run(), *interleaved_runs()]
    made = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)
    page.write_text(html_page(runs, made=made, title="Example of a report: made-up runs"))
    with Chromium() as browser:
        browser.look(width=1280, height=1010)
        browser.open(page)
        browser.screenshot(folder / "seen.png", whole=False)
    # Compressed harder than the browser does.
    smaller = [cv2.IMWRITE_PNG_COMPRESSION, 9, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    cv2.imwrite(str(folder / "report.png"), _read(folder / "seen.png"), smaller)
    return [folder / "report.png"]


def sdk(folder: Path) -> list[Path]:
    """The same picture by mmdeploy's runtime, from ``edge bundle --sdk``, and by this kit."""
    artifacts = [_artifact(folder, name) for name in MODELS]
    _edge("bundle", *artifacts, "--sdk", "-o", folder / "sdk")
    image = people_image()
    with sdk_runtime(*(folder / "sdk" / name for name in MODELS)) as runtime:
        runtime.frame(image)
        boxes, scores, labels = runtime.detect()
        theirs = runtime.estimate(boxes[(labels == 0) & (scores > 0.5)])
    detector, pose = (open_session(load_artifact(path)) for path in artifacts)
    with detector, pose:
        found = sdk_detect(detector, image, score_threshold=0.5)
        ours = PoseEstimator(pose, find_feeds=sdk_pose_feeds)(image, found.boxes_xyxy)
    seen = theirs[..., 2] > _SEEN
    apart = np.linalg.norm(ours[..., :2] - theirs[..., :2], axis=-1)[seen].max()
    poses = [
        Pose(box, float(score), points)
        for box, score, points in zip(found.boxes_xyxy, found.scores, ours, strict=True)
    ]
    whole = draw_poses(image, poses, _COCO, _SEEN)
    left_px, top, zoom = *_upper_body(ours[0]), 4
    near = image[top : top + 120, left_px : left_px + 160]
    near = cv2.resize(near, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    corner = np.array([left_px, top])
    for a, b in zip(ours[0][seen[0]], theirs[0][seen[0]], strict=True):
        _cross(near, (a[:2] - corner + 0.5) * zoom)
        _ring(near, (b[:2] - corner + 0.5) * zoom)
    near[:76] = 255
    _write(near, "ring: mmdeploy-runtime 1.3.1", (14, 30))
    _write(near, f"cross: edgepose, {apart:.5f} px away at most", (14, 60))
    return [_jpeg(folder / "sdk.jpg", np.hstack([whole, near]))]


def android(folder: Path) -> list[Path]:
    """What the example of an app finds: its C++ in a desktop's Java, on stand-ins of Android."""
    image = scene(31, 6, image_hw=(640, 400), people=(2, 2), variety=0.0).image_bgr
    options = ["--formats", "ncnn-fp32", "--no-arm-check", "--out", folder / "phone"]
    _edge("convert", "--target", "android", *options)
    built = sorted((folder / "phone/android-sd865").iterdir())
    write_assets([load_artifact(path) for path in built], folder / "assets")
    alpha = np.full_like(image[:, :, :1], 255)
    (folder / "image.raw").write_bytes(np.concatenate([image[:, :, ::-1], alpha], 2).tobytes())
    (folder / "java").mkdir()
    printed = run(
        [*jni_example(folder / "assets", folder / "java"), *MODELS],
        ASSETS=str(folder / "assets/assets"),
        BITMAP=str(folder / "image.raw"),
        BITMAP_WIDTH=str(image.shape[1]),
        BITMAP_HEIGHT=str(image.shape[0]),
    )
    values = np.array(printed.splitlines()[2].split(), np.float32).reshape(-1, 5 + 17 * 3)
    poses = [Pose(row[:4], float(row[4]), row[5:].reshape(17, 3)) for row in values]
    return [_jpeg(folder / "android.jpg", draw_poses(image, poses, _COCO, _SEEN))]


def board(folder: Path) -> list[Path]:
    """A frame as a reader of the service's socket would draw it, and the start of its line."""
    frames = walk(48)
    video = write_video(folder / "camera.mp4", frames, fps=_FPS)
    record = _served(folder, video)
    poses = [
        Pose(
            np.array(one["box_xyxy"], np.float32),
            one["box_score"],
            np.array(list(one["keypoints"].values()), np.float32),
            one["track_id"],
        )
        for one in record["people"]
    ]
    drawn = draw_poses(read_frames(video)[_SERVED], poses, _COCO, _SEEN)
    return [_jpeg(folder / "board.jpg", np.hstack([drawn, _lines(record, drawn.shape[:2])]))]


PICTURES: dict[str, Callable[[Path], Sequence[Path]]] = {
    "people": people,
    "people-found": people_found,
    "people-followed": people_followed,
    "report": report,
    "sdk": sdk,
    "android": android,
    "board": board,
}


def main(names: Sequence[str]) -> int:
    """Make the named pictures, or all; 1 where one could not be made."""
    unknown = sorted({*names} - {*PICTURES})
    if unknown:
        print(f"docs-pictures: no picture {', '.join(unknown)}; there are {', '.join(PICTURES)}")
        return 2
    out = ROOT / "docs/pictures"
    out.mkdir(exist_ok=True)
    left = 0
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory(prefix="edgepose-pictures-") as text:
            try:
                made = PICTURES[name](Path(text))
            except pytest.skip.Exception as reason:
                print(f"docs-pictures: {name} stays as it is: {reason}")
                left += 1
                continue
            for path in made:
                shutil.copyfile(path, out / path.name)
                print(f"docs-pictures: {path.name}, {path.stat().st_size / 1000:.0f} kB")
    return min(left, 1)


def _edge(*words: Any) -> None:
    if edge([str(word) for word in words]) != 0:
        raise SystemExit(f"docs-pictures: edge {words[0]} failed")


def _artifact(folder: Path, name: str) -> Path:
    """A demo model as ONNX, converted where it is not yet."""
    path = folder / f"build/x86/{name}-onnx-fp32"
    if not path.exists():
        _edge("convert", "--target", "x86", "--formats", "onnx-fp32", "--out", folder / "build")
    return path


def _models(folder: Path) -> tuple[Any, ...]:
    detector, pose = (_artifact(folder, name) for name in MODELS)
    return ("--model", pose, "--detector", detector)


def _served(folder: Path, video: Path) -> dict[str, Any]:
    """What ``edge.serve`` says of one frame."""
    address = folder / "socket"
    argv = [sys.executable, "-m", "edge.serve", *map(str, _models(folder))]
    process = subprocess.Popen(
        [*argv, "--camera", str(video), "--socket", str(address)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with _connected(address) as stream, stream.makefile() as lines:
            records = (json.loads(line) for line in lines)
            record: dict[str, Any] = next(one for one in records if one["frame"] == _SERVED)
    finally:
        process.kill()
        process.wait(60)
    return record | {"read_utc": "2026-11-21T22:15:30.512Z"}


@contextmanager
def _connected(address: Path) -> Iterator[socket.socket]:
    deadline = time.monotonic() + 60
    with socket.socket(socket.AF_UNIX) as stream:
        while True:
            try:
                stream.connect(str(address))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield stream


def _lines(record: dict[str, Any], image_hw: tuple[int, int]) -> Image:
    """The start of a record as text, a picture of that height."""
    person = record["people"][0]
    rows = [f'{{"frame": {record["frame"]},']
    size = ("read_utc", "height_px", "width_px")
    rows += [f' "{key}": {json.dumps(record[key])},' for key in size]
    rows += [' "people": [']
    rows += [f'  {{"track_id": {person["track_id"]},', f'   "box_xyxy": {person["box_xyxy"]},']
    rows += [f'   "box_score": {person["box_score"]},', '   "keypoints": {']
    rows += [f'     "{name}": {point},' for name, point in list(person["keypoints"].items())[:7]]
    rows += ["     ... }},", f'  {{"track_id": {record["people"][1]["track_id"]}, ... }}]}}']
    text = np.full((image_hw[0], 560, 3), 34, np.uint8)
    for place, row in enumerate(rows):
        at = (16, 34 + 24 * place)
        cv2.putText(text, row, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (235,) * 3, 1, cv2.LINE_AA)
    return text


def _upper_body(points: F32) -> tuple[int, int]:
    """The corner of 160 x 120 px about somebody's head and shoulders."""
    x, y = points[[0, 5, 6], :2].mean(axis=0)
    return max(round(float(x)) - 80, 0), max(round(float(y)) - 60, 0)


def _cross(image: Image, at: F32) -> None:
    x, y = (round(float(v)) for v in at)
    cv2.drawMarker(image, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 17, 4, cv2.LINE_AA)
    cv2.drawMarker(image, (x, y), (20, 20, 20), cv2.MARKER_CROSS, 15, 2, cv2.LINE_AA)


def _ring(image: Image, at: F32) -> None:
    x, y = (round(float(v)) for v in at)
    cv2.circle(image, (x, y), 14, (255, 255, 255), 5, cv2.LINE_AA)
    cv2.circle(image, (x, y), 14, (40, 40, 220), 2, cv2.LINE_AA)


def _write(image: Image, text: str, at: tuple[int, int]) -> None:
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.7)
    (width, height), below = cv2.getTextSize(text, *font, 2)
    x, y = at
    corners = (x - 8, y - height - 8), (x + width + 8, y + below + 4)
    cv2.rectangle(image, *corners, (255, 255, 255), cv2.FILLED)
    cv2.putText(image, text, at, *font, (20, 20, 20), 2, cv2.LINE_AA)


def _read(path: Path) -> Image:
    return np.asarray(cv2.imread(str(path)), np.uint8)


def _jpeg(path: Path, image: Image) -> Path:
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 82]):
        raise SystemExit(f"docs-pictures: {path} cannot be written")
    return path


if __name__ == "__main__":
    end_with("docs_pictures", lambda: main(sys.argv[1:]))
