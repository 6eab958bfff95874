"""``edge bench``: the latency of artifacts, on this machine or on a target over adb or ssh.

On this machine it is the Python runner, by hand or as a device's program. With a target it is the
host's side, which `targets.commands.bench` has.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

from edge.artifact import load_artifact
from edge.cli import options
from edge.cli.host import has_host, load
from edge.cli.open import open_model
from edge.errors import SpecError
from edge.latency import NOT_COMPARED, LatencySettings, load_warnings
from edge.runner import BenchRun, bench, hold_cpu_mask, noise, read_image
from edge.session import (
    EngineSettings,
    Session,
    default_threads,
    open_session,
    shipped_precision,
)
from edge.spec import ModelSpec

__all__ = ["add", "run"]

# A run by hand is a short look; what a target's profile says comes as options.
_SECONDS = 2.0
_SUSTAINED_SECONDS = 60.0
_NATIVE_PRECISIONS = ("fp32", "fp16", "fp16-storage", "bf16")
_HOST, _OPTIONS = "targets.commands.bench", "targets.commands.bench_options"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = (
        "Without a target ARTIFACT is timed on this machine, by the Python runner. With one, what\n"
        "is missing is converted, pushed, compared with the reference on the device, warmed up,\n"
        "timed in turn, judged, and stored: one JSON file a run in OUT/results, for `edge report`."
    )
    parser.add_argument(
        "artifacts",
        nargs="*",
        metavar="ARTIFACT",
        help="artifact folders (with a target, default: its variants of --model are converted)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--threads", type=options.count, help="CPU threads (default: the target's)")
    parser.add_argument(
        "--cpu-mask",
        type=options.cpu_mask,
        metavar="HEX",
        help="cores to keep to, for example f0 (default: the target's)",
    )
    parser.add_argument(
        "--inference-precision",
        choices=_NATIVE_PRECISIONS,
        help="arithmetic of the engine (default: what is safe for the artifact there)",
    )
    parser.add_argument(
        "--mode",
        choices=["burst", "sustained"],
        default="burst",
        help="sustained: 60 s or more without a pause, so that heat shows (default: burst)",
    )
    parser.add_argument(
        "--allow-failed", action="store_true", help="use artifacts that failed their checks"
    )
    _add_here(parser)
    target = parser.add_argument_group("on a target")
    target.add_argument("--target", help="android, raspberry-pi, jetson, x86, or a name of these")
    target.add_argument(
        "--profile", type=Path, metavar="FILE.toml", help="a target profile of your own"
    )
    if has_host():
        load(_OPTIONS, "`edge bench --target`").add_target_options(parser, target)


def run(arguments: argparse.Namespace) -> int:
    """Time artifacts; exit code 1 where one could not be timed or no run of it is valid."""
    if has_host():
        load(_OPTIONS, "`edge bench`").check_pipeline_options(arguments)
    if arguments.target is not None or arguments.profile is not None:
        return int(load(_HOST, "`edge bench --target`").run(arguments))
    if len(arguments.artifacts) != 1:
        raise SpecError("name one ARTIFACT to time here, or a target: edge bench --target android")
    return _bench_here(arguments)


def _add_here(parser: argparse.ArgumentParser) -> None:
    """The options of a run on this machine."""
    own = parser.add_argument_group("on this machine (without --target)")
    own.add_argument(
        "--input",
        action="append",
        type=Path,
        metavar="FILE.npy",
        help="the network's input, float32 of its shape (default: noise)",
    )
    own.add_argument(
        "--answer-only", action="store_true", help="run once on each --input and time nothing"
    )
    own.add_argument("--dump", type=Path, metavar="DIR", help="write the outputs there, as .npy")
    for name, kind, text in (
        ("warmup-count", int, "calls before the first sample, at least"),
        ("warmup-seconds", float, "the same in time"),
        ("min-count", int, "samples, at least"),
        ("min-seconds", float, "measure for, at least (default here: 2; sustained: 60)"),
        ("max-seconds", float, "measure for, at most"),
        ("pause-ms", float, "wait before every sample, as between a camera's frames"),
    ):
        own.add_argument(f"--{name}", type=kind, metavar="N", help=text)


def _bench_here(arguments: argparse.Namespace) -> int:
    """Time one artifact or model on this machine; exit code 1 where the figure is INVALID.

    With ``--json`` stdout holds one line of JSON and nothing else, whatever the engine prints.
    """
    images = [read_image(path) for path in arguments.input or ()]
    if len(images) > 1 and not arguments.answer_only:
        raise SpecError("one image is timed: give one --input, or --answer-only as well")
    settings = None if arguments.answer_only else _settings(arguments)
    load_1m = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with _stdout_kept():
        # Before the engine is loaded: its threads inherit it.
        mask = hold_cpu_mask(arguments.cpu_mask) if arguments.cpu_mask else None
        threads = arguments.threads or default_threads()
        spec, load = _network(arguments, threads)
        run = bench(
            load,
            images or [noise(spec)],
            threads=threads,
            settings=settings,
            cpu_mask=mask,
            dump=arguments.dump,
        )
    if arguments.json:
        print(json.dumps(run.to_json(), allow_nan=False), flush=True)
    else:
        _print_table(run, load_1m)
    if run.reasons:
        print(f"edge: INVALID: {'; '.join(run.reasons)}", file=sys.stderr)
    return 1 if run.reasons else 0


def _network(
    arguments: argparse.Namespace, threads: int
) -> tuple[ModelSpec, Callable[[], Session]]:
    """A network's spec, and what loads it; an artifact's files are checked now, not in loading."""
    model = str(arguments.artifacts[0])
    if Path(model).is_dir():
        artifact = load_artifact(model, allow_failed=arguments.allow_failed)
        precision = arguments.inference_precision or shipped_precision(artifact)
        settings = EngineSettings(threads, precision)
        return artifact.spec, lambda: open_session(artifact, settings)
    asked = argparse.Namespace(**{**vars(arguments), "threads": threads})
    with open_model(model, asked) as session:
        spec = session.spec
    return spec, lambda: open_model(model, asked)


def _settings(arguments: argparse.Namespace) -> LatencySettings:
    mode = arguments.mode
    seconds = arguments.min_seconds
    if seconds is None:
        seconds = _SUSTAINED_SECONDS if mode == "sustained" else _SECONDS
    given = {
        "warmup_count": arguments.warmup_count,
        "warmup_duration_s": arguments.warmup_seconds,
        "min_count": arguments.min_count,
        "max_duration_s": arguments.max_seconds or max(60.0, 2 * seconds),
        "pause_s": None if arguments.pause_ms is None else arguments.pause_ms / 1000,
    }
    try:
        return LatencySettings(
            min_duration_s=seconds,
            mode=mode,
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        raise SpecError(f"these settings make no run: {error}") from None


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Whatever is written to stdout inside goes to stderr, also by libraries to its descriptor."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # What C libraries hold back would be written at the end of the process.
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _print_table(run: BenchRun, load_1m: float | None) -> None:
    names = {output.name for output in run.outputs}
    rows: dict[str, object] = {
        "model": run.model,
        "engine": run.engine,
        "inference_precision": run.inference_precision,
        "threads": run.threads,
        "cpu_mask": run.cpu_mask or "none",
        "input_shape": list(run.input_shape),
        **{key: value and round(value, 3) for key, value in asdict(run.cold).items()},
    }
    if run.result is not None:
        rows["samples"] = len(run.result.samples_ns)
        for key, value in asdict(run.result.summary).items():
            if key != "count":
                rows[key] = "too few samples" if value is None else round(value, 3)
        # In the words of a run on a target.
        rows["verdict"] = "INVALID" if run.reasons else "valid"
        rows["reasons"] = list(run.reasons)
        rows["warnings"] = [*run.warnings, *load_warnings(load_1m), NOT_COMPARED]
    for output in run.outputs:
        text = f"{list(output.shape)} {output.dtype}"
        if output.non_finite:
            text += f", {output.non_finite} values not finite"
        if output.file:
            text += f" -> {output.file}"
        which = f"{output.image} " if len(run.outputs) > len(names) else ""
        rows[f"output {which}{output.name}"] = text
    for key, shown in rows.items():
        print(f"{key:<20} {shown}")
