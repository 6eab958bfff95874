"""What the contenders of `make bench-peers` get: networks of one source, and pictures."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calibration.people.synthetic import scene
from edge.artifact import Artifact, load_artifact, sha256_of
from edge.errors import ToolError
from edge.media.inputs import find_images
from edge.picture import read_image
from tests.benches.bench_harness import printed_by
from tests.benches.peer_processes import Process

__all__ = ["Models", "find_models", "find_pictures"]

Image = npt.NDArray[np.uint8]
_PICTURES = 3
_TRIES = 120
# Contenders keep what scores 0.3: people must be well above, everything else well below.
_SURE, _NOTHING = 0.45, 0.25
_SEED = 11


@dataclass(frozen=True)
class Models:
    """A pair of networks: artifacts in ``folder``, and the ONNX files of SDK bundles for peers."""

    folder: Path
    detector: Artifact
    pose: Artifact
    detector_onnx: Path
    pose_onnx: Path

    @property
    def detector_hw(self) -> tuple[int, int]:
        return self.detector.spec.input_hw

    @property
    def pose_hw(self) -> tuple[int, int]:
        return self.pose.spec.input_hw

    @property
    def about(self) -> str:
        sides = ("{}x{}".format(*artifact.spec.input_hw) for artifact in (self.detector, self.pose))
        names = (self.detector.spec.name, self.pose.spec.name)
        return " and ".join(f"{name} {size}" for name, size in zip(names, sides, strict=True))

    def folders(self, variant: str) -> tuple[Path, Path]:
        """The detector's and the pose model's artifact of a variant."""
        names = (self.detector.spec.name, self.pose.spec.name)
        detector, pose = (self.folder / f"{name}-{variant}" for name in names)
        return detector, pose


def find_models(arguments: argparse.Namespace) -> Models:
    """The artifacts in --build, or else those of --model and --detector, made where absent."""
    folder: Path | None = arguments.build
    if folder is None:
        pair = "-".join(Path(name).stem for name in (arguments.model, arguments.detector))
        folder = arguments.out / pair / "x86"
        _convert(arguments, folder)
    found: dict[str, list[Artifact]] = {"detection": [], "pose": []}
    for manifest in sorted(folder.glob("*-onnx-fp32/artifact.json")):
        artifact = load_artifact(manifest.parent)
        found.setdefault(artifact.spec.task, []).append(artifact)
    for task in ("detection", "pose"):
        if len(found[task]) != 1:
            raise ToolError(f"{folder}: has {len(found[task])} onnx-fp32 {task} models, not one")
    (detector,), (pose,) = found["detection"], found["pose"]
    given = (arguments.detector, arguments.model) if arguments.build is None else ("", "")
    onnx = [
        _bundle(artifact, arguments.out, name)
        for artifact, name in zip((detector, pose), given, strict=True)
    ]
    return Models(folder, detector, pose, *onnx)


def _convert(arguments: argparse.Namespace, folder: Path) -> None:
    formats = arguments.formats.split(",")
    made = [len(list(folder.glob(f"*-{name}/artifact.json"))) for name in formats]
    if folder.is_dir() and min(made) == 2:
        return
    argv = ["convert", "--target", "x86", "--out", str(folder.parent), "--formats"]
    argv += [arguments.formats, "--model", arguments.model, "--detector", arguments.detector]
    print(f"converting {arguments.model} and {arguments.detector}", file=sys.stderr, flush=True)
    converted(argv[1:])


def converted(options: Sequence[str]) -> None:
    """Convert; its rows are shown as they come, and it takes what it takes."""
    argv = [sys.executable, "-m", "edge", "convert", *options]
    if subprocess.run(argv, stdout=sys.stderr, check=False).returncode:
        raise ToolError("the conversion failed, as said above")


def _bundle(artifact: Artifact, out: Path, given: str) -> Path:
    """The ONNX file of an artifact's SDK bundle, written where it is absent.

    A file that was given and has the SDK's outputs takes that place as it is: peers then run what
    their users would.
    """
    whole = Path(given) if given.endswith(".onnx") and _has_sdk_outputs(Path(given)) else None
    key = sha256_of(whole or artifact.path("model"))[:12]
    folder = out / "sdk" / f"{artifact.spec.name}-{key}"
    if not folder.is_dir():
        argv = ["bundle", str(artifact.folder), "--sdk", "--out", str(folder)]
        printed_by([sys.executable, "-m", "edge", *argv])
    if whole:
        shutil.copyfile(whole, folder / "end2end.onnx")
    return (folder / "end2end.onnx").resolve()


def _has_sdk_outputs(file: Path) -> bool:
    import onnx

    names = {output.name for output in onnx.load(str(file)).graph.output}
    return names in ({"dets", "labels"}, {"simcc_x", "simcc_y"})


def find_pictures(
    reference: Process, photos: Path | None, groups: Sequence[int]
) -> tuple[list[Image], dict[int, list[int]]]:
    """Pictures, and for each number of people the places of those that show exactly so many.

    The detector must be sure of it: whoever finds another number is then wrong.
    """
    found: dict[int, list[Image]] = {people: [] for people in groups}
    if photos is not None:
        for path in find_images([photos]):
            image = read_image(path)
            for people in groups:
                if len(found[people]) < _PICTURES and _is_sure(reference, image, people):
                    found[people].append(image)
    else:
        for people in groups:
            for index in range(_TRIES):
                made = scene(_SEED, index, people=(people, people), variety=0.0)
                if len(made.people) == people and _is_sure(reference, made.image_bgr, people):
                    found[people].append(made.image_bgr)
                    if len(found[people]) == _PICTURES:
                        break
    places: dict[int, list[int]] = {}
    pictures: list[Image] = []
    for people, images in found.items():
        if not images:
            raise ToolError(f"no picture shows {people} people of whom the detector is sure")
        places[people] = list(range(len(pictures), len(pictures) + len(images)))
        pictures += images
    return pictures, places


def _is_sure(reference: Process, image: Image, people: int) -> bool:
    reference.ask("pictures", [image])
    scores = [*reference.ask("scores", 0), 0.0]
    return len(scores) > people and scores[people - 1] > _SURE and scores[people] < _NOTHING
