"""`edge run`: people in pictures, videos and what a camera sees, drawn and written."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.classes import find_labels
from edge.cli.choose import add_build, open_chosen
from edge.cli.options import (
    add_classes,
    add_engine,
    add_insecure_mirror,
    count,
    keypoint_score,
    share,
)
from edge.cli.run_notes import CountedPeople
from edge.cli.run_people import check_following, people_finder
from edge.cli.run_results import JsonFile, coco_result, interruptible
from edge.cli.run_watch import WatchedTracker
from edge.digits import parse_digits
from edge.errors import ImageError, SpecError
from edge.keypoints import KeypointSet
from edge.media.frames import Source, VideoReader, check_video, find_sources
from edge.media.inputs import tell
from edge.media.video import VideoFile, Window
from edge.people import people_json
from edge.picture import (
    draw_poses,
    first_taken,
    import_opencv,
    read_image,
    write_image,
    written_name,
)
from edge.pipeline import Pose
from edge.session import Session
from edge.terminal import CountLine

__all__ = ["add", "run"]

Image = npt.NDArray[np.uint8]
FindPeople = Callable[[Image], list[Pose]]

_TEXT = "Find people in pictures, videos and a camera: draws them and writes keypoints."

# Where no terminal redraws a line, a log gets one as often.
_LOG_S = 10.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="picture, video, folder of these, glob in quotes, camera number or address",
    )
    parser.add_argument(
        "--model", required=True, help="artifact folder, a folder of some, or as for convert"
    )
    parser.add_argument("--detector", help="likewise; without one the whole picture is one box")
    add_classes(parser)
    add_build(parser)
    parser.add_argument(
        "--out", "-o", type=Path, metavar="DIR", help="required, unless --show is given"
    )
    parser.add_argument("--show", action="store_true", help="on the screen as well; q ends it")
    parser.add_argument(
        "--conf",
        dest="score",
        type=share,
        default=0.3,
        help="least score of a detected box (default: 0.3)",
    )
    parser.add_argument(
        "--keypoint-score",
        type=keypoint_score,
        default=0.3,
        help="least score of a keypoint to be drawn, and to count in tracking (default: 0.3)",
    )
    parser.add_argument(
        "--interval",
        type=count,
        default=1,
        metavar="N",
        help="detect in every N-th frame of a video, in between follow the keypoints (default: 1)",
    )
    parser.add_argument(
        "--track",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="number people and smooth their movement (default: in videos, not in pictures)",
    )
    parser.add_argument(
        "--tracker",
        choices=["corrected", "sdk"],
        help="as mmdeploy's SDK does it, bug for bug, or corrected (default: corrected)",
    )
    parser.add_argument(
        "--json", action="store_true", help="COCO results, to stdout and DIR/coco_results.json"
    )
    add_engine(parser)
    add_insecure_mirror(parser)


@dataclass(frozen=True)
class _Job:
    """What all pictures and videos of one run share.

    ``find_people(follow)`` gives a function from image to poses, for one video each; ``results``
    and ``coco`` are the files that are wanted.
    """

    arguments: argparse.Namespace
    keypoints: KeypointSet
    by_box: bool
    find_people: Callable[[bool], CountedPeople]
    window: Window | None
    results: JsonFile | None
    coco: JsonFile | None
    stopped: Callable[[], bool]

    def write(self, image_id: int, record: dict[str, Any], image: Image, found: list[Pose]) -> None:
        """One picture's or frame's entries in the JSON files."""
        height, width = image.shape[:2]
        if self.results:
            size = {"height_px": height, "width_px": width}
            people = people_json(found, self.keypoints.keypoints)
            self.results.add({"image_id": image_id, **record, **size, "people": people})
        if self.coco:
            for pose in found:
                self.coco.add(coco_result(image_id, pose, by_box=self.by_box))

    def draw(self, image: Image, found: list[Pose]) -> Image:
        """The picture with the people in it."""
        return draw_poses(image, found, self.keypoints, self.arguments.keypoint_score)


def run(arguments: argparse.Namespace) -> int:
    """Run a one-stage model, or a detector and a pose model, on all inputs."""
    if arguments.out is None and (arguments.json or not arguments.show):
        raise SpecError("give --out DIR for what is found; with --show alone nothing is written")
    sources = find_sources(arguments.inputs, tell)
    outputs = _outputs(sources, arguments.out)
    with ExitStack() as stack:
        session = stack.enter_context(open_chosen(arguments.model, arguments))
        finder = _detector_session(arguments, session, stack)
        import_opencv()
        check_following(arguments, session, sources)
        stream = _look(sources, stack)
        window = stack.enter_context(Window("edge run")) if arguments.show else None
        # Left last: an interruption while the files get their names waits for them.
        stopped = stack.enter_context(interruptible())
        results = coco = None
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            head = f'{{"keypoint_set": {json.dumps(session.spec.keypoints.name)}, "pictures": ['
            results = stack.enter_context(JsonFile(arguments.out / "poses.json", head, "\n]}\n"))
        if arguments.json:
            coco = stack.enter_context(JsonFile(arguments.out / "coco_results.json", "[", "\n]\n"))
        job = _Job(
            arguments,
            session.spec.keypoints,
            session.spec.task == "one-stage",
            lambda follow: people_finder(arguments, session, finder, follow=follow),
            window,
            results,
            coco,
            stopped,
        )
        _all(job, sources, outputs, stream)
    if arguments.json:
        with (arguments.out / "coco_results.json").open(encoding="utf-8") as file:
            shutil.copyfileobj(file, sys.stdout)
    elif arguments.out:
        print(f"keypoints -> {arguments.out / 'poses.json'}")
    if stopped():
        whole = "all that was done by then is written" if arguments.out else "nothing is written"
        print(f"edge: interrupted; {whole}", file=sys.stderr)
        return 130
    return 0


def _look(sources: Sequence[Source], stack: ExitStack) -> VideoReader | None:
    """Look at all inputs before the first is done; the open stream, if one is among them.

    A damaged picture among a thousand should not be found after an hour.
    """
    several: dict[str, int] = {}
    for source in sources:
        if source.kind == "picture":
            read_image(Path(source.text), several)
        elif source.kind == "video":
            check_video(source)
        else:
            return stack.enter_context(VideoReader(source))
    if several:
        tell(first_taken(several))
    return None


def _outputs(sources: Sequence[Source], out: Path | None) -> list[Path | None]:
    """Where each input's picture or video goes; ImageError where two collide."""
    if len(sources) > 1 and any(source.kind == "stream" for source in sources):
        raise ImageError("a camera or address may have no end: give it alone")
    if out is None:
        return [None] * len(sources)
    outputs: list[Path | None] = []
    names: set[str] = set()
    for source in sources:
        picture = source.kind == "picture"
        path = out / (written_name(Path(source.text)) if picture else f"{source.stem}.mp4")
        if path.name in names:
            what = f"two pictures are called {path.name}" if picture else f"two make {path.name}"
            raise ImageError(f"{what}; run them into two folders")
        if source.kind != "stream" and path.resolve() == Path(source.text).resolve():
            raise ImageError(f"{source.text}: --out would overwrite it; choose another folder")
        names.add(path.name)
        outputs.append(path)
    return outputs


