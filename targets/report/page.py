"""Runs as one HTML page that needs nothing else: no server, no network, not even another file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from edge.latency import P90_SAMPLES, P99_SAMPLES
from edge.printable import printable
from targets import ROOM
from targets.device_state import BatteryRecord
from targets.report.overview import at_a_glance, threads_text, trade_off
from targets.report.plots import Figure, histogram, over_time, state_over_time
from targets.report.svg import milliseconds
from targets.report.tables import Group, group_runs, run_notes
from targets.result import EMULATED, RunResult

__all__ = ["html_page"]


def html_page(runs: Sequence[RunResult], *, made: datetime, title: str = "Latency report") -> str:
    """The page for a browser, UTF-8. ``made`` is printed as its date."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    groups = sorted(group_runs(runs), key=_order)
    folder = ROOM / "report"
    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = templates.get_template("page.html.j2").render(
        title=title,
        made=f"{made:%Y-%m-%d %H:%M}",
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),
        devices=" · ".join(dict.fromkeys(f"{run.target}: {_machine(run)}" for run in runs)),
        tiles=_tiles(runs),
        columns=_COLUMNS,
        rows=[_row(group) for group in groups],
        glance=Markup(at_a_glance(groups)),
        trade=Markup(trade_off(groups)),
        runs=[card for group in groups for card in _cards(group)],
        reading=_READING,
    )
    return printable(page, lines=True)


def _machine(run: RunResult) -> str:
    """The device's model, or else its name, and its chip or CPU."""
    device = run.device
    return ", ".join(dict.fromkeys(filter(None, (device.model or device.name, device.soc))))


def _order(group: Group) -> tuple[bool, bool, str, str, str]:
    """What counts first, then by device and model; repeats of the order in which they ran."""
    run = group.runs[0]
    return group.emulated, not group.used, run.target, run.device.name, run.artifact.title


def _tiles(runs: Sequence[RunResult]) -> list[tuple[int, str, str]]:
    emulated = sum(run.emulated for run in runs)
    invalid = sum(not run.valid and not run.emulated for run in runs)
    tiles = [
        (len(runs), "run" if len(runs) == 1 else "runs", ""),
        (len(runs) - emulated - invalid, "valid", "good"),
        (invalid, "INVALID", "bad" if invalid else ""),
        (emulated, EMULATED, "dim"),
    ]
    return [tile for tile in tiles if tile[0] or tile[1] != EMULATED]


_COLUMNS = (
    ("What", "text"), ("Verdict", "text"), ("How", "text"), ("Runs", "number"),
    ("p50 ms", "number"), ("p90 ms", "number"), ("p99 ms", "number"),
    ("First ms", "number"), ("Published ms", "number"), ("Ratio", "number"), ("Accuracy", "number"),
)  # fmt: skip


