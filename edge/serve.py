"""A camera in, people's keypoints out, as lines of JSON on a Unix socket: ``python -m edge.serve``.

Whoever connects to the socket hears one line a frame from then on, until either side ends. A reader
that is too slow loses whole frames and holds nobody up. Of a camera that is faster than the
networks the newest frame is taken and those before it are left out; of a file every frame. Nothing
is written to a disk. Under systemd (``Type=notify``) it is ready with the first frame's poses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from edge.artifact import load_artifact
from edge.errors import EdgeError, ImageError, SpecError
from edge.media.frames import Source, VideoReader, find_sources
from edge.media.inputs import tell
from edge.onestage import OneStage
from edge.people import build_pipeline, people_json
from edge.pipeline import Pipeline, Pose
from edge.session import EngineSettings, Session, open_session, shipped_precision
from edge.tracking.tracker import PoseTracker, TrackerParams

__all__ = ["Readers", "frame_line", "main", "newest"]

# What a reader may be behind before it loses frames.
_BEHIND_BYTES = 1 << 16
_SENDER_S = 20.0
# As `edge run` has it.
_LEAST_KEYPOINT_SCORE = 0.3


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT (0), or until the camera ends or fails (1)."""
    parser = argparse.ArgumentParser(prog="python -m edge.serve", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="ARTIFACT")
    parser.add_argument("--detector", type=Path, metavar="ARTIFACT")
    parser.add_argument("--camera", default="0", help="a number, a device, a file or an address")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the engine")
    parser.add_argument("--score", type=float, default=0.3, help="least box score (default: 0.3)")
    parser.add_argument(
        "--classes", help="the detector's, by number or name (default: person, or else 0)"
    )
    parser.add_argument(
        "--socket", type=Path, help="default: edgepose.sock in XDG_RUNTIME_DIR or /tmp"
    )
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    path = arguments.socket or Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / "edgepose.sock"
    try:
        _serve(arguments, path)
    except EdgeError as error:
        print(f"edge: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 1


def _leave(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def _serve(arguments: argparse.Namespace, path: Path) -> NoReturn:
    with ExitStack() as stack:
        session = stack.enter_context(_open(arguments.model, arguments.threads))
        find_poses = _pipeline(session, arguments, stack)
        names = session.spec.keypoints.keypoints
        sources = find_sources([arguments.camera], tell)
        if len(sources) != 1 or sources[0].kind == "picture":
            raise SpecError(f"{arguments.camera} is no camera, no video and no address of one")
        video = stack.enter_context(_opened(sources[0]))
        readers = stack.enter_context(_listening(path))
        frames = _numbered(video)
        ready = spoilt = False
        if video.live:
            frames = stack.enter_context(closing(newest(frames)))
        for number, read_at, image in frames:
            poses = find_poses(image)
            if find_poses.lost_count and not spoilt:
                spoilt = True
                print(
                    f"edge: frame {number}: the network gave answers that are no finite numbers; "
                    "they count as not seen",
                    file=sys.stderr,
                    flush=True,
                )
            if not ready:
                ready = True
                _notify("READY=1")
                print(f"camera {arguments.camera} is read; results at {path}", flush=True)
            readers.send(frame_line(number, read_at, image, poses, names))
    raise ImageError(f"camera {arguments.camera}: it gives no more frames")


def _opened(source: Source) -> VideoReader:
    """A camera; an address is given time, for its sender may be starting as well."""
    until_s = time.monotonic() + _SENDER_S
    while True:
        try:
            return VideoReader(source)
        except ImageError:
            if "://" not in source.text or time.monotonic() > until_s:
                raise
            time.sleep(0.5)


_Image = npt.NDArray[np.uint8]
_Frame = tuple[int, datetime, _Image]


def _numbered(
    video: Iterable[tuple[npt.NDArray[np.uint8], float]],
) -> Generator[_Frame, None, None]:
    """Each frame with its number, from 0, and when it was read."""
    for number, (image, _) in enumerate(video):
        yield number, datetime.now(timezone.utc), image


def newest(frames: Iterable[_Frame]) -> Generator[_Frame, None, None]:
    """The newest frame whenever one is asked for, read by a thread; the last one always.

    Otherwise what is slower than its camera falls behind by all that driver and network can hold.
    ``close`` waits for the frame that is being read. Raises ImageError where reading fails.
    """
    changed = threading.Condition()
    held: list[_Frame] = []
    ended: list[Exception | None] = []
    over = threading.Event()

    def read() -> None:
        error = None
        try:
            for frame in frames:
                with changed:
                    held[:] = [frame]
                    changed.notify()
                if over.is_set():
                    break
        except Exception as failure:  # told where the frames are asked for
            error = failure
        with changed:
            ended.append(error)
            changed.notify()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: held or ended)
                if not held:
                    break
                frame = held.pop()
            yield frame
        if ended[0] is not None:
            raise ImageError(f"the camera cannot be read: {ended[0]}")
    finally:
        over.set()
        reader.join()


def _pipeline(
    session: Session, arguments: argparse.Namespace, stack: ExitStack
) -> Pipeline | OneStage:
    """People keep their numbers, but where there is nobody to follow: the whole frame is one."""
    params = TrackerParams(
        det_thr=arguments.score,
        pose_kpt_thr=_LEAST_KEYPOINT_SCORE,
        keypoint_sigmas=session.spec.keypoints.sigmas,
    )
    finder = None
    if arguments.detector and session.spec.task != "one-stage":
        finder = stack.enter_context(_open(arguments.detector, arguments.threads))
    return build_pipeline(
        session,
        finder,
        score_threshold=arguments.score,
        classes=arguments.classes,
        tracker=PoseTracker(params),
    )


def _open(folder: Path, threads: int) -> Session:
    artifact = load_artifact(folder)
    return open_session(artifact, EngineSettings(threads, shipped_precision(artifact)))


def frame_line(
    number: int,
    read_at: datetime,
    image_bgr: npt.NDArray[np.uint8],
    poses: Sequence[Pose],
    names: Sequence[str],
) -> bytes:
    """One frame's line: its number from 0, when it was read, its size, and the people in it.

    Boxes and keypoints are pixels of the frame, each keypoint with its score; ``track_id`` is null
    where nobody is followed.
    """
    record = {
        "frame": number,
        "read_utc": read_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "height_px": image_bgr.shape[0],
        "width_px": image_bgr.shape[1],
        "people": people_json(poses, names),
    }
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class Readers:
    """Who is connected to a socket; a line goes to each as a whole or not at all."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._behind: dict[socket.socket, bytes] = {}

    def send(self, line: bytes) -> None:
        """Give a line to all, those who connected since the last one as well; never waits."""
        with suppress(BlockingIOError):
            while True:
                reader, _ = self._server.accept()
                reader.setblocking(False)
                self._behind[reader] = b""
        for reader, behind in list(self._behind.items()):
            todo = behind + line if len(behind) < _BEHIND_BYTES else behind
            try:
                with suppress(BlockingIOError):
                    todo = todo[reader.send(todo) :]
                self._behind[reader] = todo
            except OSError:
                del self._behind[reader]
                reader.close()

    def close(self) -> None:
        """End every connection."""
        for reader in self._behind:
            reader.close()


@contextmanager
def _listening(path: Path) -> Iterator[Readers]:
    """A socket that its user alone may read; what a service that crashed left goes."""
    with socket.socket(socket.AF_UNIX) as server:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                if not path.is_socket():
                    raise SpecError(f"{path}: a file is there; choose a --socket") from None
                path.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                raise SpecError(f"{path}: no socket can be there ({error})") from None
            else:
                raise SpecError(f"{path}: another service listens there; choose a --socket")
        old = os.umask(0o177)
        try:
            server.bind(str(path))
        except OSError as error:
            raise SpecError(f"{path}: no socket can be there ({error})") from None
        finally:
            os.umask(old)
        server.listen()
        server.setblocking(False)
        readers = Readers(server)
        try:
            yield readers
        finally:
            readers.close()
            path.unlink(missing_ok=True)


def _notify(text: str) -> None:
    """Tell systemd, where it listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.sendto(text.encode(), address)


if __name__ == "__main__":
    sys.exit(main())
