"""Our latency figures against the engines' own tools, in one run: `make bench-harness`.

Both sides run as processes of their own, in turn (A B, then B A), on the same model file, input,
number of threads and precision. Of each round the medians are compared, and of the rounds' ratios
the median must lie within 5 %. Beside it the harness's own part of a 1 ms call must be below 1 %.

onnxruntime: its wheel has no tool, so the bare loop of `vendor_loops.py`. openvino:
``benchmark_app``, and the loop of its sample ``sync_benchmark``. The former's latency leaves out
what ``infer()`` spends around the network (0.2 ms of 10 where this was written), so that is added
from what it prints; the ratio without it is told below the table. ncnn: the loop of ``benchncnn``,
against the Python engine and against the native runner. tflite: the wheel's
``benchmark_litert_model``, which makes its own noise; it times the network alone, ours also turns
images and outputs into its order of axes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.errors import ToolError
from edge.latency import LatencySettings, percentile_ms
from edge.runner import noise
from targets.runners.native.build import find_runner
from targets.runners.native.session import NativeSession, place_runner
from targets.transports.local import open_local
from tests.benches.harness_overhead import harness_overhead
from tests.stand_ins.make_goal import end_with

Engine = Literal["onnxruntime", "openvino", "openvino-call", "ncnn", "ncnn-native", "tflite"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
MODELS = ("rtmpose-t-demo", "rtmdet-nano-demo")
LIMIT = 0.05
OVERHEAD_LIMIT = 0.01

_VARIANTS: dict[str, str] = {
    "onnxruntime": "onnx-fp32",
    "openvino": "openvino-fp32",
    "openvino-call": "openvino-fp32",
    "ncnn": "ncnn-fp16",
    "ncnn-native": "ncnn-fp16",
    "tflite": "tflite-fp32",
}
_WARM_UP_S = 0.3
_TIMEOUT_S = 300.0
_LOOPS = Path(__file__).with_name("vendor_loops.py")


@dataclass(frozen=True)
class Timed:
    """One side of one round: the median, the engine with its version, what it says it held to.

    ``printed_ms`` is what a tool calls its median where that is not the whole call's.
    """

    p50_ms: float
    engine: str
    precision: str
    threads: int
    count: int
    printed_ms: float | None = None


@dataclass(frozen=True)
class Pair:
    """What is compared: each side a call that runs a process and reads its figure."""

    model: str
    engine: Engine
    vendor: str
    ours: Callable[[], Timed]
    theirs: Callable[[], Timed]


@dataclass(frozen=True)
class Comparison:
    """The rounds of a pair: medians of a side's medians, and of the rounds' ratios."""

    model: str
    engine: Engine
    vendor: str
    ours: tuple[Timed, ...]
    theirs: tuple[Timed, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, round by round."""
        return [a.p50_ms / b.p50_ms for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(self.ratios)

    @property
    def printed_ratio(self) -> float | None:
        """The same against the median as the tool prints it, None where that is the call's."""
        printed = [side.printed_ms for side in self.theirs]
        ratios = [a.p50_ms / ms for a, ms in zip(self.ours, printed, strict=True) if ms is not None]
        return median(ratios) if ratios else None

    @property
    def differences(self) -> list[str]:
        """What was not the same on both sides, so that nothing is compared."""
        found = []
        for what in ("engine", "precision", "threads"):
            ours = {getattr(side, what) for side in self.ours}
            theirs = {getattr(side, what) for side in self.theirs}
            if len(ours | theirs) > 1:
                found.append(f"{what}: ours {_words(ours)}, theirs {_words(theirs)}")
        return found

    @property
    def agrees(self) -> bool:
        """Whether like was compared with like and the figures are within the limit."""
        return not self.differences and 1 - LIMIT <= self.ratio <= 1 + LIMIT

    def to_json(self) -> dict[str, Any]:
        """All rounds, with what follows from them."""
        return {
            **asdict(self),
            "ratios": self.ratios,
            "ratio": self.ratio,
            "printed_ratio": self.printed_ratio,
            "differences": self.differences,
            "agrees": self.agrees,
        }


def compare(pair: Pair, rounds: int) -> Comparison:
    """Run both sides of a pair in turn, every other round in the other order."""
    ours: list[Timed] = []
    theirs: list[Timed] = []
    for number in range(rounds):
        turns = [(ours, pair.ours), (theirs, pair.theirs)]
        for found, side in turns if number % 2 == 0 else reversed(turns):
            found.append(side())
    return Comparison(pair.model, pair.engine, pair.vendor, tuple(ours), tuple(theirs))


# --- the sides ------------------------------------------------------------------------------------


def pairs(arguments: argparse.Namespace, folder: Path) -> Iterator[Pair]:
    """Everything that was asked for; ``folder`` takes the inputs."""
    for model in arguments.models:
        for engine in arguments.engines:
            artifact = load_artifact(arguments.out / "x86" / f"{model}-{_VARIANTS[engine]}")
            image = folder / f"{model}.npy"
            np.save(image, noise(artifact.spec))
            how = (artifact, image, arguments.threads, arguments.seconds)
            ours = _native if engine == "ncnn-native" else _edge_bench
            vendor, theirs = _VENDORS[engine]
            yield Pair(model, engine, vendor, partial(ours, *how), partial(theirs, *how))


def _edge_bench(artifact: Artifact, image: Path, threads: int, seconds: float) -> Timed:
    argv = ["edge", "bench", str(artifact.folder), "--json", "--threads", str(threads)]
    argv += ["--input", str(image), "--warmup-seconds", str(_WARM_UP_S)]
    argv += ["--min-seconds", str(seconds)]
    run = json.loads(printed_by([sys.executable, "-m", *argv]))
    if not run["valid"]:
        raise ToolError(f"`edge bench` says of its figure: {'; '.join(run['reasons'])}")
    samples = run["samples_ns"]
    return Timed(
        percentile_ms(samples, 50),
        run["engine"],
        run["inference_precision"],
        run["threads"],
        len(samples),
    )


def _native(artifact: Artifact, image: Path, threads: int, seconds: float) -> Timed:
    transport = open_local()
    runner = find_runner("x86_64")
    settings = LatencySettings(5, _WARM_UP_S, 1, seconds, max(60.0, 2 * seconds))
    program = place_runner(transport, runner)
    folder = str(artifact.folder.resolve())
    with closing(
        NativeSession(
            transport,
            artifact,
            program=[program],
            folder=folder,
            precision="fp16",
            threads=threads,
        )
    ) as session:
        run = session.measure({artifact.spec.input.name: np.load(image)}, settings)
    if run.reasons:
        raise ToolError(f"the runner says of its figure: {'; '.join(run.reasons)}")
    samples = run.samples_ns
    return Timed(
        percentile_ms(samples, 50), run.engine, run.inference_precision, run.threads, len(samples)
    )


def _loop(engine: str, artifact: Artifact, image: Path, threads: int, seconds: float) -> Timed:
    argv = [sys.executable, str(_LOOPS), engine, str(artifact.path("model")), str(image)]
    argv += ["--threads", str(threads), "--seconds", str(seconds)]
    found = json.loads(printed_by([*argv, "--warmup-seconds", str(_WARM_UP_S)]))
    samples = found["samples_ns"]
    return Timed(median(samples) / 1e6, found["engine"], "fp32", threads, len(samples))


def _benchmark_app(artifact: Artifact, image: Path, threads: int, seconds: float) -> Timed:
    argv = [str(Path(sys.executable).with_name("benchmark_app"))]
    argv += ["-m", str(artifact.path("model")), "-i", str(image), "-d", "CPU", "-api", "sync"]
    argv += ["-hint", "none", "-nstreams", "1", "-nthreads", str(threads)]
    argv += ["-t", str(math.ceil(seconds))]
    # Left to itself it takes an image as u8, and bf16 where the CPU has it.
    return read_benchmark_app(printed_by([*argv, "-ip", "f32", "-infer_precision", "f32"]))


def read_benchmark_app(text: str) -> Timed:
    """The figure in what ``benchmark_app`` prints, whose units change with their size.

    Its latency is the time that the runtime notes between start and end of a request. What a round
    of its loop takes besides (``Duration / Count - Average``) is added, for the caller waits for
    the whole: the request goes to another thread and back.
    """

    def printed(name: str, pattern: str) -> str:
        match = re.search(rf"\[ INFO \]\s+{name}{pattern}", text)
        if match is None:
            last = text.strip().splitlines()[-1:]
            raise ToolError(f"benchmark_app printed no {name}; its last line: {last}")
        return match[1]

    def ms(name: str) -> float:
        value, unit = printed(name, r":\s+([\d.]+ (?:us|ms))\s").split()
        return float(value) * {"us": 1e-3, "ms": 1.0}[unit]

    count = int(printed("Count", r":\s+(\d+) iterations"))
    precision = printed("INFERENCE_PRECISION_HINT", r": <Type: '(\w+)'>")
    return Timed(
        ms("Median") + ms("Duration") / count - ms("Average"),
        f"openvino {printed('Build', r' [.]+ ([0-9.]+)')}",
        {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(precision, precision),
        int(printed("INFERENCE_NUM_THREADS", r": (\d+)")),
        count,
        ms("Median"),
    )


def _litert(artifact: Artifact, image: Path, threads: int, seconds: float) -> Timed:
    del image  # it makes its own noise, and counts runs instead of seconds
    tool = "ai_edge_litert.tools.benchmark_litert_model"
    with tempfile.TemporaryDirectory(prefix="edgepose-") as text:
        result = Path(text) / "result.json"
        argv = ["--model", str(artifact.path("model")), "--num_threads", str(threads)]
        argv += ["--result_json", str(result), "--warmup_runs", "30"]
        argv += ["--num_runs", str(max(50, round(100 * seconds)))]
        printed_by([sys.executable, "-m", tool, *argv])
        found = json.loads(result.read_text(encoding="utf-8"))
    latency = found["latency"]
    return Timed(
        latency["median_ms"],
        f"ai-edge-litert {version('ai-edge-litert')}",
        "fp32",
        found["num_threads"],
        latency["num_runs"],
    )


_VENDORS: dict[str, tuple[str, Callable[[Artifact, Path, int, float], Timed]]] = {
    "onnxruntime": ("bare loop", partial(_loop, "onnxruntime")),
    "openvino": ("benchmark_app", _benchmark_app),
    "openvino-call": ("sync_benchmark's loop", partial(_loop, "openvino")),
    "ncnn": ("benchncnn's loop", partial(_loop, "ncnn")),
    "ncnn-native": ("benchncnn's loop", partial(_loop, "ncnn")),
    "tflite": ("benchmark_litert_model", _litert),
}


def printed_by(argv: Sequence[str]) -> str:
    """What a program printed; ToolError with its last line where it failed, or took too long."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ToolError(
            f"`{' '.join(argv[:4])} ...` did not end within {_TIMEOUT_S:g} s; try again when the "
            "machine has less to do"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ToolError(f"`{' '.join(argv[:4])} ...` exited with {done.returncode}: {said}")
    return done.stdout


def _words(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


# --- the whole run --------------------------------------------------------------------------------


def table(comparisons: Sequence[Comparison]) -> list[str]:
    """The lines that people read."""
    form = "{:<17} {:<13} {:<23} {:>9} {:>9} {:>7}  {:<15} {}"
    head = ("model", "engine", "against", "ours", "theirs", "ratio", "rounds from..to", "verdict")
    lines = [form.format(*head)]
    for one in comparisons:
        times = [median(side.p50_ms for side in sides) for sides in (one.ours, one.theirs)]
        verdict = "agrees" if one.agrees else "DISAGREES"
        lines.append(
            form.format(
                *(one.model, one.engine, one.vendor),
                *(f"{time_ms:.3f} ms"[:9] for time_ms in times),
                f"{one.ratio:.3f}",
                f"{min(one.ratios):.3f}..{max(one.ratios):.3f}",
                f"NOT COMPARED ({'; '.join(one.differences)})" if one.differences else verdict,
            ).rstrip()
        )
    return lines + [
        f"{one.model}: against the median that {one.vendor} prints, which is not the whole call's, "
        f"the ratio is {one.printed_ratio:.3f}"
        for one in comparisons
        if one.printed_ratio is not None
    ]


def make_artifacts(models: Sequence[str], engines: Sequence[str], out: Path) -> None:
    """Convert what is not there yet."""
    for model in models:
        variants = list(dict.fromkeys(_VARIANTS[engine] for engine in engines))
        missing = [name for name in variants if not (out / "x86" / f"{model}-{name}").is_dir()]
        if missing:
            argv = ["convert", "--target", "x86", "--model", model, "--out", str(out)]
            print(f"converting {model}: {', '.join(missing)}", file=sys.stderr, flush=True)
            printed_by([sys.executable, "-m", "edge", *argv, "--formats", ",".join(missing)])


def machine() -> dict[str, str | int]:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }


def main() -> int:
    """Run what was asked for; 1 where a figure disagrees."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=_names(MODELS), default=MODELS, metavar="M,M")
    parser.add_argument("--engines", type=_names(ENGINES), default=ENGINES, metavar="E,E")
    parser.add_argument("--threads", type=int, default=1, help="of both sides (default: 1)")
    parser.add_argument("--rounds", type=int, default=11, help="5 or more (default: 11)")
    parser.add_argument("--seconds", type=float, default=1.0, help="a side of a round (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("build/harness"), help="for artifacts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round there")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("--rounds is 5 or more: the median of fewer says nothing")
    if platform.machine() != "x86_64":
        parser.error("the vendors' sides are set up for x86-64")
    overhead = harness_overhead()
    make_artifacts(arguments.models, arguments.engines, arguments.out)
    about = {**machine(), "threads": arguments.threads, "rounds": arguments.rounds}
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="edgepose-") as folder:
        for pair in pairs(arguments, Path(folder)):
            print(f"{pair.model}: {pair.engine} against {pair.vendor}", file=sys.stderr, flush=True)
            comparisons.append(compare(pair, arguments.rounds))
    sides = {(side.engine, side.precision) for one in comparisons for side in one.ours}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(", ".join(f"{engine} in {precision}" for engine, precision in sorted(sides)))
    print("\n".join(table(comparisons)))
    quiet = overhead.share < OVERHEAD_LIMIT
    print(
        f"of a call of {overhead.call_ns / 1e6:g} ms the harness takes {overhead.share:.4%} "
        f"(limit {OVERHEAD_LIMIT:.0%}): {'kept' if quiet else 'TOO MUCH'}"
    )
    if arguments.json:
        report = {
            "machine": about,
            "seconds": arguments.seconds,
            "limit": LIMIT,
            "overhead": {**asdict(overhead), "share": overhead.share, "limit": OVERHEAD_LIMIT},
            "comparisons": [one.to_json() for one in comparisons],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if quiet and all(one.agrees for one in comparisons) else 1


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        given = text.split(",")
        if wrong := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return given

    return names


if __name__ == "__main__":
    end_with("bench_harness", main)
