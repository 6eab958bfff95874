"""Commands of the host: they need a checkout."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import edge
from edge.artifact import read_manifest
from edge.cli.device import parity_lines
from edge.detector import detector_feeds
from edge.errors import CheckoutError, EngineMissingError, SpecError
from edge.pose import pose_feeds
from edge.session import EngineSettings, Session
from edge.spec import Variant

if TYPE_CHECKING:
    from converters.chain import Row
    from converters.convert import ParityImages, Source

DEFAULT_MODEL = "rtmpose-t-demo"


def need_checkout(command: str) -> None:
    """Raise CheckoutError where only the wheel is installed."""
    missing = [
        room
        for room in ("converters", "calibration", "targets")
        if importlib.util.find_spec(room) is None
    ]
    if missing:
        raise CheckoutError(
            f"`edge {command}` needs a checkout of edgepose (the wheel holds the device runtime "
            "only): clone the repository and run `make setup` in it"
        )


def convert(arguments: argparse.Namespace) -> int:
    """Convert a pose model, and a detector if given, and say what comes next."""
    need_checkout("convert")
    from converters.convert import convert_model
    from converters.zoo import find_source
    from targets.profile import load_profile

    profile = load_profile(arguments.target)
    variants = profile.variants
    if arguments.formats is not None:
        variants = tuple(Variant.parse(text) for text in arguments.formats.split(","))
    sources = [
        find_source(
            arguments.model,
            name=arguments.name,
            spec_file=arguments.spec,
            input_hw=None if arguments.detector else arguments.size,
        )
    ]
    if arguments.detector:
        sources.append(find_source(arguments.detector, input_hw=arguments.size))
    if len({source.name for source in sources}) < len(sources):
        raise SpecError(f"both models are called {sources[0].name!r}; choose a name with --name")

    table = _Table(arguments.json)
    out_dir = arguments.out / profile.name
    folders = []
    for source in sources:
        folders += convert_model(
            source,
            variants,
            out_dir,
            _parity_images(arguments.images),
            table.add,
            force=arguments.force,
            keep_failed=arguments.keep_failed,
        )
    table.end()
    if not arguments.json:
        _say_next(sources, variants, folders)
    return 0


def _say_next(
    sources: Sequence[Source], variants: Sequence[Variant], folders: Sequence[Path]
) -> None:
    print("\nartifacts:")
    for folder in folders:
        print(f"  {folder}")
    program = "edge" if shutil.which("edge") else os.path.relpath(Path(sys.prefix) / "bin" / "edge")
    print("next:")
    if read_manifest(folders[0])["spec"]["task"] == "pose":
        command = f"{program} run --model {folders[0]}"
        if len(sources) > 1:
            command += f" --detector {folders[len(variants)]}"
        print(f"  {command} PHOTO.jpg --out build/run")
    print(f"  {program} info {folders[0]}")


def _parity_images(folder: Path | None) -> ParityImages:
    """The pictures of a folder, or rendered people; made when first asked for."""
    from calibration.images import (
        PARITY_SEED,
        folder_fingerprint,
        folder_images,
        synthetic_images,
    )
    from converters.convert import ParityImages
    from converters.parity import NamedFeeds

    counts = {"pose": 8, "detection": 4}

    def feeds(spec: edge.ModelSpec) -> list[NamedFeeds]:
        pose = spec.task == "pose"
        images = (
            folder_images(folder) if folder else synthetic_images(counts[spec.task], crops=pose)
        )
        return [
            NamedFeeds(
                image.name,
                pose_feeds(spec, image.image_bgr, image.boxes_xyxy[:1])[0]
                if pose
                else detector_feeds(spec, image.image_bgr)[0],
            )
            for image in images
        ]

    text = (
        folder_fingerprint(folder)
        if folder
        else f"synthetic people, seed {PARITY_SEED} "
        f"({counts['pose']} crops or {counts['detection']} scenes)"
    )
    return ParityImages(text, feeds)


def verify(arguments: argparse.Namespace) -> int:
    """Repeat an artifact's parity check; ParityError where it fails."""
    need_checkout("verify")
    from converters.convert import verify_artifact

    report = verify_artifact(
        arguments.artifact,
        _parity_images(arguments.images),
        source_path=arguments.source,
        allow_failed=arguments.allow_failed,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(parity_lines(report.to_json())))
    report.raise_if_failed()
    return 0


