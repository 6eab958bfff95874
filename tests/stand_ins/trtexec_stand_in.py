"""A stand-in for trtexec of several versions: their options, their formats, true answers.

After its sources (github.com/NVIDIA/TensorRT, ``samples/common``): what each version accepts, in
which words it fails, what it prints and exports. An engine is the ONNX file behind a line that says
what it belongs to; answers are ONNX Runtime's; times are made up on a clock that only counts, so
that a minute's measurement takes no minute. `install` puts one into a folder; run as a program it
gets the folder of its settings and the command line.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

Version = tuple[int, int, int]
MAGIC = b"ftrt stand-in engine\n"

_ALWAYS = """
onnx saveEngine loadEngine minShapes optShapes maxShapes shapes timingCacheFile loadInputs
iterations warmUp duration sleepTime idleTime exposeDMA noDataTransfers useSpinWait useCudaGraph
exportTimes exportOutput dumpOutput dumpProfile exportProfile separateProfileRun avgRuns percentile
verbose device plugins noTF32 help
"""


_NO_MEMORY = (
    "Error[2]: [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (Requested "
    "size was 536870912 bytes.)"
)
_OTHER_GPU = (
    "Error[6]: The engine plan file is generated on an incompatible device, expecting {} got {}, "
    "please rebuild."
)
_UNREADABLE = (
    "Error[1]: [stdArchiveReader.cpp::StdArchiveReaderInitCommon::46] Error Code 1: Serialization "
    "(Serialization assertion failed.{}.)"
)
_BAD_SHAPE = (
    "Error[3]: IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check "
    "failed, condition: engineDims.d[i] == dims.d[i])"
)
_BY_ENQUEUE = (
    "* Throughput may be bound by Enqueue Time rather than GPU Compute and the GPU may be "
    "under-utilized.\n  If not already in use, --useCudaGraph (utilize CUDA graphs where possible) "
    "may increase the throughput."
)
_BY_TRANSFERS = (
    "* Throughput may be bound by host-to-device transfers for the inputs rather than GPU Compute "
    "and the GPU may be under-utilized.\n  Add --noDataTransfers flag to disable data transfers."
)
_UNSTABLE = (
    "* GPU compute time is unstable, with coefficient of variance = {:g}%.\n  If not already in "
    "use, locking GPU clock frequency or adding --useSpinWait may improve the stability."
)

_LAZY = (
    "CUDA lazy loading is not enabled. Enabling it can significantly reduce device memory usage "
    "and speed up TensorRT initialization."
)


def options_of(version: Version) -> set[str]:
    """The options that a version knows, of those that matter here."""
    known = set(_ALWAYS.split())
    if version < (9,):
        known |= {"workspace", "buildOnly"}
    if version >= (8, 4):
        known.add("memPoolSize")
    if version >= (8, 6):
        known.add("skipInference")
    if version < (11,):
        known |= {"fp16", "int8", "best", "calib", "precisionConstraints"}
    else:
        known |= {"includeDataTransfers", "noSpinWait", "noCudaGraph"}
    return known


def install(folder: Path, version: Version, **settings: Any) -> Path:
    """Put ``trtexec`` of a version into a folder; the program.

    ``settings``: ``device`` (what engines belong to), ``compute_ms``, ``jitter`` (standard
    deviation over mean), ``fault`` (see `_build` and `_infer`), ``build_s``.
    """
    state = folder / "trtexec.state"
    state.mkdir(parents=True, exist_ok=True)
    (state / "settings.json").write_text(json.dumps({"version": version, **settings}))
    program = folder / "trtexec"
    words = [sys.executable, str(Path(__file__).resolve()), str(state)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$0" "$@"\n')
    program.chmod(0o755)
    return program


def calls(program: Path) -> list[list[str]]:
    """The command lines that the program was called with."""
    log = program.parent / "trtexec.state" / "calls"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def exported_times(program: Path) -> list[dict[str, float]]:
    """What the last measurement exported."""
    path = program.parent / "trtexec.state" / "times.json"
    rows: list[dict[str, float]] = json.loads(path.read_text())
    return rows


# --- the program ----------------------------------------------------------------------------------


class FailedError(Exception):
    """Its text is logged as an error; the program ends with FAILED."""


class Program:
    """One call."""

    def __init__(self, state: Path, argv: list[str]) -> None:
        self.state = state
        self.settings: dict[str, Any] = json.loads((state / "settings.json").read_text())
        first, second, third = self.settings["version"]
        self.version: Version = (first, second, third)
        self.fault: str = self.settings.get("fault", "")
        self.device: str = self.settings.get("device", "compute 8.7")
        number = first * 10000 if first >= 10 else first * 1000
        build = " [b30]" if first >= 10 else ""
        tag = f"TensorRT.trtexec [TensorRT v{number + second * 100 + third}]{build}"
        if self.fault == "no version":
            tag = "TensorRT.trtexec"
        self.test = f"{tag} # {shlex.join(argv)}"
        pairs = [text.lstrip("-").partition("=") for text in argv[1:]]
        self.options = {name: value for name, _, value in pairs}

    def log(self, severity: str, text: str) -> None:
        # Only information goes to stdout.
        stream = sys.stdout if severity == "I" else sys.stderr
        for line in text.splitlines() or [""]:
            print(f"[11/21/2026-18:00:00] [{severity}] {line}", file=stream, flush=True)

    def main(self) -> int:
        print(f"&&&& RUNNING {self.test}", flush=True)
        if "help" in self.options:
            print("=== Model Options ===\n  --onnx=<file>               ONNX model")
            return 0
        unknown = [name for name in self.options if name not in options_of(self.version)]
        for name in unknown:
            print("=== Model Options ===\n  --onnx=<file>               ONNX model")
            self.log("E", f"Unknown option: --{name} {self.options[name]}")
        if unknown:
            if self.version < (11, 1):
                print(f"&&&& FAILED {self.test}")
            return 1
        self.log("I", "=== Model Options ===\nFormat: ONNX")
        try:
            engine = self.build() if "onnx" in self.options else self.load()
            if {"buildOnly", "skipInference"} & set(self.options):
                self.log("I", "Skipped inference phase since --skipInference is added.")
            else:
                self.infer(*engine)
        except FailedError as error:
            self.log("E", str(error))
            print(f"&&&& FAILED {self.test}", flush=True)
            return 1
        print(f"&&&& PASSED {self.test}", flush=True)
        return 0

    def build(self) -> tuple[dict[str, Any], bytes]:
        time.sleep(self.settings.get("build_s", 0))
        self.log("E", "Error[9]: Skipping tactic 0x0000000000000000 due to exception")
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "no memory":
            self.log("E", _NO_MEMORY)
            raise FailedError("Engine could not be created from network")
        try:
            onnx = Path(self.options["onnx"]).read_bytes()
        except OSError:
            self.log("E", f"Could not open file {self.options['onnx']}")
            raise FailedError("Failed to parse onnx file") from None
        head = {
            "version": self.version,
            "device": self.device,
            "half": "fp16" in self.options,
            "least": self._shape("minShapes"),
            "most": self._shape("maxShapes"),
        }
        blob = MAGIC + json.dumps(head).encode() + b"\n" + onnx
        target = Path(self.options["saveEngine"])
        if self.fault == "disk full":
            target.write_bytes(blob[: len(blob) // 2])
            raise FailedError("Saving engine to file failed.")
        if self.fault == "half":
            target.write_bytes(blob[: len(blob) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault != "forgets":
            target.write_bytes(blob)
        if "timingCacheFile" in self.options:
            path = Path(self.options["timingCacheFile"])
            known = path.read_bytes() if path.exists() else b""
            path.write_bytes(known + hashlib.sha256(onnx).digest())
            self.log("I", f"Loaded {len(known)} bytes of timing cache from {path}")
        self.log("I", "Engine built in 214.3 sec.")
        return head, onnx

    def load(self) -> tuple[dict[str, Any], bytes]:
        path = Path(self.options["loadEngine"])
        if not path.exists():
            self.log("E", f"Error opening engine file: {path}")
            raise FailedError("Engine set up failed")
        blob = path.read_bytes()
        first, _, rest = blob.partition(b"\n")
        head, _, onnx = rest.partition(b"\n")
        if self.fault == "no memory":
            self.log("E", f"{_NO_MEMORY}\nEngine deserialization failed")
            raise FailedError("Inference set up failed")
        if first + b"\n" != MAGIC or not onnx:
            self._unreadable("Magic tag does not match")
        of: dict[str, Any] = json.loads(head)
        if tuple(of["version"]) != self.version:
            self._unreadable("Version tag does not match")
        if of["device"] != self.device:
            self.log("E", _OTHER_GPU.format(self.device, of["device"]))
            self._unreadable("")
        if self.version < (8, 5):
            self.log("I", "Engine loaded in 1.61726 sec.")
        else:
            self.log("I", "Engine loaded in 0.0366376 sec.\n[TRT] Loaded engine size: 28 MiB")
            self.log("I", "Engine deserialized in 0.0326257 sec.")
            self.log("W", f"[TRT] {_LAZY}")
        return of, onnx

    def _unreadable(self, why: str) -> None:
        if why:
            self.log("E", _UNREADABLE.format(why))
        self.log("E", "Engine deserialization failed\nGot invalid engine!")
        raise FailedError("Inference set up failed")

    def infer(self, of: dict[str, Any], onnx: bytes) -> None:
        import numpy as np
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(onnx, settings, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        shape = self._shape("shapes") or list(given.shape)
        least, most = of["least"] or shape, of["most"] or shape
        if not all(low <= is_ <= high for low, is_, high in zip(least, shape, most, strict=True)):
            self.log("E", _BAD_SHAPE)
            raise FailedError("Inference set up failed")
        image = np.random.default_rng(0).random(shape).astype(np.float32)
        if "loadInputs" in self.options:
            name, _, file = self.options["loadInputs"].partition(":")
            assert name == given.name
            data = Path(file).read_bytes()
            if len(data) != 4 * int(np.prod(shape)):
                raise FailedError(f"Note: Input size mismatch in {file}: {len(data)} bytes")
            image = np.frombuffer(data, np.float32).reshape(shape)
        self.log("I", f"Using values loaded from {given.name} for input {given.name}")
        if self.fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        answers = session.run(None, {given.name: image})
        names = [value.name for value in session.get_outputs()]
        if self.fault == "nan":
            answers[0] = np.full_like(answers[0], np.nan)
        self.report(self.trace())
        if "exportOutput" in self.options and self.fault != "forgets":
            write_output(Path(self.options["exportOutput"]), dict(zip(names, answers, strict=True)))

    def _shape(self, option: str) -> list[int] | None:
        text = self.options.get(option, "").partition(":")[2]
        return [int(size) for size in text.split("x")] if text else None

    # --- times ------------------------------------------------------------------------------------

    def trace(self) -> list[dict[str, float]]:
        """Rows of (enqueued, h2d, compute, d2h) as the loop with two buffers makes them."""
        import numpy as np

        warm_ms = float(self.options.get("warmUp", 200))
        end_ms = warm_ms + 1000 * float(self.options.get("duration", 3))
        wanted = int(self.options.get("iterations", 10))
        idle_ms = float(self.options.get("idleTime", 0))
        mean_ms = float(self.settings.get("compute_ms", 2.0))
        rng = np.random.default_rng(3)
        rows: list[dict[str, float]] = []
        now_ms = seen_ms = 0.0
        skipped = 0
        while len(rows) < wanted + skipped or seen_ms < end_ms:
            compute_ms = mean_ms * (1 + self.settings.get("jitter", 0.001) * rng.standard_normal())
            h2d_ms, d2h_ms = 0.25 + rng.uniform(0, 0.01), 0.125 + rng.uniform(0, 0.01)
            begin_ms = now_ms + h2d_ms
            row = {
                "startEnqMs": max(0.0, now_ms - mean_ms / 2),
                "endEnqMs": max(0.0, now_ms - mean_ms / 2) + 0.5,
                "startH2dMs": now_ms,
                "endH2dMs": begin_ms,
                "startComputeMs": begin_ms,
                "endComputeMs": begin_ms + compute_ms,
                "startD2hMs": begin_ms + compute_ms,
                "endD2hMs": begin_ms + compute_ms + d2h_ms,
                "h2dMs": h2d_ms,
                "computeMs": compute_ms,
                "d2hMs": d2h_ms,
                "latencyMs": h2d_ms + compute_ms + d2h_ms,
            }
            if self.version < (8, 4):
                row["endToEndMs"] = row["latencyMs"] + mean_ms
            # It waits for the run before the one that it has just begun.
            seen_ms = rows[-1]["endD2hMs"] if rows else 0.0
            rows.append(row)
            now_ms = row["endD2hMs"]
            if seen_ms < warm_ms:
                skipped += seen_ms > 0
            else:
                now_ms += idle_ms
        return rows

    def report(self, rows: list[dict[str, float]]) -> None:
        warm_ms = float(self.options.get("warmUp", 200))
        timed = [row for row in rows if row["startComputeMs"] >= warm_ms]
        warmed = len(rows) - len(timed)
        wall_s = (timed[-1]["endD2hMs"] - timed[0]["startH2dMs"]) / 1000
        self.log("I", f"Warmup completed {warmed} queries over {warm_ms:g} ms")
        self.log("I", f"Timing trace has {len(timed)} queries over {wall_s:g} s")
        self.log("I", "\n=== Performance summary ===")
        self.log("I", f"Throughput: {len(timed) / wall_s:g} qps")
        enqueued = [row["endEnqMs"] - row["startEnqMs"] for row in timed]
        columns = {
            "Latency": [row["latencyMs"] for row in timed],
            **(
                {"End-to-End Host Latency": [row["endToEndMs"] for row in timed]}
                if self.version < (8, 4)
                else {}
            ),
            "Enqueue Time": enqueued,
            "H2D Latency": [row["h2dMs"] for row in timed],
            "GPU Compute Time": [row["computeMs"] for row in timed],
            "D2H Latency": [row["d2hMs"] for row in timed],
        }
        shares = (99,) if self.version < (8, 5) else (90, 95, 99)
        for name, values in columns.items():
            tail = "".join(
                f", percentile({share}%) = {percentile(values, share):g} ms" for share in shares
            )
            self.log(
                "I",
                f"{name}: min = {min(values):g} ms, max = {max(values):g} ms, mean = "
                f"{fmean(values):g} ms, median = {median(values):g} ms{tail}",
            )
        compute = columns["GPU Compute Time"]
        self.log("I", f"Total Host Walltime: {wall_s:g} s")
        self.log("I", f"Total GPU Compute Time: {sum(compute) / 1000:g} s")
        self.warn(enqueued, columns["H2D Latency"], compute)
        self.log("I", "Explanations of the performance metrics are printed in the verbose logs.")
        if "exportTimes" in self.options and self.fault != "no times":
            # Older ones export the runs of the warm-up as well.
            text = json_times(rows if self.version < (8, 5) else timed)
            Path(self.options["exportTimes"]).write_text(text)
            (self.state / "times.json").write_text(text)

    def warn(self, enqueue: list[float], h2d: list[float], compute: list[float]) -> None:
        if median(enqueue) > 0.8 * median(compute):
            self.log("W", _BY_ENQUEUE)
        if median(h2d) >= median(compute):
            self.log("W", _BY_TRANSFERS)
        percent = 100 * pstdev(compute) / fmean(compute)
        if self.version >= (8, 4) and percent > (2.5 if self.version >= (10, 16) else 1.0):
            self.log("W", _UNSTABLE.format(percent))


def percentile(values: list[float], share: float) -> float:
    """The one that ``findPercentile`` takes."""
    return sorted(values)[max(len(values) - 1 - int((1 - share / 100) * len(values)), 0)]


def json_times(rows: list[dict[str, float]]) -> str:
    """The layout of ``exportJSONTrace``, numbers of six digits."""
    lines = ("{ " + ", ".join(f'"{k}" : {v:g}' for k, v in row.items()) + " }" for row in rows)
    return "[\n  " + "\n, ".join(lines) + "\n]\n"


def write_output(path: Path, outputs: dict[str, Any]) -> None:
    """The layout of ``exportJSONOutput``, numbers of six digits."""
    entries = []
    for name, value in outputs.items():
        sizes = "x".join(map(str, value.shape))
        numbers = ", ".join(f"{number:g}" for number in value.reshape(-1))
        head = f'{{ "name" : "{name}"\n  , "dimensions" : "{sizes}"'
        entries.append(f'{head}\n  , "values" : [ {numbers} ]\n  }}')
    path.write_text("[\n  " + "\n, ".join(entries) + "\n]\n")


def main() -> int:
    state, *argv = sys.argv[1:]
    with (Path(state) / "calls").open("a") as stream:
        stream.write(json.dumps(argv) + "\n")
    return Program(Path(state), argv).main()


if __name__ == "__main__":
    sys.exit(main())
