"""Disks that fill up: a small tmpfs, or a limit of a file's size where nothing may be mounted."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge.artifact import load_artifact
from tests.conftest import ROOT

__all__ = ["fill_disk"]

_SIZES_KB = (64, 2000, 5000, 9000, 14_000, 60_000)


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    script = 'd=$(mktemp -d) && mount -t tmpfs -o size=64k none "$d" && umount "$d" && rmdir "$d"'
    argv = ["unshare", "-r", "-m", "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def fill_disk(folder: Path) -> str:
    """Conversions onto disks of several sizes: the artifact is there whole, or not at all."""
    out = folder / "out"
    out.mkdir()
    mounts = _may_mount()
    worked = 0
    for size_kb in _SIZES_KB:
        argv = [sys.executable, "-m", "edge", "convert", "--target", "x86"]
        argv += ["--model", "rtmdet-nano-demo", "--formats", "onnx-fp32", "--out", str(out / "a")]
        argv += ["--force"]
        limit: Callable[[], None] | None = None
        if mounts:
            # What is left there is copied out before the disk is gone.
            script = (
                f'mount -t tmpfs -o size={size_kb}k none "$0" || exit 9\n'
                '"$@"; status=$?; cp -a "$0/." "$KEPT"; exit $status'
            )
            argv = ["unshare", "-r", "-m", "sh", "-c", script, str(out), *argv]
        else:
            limit = _limiting(size_kb)
        kept = folder / f"kept-{size_kb}"
        kept.mkdir()
        cache = out / "cache" if mounts else folder / "cache"
        environment = os.environ | {
            "EDGEPOSE_CACHE": str(cache),
            "PYTHONPATH": str(ROOT),
            "KEPT": str(kept),
        }
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit,
        )
        left = kept if mounts else out
        parts = [str(path) for path in left.rglob("*.part")]
        assert not parts, f"{size_kb} KB left {parts}"
        assert "Traceback" not in done.stderr, done.stderr
        found = [path.parent for path in left.rglob("artifact.json")]
        if done.returncode == 0:
            worked += 1
            assert len(found) == 1
        else:
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith("edge: "), done.stderr
            assert not found or not mounts
        for place in found:
            load_artifact(place)
    how = "a tmpfs" if mounts else "a limit of a file's size"
    assert 0 < worked < len(_SIZES_KB), f"{worked} of {len(_SIZES_KB)} worked"
    return f"disk: {len(_SIZES_KB)} sizes by {how}, {worked} were enough, nothing half-written"


def _limiting(size_kb: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_kb << 10, size_kb << 10))

    return limit
