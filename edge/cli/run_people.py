"""Who is sought in the frames of `edge run`, and how they are followed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge.cli.run_notes import CountedPeople
from edge.cli.run_watch import WatchedTracker
from edge.errors import SpecError
from edge.media.frames import Source
from edge.people import build_pipeline
from edge.session import Session
from edge.tracking.tracker import TrackerParams

__all__ = ["check_following", "people_finder"]


def check_following(
    arguments: argparse.Namespace, session: Session, sources: Sequence[Source]
) -> None:
    """SpecError for what is asked of tracking and cannot be; nothing is left out silently."""
    one_stage = session.spec.task == "one-stage"
    follow = arguments.track
    if follow is None:
        follow = any(source.kind != "picture" for source in sources)
    if arguments.track and not (arguments.detector or one_stage):
        raise SpecError("--track needs a --detector, or a one-stage model as --model")
    if arguments.tracker and not (follow and (arguments.detector or one_stage)):
        raise SpecError(
            "--tracker says how people are followed, and here they are not: add --track and a "
            "--detector, or leave it out"
        )
    if arguments.interval > 1:
        if one_stage:
            raise SpecError(
                f"{session.spec.name} is a one-stage model and looks for people in every frame: "
                "leave --interval out"
            )
        if not arguments.detector:
            raise SpecError("--interval is that of a detector: add --detector, or leave it out")
        if not follow and all(source.kind == "picture" for source in sources):
            raise SpecError(
                "--interval is for videos; if these pictures are the frames of one, add --track"
            )


def people_finder(
    arguments: argparse.Namespace, session: Session, finder: Session | None, *, follow: bool
) -> CountedPeople:
    """Image in, poses out, with a memory of its own where the frames of a video follow."""
    one_stage = session.spec.task == "one-stage"
    tracker = None
    if follow and arguments.track is not False and (finder or one_stage):
        params = TrackerParams(
            det_interval=arguments.interval,
            det_thr=arguments.score,
            pose_kpt_thr=arguments.keypoint_score,
            keypoint_sigmas=session.spec.keypoints.sigmas,
        )
        tracker = WatchedTracker(params, mode=arguments.tracker or "corrected")
    interval = arguments.interval if follow and tracker is None else 1
    return CountedPeople(
        build_pipeline(
            session,
            finder,
            score_threshold=arguments.score,
            classes=arguments.classes,
            tracker=tracker,
            det_interval=interval,
        )
    )
