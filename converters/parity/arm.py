"""What the check on an ARM CPU says of an artifact. What runs it there comes from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converters.parity.answers import SessionJudge
from converters.parity.parity import range_failure
from edge.artifact import Artifact
from edge.spec import Variant

__all__ = ["ARM_IMAGES", "OnArm", "arm_failure", "is_for_arm"]

ARM_IMAGES = 2

OnArm = Callable[[Artifact, SessionJudge], dict[str, Any]]
"""Runs an artifact on an ARM CPU: the record for `Artifact.arm`.

Plain values, of which this room reads ``checked``, ``safe`` (an arithmetic or None), ``text`` (for
a table) and ``reason`` (where none is safe, or nothing was checked).
"""


def is_for_arm(variant: Variant) -> bool:
    """Whether x86 does not show what it computes on ARM: ncnn alone widens fp16 here."""
    return str(variant) == "ncnn-fp16"


def arm_failure(artifact: Artifact) -> str | None:
    """Why an artifact with a record in ``arm`` is a failed one; None where it is not.

    One that leaves FP16's range passes where another arithmetic was seen to keep its answers.
    """
    record = artifact.arm
    if record["checked"]:
        if record["safe"]:
            return None
        return f"the answers on ARM are beyond the limits in every arithmetic: {record['reason']}"
    failure = range_failure(artifact.parity.get("fp16_peak"))
    return failure and f"{failure}, and it was not run on one ({record['reason']})"
