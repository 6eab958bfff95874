"""``edge choose``: which variant of a model runs here, and why; and what `edge run` makes of it.

It needs nothing but ``edge`` and engines; only answers in bf16 are compared with a checkout's help.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.artifact import MANIFEST, Artifact, load_artifact
from edge.choice import Candidate, Check, Choice, ChoiceSettings, choose, find_artifacts
from edge.cli.host import has_host, load
from edge.cli.open import open_model
from edge.cli.options import DEFAULT_DETECTOR, DEFAULT_MODEL, count
from edge.errors import ArtifactError, SpecError
from edge.session import EngineSettings, Session, default_threads, open_session
from edge.terminal import StatusLine, columns, say

__all__ = ["add", "add_build", "bf16_check", "open_chosen", "run"]

_TEXT = "Which variant of a model is the fastest here, within the accuracy limit; remembered."
_FILES = (".onnx", ".pth", ".pt", ".ckpt", ".zip")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="NAME|ARTIFACT",
        help="models in the build folder, or artifact folders to choose from (default: every model "
        "in the build folder)",
    )
    add_build(parser)
    parser.add_argument(
        "--threads",
        type=count,
        default=default_threads(),
        help="CPU threads of the engines (default here: %(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="measure even what is remembered")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the tables")


def add_build(parser: Any) -> None:
    """Add where models that are named have their artifacts."""
    parser.add_argument(
        "--build",
        type=Path,
        metavar="DIR",
        help="where the artifacts of a named model are (default: build/x86, on x86-64)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Choose for every model, and show what was measured."""
    groups: dict[tuple[str, tuple[int, int]], list[Artifact]] = {}
    for artifact in _asked_for(arguments):
        groups.setdefault((artifact.spec.name, artifact.spec.input_hw), []).append(artifact)
    choices = [
        _choose(artifacts, arguments, again=arguments.again) for artifacts in groups.values()
    ]
    if arguments.json:
        print(json.dumps({"choices": [choice.to_json() for choice in choices]}, indent=2))
    else:
        print("\n\n".join(_table(choice) for choice in choices))
    return 0


def open_chosen(text: str, arguments: argparse.Namespace) -> Session:
    """A session of what `edge run` is given as a model; where there are several, of the chosen one.

    ``text`` is an artifact folder, a folder of one model's artifacts, the name of a model with
    artifacts in the build folder, or else a file or name of which the ONNX file runs as it is.
    """
    artifacts = _variants(text, arguments.build)
    if not artifacts:
        session = open_model(text, arguments)
        if _is_name(text):
            say(f"note: {text}: the ONNX file runs as it is; {_way(text)}")
        return session
    choice = _choose(artifacts, arguments, precision=arguments.inference_precision)
    say(_line(choice))
    settings = EngineSettings(arguments.threads, choice.inference_precision)
    return open_session(choice.artifact, settings)


# --- which artifacts ------------------------------------------------------------------------------


def _variants(text: str, build: Path | None) -> list[Artifact]:
    """The artifacts to choose from, empty where ``text`` is one artifact, a file, or has none."""
    path = Path(text)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return _one_model(_found(path), path)
    folder = build or _default_build()
    if not _is_name(text) or folder is None:
        return []
    found = _found(folder, text)
    if build and not found:
        raise ArtifactError(f"{folder}: no artifact of {text} in it; it has {_names(folder)}")
    return found


def _is_name(text: str) -> bool:
    path = Path(text)
    return not path.exists() and path.suffix not in _FILES and len(path.parts) == 1


def _default_build() -> Path | None:
    """The folder of the target that this machine is, where something was converted for it."""
    folder = Path("build/x86")
    return folder if _on_x86() and folder.is_dir() else None


