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
    from converters.convert import ParityImages
    from converters.source import Source
    from converters.training.loop import TrainingSettings

DEFAULT_MODEL = "rtmpose-t-demo"
DEFAULT_DETECTOR = "rtmdet-nano-demo"


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

    # The demo pair; whoever names a pose model names the detector that suits it.
    model = arguments.model or DEFAULT_MODEL
    detector = arguments.detector or (None if arguments.model else DEFAULT_DETECTOR)
    profile = load_profile(arguments.target)
    variants = profile.variants
    if arguments.formats is not None:
        variants = tuple(Variant.parse(text) for text in arguments.formats.split(","))
    sources = [
        find_source(
            model,
            name=arguments.name,
            spec_file=arguments.spec,
            input_hw=None if detector else arguments.size,
        )
    ]
    if detector:
        sources.append(find_source(detector, input_hw=arguments.size))
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
            batch=arguments.batch,
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
    task = read_manifest(folders[0])["spec"]["task"]
    if task != "detection":
        command = f"{program} run --model {folders[0]}"
        if task == "pose" and len(sources) > 1:
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

    counts = {"pose": 8, "detection": 4, "one-stage": 4}

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
        inference_precision=arguments.inference_precision,
    )
    if arguments.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(parity_lines(report.to_json())))
    report.raise_if_failed()
    return 0


def zoo(arguments: argparse.Namespace) -> int:
    """List the zoo, show one of its models, or fetch some."""
    need_checkout("zoo")
    from converters.zoo import find_entry, zoo_entries, zoo_fetch
    from converters.zoo_table import zoo_details, zoo_json, zoo_table

    if arguments.counts:
        return _zoo_counts(arguments.json)
    if arguments.action == "list" and arguments.names:
        raise SpecError(f"`edge zoo list` takes no name; try `edge zoo show {arguments.names[0]}`")
    if arguments.action != "list" and not arguments.names:
        raise SpecError(f"name a model: edge zoo {arguments.action} NAME; `edge zoo` lists them")
    entries = zoo_entries()
    chosen = [find_entry(name, entries) for name in arguments.names] or list(entries.values())
    if arguments.action == "fetch":
        paths = {entry.name: zoo_fetch(entry.name, what=arguments.what) for entry in chosen}
        if arguments.json:
            print(json.dumps({name: str(path) for name, path in paths.items()}, indent=2))
        else:
            print("\n".join(str(path) for path in paths.values()))
    elif arguments.json:
        print(json.dumps(zoo_json(chosen), indent=2))
    elif arguments.action == "show":
        print("\n\n".join(zoo_details(entry) for entry in chosen))
    else:
        print(zoo_table(chosen))
    return 0


