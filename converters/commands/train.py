"""``edge train``: one of the demo models, from nothing, on rendered people."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from converters.commands.export import need_torch
from edge.cli.options import DEFAULT_DETECTOR, DEFAULT_MODEL

if TYPE_CHECKING:
    from converters.training.loop import TrainingSettings

__all__ = ["add", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--model",
        choices=[DEFAULT_MODEL, DEFAULT_DETECTOR],
        default=DEFAULT_MODEL,
        help="default: %(default)s",
    )
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="wall-clock budget in all (default: 120)"
    )
    parser.add_argument(
        "--variety", type=float, default=0.25, help="of the pictures, 0 to 1 (default: 0.25)"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="convolutions in bfloat16, for CPUs that have it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, export and score one of the demo models."""
    need_torch()
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