def zoo(arguments: argparse.Namespace) -> int:
    """List the zoo."""
    need_checkout("zoo")
    from converters.zoo import zoo_entries

    entries = zoo_entries()
    if arguments.json:
        print(json.dumps(entries, indent=2))
    else:
        for name, entry in entries.items():
            print(f"{name:<20} {entry['description']}")
    return 0


def synthetic(arguments: argparse.Namespace) -> int:
    """Render a data set with COCO annotations."""
    need_checkout("synthetic")
    from calibration.synthetic import coco_annotations, crop_scene, scene
    from edge.picture import write_bytes, write_image

    arguments.out.mkdir(parents=True, exist_ok=True)
    make = crop_scene if arguments.crops else scene
    scenes = [make(arguments.seed, index) for index in range(arguments.count)]
    annotations = coco_annotations(scenes)
    for made, entry in zip(scenes, annotations["images"], strict=True):
        write_image(arguments.out / entry["file_name"], made.image_bgr)
    write_bytes(arguments.out / "annotations.json", json.dumps(annotations).encode())
    people = len(annotations["annotations"])
    print(f"{arguments.count} pictures with {people} people in {arguments.out}")
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train, export and score the demo model."""
    need_checkout("train")
    if importlib.util.find_spec("torch") is None:
        raise EngineMissingError("PyTorch is not installed: run `make setup-torch`")
    from calibration.augment import RecentScenes, SyntheticCrops
    from calibration.synthetic import crop_scene
    from converters.architectures.checkpoint import load_checkpoint
    from converters.architectures.export import export_onnx, store_fp16_weights
    from converters.architectures.rtmpose import RTMPose
    from converters.training import TrainingSettings, evaluate, initialise, train

    render = partial(crop_scene, variety=arguments.variety)
    # Seed 1 trains, 2 tests, and neither meets the other's pictures.
    crops = SyntheticCrops(1, 10**9, augmented=True, scene_of=RecentScenes(render))
    held_out = SyntheticCrops(2, 500, augmented=False, scene_of=render)
    print("rendering the held-out pictures", flush=True)
    few = [held_out[index] for index in range(200)]
    model = RTMPose("t")
    initialise(model)
    settings = TrainingSettings(minutes=arguments.minutes, bf16=arguments.bf16)
    result = train(model, crops, settings, arguments.out, few, partial(print, flush=True))

    trained = RTMPose("t")
    load_checkpoint(trained, result.ema_path)
    full = arguments.out / "rtmpose-t-demo-fp32.onnx"
    export_onnx(trained, full)
    store_fp16_weights(full, arguments.out / f"{DEFAULT_MODEL}.onnx")
    scores = evaluate(trained, held_out)
    print(
        f"PCK@0.05 {scores.pck_05:.4f}, PCK@0.1 {scores.pck_10:.4f}, mean {scores.mean_px:.2f} px "
        f"on 500 held-out crops -> {arguments.out / f'{DEFAULT_MODEL}.onnx'}"
    )
    return 0


class _Table:
    """Rows as they come, or all at once as JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        if not self._as_json:
            if not self._rows:
                print(f"{'model':<22} {'step':<22} {'time':>8} {'size':>9}  verdict")
            size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.2f} MB"
            print(
                f"{row.model:<22} {row.step:<22} {row.seconds:>6.2f} s {size:>9}  {row.verdict}",
                flush=True,
            )
        self._rows.append(row)

    def end(self) -> None:
        if self._as_json:
            print(json.dumps([row.__dict__ for row in self._rows], indent=2))


def open_onnx(text: str, settings: EngineSettings) -> Session:
    """A session of an untouched ONNX file or zoo model on ONNX Runtime."""
    need_checkout("run with an ONNX file")
    from converters.onnx_file import load_onnx
    from converters.recognise import recognise
    from converters.zoo import find_source
    from edge.engines.onnxruntime import OnnxRuntimeSession

    source = find_source(text)
    spec = recognise(load_onnx(source.path), source.path, source.name).source_spec
    return OnnxRuntimeSession(source.path, spec, settings)