def _found(folder: Path, name: str | None = None) -> list[Artifact]:
    """The artifacts in a folder's folders; those that are left out are named on stderr."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder")
    found, left_out = find_artifacts(folder, name)
    for reason in left_out:
        say(f"left out: {reason}")
    return found


def _one_model(artifacts: list[Artifact], folder: Path) -> list[Artifact]:
    names = sorted({artifact.spec.name for artifact in artifacts})
    if len(names) > 1:
        ways = " or ".join(f"--model {name} --build {folder}" for name in names[:2])
        raise SpecError(f"{folder}: has artifacts of several models; name one, as in {ways}")
    return artifacts


def _names(folder: Path) -> str:
    found, _ = find_artifacts(folder)
    return ", ".join(sorted({artifact.spec.name for artifact in found})) or "none at all"


def _asked_for(arguments: argparse.Namespace) -> list[Artifact]:
    """What `edge choose` was given: folders, or names in the build folder, or all in that."""
    found = []
    build: Path | None = arguments.build
    for text in arguments.models:
        path = Path(text)
        if (path / MANIFEST).is_file():
            found.append(load_artifact(path, allow_failed=True))
        elif path.is_dir():
            found += _found(path)
        elif _is_name(text):
            one = _variants(text, build)
            if not one:
                raise ArtifactError(f"{text}: no artifacts to choose from; {_way(text)}")
            found += one
        else:
            raise ArtifactError(f"{text}: neither an artifact folder nor the name of a model")
    if not arguments.models:
        folder = build or _default_build()
        found = _found(folder) if folder else []
        if not found:
            where = f" in {folder}" if folder else ""
            raise ArtifactError(f"no artifacts to choose from{where}; {_way(None)}")
    return found


def _way(name: str | None) -> str:
    """How there come to be artifacts, where a name found none in the default folder."""
    if not _on_x86():
        return "--build DIR names a folder with variants to choose from"
    # The demo pair is made without being named.
    model = "" if name in (None, DEFAULT_MODEL, DEFAULT_DETECTOR) else f" MODEL={name}"
    return f"`make convert TARGET=x86{model}` makes variants of which the fastest is chosen"


def _on_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


# --- choosing -------------------------------------------------------------------------------------


def _choose(
    artifacts: Sequence[Artifact],
    arguments: argparse.Namespace,
    *,
    precision: Any = None,
    again: bool = False,
) -> Choice:
    told = False

    def show(text: str) -> None:
        nonlocal told
        if sys.stderr.isatty():
            line.show(text)
        elif not told:
            say(
                f"{text.partition(':')[0]}: timing its variants on this machine, which is done once"
            )
        told = True

    with StatusLine() as line:
        return choose(
            artifacts,
            ChoiceSettings(arguments.threads, precision, again),
            check=bf16_check(),
            say=say,
            progress=show,
        )


def bf16_check() -> Check | None:
    """What compares a session with its artifact's source on rendered people; None on a device."""
    if not has_host():
        return None

    def check(artifact: Artifact, session: Session) -> str:
        source = load("converters.commands.open_source", "the comparison")
        return str(source.check_source(artifact, session))

    return check


# --- showing --------------------------------------------------------------------------------------


def _line(choice: Choice) -> str:
    """What was chosen and since when, for `edge run`."""
    rest = "edge choose shows the rest"
    if choice.warning:
        rest = f"while others were busy: {choice.warning}; edge choose --again"
    return (
        f"{choice.artifact.spec.name}: {choice.chosen.name}, {choice.latency_ms:.1f} ms "
        f"(measured {choice.measured_utc[:10]}; {rest})"
    )


def _table(choice: Choice) -> str:
    """All candidates of a model, the fastest first, then those that were not measured."""
    spec = choice.artifact.spec
    pose = spec.task == "pose"
    head = ["variant", "computes in", "1 person" if pose else "picture", "answers", "verdict"]
    if pose:
        head.insert(3, "4 people")
    ordered = sorted(choice.candidates, key=lambda one: one.latency_ms or float("inf"))
    rows = [head, *(_cells(one, pose=pose) for one in ordered)]
    threads = "1 thread" if choice.threads == 1 else f"{choice.threads} threads"
    height, width = spec.input_hw
    lines = [
        f"{spec.name}, {height}x{width}, {threads}, measured {choice.measured_utc}"
        + (" (remembered)" if choice.remembered else "")
    ]
    lines += columns(rows)
    crowd = [one for one in choice.candidates if one.latency_4_people_ms]
    if crowd:
        best = min(crowd, key=lambda one: one.latency_4_people_ms or 0.0)
        if best.reason:
            lines.append(f"with 4 people {best.name} is the fastest; 1 person decides")
    if choice.warning:
        lines.append(f"others were busy: {choice.warning}; measure anew with --again")
    kept = [] if choice.file is None else [f"kept in {choice.file}"]
    return "\n".join([*lines, *kept])


def _cells(one: Candidate, *, pose: bool) -> list[str]:
    answers = one.check or (one.artifact.accuracy or one.artifact.parity).get("summary", "")
    if one.inference_precision == "bf16" and not one.check:
        answers = "not checked"
    cells = [one.name, one.computes_in or "-", _ms(one.latency_ms), str(answers)]
    if pose:
        cells.insert(3, _ms(one.latency_4_people_ms))
    return [*cells, one.reason or "chosen"]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"
