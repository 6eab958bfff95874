"""What an Android app ships: models as assets, an .aar of them, the C++ header and an example.

::

    edgepose-assets.json            every file here with its SHA-256; marks the folder as ours
    assets/edgepose/MODEL/...       manifest.json and the artifact's files, to be stored in the APK
    assets/edgepose/licences.txt    for the app to show
    edgepose-assets.aar             the same assets for Gradle
    gradle/edgepose.gradle.kts      what keeps them uncompressed
    include/edgepose.hpp            everything around the networks, in C++17
    example/...                     JNI, Kotlin and CMake
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.artifact import Artifact
from edge.errors import ArtifactError
from edge.files import sha256_of, staged_folder
from targets import ROOM
from targets.app.aar import write_aar
from targets.app.manifest import SCHEMA, licences, manifest_of

__all__ = ["MARKER", "check_assets", "weight_table", "write_assets"]

MARKER = "edgepose-assets.json"
_ANDROID = ROOM / "app" / "android"
_FORMATS = ("ncnn", "tflite", "onnx")
_MB = 1e6
# aapt leaves out hidden files and folders that begin with an underscore, and unpacks .gz.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?<!\.gz)(?<!\.scc)(?<!~)")


def write_assets(
    artifacts: Sequence[Artifact],
    out: Path,
    *,
    max_mb: float | None = None,
    classes: str | None = None,
) -> dict[str, int]:
    """Write the folder ``out`` anew; the bytes of each asset by its path in there.

    ``classes`` of the detectors count in the app, by number or name.

    Raises ArtifactError, and leaves ``out`` as it was, where an artifact cannot be shipped, where
    the assets weigh more than ``max_mb`` (millions of bytes), or where ``out`` holds what was not
    written here.
    """
    check_assets(artifacts, classes)
    _refuse_foreign(out)
    with staged_folder(out) as part:
        _write_models(artifacts, part / "assets/edgepose", classes)
        assets = _files(part / "assets")
        weights = {f"assets/{name}": path.stat().st_size for name, path in assets.items()}
        if max_mb is not None and sum(weights.values()) > max_mb * _MB:
            raise ArtifactError(
                f"the assets weigh {sum(weights.values()) / _MB:.2f} MB, more than the "
                f"{max_mb:g} MB of --max-mb; leave a model out, or take a smaller one or another "
                f"precision\n{weight_table(weights)}"
            )
        write_aar(part / "edgepose-assets.aar", assets)
        shutil.copytree(_ANDROID / "example", part / "example")
        (part / "include").mkdir()
        shutil.copyfile(_ANDROID / "edgepose.hpp", part / "include/edgepose.hpp")
        (part / "gradle").mkdir()
        (part / "gradle/edgepose.gradle.kts").write_text(_gradle(assets), encoding="utf-8")
        _write_marker(part)
    return weights


def check_assets(artifacts: Sequence[Artifact], classes: str | None = None) -> None:
    """Raise ArtifactError unless these artifacts can be assets of one app."""
    if not artifacts:
        raise ArtifactError("no artifacts: name the folders that `edge convert` left")
    seen: dict[str, Artifact] = {}
    for artifact in artifacts:
        if artifact.variant.format not in _FORMATS:
            raise ArtifactError(
                f"{artifact.folder}: {artifact.variant} does not run in an app; convert to "
                f"{', '.join(_FORMATS)}"
            )
        for name in (artifact.spec.name, *artifact.files.values()):
            if not _NAME.fullmatch(name):
                raise ArtifactError(
                    f"{artifact.folder}: {name!r} cannot be an asset's name; convert it again "
                    "with --name and letters, digits, '.', '_' and '-'"
                )
        # Some file systems do not tell A from a.
        key = artifact.spec.name.lower()
        if key in seen:
            raise ArtifactError(
                f"{seen[key].folder} and {artifact.folder} are both {artifact.spec.name}; name one "
                "of them"
            )
        seen[key] = artifact
        manifest_of(artifact, classes=classes)


def weight_table(weights: Mapping[str, int]) -> str:
    """What weighs what, the heaviest first, and the sum."""
    total = sum(weights.values())
    rows = sorted(weights.items(), key=lambda row: (-row[1], row[0]))
    lines = [f"{size / _MB:9.3f} MB {size / total:5.0%}  {name}" for name, size in rows]
    return "\n".join([*lines, f"{total / _MB:9.3f} MB        in all"])


def _write_models(artifacts: Sequence[Artifact], folder: Path, classes: str | None) -> None:
    for artifact in artifacts:
        model = folder / artifact.spec.name
        model.mkdir(parents=True)
        for name in artifact.files.values():
            shutil.copyfile(artifact.folder / name, model / name)
            if sha256_of(model / name) != artifact.sha256[name]:
                raise ArtifactError(f"{artifact.folder}: {name} changed while it was copied")
        _write_json(model / "manifest.json", manifest_of(artifact, classes=classes))
    (folder / "licences.txt").write_text(licences(artifacts), encoding="utf-8")


def _gradle(assets: Mapping[str, Path]) -> str:
    endings = sorted({Path(name).suffix.lstrip(".") for name in assets})
    listed = ", ".join(f'"{ending}"' for ending in endings)
    text = (_ANDROID / "edgepose.gradle.kts").read_text(encoding="utf-8")
    return text.replace("@ENDINGS@", listed)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder by their relative path."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


def _write_marker(folder: Path) -> None:
    sha256 = {name: sha256_of(path) for name, path in _files(folder).items()}
    _write_json(folder / MARKER, {"schema": SCHEMA, "kind": "edgepose-assets", "files": sha256})


def _refuse_foreign(out: Path) -> None:
    """Raise ArtifactError where writing ``out`` anew would take something from its owner."""
    if not out.exists() and not out.is_symlink():
        return
    other = "choose another folder with --out, or remove this one"
    if out.is_symlink() or not out.is_dir():
        raise ArtifactError(f"{out}: exists and is no folder; {other}")
    files = _files(out)
    if MARKER not in files:
        if files or any(out.iterdir()):
            raise ArtifactError(f"{out}: exists and was not written by `edge assets`; {other}")
        return
    try:
        known = json.loads(files.pop(MARKER).read_text(encoding="utf-8"))["files"]
        changed = [
            name
            for name, path in files.items()
            if path.is_symlink() or known.get(name) != sha256_of(path)
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{out}: its {MARKER} is damaged; {other}") from None
    if changed:
        raise ArtifactError(
            f"{out}: {changed[0]} is yours or was changed since it was written"
            f"{f', and so are {len(changed) - 1} more' if len(changed) > 1 else ''}; "
            f"move it elsewhere, or {other}"
        )
