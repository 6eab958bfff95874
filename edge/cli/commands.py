"""The commands: what they are called, where they live, and what they are for.

A command lives with the room whose noun it takes, and is loaded by name when it is asked for: the
rooms above `edge` are not there on a device. Each module has ``add(parser)``, which adds its
options, and ``run(arguments)``, which gives the exit code.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMANDS", "OLD_OPTIONS", "Command"]


class Command(NamedTuple):
    """A command of the command line; ``task`` is the heading it stands under in the help."""

    name: str
    module: str
    text: str
    task: str


_RUN, _MODELS, _QUALITY = "find people", "make models", "check models"
_SHIP, _DEVICES = "ship", "measure on devices"

COMMANDS = (
    Command("run", "edge.cli.run", "Find people in pictures, videos and a camera.", _RUN),
    Command("choose", "edge.cli.choose", "Find the fastest variant of a model here.", _RUN),
    Command("convert", "targets.commands.convert", "Convert models for a target.", _MODELS),
    Command("zoo", "converters.commands.zoo", "List, show and fetch models by name.", _MODELS),
    Command("export", "converters.commands.export", "Write a checkpoint as ONNX.", _MODELS),
    Command("train", "converters.commands.train", "Train a demo model.", _MODELS),
    Command("synthetic", "calibration.commands.synthetic", "Render people to test on.", _MODELS),
    Command("info", "edge.cli.info", "Show all that is known of an artifact.", _QUALITY),
    Command("verify", "converters.commands.verify", "Compare an artifact with ONNX.", _QUALITY),
    Command("eval", "converters.commands.evaluate", "Measure accuracy: COCO AP, PCK.", _QUALITY),
    Command(
        "sensitivity",
        "converters.commands.sensitivity",
        "Find the parts of a network that must stay float.",
        _QUALITY,
    ),
    Command("compare", "targets.commands.compare", "Compare variants of models here.", _QUALITY),
    Command("devices", "targets.commands.devices", "Find phones and boards.", _DEVICES),
    Command("clean", "targets.commands.clean", "Remove what the kit left on a device.", _DEVICES),
    Command("bench", "edge.cli.bench", "Measure latency, here or on a target.", _DEVICES),
    Command("report", "targets.commands.report", "Show and compare measured runs.", _DEVICES),
    Command("assets", "targets.commands.assets", "Write what an Android app ships.", _SHIP),
    Command("deploy", "targets.commands.deploy", "Put models on a board.", _SHIP),
    Command("bundle", "converters.commands.bundle", "Write models for mmdeploy's SDK.", _SHIP),
)

# Spellings of before, by command; they work, and a note names the new one.
OLD_OPTIONS = {
    "run": {"--score": "--conf"},
    "compare": {"--seconds": "--min-seconds"},
}
