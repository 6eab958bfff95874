"""``edge deploy``: models with all they need on a board, in versions that can be gone back to."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from converters.commands.options import add_conversion
from converters.commands.parity_pictures import parity_images
from converters.convert import judge_answers
from converters.parity.answers import source_file
from edge.artifact import Artifact, load_artifact
from edge.classes import find_labels
from edge.cli.options import add_classes, add_insecure_mirror, count
from edge.errors import ArtifactError, ParityError, SpecError
from edge.terminal import say
from targets.commands.arm import target_artifacts
from targets.commands.bench_work import progress
from targets.deploy.deployment import DeployOptions, check_artifacts, check_board, roll_back
from targets.deploy.deployment import deploy as deploy_version
from targets.deploy.versions import Deployments, Version, open_deployments
from targets.devices.state import DeviceInfo, check_device, read_device
from targets.profile import Profile, load_profile
from targets.runners.placement import place_artifact
from targets.runners.python.session import PythonSession
from targets.runners.trtexec.session import open_trtexec
from targets.transports.opening import open_target, password_prompt
from targets.transports.transport import Transport

__all__ = ["add", "run"]

# Each is a call on the board: enough to see a wrong answer, few enough to wait for.
_PARITY_IMAGES = 4


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = (
        "Runtime, engine and artifacts go into a new folder on the board, their answers are\n"
        "compared there with the reference, and then a link makes that version the current one.\n"
        "What fails leaves the version before it current and running."
    )
    parser.add_argument(
        "artifacts",
        nargs="*",
        metavar="ARTIFACT",
        help="artifact folders (default: --model in the target's first variant, converted)",
    )
    parser.add_argument("--target", help="raspberry-pi, jetson, or another one reached over ssh")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own"
    )
    parser.add_argument("--host", metavar="[USER@]HOST", help="which board, over ssh")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show the versions that are there")
    what.add_argument(
        "--rollback",
        nargs="?",
        const="",
        metavar="VERSION",
        help="make the version before the current one current, or the one that is named",
    )
    service = parser.add_mutually_exclusive_group()
    service.add_argument(
        "--service", action="store_true", help="run it on a camera, as a systemd service"
    )
    service.add_argument("--no-service", action="store_true", help="end the service that is there")
    parser.add_argument(
        "--camera",
        metavar="CAMERA",
        help="--service: a number, a device, a file or an address (default: 0)",
    )
    add_classes(parser)
    parser.add_argument(
        "--keep", type=count, default=3, metavar="N", help="versions to keep (default: 3)"
    )
    parser.add_argument("--threads", type=count, help="CPU threads (default: the target's)")
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="wheels for a board without network"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_conversion(parser)
    add_insecure_mirror(parser)
    parser.set_defaults(batch=None, force=False, keep_failed=False, no_arm_check=False)


def run(arguments: argparse.Namespace) -> int:
    """Deploy, go back to a version, or list them."""
    if arguments.target is None and arguments.profile is None:
        raise SpecError("name the target: edge deploy --target raspberry-pi --host pi@ADDRESS")
    profile = load_profile(str(arguments.profile or arguments.target))
    if profile.transport == "adb":
        raise SpecError(f"target {profile.name} is a phone: its models go into an app")
    if arguments.host is None:
        raise SpecError(f"say which board: edge deploy --target {profile.name} --host USER@ADDRESS")
    if arguments.camera is not None and not arguments.service:
        raise SpecError("--camera is what the service reads: say --service as well")
    if arguments.artifacts and (arguments.list or arguments.rollback is not None):
        raise SpecError(f"--list and --rollback take no artifact ({arguments.artifacts[0]})")
    named = _named(arguments)
    with closing(open_target(profile, host=arguments.host, ask=password_prompt())) as transport:
        deployments = open_deployments(transport)
        if arguments.list:
            print(_json(deployments) if arguments.json else _text(deployments))
            return 0
        if arguments.rollback is not None:
            version = roll_back(deployments, arguments.rollback or None, say)
        else:
            version = _deploy(arguments, profile, transport, deployments, named)
        now = deployments.read()
        if arguments.json:
            print(_json(now))
        else:
            print(f"{transport.name}: {version.name} is current: {', '.join(version.models)}")
            _print_next(version)
    return 0


def _deploy(
    arguments: argparse.Namespace,
    profile: Profile,
    transport: Transport,
    deployments: Deployments,
    named: list[Artifact],
) -> Version:

    info = read_device(transport)
    check_device(info, profile)
    settings = _settings(arguments, profile, transport, info)
    # A conversion takes minutes: first what may be wrong without it.
    check_board(deployments, settings)
    artifacts = named or _made(arguments, profile)
    return deploy_version(deployments, artifacts, _judge(arguments), settings, say)


def _named(arguments: argparse.Namespace) -> list[Artifact]:
    """The artifacts of the command line, where they can be one version and be compared."""
    artifacts = [load_artifact(path) for path in arguments.artifacts]
    _check_classes(arguments, artifacts)
    if artifacts:
        check_artifacts(artifacts, DeployOptions(camera="0" if arguments.service else None))
    for artifact in artifacts:
        try:
            source_file(artifact)
        except ArtifactError as error:
            why = str(error).partition("; say ")[0]
            raise ArtifactError(
                f"{why}; its answers on the board are compared with that file: convert it anew"
            ) from None
    return artifacts


def _check_classes(arguments: argparse.Namespace, artifacts: list[Artifact]) -> None:
    """SpecError where --classes are of no detector, or of none of its classes."""
    if arguments.classes is None:
        return
    if not arguments.service:
        raise SpecError("--classes are what the service counts: say --service as well")
    detectors = [one for one in artifacts if one.spec.task == "detection"]
    if artifacts and not detectors:
        raise SpecError("--classes are those of a detector, and none is deployed")
    for one in detectors:
        find_labels(arguments.classes, one.spec)


def _made(arguments: argparse.Namespace, profile: Profile) -> list[Artifact]:
    """The target's first variant of each model, or the variants that were named."""
    if arguments.formats is None:
        arguments.formats = str(profile.variants[0])
    artifacts = []
    for made in target_artifacts(arguments, profile):
        if made.error is not None:
            raise SpecError(f"{made.model} {made.variant} cannot be deployed: {made.error}")
        artifacts.append(load_artifact(made.folder))
    _check_classes(arguments, artifacts)
    return artifacts


