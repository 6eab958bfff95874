"""The check on an emulated ARM CPU, as conversions ask for it.

What it runs, the native runner, is compiled once, which takes minutes: where that is still to be
done, everything is converted first, and the checks come last.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converters.chain import Row
from converters.commands.conversions import ConversionTable, make_artifacts
from converters.convert import ConvertedVariant
from converters.parity.answers import SessionJudge
from converters.parity.parity import range_failure
from edge.artifact import Artifact, read_manifest
from edge.terminal import say
from targets.profile import Profile
from targets.runners.arm_check import (
    ArmCheck,
    arm_runner_waits,
    check_on_arm,
    find_arm_runner,
    not_checked,
)
from targets.runners.native.check import RunnerInfo
from targets.runners.native.session import NativeSession

__all__ = ["ArmChecks", "add_arm", "on_arm", "target_artifacts"]

_WAITS = "the runner is compiled last; the next conversion makes up for it"


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
        help="native runner for aarch64 to check with (default: compiled once, after the "
        "conversions, about 3 minutes)",
    )


class ArmChecks:
    """Runs artifacts on an ARM CPU: what conversions call `OnArm`.

    ``waiting`` counts the artifacts that were put off until the runner is there.
    """

    def __init__(self, runner: Path | None, left_out: bool) -> None:

        self._runner = runner
        self._left_out = left_out
        self._found: RunnerInfo | ArmCheck | None = None
        self._puts_off = not left_out and arm_runner_waits(runner)
        self.waiting = 0

    def __call__(self, artifact: Artifact, judge: SessionJudge) -> dict[str, Any]:
        """The record of one artifact's check."""
        # One that leaves FP16's range passes or fails by this check alone: it cannot wait.
        if self._puts_off and not range_failure(artifact.parity.get("fp16_peak")):
            self.waiting += 1
            return not_checked(_WAITS).to_json()

        def verdict(session: NativeSession) -> tuple[list[str], str]:
            report = judge(session)
            return report.failures, report.summary()

        found = self._find()
        if not isinstance(found, ArmCheck):
            found = check_on_arm(artifact, verdict, found.path, say=say)
        return found.to_json()

    def catch_up(self) -> None:
        """From now on nothing is put off: the runner is built at the next check."""
        self._puts_off = False

    def _find(self) -> RunnerInfo | ArmCheck:
        """When there is something to check, and only once: it may have to be built."""
        if self._left_out:
            return not_checked("left out with --no-arm-check")
        if self._found is None:
            self._found = find_arm_runner(self._runner)
        return self._found

    def is_waiting(self, made: ConvertedVariant) -> bool:
        """Whether an artifact's check was put off."""
        found = made.error is None and read_manifest(made.folder).get("arm", {}).get("reason")
        return found == _WAITS

    @staticmethod
    def rows_but_waiting(add: Callable[[Row], None]) -> Callable[[Row], None]:
        """Rows of conversions, without those that say that a check waits."""
        return lambda row: None if _WAITS in row.verdict else add(row)

    @staticmethod
    def rows_of_checks(add: Callable[[Row], None]) -> Callable[[Row], None]:
        """Rows of the checks that come last, without those of what is up to date by now."""
        return lambda row: None if row.step.endswith(" up to date") else add(row)


def on_arm(arguments: argparse.Namespace, profile: Profile) -> ArmChecks | None:
    """What runs artifacts for this target on an ARM CPU; None where it is of another kind.

    Raises ToolError where ``--runner`` names no runner for aarch64.
    """
    if profile.arch != "aarch64":
        return None
    runner: Path | None = arguments.runner
    if runner:
        find_arm_runner(runner)  # refused before the conversions, not after
    return ArmChecks(runner, arguments.no_arm_check)


def target_artifacts(arguments: argparse.Namespace, profile: Profile) -> list[ConvertedVariant]:
    """The target's own artifacts, converted where they are missing; the table goes to stderr."""
    return make_artifacts(
        arguments,
        ConversionTable(sys.stderr),
        target=profile.name,
        variants=profile.variants,
        checks=on_arm(arguments, profile),
    )
