"""Artifacts on a device: a folder each below the working folder, named after the content's key."""

from __future__ import annotations

import posixpath
import re
import tempfile
from pathlib import Path

from edge.artifact import MANIFEST, Artifact, sha256_of
from targets.transport import Progress, Transport, push_changed

__all__ = ["place_artifact"]

_PUSH_S = 1800.0


def place_artifact(
    transport: Transport,
    artifact: Artifact,
    *,
    timeout_s: float = _PUSH_S,
    on_progress: Progress | None = None,
) -> str:
    """The artifact's folder on the device, where only what changed is pushed.

    Nothing goes there but the manifest and the files that it names. On this machine it is the
    artifact's own folder. DeviceError where the device does not take it.
    """
    if transport.kind == "local":
        return str(artifact.folder.resolve())
    key = artifact.key
    if not re.fullmatch(r"[0-9a-f]{16,}", key):
        key = sha256_of(artifact.folder / MANIFEST)
    remote = posixpath.join(transport.work_dir, "artifacts", key[:16])
    with tempfile.TemporaryDirectory(prefix="edgepose-") as text:
        chosen = Path(text)
        for name in {MANIFEST, *artifact.files.values()}:
            (chosen / name).symlink_to((artifact.folder / name).resolve())
        push_changed(transport, chosen, remote, timeout_s=timeout_s, on_progress=on_progress)
    return remote
