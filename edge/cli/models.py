"""Commands that name, fetch, export and train models, or draw pictures: they need a checkout."""

from __future__ import annotations

import argparse
import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.host import DEFAULT_DETECTOR, DEFAULT_MODEL, need_checkout
from edge.errors import EngineMissingError, SpecError

if TYPE_CHECKING:
    from converters.training.loop import TrainingSettings


def zoo(arguments: argparse.Namespace) -> int:
    """List the zoo, show one of its models, or fetch some."""
    need_checkout("zoo")
    from converters.zoo.models import find_entry, zoo_entries, zoo_fetch
    from converters.zoo.table import zoo_details, zoo_json, zoo_table

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

    from converters.zoo.models import zoo_entries

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
    from converters.zoo.models import zoo_entries, zoo_fetch

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
        say=lambda text: print(f"note: {text}", flush=True),
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
    from calibration.people.synthetic import coco_annotations, crop_scene, scene
    from edge.files import write_bytes
    from edge.picture import write_image

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
    from calibration.people.synthetic import crop_scene
    from calibration.samples.crops import RecentScenes, SyntheticCrops
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
    from calibration.people.synthetic import scene
    from calibration.samples.crops import RecentScenes
    from calibration.samples.scenes import LetterboxedScenes, varied_scene
    from calibration.scores.accuracy import box_scores
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