def _detector_session(
    arguments: argparse.Namespace, session: Session, stack: ExitStack
) -> Session | None:
    if not arguments.detector:
        if arguments.classes is not None:
            raise SpecError("--classes are those of a --detector: add one, or leave --classes out")
        return None
    if session.spec.task == "one-stage":
        raise SpecError(
            f"{session.spec.name} is a one-stage model and finds the people itself: "
            "leave --detector out"
        )
    finder = stack.enter_context(open_chosen(arguments.detector, arguments))
    if finder.spec.task == "detection":
        find_labels(arguments.classes, finder.spec)
    return finder


def _all(
    job: _Job,
    sources: Sequence[Source],
    outputs: Sequence[Path | None],
    stream: VideoReader | None,
) -> None:
    """All inputs one after the other, until the last one or somebody ends it."""
    find_people = job.find_people(job.arguments.track is True)
    # COCO's file names are its image ids; otherwise pictures and frames are counted from 1.
    ids = [parse_digits(Path(one.text).stem) if one.kind == "picture" else None for one in sources]
    named = None not in ids and len(set(ids)) == len(sources)
    next_id = 1
    progress, done = CountLine("pictures", "pictures", log_s=_LOG_S), 0
    for source, output, own_id in zip(sources, outputs, ids, strict=True):
        if source.kind == "picture":
            image_id = next_id if own_id is None or not named else own_id
            went_on, seen = _picture(job, source, output, find_people, image_id), 1
            done += 1
            if job.arguments.json:
                progress(done, len(sources))
        else:
            progress.close()
            with stream or VideoReader(source) as reader:
                went_on, seen = _video(job, reader, output, next_id)
        next_id += seen
        if not went_on:
            break
    progress.close()
    _say_why_nobody("these pictures", find_people)


