"""A deployment: a new version on a board, whole and compared there before it is the current one.

Until the link changes nothing that runs is touched. Whatever fails, before or after, the version
that was current stays or becomes it again, and the new one goes.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import edge
from edge.artifact import Artifact
from edge.errors import DeviceError, SpecError
from targets.deployed import Deployments, Version, Within, new_name
from targets.placed import place_artifact, place_with_engine
from targets.python_session import PythonSession, open_python
from targets.python_setup import find_python, python_for
from targets.python_wheels import Say, collect_wheels
from targets.service import (
    keep_after_logout,
    serve_argv,
    start_service,
    stop_service,
    write_serve,
)
from targets.transport import check, push_changed

__all__ = ["DeployOptions", "check_artifacts", "deploy", "roll_back"]

_LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
_INSTALL_S = 3600.0
_CALL_S = 120.0

Judge = Callable[[Artifact, PythonSession], str]
"""Compares a session's answers with the reference: a summary, or an EdgeError where they differ."""


@dataclass(frozen=True)
class DeployOptions:
    """How a version runs and what it leaves.

    ``camera`` is what the service reads (a number, a device, a file or an address), None for no
    service; ``drop_service`` says that a service that is there may go. ``keep`` versions stay.
    ``engine`` builds a TensorRT kit on the device and gives the engine's path there.
    """

    threads: int = 4
    camera: str | None = None
    drop_service: bool = False
    keep: int = 3
    wheelhouse: Path | None = None
    engine: Callable[[Artifact], str] | None = None


def deploy(
    deployments: Deployments,
    artifacts: Sequence[Artifact],
    judge: Judge,
    options: DeployOptions,
    say: Say,
) -> Version:
    """Put artifacts with runtime and engine on a board as a new version and make it current.

    Raises SpecError for artifacts that cannot be one version, DeviceError where the board fails or
    another deployment came first, and what ``judge`` raises; the board then holds what it held.
    """
    check_artifacts(artifacts, options)
    before = deployments.current
    if before and before.camera and options.camera is None and not options.drop_service:
        raise SpecError(
            f"{deployments.transport.name}: the service there runs {before.name} on camera "
            f"{before.camera}: say --service to go on with it, or --no-service to end it"
        )
    deployments.make_root()
    for left in deployments.remove_abandoned():
        say(f"{deployments.transport.name}: removed {left}, which an earlier deployment left")
    version = Version(
        name=new_name(),
        made_utc=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        edge=edge.__version__,
        models=tuple(_label(artifact) for artifact in artifacts),
        parity=(),
        previous=deployments.linked,
        camera=options.camera or "",
    )
    try:
        version = _fill(deployments, version, artifacts, judge, options, say)
        deployments.write(version)
        _switch(deployments, before, version, say)
    except BaseException:
        _discard(deployments, version, say)
        raise
    # It is done: what may fail from here on undoes nothing.
    try:
        if options.camera is not None:
            keep_after_logout(deployments.transport, say)
        _remove_old(deployments.read(), options.keep, say)
    except DeviceError as error:
        say(f"note: {str(error).splitlines()[0]}; {version.name} is current all the same")
    return version


def roll_back(deployments: Deployments, name: str | None, say: Say) -> Version:
    """Make the version before the current one current, or the one that is named.

    Raises DeviceError where there is none, or where its service does not start; the version that
    was current then stays.
    """
    board, now = deployments.transport.name, deployments.current
    if now is None:
        raise DeviceError(f"{board}: nothing is deployed there")
    wanted = name or now.previous
    if not wanted:
        raise DeviceError(f"{board}: {now.name} is the first version, there is none before it")
    if wanted == now.name:
        raise DeviceError(f"{board}: {wanted} is the current version already")
    version = deployments.find(wanted)
    if version is None:
        others = ", ".join(one.name for one in deployments.versions if one != now) or "none"
        raise DeviceError(f"{board}: version {wanted} is not there; besides the current: {others}")
    _switch(deployments, now, version, say)
    return version


def check_artifacts(artifacts: Sequence[Artifact], options: DeployOptions) -> None:
    """SpecError where artifacts cannot be one version: one Python environment, one pipeline."""
    names = [_label(artifact) for artifact in artifacts]
    if not artifacts:
        raise SpecError("nothing to deploy: name artifact folders")
    if len(set(names)) < len(names):
        raise SpecError(f"one of these is named twice: {', '.join(names)}")
    formats = sorted({artifact.variant.format for artifact in artifacts})
    if len(formats) > 1:
        raise SpecError(
            f"a version has one engine, these need {' and '.join(formats)}: choose one with "
            f"--formats, for example {formats[0]}"
        )
    if options.camera is None:
        return
    people = [one for one in artifacts if one.spec.task in ("pose", "one-stage")]
    finders = [one for one in artifacts if one.spec.task == "detection"]
    one_stage = any(one.spec.task == "one-stage" for one in people)
    if len(people) != 1 or len(finders) > (0 if one_stage else 1):
        raise SpecError(
            "a service runs one pose model with at most one detector, or one one-stage model "
            f"alone; these are {', '.join(names)}"
        )


def _label(artifact: Artifact) -> str:
    return f"{artifact.spec.name} as {artifact.variant}"


