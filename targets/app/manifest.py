"""What an app is told of a model: ``manifest.json`` beside its files, and the licences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.artifact import Artifact
from edge.classes import class_names, find_labels
from edge.errors import ArtifactError
from targets import CHECKOUT, ROOM

__all__ = ["SCHEMA", "arithmetic_of", "licences", "manifest_of"]

SCHEMA = 1
_LICENCES = ROOM / "app" / "android" / "licences"

_MODELS = """\
The weights of the official models (RTMPose, RTMDet and RTMO of OpenMMLab) and of edgepose's demo
models are under the Apache License 2.0, which follows. A model that was converted from a file of
your own is under the licence that its author gave it: put that one in here."""
_NCNN = "ncnn is no part of these assets; an app that runs them with edgepose.hpp links it."


def arithmetic_of(artifact: Artifact) -> str | None:
    """What an ncnn network computes in on ARM; None for other formats, which choose themselves.

    An fp16 artifact's is what the check on ARM found safe; where none took place it is fp32, which
    parity was judged in. Raises ArtifactError where the check found nothing safe.
    """
    if artifact.variant.format != "ncnn":
        return None
    if artifact.variant.precision != "fp16" or not artifact.arm.get("checked"):
        return "fp32"
    safe = artifact.arm.get("safe")
    if safe is None:
        raise ArtifactError(
            f"{artifact.folder}: no arithmetic keeps its answers on ARM "
            f"({artifact.arm.get('reason')}); convert it as ncnn-fp32"
        )
    return str(safe)


def manifest_of(
    artifact: Artifact, arithmetic: str | None = None, classes: str | None = None
) -> dict[str, Any]:
    """The content of an asset's ``manifest.json``: plain values, no path of this machine.

    ``arithmetic`` is for who knows better than `arithmetic_of`. A detector's has the ``labels``
    that count, of ``classes`` by number or name.
    """
    spec = artifact.spec
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "edgepose-asset",
        "model": spec.name,
        "variant": str(artifact.variant),
        "arithmetic": arithmetic or arithmetic_of(artifact),
        "arm": {
            "checked": bool(artifact.arm.get("checked", False)),
            "text": str(artifact.arm.get("text", "ARM: not checked")),
        },
        "files": {
            role: {
                "name": name,
                "sha256": artifact.sha256[name],
                "bytes": (artifact.folder / name).stat().st_size,
            }
            for role, name in artifact.files.items()
        },
        "spec": spec.to_json(),
        "key": artifact.key,
        "source": {key: artifact.source.get(key) for key in ("file", "sha256")},
        "tools": artifact.tools,
        "parity": artifact.parity.get("summary", ""),
    }
    if spec.keypoint_set is not None:
        manifest["keypoints"] = {
            "names": list(spec.keypoints.keypoints),
            "skeleton": [list(pair) for pair in spec.keypoints.skeleton],
        }
    if spec.task == "detection":
        manifest["labels"] = list(find_labels(classes, spec))
        names = class_names(spec)
        if names:
            manifest["class_names"] = list(names)
    return manifest


def licences(artifacts: Sequence[Artifact]) -> str:
    """Licences of what an app ships with these models, as one text that it can show."""
    models = [
        f"- {artifact.spec.name} ({artifact.variant}), made of {artifact.source.get('file', '?')}, "
        f"sha256 {artifact.source.get('sha256', '?')}"
        for artifact in artifacts
    ]
    own = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    ncnn = (_LICENCES / "ncnn.txt").read_text(encoding="utf-8")
    line = "=" * 80
    parts = ["Models and edgepose.hpp", *models, "", _MODELS, "", own]
    parts += [line, "ncnn", _NCNN, "", ncnn]
    return "\n".join(parts).rstrip() + "\n"
