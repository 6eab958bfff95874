"""Several people: one by one, as one batch, or in two streams, measured in turn.

``python -m tests.benches.bench_streams FOLDER --threads N``: for each variant of the pose model in
FOLDER the networks' time for 4 and 8 people, cropped beforehand. ``one by one`` and ``one batch``
use one session with all threads, ``two streams`` two sessions with half of them each, called by
two Python threads with half of the people each, one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edge.artifact import Artifact, load_artifact
from edge.errors import EdgeError
from edge.runner import noise
from edge.session import EngineSettings, InferencePrecision, open_session, shipped_precision
from tests.stand_ins.make_goal import end_with

PEOPLE = (4, 8)
WAYS = ("one by one", "one batch", "two streams")
# Until the threads of the other way have stopped to look for work.
_ASLEEP_S = 0.05


def variants(folder: Path) -> Iterator[tuple[Artifact, InferencePrecision]]:
    """The pose model's variants, float ones of OpenVINO in bf16 as well."""
    for manifest in sorted(folder.glob("*/artifact.json")):
        try:
            artifact = load_artifact(manifest.parent)
        except EdgeError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if artifact.spec.task == "pose":
            yield artifact, shipped_precision(artifact)
            if str(artifact.variant) == "openvino-fp32":
                yield artifact, "bf16"


def ways(
    artifact: Artifact, precision: InferencePrecision, threads: int, people: int, stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """The ways that this variant can go."""

    def opened(count: int) -> Any:
        session = open_session(artifact, EngineSettings(count, precision))
        return stack.enter_context(closing(session))

    name = artifact.spec.input.name
    batch = np.repeat(noise(artifact.spec)[:1], people, axis=0)
    whole = opened(threads)

    def one_by_one(session: Any, count: int) -> None:
        for index in range(count):
            session.run({name: batch[index : index + 1]})

    found: dict[str, Callable[[], object]] = {}
    if whole.max_batch in (None, 1):
        found["one by one"] = lambda: one_by_one(whole, people)
    if whole.max_batch in (None, people):
        found["one batch"] = lambda: whole.run({name: batch})
    if whole.max_batch in (None, 1) and threads > 1:
        halves = [opened(threads // 2), opened(threads - threads // 2)]
        pool = stack.enter_context(ThreadPoolExecutor(2))
        shares = (people // 2, people - people // 2)
        found["two streams"] = lambda: list(pool.map(one_by_one, halves, shares))
    return found


def measured(calls: dict[str, Callable[[], object]], rounds: int, repeat: int) -> dict[str, float]:
    """Medians in ms; the ways take turns, every other round in the opposite order."""
    times: dict[str, list[float]] = {way: [] for way in calls}
    for number in range(rounds):
        for way in list(calls) if number % 2 == 0 else list(reversed(calls)):
            time.sleep(_ASLEEP_S)
            calls[way]()
            for _ in range(repeat):
                start = time.perf_counter_ns()
                calls[way]()
                times[way].append((time.perf_counter_ns() - start) / 1e6)
    return {way: median(samples) for way, samples in times.items()}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each variant and number of people, the ways that it cannot go as a dash."""
    form = "{:<34} {:>7}" + " {:>13}" * len(WAYS)
    lines = [form.format("pose network alone", "people", *WAYS)]
    for row in rows:
        times = [f"{row['ms'][way]:.2f} ms" if way in row["ms"] else "-" for way in WAYS]
        lines.append(form.format(row["variant"], row["people"], *times))
    return lines


def main() -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=5, help="calls a round (default: 5)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for artifact, precision in variants(arguments.folder):
        for people in PEOPLE:
            with ExitStack() as stack:
                calls = ways(artifact, precision, arguments.threads, people, stack)
                times = measured(calls, arguments.rounds, arguments.repeat)
            variant = str(artifact.variant) + (" in bf16" if precision == "bf16" else "")
            rows.append({"variant": variant, "people": people, "ms": times})
    print(json.dumps(rows) if arguments.json else "\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    end_with("bench_streams", main)
