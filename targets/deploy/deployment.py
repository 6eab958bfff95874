"""A deployment: a new version on a board, whole and compared there before it is the current one.

Until the link changes nothing that runs is touched. Whatever fails, before or after, the version
that was current stays or becomes it again, and the new one goes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import edge
from edge.artifact import Artifact
from edge.errors import DeviceError, SpecError, first_line
from targets import CHECKOUT
from targets.deploy.service import (
    SERVICE_S,
    check_service,
    keep_after_logout,
    serve_argv,
    service_step,
    write_serve,
)
from targets.deploy.versions import Deployments, Version, Within, new_name
from targets.runners.placement import place_artifact, place_with_engine
from targets.runners.python.session import PythonSession
from targets.runners.python.setup import python_for
from targets.runners.python.wheels import Say, lock_blocks
from targets.transports.transport import Progress, check

__all__ = ["DeployOptions", "Judge", "check_artifacts", "check_board", "deploy", "roll_back"]

_LOCK = CHECKOUT / "requirements.lock"
_CALL_S = 120.0

Judge = Callable[[Artifact, PythonSession], str]
"""Compares a session's answers with the reference: a summary, or an EdgeError where they differ."""


@dataclass(frozen=True)
class DeployOptions:
    """How a version runs and what it leaves.

    ``camera`` is what the service reads (a number, a device, a file or an address), None for no
    service; ``classes`` are those of the detector that count in it;
    ``drop_service`` says that a service that is there may go. ``keep`` versions stay.
    ``engine`` builds a TensorRT kit on the device and gives the engine's path there;
    ``on_progress`` gives what is told of the bytes of an artifact that go over.
    """

    threads: int = 4
    camera: str | None = None
    drop_service: bool = False
    keep: int = 3
    wheelhouse: Path | None = None
    classes: str | None = None
    engine: Callable[[Artifact], str] | None = None
    on_progress: Callable[[Artifact], Progress | None] = lambda _: None


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
    check_board(deployments, options)
    before = deployments.current
    deployments.make_root()
    for left in deployments.remove_abandoned():
        say(f"{deployments.transport.name}: removed {left}, which an earlier deployment left")
    for other in deployments.half_made():
        say(
            f"note: {deployments.transport.name}: {other} is half-made there: another deployment "
            "is at work or was cut off; the first that is whole becomes current"
        )
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
        say(f"note: {first_line(error)}; {version.name} is current all the same")
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


def check_board(deployments: Deployments, options: DeployOptions) -> None:
    """Whether the board takes what ``options`` say, before anything is done for it.

    SpecError where a service is there of which they say nothing, DeviceError where none can be.
    """
    now = deployments.current
    if now and now.camera and options.camera is None and not options.drop_service:
        raise SpecError(
            f"{deployments.transport.name}: the service there runs {now.name} on camera "
            f"{now.camera}: say --service to go on with it, or --no-service to end it"
        )
    if options.camera is not None:
        check_service(deployments.transport)


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
    python = python_for(
        place,
        *sorted({artifact.variant.format for artifact in artifacts}),
        more=_opencv() if options.camera is not None else "",
        wheelhouse=options.wheelhouse,
        say=say,
    )
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
            remote = place_artifact(place, artifact, on_progress=options.on_progress(artifact))
        session = PythonSession(
            place, artifact, python=python, folder=remote, threads=options.threads
        )
        summary = judge(artifact, session)
        say(f"  {summary}")
        parity.append(f"{label}: {summary}")
        folders["detector" if artifact.spec.task == "detection" else "model"] = remote
    if options.camera is not None:
        argv = serve_argv(
            python,
            folders["model"],
            folders.get("detector"),
            options.camera,
            options.threads,
            options.classes,
        )
        write_serve(place, posixpath.join(folder, "serve"), argv)
    scratch = posixpath.join(folder, "tmp")
    check(place.run(["rm", "-rf", scratch], timeout_s=_CALL_S), f"cleaning up on {place.name}")
    return replace(version, parity=tuple(parity))


def _opencv() -> str:
    """What reads cameras: the lines of the release that this checkout is locked to."""
    locked = lock_blocks(_LOCK.read_text(encoding="utf-8"))
    return next(
        f"{lines}\n" for name, lines in locked if name.startswith("opencv-python-headless=")
    )


def _switch(deployments: Deployments, old: Version | None, new: Version, say: Say) -> None:
    """Make a version current, its service running; where that fails, the old one as it was."""
    board, before = deployments.transport.name, deployments.linked
    served, serves = bool(old and old.camera), bool(new.camera)
    there, back = service_step(served, serves), service_step(serves, served)
    limit_s = SERVICE_S if served or serves else _CALL_S
    try:
        switched = deployments.switch(
            before, new.name, then=there, otherwise=back, timeout_s=limit_s
        )
    except BaseException:
        try:
            # False where the link never changed, or the board has put it back.
            deployments.switch(new.name, before, then=back, timeout_s=limit_s)
        except DeviceError as error:
            why = first_line(error)
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