def _row(group: Group) -> dict[str, object]:
    run, accuracy, ratio = group.runs[0], group.runs[0].artifact.accuracy, group.ratio
    samples = sum(run.summary.count for run in group.runs)

    def duration(
        value: Callable[[RunResult], float | None], *, percentile: bool = False
    ) -> tuple[str, float | None]:
        figure = group.middle(value)
        if group.emulated:
            return "-", None
        if figure is None:
            return ("too few" if percentile and samples else "-"), None
        return (milliseconds(figure) if group.used else f"({milliseconds(figure)})"), figure

    points = accuracy.loss_points if accuracy else None
    lost = "" if points is None else _lost(points)
    p50, p50_key = duration(lambda run: run.summary.p50_ms)
    several = len(group.p50s_ms) > 1
    spread = " to ".join(milliseconds(group.p50s_ms[i]) for i in (0, -1)) if several else ""
    first, first_key = duration(lambda run: run.cold.first_inference_ms)
    load, load_key = duration(lambda run: run.cold.load_ms)
    artifact = run.artifact
    plain = "-", None
    cells: list[tuple[str, float | str | None, str]] = [
        ("", f"{artifact.title} {artifact.variant} {run.target}", ""),
        ("", group.verdict, ""),
        (
            f"{run.inference_precision}, {run.threads}\N{NO-BREAK SPACE}thr.",
            f"{run.mode} {run.inference_precision} {run.threads:04}",
            f"{run.mode}, {run.runner.name}",
        ),
        ("", len(group.runs), f"{samples} samples"),
        (p50, p50_key, spread),
        (*duration(lambda run: run.summary.p90_ms, percentile=True), ""),
        (*duration(lambda run: run.summary.p99_ms, percentile=True), ""),
        (first, first_key, "" if load_key is None else f"{load} load"),
        (milliseconds(run.published.latency_ms), run.published.latency_ms, "")
        if run.published
        else (*plain, ""),
        (*plain, "") if ratio is None else (f"{ratio:.2f}", ratio, ""),
        (f"{accuracy.metric} {accuracy.value:.4f}", accuracy.value, lost)
        if accuracy
        else (*plain, ""),
    ]
    return {
        "kind": _kind(group.used[0] if group.used else run),
        "id": run.run_id,
        "title": artifact.title,
        "variant": artifact.variant,
        "where": f"{run.target}, {run.device.name}",
        "badges": _badges(group),
        "links": [(one.run_id, one.valid or one.emulated) for one in group.runs],
        "cells": [
            (name, kind, "" if key is None else str(key), text, dim)
            for (name, kind), (text, key, dim) in zip(_COLUMNS, cells, strict=True)
        ],
    }


def _lost(points: float) -> str:
    if abs(points) < 0.005:
        return "none lost"
    return f"{abs(points):.2f} points {'lost' if points > 0 else 'gained'}"


def _kind(run: RunResult) -> str:
    return "emulated" if run.emulated else "valid" if run.valid else "invalid"


def _badge(run: RunResult, count: int = 0) -> tuple[str, str]:
    """Kind and verdict of a run, or of so many of its kind."""
    return _kind(run), f"{count} {run.verdict}" if count else run.verdict


def _badges(group: Group) -> list[tuple[str, str]]:
    """One where all runs are alike, else one a kind with its number."""
    kinds: dict[str, list[RunResult]] = {}
    for run in sorted(group.runs, key=lambda run: not run.valid):
        kinds.setdefault(_kind(run), []).append(run)
    if len(kinds) == 1:
        return [_badge(group.runs[0])]
    return [_badge(runs[0], len(runs)) for runs in kinds.values()]


def _cards(group: Group) -> list[dict[str, object]]:
    count = len(group.runs)
    return [
        _run(run, f", run {number} of {count}" if count > 1 else "")
        for number, run in enumerate(group.runs, start=1)
    ]


def _run(run: RunResult, which: str) -> dict[str, object]:
    """One run as a card: what it was, what speaks against it, its pictures, its facts."""
    stamp = EMULATED if run.emulated else "" if run.valid else "INVALID"
    plots: list[Figure] = []
    if run.samples_ns:
        plots = [histogram(run, stamp), over_time(run, stamp), *state_over_time(run, stamp)]
    return {
        "kind": _kind(run),
        "id": run.run_id,
        "title": run.artifact.title,
        "variant": run.artifact.variant,
        "how": f"on {run.target}, {threads_text(run)}, {run.mode}{which}",
        "started": run.started_utc,
        "minute": _minute(run),
        "badge": _badge(run),
        "notes": run_notes(run),
        "label": f"{EMULATED}; the figures say how long the emulator took." if run.emulated else "",
        "figures": _figures(run),
        "plots": plots,
        "facts": _facts(run),
    }


def _minute(run: RunResult) -> str:
    return run.started_utc[:16].replace("T", " ")


