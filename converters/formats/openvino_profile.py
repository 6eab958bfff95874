"""Where OpenVINO spends its time in a network, by its own clock.

``python -m converters.formats.openvino_profile ARTIFACT...`` prints a table an artifact.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.engines.openvino import import_openvino, keep_signal_stack
from edge.errors import EdgeError, SpecError

__all__ = ["LayerKind", "layer_kinds", "profile_table"]


@dataclass(frozen=True)
class LayerKind:
    """Layers of one kind that one implementation computes, and the time of one run in all."""

    kind: str
    implementation: str
    """As OpenVINO calls it; the end tells the arithmetic: ``_I8``, ``_f32``."""
    layers: int
    time_us: float


def layer_kinds(artifact: Artifact, *, threads: int = 1, runs: int = 50) -> list[LayerKind]:
    """The layers of an ``openvino-*`` artifact by kind and implementation, slowest first.

    In float32, on a random input; medians over ``runs`` after 5 more. The sum is near the latency
    on one thread. What OpenVINO fused into another layer takes no time and is left out.
    """
    if artifact.variant.format != "openvino":
        raise SpecError(f"{artifact.folder} is {artifact.variant}, no openvino artifact")
    openvino = import_openvino()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    with keep_signal_stack():
        core = openvino.Core()
        model = core.read_model(artifact.path("model"), artifact.path("weights"))
        request = core.compile_model(model, "CPU", options).create_infer_request()
    shape = [size or 1 for size in artifact.spec.input.shape]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    times_us = defaultdict(list)
    for run in range(runs + 5):
        request.infer({artifact.spec.input.name: image})
        if run >= 5:
            for layer in request.get_profiling_info():
                key = (layer.node_name, layer.node_type, layer.exec_type)
                times_us[key].append(layer.real_time.total_seconds() * 1e6)
    counts: Counter[tuple[str, str]] = Counter()
    sums: Counter[tuple[str, str]] = Counter()
    for (_, kind, implementation), samples in times_us.items():
        if median(samples) > 0:
            counts[kind, implementation] += 1
            sums[kind, implementation] += median(samples)
    return [LayerKind(*key, counts[key], time_us) for key, time_us in sums.most_common()]


def profile_table(kinds: list[LayerKind], top: int = 8) -> str:
    """The slowest kinds as text, and what is left."""
    total_us = sum(kind.time_us for kind in kinds)
    rows = [
        f"{kind.time_us:8.0f} us {100 * kind.time_us / total_us:5.1f} %  {kind.layers:4d}  "
        f"{kind.kind:<18} {kind.implementation}"
        for kind in kinds[:top]
    ]
    rest_us = sum(kind.time_us for kind in kinds[top:])
    return "\n".join([*rows, f"{rest_us:8.0f} us  in others", f"{total_us:8.0f} us  in all"])


def main(folders: list[str]) -> int:
    """A table an artifact folder; 1 with one line where that fails."""
    try:
        for folder in folders:
            artifact = load_artifact(Path(folder))
            print(f"{artifact.folder.name}, one thread:\n{profile_table(layer_kinds(artifact))}")
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
