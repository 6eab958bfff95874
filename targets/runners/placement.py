"""Artifacts on a device: a folder each below the working folder, named after the content's key."""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from pathlib import Path

from edge.artifact import MANIFEST, Artifact
from edge.errors import DeviceError
from edge.files import sha256_of, temporary_folder
from targets.transports.transport import (
    Progress,
    Transport,
    check,
    countdown,
    push_changed,
    remote_sha256,
)

__all__ = ["place_artifact", "place_with_engine"]

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
    remote = _remote_folder(transport, artifact)
    with temporary_folder() as text:
        chosen = _chosen(artifact, text)
        (chosen / MANIFEST).symlink_to((artifact.folder / MANIFEST).resolve())
        push_changed(transport, chosen, remote, timeout_s=timeout_s, on_progress=on_progress)
    return remote


def place_with_engine(
    transport: Transport, artifact: Artifact, engine_path: str, *, timeout_s: float = _PUSH_S
) -> str:
    """A folder on the device with a build kit and the engine that was built of it there.

    With its engine a kit is an artifact like any other, which the Python runner opens. DeviceError
    where the engine is not there.
    """
    remote = f"{_remote_folder(transport, artifact)}-built"
    name = posixpath.basename(engine_path)
    left_s = countdown(timeout_s)
    digest = (remote_sha256(transport, [engine_path], timeout_s=left_s()) or {}).get(engine_path)
    if digest is None:
        raise DeviceError(f"{transport.name}: {engine_path} cannot be read there")
    whole = replace(
        artifact,
        files={**artifact.files, "engine": name},
        sha256={**artifact.sha256, name: digest},
    )
    with temporary_folder() as text:
        chosen = _chosen(artifact, text)
        replace(whole, folder=chosen).write_manifest()
        push_changed(transport, chosen, remote, timeout_s=left_s())
    link = ["ln", "-f", engine_path, posixpath.join(remote, name)]
    check(transport.run(link, timeout_s=left_s()), f"linking the engine on {transport.name}")
    return remote


def _remote_folder(transport: Transport, artifact: Artifact) -> str:
    key = artifact.key
    if not re.fullmatch(r"[0-9a-f]{16,}", key):
        key = sha256_of(artifact.folder / MANIFEST)
    return posixpath.join(transport.work_dir, "artifacts", key[:16])


def _chosen(artifact: Artifact, folder: Path) -> Path:
    """Links to the files that the manifest names."""
    for name in artifact.files.values():
        (folder / name).symlink_to((artifact.folder / name).resolve())
    return folder