def _figures(run: RunResult) -> list[tuple[str, str]]:
    """Names and milliseconds; empty where the samples are too few."""
    figures = run.summary
    pairs = [
        ("p50", figures.p50_ms), ("p90", figures.p90_ms), ("p99", figures.p99_ms),
        ("mean", figures.mean_ms), ("min", figures.min_ms), ("max", figures.max_ms),
        ("load", run.cold.load_ms), ("first", run.cold.first_inference_ms),
    ]  # fmt: skip
    return [
        (name, "" if value is None else milliseconds(value))
        for name, value in pairs
        if value is not None or (name in ("p90", "p99") and figures.count)
    ]


def _facts(run: RunResult) -> dict[str, str]:
    device, artifact, published = run.device, run.artifact, run.published
    facts: dict[str, str] = {
        "Run": run.run_id,
        "Started": run.started_utc,
        "Device": _joined(device.name, device.model, device.soc, device.os, device.arch,
                          device.cores and f"{device.cores} cores"),
        "Transport": run.transport,
        "Engine": f"{run.engine}, computes in {run.inference_precision}",
        "Runner": f"{run.runner.name} {run.runner.version}",
        "Cores": f"mask {run.cpu_mask or 'none'}, held {run.affinity or 'not known'}",
        "Input": "x".join(str(side) for side in run.input_shape),
        "Artifact": f"{artifact.key or 'no key'}, {artifact.size_bytes / 1e6:.2f} MB",
        **_pipeline(run),
        "Answers": run.parity.summary if run.parity else "not checked on the device",
        "Published": f"{published.latency_ms:g} ms: {published.source}" if published else "nothing",
        "Settings": _pairs(run.settings),
    }  # fmt: skip
    for name, state in (("State before", run.state_before), ("State after", run.state_after)):
        if state:
            facts[name] = _joined(
                _pairs({k: f"{v:g} °C" for k, v in state.temperatures_c.items()}),
                _pairs({k: f"{v / 1e6:.2f} GHz" for k, v in state.clocks_khz.items()}),
                state.thermal_status is not None and f"thermal status {state.thermal_status}",
                state.throttle_bits is not None and f"throttle bits {state.throttle_bits:#x}",
                _pairs({f"throttled ({k})": v for k, v in state.throttle_counts.items()}),
                state.battery and _battery(state.battery),
                "governor " + ", ".join(dict.fromkeys(state.governors.values()))
                if state.governors
                else None,
                state.power_mode and f"power mode {state.power_mode}",
                state.power_mw is not None and f"{state.power_mw / 1e3:.2f} W",
                state.load_1m is not None and f"load {state.load_1m:g}",
            )
            if state.unreadable:
                facts[f"{name}, unreadable"] = "; ".join(state.unreadable)
    return facts


def _pipeline(run: RunResult) -> dict[str, str]:
    pipeline = run.artifact.pipeline
    if pipeline is None:
        return {}
    name = f"{pipeline.detector} {pipeline.detector_variant}, {pipeline.detector_key or 'no key'}"
    work = "from pixels to keypoints" if pipeline.whole else "of the networks alone"
    frames = f"a sample is the mean frame of {pipeline.interval} in a row, {work}"
    return {"Detector": f"{name}; {frames}"}


def _battery(battery: BatteryRecord) -> str:
    words = [
        battery.level_percent is not None and f"battery {battery.level_percent} %",
        {True: "powered", False: "not powered", None: ""}[battery.powered],
        battery.saver and "saver on",
    ]
    return ", ".join(str(word) for word in words if word)


def _joined(*parts: object) -> str:
    return "; ".join(str(part) for part in parts if part)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


_READING = (
    "A percentile is the smallest sample that at least so many percent do not exceed. p90 "
    f"needs {P90_SAMPLES} samples and p99 {P99_SAMPLES}; below that it says too few.",
    "A run is INVALID when the state of the device, its answers or the spread of the samples "
    "say that it was not fair. Its reasons are given, and it enters no median, no picture with "
    "other runs and no comparison.",
    f"{EMULATED}: another machine played the device. Its answers count, its times do not.",
    "The ratio is the measured median over the published figure, above 1 where it is slower. "
    "Published figures come without a recipe, so it is a hint, not a verdict.",
)
