"""The command line: ``edge COMMAND``.

The composition root. ``host`` alone may import the host rooms, inside functions; ``device`` needs
nothing but ``edge`` and an engine.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import edge
from edge.cli import (
    arm,
    assets,
    bench,
    bundle,
    choose,
    compare,
    deploy,
    device,
    devices,
    evaluate,
    host,
    models,
    options,
    report,
    run,
    sensitivity,
)
from edge.errors import EdgeError
from edge.printable import harmless_streams
from edge.session import default_threads

__all__ = ["console", "main"]

# Where a model of the zoo can be named, which is then fetched.
_FETCHING = ("convert", "bench", "deploy", "run", "eval", "sensitivity", "export", "zoo")


def console() -> NoReturn:
    """Entry point of the ``edge`` command."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: 0 it worked, 1 it did not (one clear line on stderr), 2 wrong usage."""
    with harmless_streams():
        return _run(_parser().parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    # An ended session and `kill` clean up like Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.run(arguments) or 0)
    except EdgeError as error:
        print(f"edge: {error}", file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output left; there is nobody to tell.
        sys.stderr.close()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"edge: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("edge: interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 1


def _interrupt(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge",
        description="Verified conversions of pose models, and a numpy-only runtime for them.",
        epilog="Start with: edge convert --target android   then: edge run --model "
        "build/android-sd865/rtmpose-t-demo-ncnn-fp16 PHOTO --out build/run",
    )
    parser.add_argument("--version", action="version", version=f"edgepose {edge.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        if name in _FETCHING:
            options.add_insecure_mirror(added)
        return added

    convert = command("convert", host.convert, "Convert models for a target, verified.")
    convert.add_argument("--target", default="android", help="target name (default: android)")
    convert.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own instead"
    )
    options.add_conversion(convert)
    convert.add_argument(
        "--batch",
        type=options.count,
        help="fix the batch, for throughput (default: open where the format can, else 1)",
    )
    arm.add_arm(convert)
    convert.add_argument("--force", action="store_true", help="convert even what is up to date")
    convert.add_argument(
        "--keep-failed", action="store_true", help="keep artifacts that fail a check, marked so"
    )
    convert.add_argument("--json", action="store_true", help="print the table as JSON")

    run.add_run(command, _add_engine)
    choose.add_choose(command)
    bench.add_bench(command)
    devices.add_devices(command)
    report.add_report(command)
    assets.add_assets(command)
    deploy.add_deploy(command)
    bundle.add_bundle(command)

    verify = command("verify", host.verify, "Repeat the parity check of an artifact.")
    verify.add_argument("artifact", type=Path)
    verify.add_argument("--source", type=Path, help="the ONNX file it was made of, if it moved")
    verify.add_argument("--images", type=Path, help="folder of pictures to compare answers on")
    _add_inference_precision(verify)
    verify.add_argument("--allow-failed", action="store_true")
    verify.add_argument("--json", action="store_true")

    evaluate.add_evaluate(command, _add_engine)
    sensitivity.add_sensitivity(command)
    compare.add_compare(command)

    info = command("info", device.info, "Show all that is known of an artifact.")
    info.add_argument("artifact", type=Path)
    info.add_argument("--allow-failed", action="store_true")
    info.add_argument("--json", action="store_true")
    info.add_argument(
        "--spec",
        action="store_true",
        help="the spec of the file it was made of, as --spec reads it",
    )

    export = command("export", models.export, "Write a checkpoint as a verified ONNX file.")
    export.add_argument("checkpoint", help=".pth file of RTMPose, RTMDet or RTMO, or zoo name")
    export.add_argument(
        "--out", "-o", type=Path, metavar="FILE.onnx", help="default: named after the checkpoint"
    )
    export.add_argument(
        "--size",
        type=options.size,
        metavar="HxW",
        help="input size (default: the official model's)",
    )
    export.add_argument("--variant", help="nano, t, s, m, l or x; checked against the weights")
    export.add_argument("--keypoints", type=options.count, help="checked against the weights")
    export.add_argument("--classes", type=options.count, help="checked against the weights")
    export.add_argument(
        "--keypoint-set", help="where the number does not name it, for example ap10k17"
    )
    export.add_argument(
        "--backbone", action="store_true", help="a pretrained CSPNeXt: its features, to measure"
    )

    zoo = command("zoo", models.zoo, "The models that can be named: list, show, fetch.")
    zoo.add_argument(
        "action", nargs="?", choices=["list", "show", "fetch"], default="list", help="default: list"
    )
    zoo.add_argument("names", nargs="*", metavar="NAME", help="models to show or fetch")
    zoo.add_argument(
        "--what", choices=["archive", "checkpoint"], help="fetch this one of a model's files"
    )
    zoo.add_argument(
        "--counts",
        action="store_true",
        help="count parameters and multiply-adds beside the published ones (needs PyTorch)",
    )
    zoo.add_argument("--json", action="store_true")
    zoo.epilog = (
        "Files go to EDGEPOSE_CACHE (default: ~/.cache/edgepose). EDGEPOSE_MIRROR names a folder\n"
        "or https address that has them instead of the official servers; an http one needs\n"
        "--insecure-mirror (or EDGEPOSE_INSECURE_MIRROR=1)."
    )

    synthetic = command(
        "synthetic", models.synthetic, "Write rendered people with COCO annotations."
    )
    synthetic.add_argument("--out", type=Path, required=True, metavar="DIR")
    synthetic.add_argument("--count", type=options.count, default=16, help="pictures (default: 16)")
    synthetic.add_argument("--seed", type=int, default=7, help="same seed, same pictures")
    synthetic.add_argument("--crops", action="store_true", help="one person that fills a picture")

    train = command("train", models.train, "Train a demo model (resumable).")
    train.add_argument(
        "--model",
        choices=[host.DEFAULT_MODEL, host.DEFAULT_DETECTOR],
        default=host.DEFAULT_MODEL,
        help="default: %(default)s",
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument(
        "--minutes", type=float, default=120.0, help="wall-clock budget in all (default: 120)"
    )
    train.add_argument(
        "--variety", type=float, default=0.25, help="of the pictures, 0 to 1 (default: 0.25)"
    )
    train.add_argument(
        "--bf16", action="store_true", help="convolutions in bfloat16, for CPUs that have it"
    )
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads",
        type=options.count,
        default=default_threads(),
        help="CPU threads of the engine (default here: %(default)s)",
    )
    _add_inference_precision(parser)
    parser.add_argument(
        "--allow-failed", action="store_true", help="use artifacts that failed their parity check"
    )


def _add_inference_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inference-precision",
        choices=["fp32", "fp16", "bf16"],
        help="arithmetic the engine may use; bf16: openvino only (default: the variant's own)",
    )