def _fill(
    deployments: Deployments,
    version: Version,
    artifacts: Sequence[Artifact],
    judge: Judge,
    options: DeployOptions,
    say: Say,
) -> Version:
    """Everything of a version but its mark, with the answers compared."""
    folder = deployments.folder(version.name)
    place = Within(deployments.transport, folder)
    wheelhouse = options.wheelhouse
    python = python_for(place, artifacts[0].variant.format, wheelhouse=wheelhouse, say=say)
    if options.camera is not None:
        _install_opencv(place, python[0], wheelhouse, say)
    folders: dict[str, str] = {}
    parity = []
    for artifact in artifacts:
        label = _label(artifact)
        say(f"{label}: answers on {place.name}")
        if artifact.variant.format == "tensorrt":
            if options.engine is None:
                raise SpecError(f"{label}: its engine is built on the device, and nothing does so")
            remote = place_with_engine(place, artifact, options.engine(artifact))
        else:
            remote = place_artifact(place, artifact)
        session = open_python(
            place, artifact, python=python, remote_folder=remote, threads=options.threads
        )
        summary = judge(artifact, session)
        say(f"  {summary}")
        parity.append(f"{label}: {summary}")
        folders["detector" if artifact.spec.task == "detection" else "model"] = remote
    if options.camera is not None:
        argv = serve_argv(
            python, folders["model"], folders.get("detector"), options.camera, options.threads
        )
        write_serve(place, posixpath.join(folder, "serve"), argv)
    scratch = posixpath.join(folder, "tmp")
    check(place.run(["rm", "-rf", scratch], timeout_s=_CALL_S), f"cleaning up on {place.name}")
    return replace(version, parity=tuple(parity))


def _install_opencv(place: Within, python: str, wheelhouse: Path | None, say: Say) -> None:
    """What reads cameras, beside the engine: the release that this checkout is locked to."""
    blocks = re.split(r"\n(?=\S)", _LOCK.read_text(encoding="utf-8"))
    (block,) = (one for one in blocks if one.startswith("opencv-python-headless=="))
    name = block.partition(" ")[0]
    say(f"{place.name}: installing {name}" + (f", from {wheelhouse}" if wheelhouse else ""))
    remote = posixpath.join(place.work_dir, "tmp", "opencv")
    argv = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    argv += ["--no-cache-dir", "--retries", "2", "install", "--quiet", "--no-deps"]
    argv += ["--only-binary", ":all:", "--require-hashes", "-r", f"{remote}/opencv.lock"]
    with tempfile.TemporaryDirectory(prefix="edgepose-") as text:
        lock = Path(text) / "opencv.lock"
        lock.write_text(f"{block}\n", encoding="utf-8")
        if wheelhouse is not None:
            for wheel in collect_wheels(wheelhouse, lock, find_python(place), place.name, say):
                push_changed(place, wheel, f"{remote}/{wheel.name}", timeout_s=_INSTALL_S)
            argv += ["--no-index", "--find-links", remote]
        place.push(lock, f"{remote}/{lock.name}", timeout_s=_CALL_S)
    done = place.run(argv, timeout_s=_INSTALL_S)
    if b"No space left on device" in done.stdout + done.stderr:
        raise DeviceError(f"{place.name}: no room is left for {name}; make some there")
    check(done, f"installing {name} on {place.name}")


def _switch(deployments: Deployments, old: Version | None, new: Version, say: Say) -> None:
    """Make a version current, its service running; where that fails, the old one as it was."""
    board, before = deployments.transport.name, deployments.linked
    try:
        switched = deployments.switch(before, new.name)
        if switched:
            _run_service(deployments, old, new)
    except BaseException:
        try:
            # False where the link never changed: then there is nothing to put back.
            if deployments.switch(new.name, before):
                _run_service(deployments, new, old)
        except DeviceError as error:
            why = str(error).splitlines()[0]
            say(
                f"{board}: {before or 'the state before'} could not be made current again ({why}); "
                "when it answers: edge deploy --list, and --rollback where it says otherwise"
            )
        raise
    if not switched:
        now = deployments.read().linked or "none"
        raise DeviceError(
            f"{board}: another deployment came first, current is {now} and stays; repeat where "
            "yours is to be the one (`edge deploy --list`)"
        )


def _run_service(deployments: Deployments, old: Version | None, new: Version | None) -> None:
    """What the service should do after a switch; a board that never had one is not asked."""
    if new is not None and new.camera:
        start_service(deployments.transport, deployments.home)
    elif old is not None and old.camera:
        stop_service(deployments.transport, deployments.home)


def _discard(deployments: Deployments, version: Version, say: Say) -> None:
    """Remove what was made of a version; what fails here is told and hides no other error."""
    try:
        deployments.remove([version.name])
    except DeviceError:
        say(
            f"{deployments.transport.name}: {deployments.folder(version.name)} may be left there, "
            "half-made; a deployment in two hours or later removes it"
        )


def _remove_old(deployments: Deployments, keep: int, say: Say) -> None:
    """Keep so many versions: the current one, the one before it, then the newest."""
    newest = [one.name for one in reversed(deployments.versions)]
    now = deployments.current
    first = [now.name, now.previous] if now else []
    kept = list(dict.fromkeys([name for name in first if name in newest] + newest))[:keep]
    gone = [name for name in newest if name not in kept]
    deployments.remove(gone)
    for name in gone:
        say(f"{deployments.transport.name}: removed version {name}")