def _zoo_counts(as_json: bool) -> int:
    """Parameters and multiply-accumulates of the zoo's architectures beside the published ones."""
    from dataclasses import asdict

    from converters.zoo import zoo_entries

    _need_torch()
    from converters.architectures.counts import PublishedModel, count_rows, counts_table
    from edge.keypoints import find_keypoint_set

    models = [
        PublishedModel(
            name=entry.name,
            architecture=entry.architecture,
            size=entry.size,
            input_hw=entry.input_hw,
            keypoints=len(find_keypoint_set(entry.keypoint_set).keypoints)
            if entry.keypoint_set
            else None,
            classes=entry.num_classes,
            params_m=entry.params_m,
            flops_g=entry.flops_g,
        )
        for entry in zoo_entries().values()
        if entry.architecture and entry.size
    ]
    rows = count_rows(models)
    print(json.dumps([asdict(row) for row in rows], indent=2) if as_json else counts_table(rows))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a checkpoint as a verified ONNX file that carries its spec."""
    need_checkout("export")
    from converters.zoo import zoo_entries, zoo_fetch

    _need_torch()
    from converters.architectures.official import export_backbone, export_checkpoint

    entry = zoo_entries().get(arguments.checkpoint)
    path = (
        zoo_fetch(arguments.checkpoint, what="checkpoint") if entry else Path(arguments.checkpoint)
    )
    if not path.is_file():
        raise SpecError(f"{path}: neither a checkpoint file nor a zoo model; `edge zoo` lists them")
    out = arguments.out or Path(f"{arguments.checkpoint if entry else path.stem}.onnx")
    if out.suffix != ".onnx" or not out.parent.is_dir():
        raise SpecError(f"{out}: give the name of an .onnx file in a folder that exists with --out")
    input_hw = arguments.size or (entry.input_hw if entry else None)
    if arguments.backbone:
        found = export_backbone(path, out, input_hw=input_hw or (256, 192))
        print(f"{found} -> {out}: features only, without a spec, for measuring")
        return 0
    spec = export_checkpoint(
        path,
        out,
        out.stem,
        size=arguments.variant,
        keypoints=arguments.keypoints,
        num_classes=arguments.classes,
        input_hw=input_hw,
        keypoint_set=arguments.keypoint_set or (entry.keypoint_set if entry else None),
    )
    height, width = spec.input_hw
    finds = spec.keypoint_set or "boxes"
    print(f"{spec.task}, codec {spec.codec}, {height}x{width}, {finds} -> {out}")
    print(f"next: edge convert --model {out} --target android")
    return 0


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise EngineMissingError("PyTorch is not installed: run `make setup-torch`")


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
    """Train, export and score one of the demo models."""
    need_checkout("train")
    _need_torch()
    from converters.training.loop import TrainingSettings

    train_one = {DEFAULT_MODEL: _train_pose, DEFAULT_DETECTOR: _train_detector}[arguments.model]
    settings = TrainingSettings(
        minutes=arguments.minutes,
        learning_rate=1e-3 if arguments.model == DEFAULT_DETECTOR else 5e-4,
        bf16=arguments.bf16,
    )
    scores = train_one(arguments, settings)
    print(f"{scores} -> {arguments.out / f'{arguments.model}.onnx'}")
    return 0


def _train_pose(arguments: argparse.Namespace, settings: TrainingSettings) -> str:
    from calibration.augment import RecentScenes, SyntheticCrops
    from calibration.synthetic import crop_scene
    from converters.architectures.export import store_fp16_weights
    from converters.architectures.official import export_checkpoint
    from converters.architectures.rtmpose import RTMPose
    from converters.training.loop import train
    from converters.training.pose import PoseObjective, PoseSettings, evaluate, initialise

    render = partial(crop_scene, variety=arguments.variety)
    # Seed 1 trains, 2 tests, and neither meets the other's pictures.
    crops = SyntheticCrops(1, 10**9, augmented=True, scene_of=RecentScenes(render))
    held_out = SyntheticCrops(2, 500, augmented=False, scene_of=render)
    print("rendering the held-out pictures", flush=True)
    few = [held_out[index] for index in range(200)]
    model = RTMPose("t")
    initialise(model)
    objective = PoseObjective(PoseSettings(), few)
    result = train(model, crops, objective, settings, arguments.out, partial(print, flush=True))
    full = arguments.out / f"{DEFAULT_MODEL}-fp32.onnx"
    export_checkpoint(result.ema_path, full, DEFAULT_MODEL)
    store_fp16_weights(full, arguments.out / f"{DEFAULT_MODEL}.onnx")
    return f"{evaluate(result.averaged, held_out)} on 500 held-out crops"


def _train_detector(arguments: argparse.Namespace, settings: TrainingSettings) -> str:
    from calibration.accuracy import box_scores
    from calibration.augment import RecentScenes
    from calibration.pictures import LetterboxedScenes, varied_scene
    from calibration.synthetic import scene
    from converters.architectures.export import store_fp16_weights
    from converters.architectures.official import export_checkpoint
    from converters.architectures.rtmdet import RTMDet
    from converters.training.detection import DetectionObjective, initialise
    from converters.training.loop import train

    render = partial(varied_scene, variety=arguments.variety)
    plain = partial(scene, variety=arguments.variety)
    pictures = LetterboxedScenes(
        1, 10**9, augmented=True, scene_of=RecentScenes(render, size=2500, uses=4)
    )
    held_out = LetterboxedScenes(2, 300, augmented=False, scene_of=plain)
    print("rendering the held-out pictures", flush=True)
    few = [held_out[index] for index in range(100)]
    model = RTMDet("nano")
    initialise(model)
    objective = DetectionObjective(few, box_scores)
    result = train(model, pictures, objective, settings, arguments.out, partial(print, flush=True))
    full = arguments.out / f"{DEFAULT_DETECTOR}-fp32.onnx"
    export_checkpoint(result.ema_path, full, DEFAULT_DETECTOR)
    store_fp16_weights(full, arguments.out / f"{DEFAULT_DETECTOR}.onnx")
    scores = DetectionObjective(held_out, box_scores).evaluate(result.averaged)
    return f"{scores} on 300 held-out pictures"


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
    model = load_onnx(source.path)
    spec = recognise(model, source.path, source.name, source.spec, source.input_hw).source_spec
    return OnnxRuntimeSession(source.path, spec, settings)
