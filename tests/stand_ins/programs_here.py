"""Programs that are seen to run, and bytes to send."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import numpy as np

__all__ = ["goes_on", "noise"]


def noise(size: int, seed: int = 3) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()


def goes_on(text: str) -> bool:
    """Whether a process of this machine, where the devices of these tests run, goes on to say this.

    A killed process takes a moment to go.
    """
    for _ in range(40):
        lines = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                lines.append(file.read_bytes().replace(b"\0", b" "))
        if not any(text.encode() in line for line in lines):
            return False
        time.sleep(0.05)
    return True