def _picture(
    job: _Job, source: Source, output: Path | None, find_people: FindPeople, image_id: int
) -> bool:
    image = read_image(Path(source.text))
    try:
        found = find_people(image)
    except ImageError as error:
        raise ImageError(f"{source.text}: {error}") from None
    drawn = job.draw(image, found)
    if output:
        write_image(output, drawn)
    job.write(image_id, {"file": Path(source.text).name}, image, found)
    if not job.arguments.json:
        people = "1 person" if len(found) == 1 else f"{len(found)} people"
        print(f"{source.text}: {people}" + (f" -> {output}" if output else ""))
    while job.window and not job.stopped():
        answer = job.window.show(drawn)
        if answer != "none":
            return answer != "quit"
    return not job.stopped()


def _video(job: _Job, reader: VideoReader, output: Path | None, first_id: int) -> tuple[bool, int]:
    """Whether to go on with the next, and the number of frames that were done."""
    text = reader.source.text
    find_people = job.find_people(True)
    progress, count = CountLine(text, log_s=_LOG_S), 0
    began = time.perf_counter()
    most, tracked, unusable, went_on = 0, 0, 0, True
    with ExitStack() as stack:
        # A rate that every encoder takes: the frames have times of their own.
        fps = min(max(reader.fps, 1.0), 120.0)
        file = stack.enter_context(VideoFile(output, fps)) if output else None
        stack.enter_context(progress)
        for image, at_s in reader:
            if reader.live:
                at_s = time.perf_counter() - began
            try:
                found = find_people(image)
            except ImageError as error:
                if not count:
                    raise ImageError(f"{text}, frame 0: {error}") from None
                # One bad frame costs itself, not the rest.
                found, unusable = [], unusable + 1
            drawn = job.draw(image, found)
            if file:
                file.write(drawn, at_s)
            record = {"file": Path(text).name, "frame": count, "time_s": round(at_s, 4)}
            job.write(first_id + count, record, image, found)
            most = max(most, len(found))
            # Numbers are given from 0 on, and none is left out.
            numbers = [pose.track_id for pose in found if pose.track_id is not None]
            tracked = max([tracked, *(number + 1 for number in numbers)])
            count += 1
            progress(count, reader.frame_count)
            went_on = not job.stopped()
            if job.window and job.window.show(drawn) == "quit":
                went_on = False
            if not went_on:
                break
    if went_on and not count:
        raise ImageError(f"{text}: it was opened, but no frame came; is another program using it?")
    speed = f"{count} frames, {progress.per_second(count):.1f} frames/s"
    people = f"{tracked} people followed" if tracked else f"at most {most} people at once"
    if not job.arguments.json:
        print(f"{text}: {speed}, {people}" + (f" -> {output}" if output else ""))
    _say_why_nobody(text, find_people)
    if unusable:
        tell(f"{text}: {unusable} frames could not be used, and nobody was sought in them")
    if reader.lost_count:
        tell(f"{text}: {reader.lost_count} frames are damaged and left out")
    if file and file.times_are_lost:
        tell(f"{output}: plays at a constant {file.fps:g} frames/s: see time_s in poses.json")
    if went_on and reader.breaks_off:
        tell(f"{text}: breaks off {reader.breaks_off}; these are done")
    if went_on and reader.live:
        tell(f"{text}: no more frames came")
    return went_on, count


def _say_why_nobody(text: str, find_people: CountedPeople) -> None:
    for note in find_people.notes():
        tell(f"{text}: {note}")
    tracker = find_people.tracker
    if isinstance(tracker, WatchedTracker) and tracker.why_nobody:
        tell(f"{text}: {tracker.why_nobody}")