def _settings(
    arguments: argparse.Namespace, profile: Profile, transport: Transport, info: DeviceInfo
) -> DeployOptions:

    def build(artifact: Artifact) -> str:
        """The engine in the bench's folder, where one of the same kit is found again."""
        session = open_trtexec(
            transport,
            artifact,
            remote_folder=place_artifact(transport, artifact),
            batch=1 if artifact.spec.input.shape[0] is None else None,
            device=info,
            log_folder=arguments.out / "logs",
            say=say,
        )
        with closing(session):
            return session.engine_path

    return DeployOptions(
        threads=arguments.threads or profile.threads or min(4, info.cores or 4),
        camera=(arguments.camera or "0") if arguments.service else None,
        drop_service=arguments.no_service,
        keep=arguments.keep,
        wheelhouse=arguments.wheelhouse,
        classes=arguments.classes,
        engine=build,
        on_progress=progress,
    )


def _judge(arguments: argparse.Namespace) -> Callable[[Artifact, PythonSession], str]:

    images = parity_images(arguments.images)

    def judge(artifact: Artifact, session: PythonSession) -> str:
        report = judge_answers(
            artifact, images, session, count=_PARITY_IMAGES, machine=session.machine
        )
        if report.failures:
            raise ParityError(
                f"{artifact.spec.name} as {artifact.variant} does not give the reference's answers "
                f"on {session.machine}, it is not deployed: {report.failures[0]}"
            )
        return report.summary()

    return judge


def _print_next(version: Version) -> None:
    if version.camera:
        print(
            f"camera {version.camera} is read; its results, a line of JSON a frame, there:\n"
            f"  {_READER}"
        )


_READER = 'nc -U "$XDG_RUNTIME_DIR/edgepose.sock"'


def _json(deployments: Deployments) -> str:
    current = deployments.current
    return json.dumps(
        {
            "folder": deployments.root,
            "current": current and current.name,
            "versions": [version.to_json() for version in deployments.versions],
        },
        indent=2,
    )


def _text(deployments: Deployments) -> str:
    if not deployments.versions:
        return f"{deployments.transport.name}: nothing is deployed there"
    lines = [f"{deployments.transport.name}: {deployments.root}"]
    for version in reversed(deployments.versions):
        mark = "*" if version.name == deployments.linked else " "
        camera = f", serves camera {version.camera}" if version.camera else ""
        models = ", ".join(version.models)
        lines.append(f"{mark} {version.name}  edgepose {version.edge}: {models}{camera}")
    return "\n".join(lines)
