"""The check on an emulated ARM CPU, as conversions ask for it; it needs a checkout."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.artifact import Artifact

if TYPE_CHECKING:
    from converters.answers import SessionJudge
    from converters.arm import OnArm
    from targets.arm_check import ArmCheck
    from targets.native_session import NativeSession
    from targets.profile import Profile
    from targets.runner_check import RunnerInfo

__all__ = ["add_arm", "on_arm"]


def add_arm(parser: Any) -> None:
    """Add the options of the check to those of a conversion."""
    parser.add_argument(
        "--no-arm-check",
        action="store_true",
        help="do not compare ncnn-fp16 artifacts on an emulated ARM CPU",
    )
    parser.add_argument(
        "--runner",
        type=Path,
        metavar="PATH",
        help="native runner for aarch64 to check with (default: built on first need, about 3 "
        "minutes)",
    )


def on_arm(arguments: argparse.Namespace, profile: Profile) -> OnArm | None:
    """What runs artifacts for this target on an ARM CPU; None where it is of another kind.

    Raises ToolError where ``--runner`` names no runner for aarch64.
    """
    from targets.arm_check import ArmCheck, check_on_arm, find_arm_runner, not_checked
    from targets.runner_build import say_on_stderr

    if profile.arch != "aarch64":
        return None
    runner: Path | None = arguments.runner
    if runner:
        find_arm_runner(runner)  # refused before the conversions, not after

    # When there is something to check, and only once: it may have to be built.
    @functools.cache
    def find() -> RunnerInfo | ArmCheck:
        if arguments.no_arm_check:
            return not_checked("left out with --no-arm-check")
        return find_arm_runner(runner)

    def check(artifact: Artifact, judge: SessionJudge) -> dict[str, Any]:
        def verdict(session: NativeSession) -> tuple[list[str], str]:
            report = judge(session)
            return report.failures, report.summary()

        found = find()
        if not isinstance(found, ArmCheck):
            found = check_on_arm(artifact, verdict, found.path, say=say_on_stderr)
        return found.to_json()

    return check
