"""Runs as one HTML page that needs nothing else: no server, no network, not even another file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

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
    groups = sorted(group_runs(runs), key=_order)
    sections = [
        _head(runs, title, made),
        _results(groups),
        at_a_glance(groups),
        trade_off(groups),
        '<section aria-labelledby="runs"><h2 id="runs">Every run</h2>',
        *(_cards(group) for group in groups),
        "</section>",
        _reading(),
    ]
    style = (ROOM / "report" / "report.css").read_text(encoding="utf-8")
    script = (ROOM / "report" / "report.js").read_text(encoding="utf-8")
    # The policy is a promise that a browser keeps: this page asks nobody for anything.
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
<main>
{"".join(f"{section}{chr(10)}" for section in sections)}</main>
<script>
{script}</script>
</body>
</html>
"""
    return printable(page, lines=True)


def _machine(run: RunResult) -> str:
    """The device's model, or else its name, and its chip or CPU."""
    device = run.device
    return ", ".join(dict.fromkeys(filter(None, (device.model or device.name, device.soc))))


def _order(group: Group) -> tuple[bool, bool, str, str, str]:
    """What counts first, then by device and model; repeats of the order in which they ran."""
    run = group.runs[0]
    return group.emulated, not group.used, run.target, run.device.name, run.artifact.title


def _head(runs: Sequence[RunResult], title: str, made: datetime) -> str:
    emulated = sum(run.emulated for run in runs)
    invalid = sum(not run.valid and not run.emulated for run in runs)
    tiles = [
        (len(runs), "run" if len(runs) == 1 else "runs", ""),
        (len(runs) - emulated - invalid, "valid", "good"),
        (invalid, "INVALID", "bad" if invalid else ""),
        (emulated, EMULATED, "dim"),
    ]
    shown = "".join(
        f'<li class="{kind}"><b>{count}</b> {escape(text)}</li>'
        for count, text, kind in tiles
        if count or text != EMULATED
    )
    devices = dict.fromkeys(f"{run.target}: {_machine(run)}" for run in runs)
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="dim">{escape(" · ".join(devices))}</p>'
        f'<p class="dim">Made {made:%Y-%m-%d %H:%M} UTC by edgepose.</p>'
        f'<ul class="tiles">{shown}</ul></header>'
    )


_COLUMNS = (
    ("What", "text"), ("Verdict", "text"), ("How", "text"), ("Runs", "number"),
    ("p50 ms", "number"), ("p90 ms", "number"), ("p99 ms", "number"),
    ("First ms", "number"), ("Published ms", "number"), ("Ratio", "number"), ("Accuracy", "number"),
)  # fmt: skip


def _results(groups: Sequence[Group]) -> str:
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{escape(name)}</button></th>'
        for name, kind in _COLUMNS
    )
    rows = "".join(_row(group) for group in groups)
    return (
        '<section aria-labelledby="results"><h2 id="results">Results</h2>'
        '<p class="dim">Runs that repeat each other share a row<span class="sortable">; a heading '
        "sorts by it</span>. A row shows the median of its valid runs; the fastest and slowest "
        "run are below the p50. Figures of INVALID runs are in brackets and are not used anywhere "
        "else. Ratio: measured latency divided by the published one.</p>"
        '<div class="wide" role="region" aria-labelledby="results" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _row(group: Group) -> str:
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

    name = (
        f'<a href="#run-{run.run_id}">{escape(run.artifact.title)} '
        f"<b>{escape(run.artifact.variant)}</b></a>"
        f'<span class="dim">{escape(run.target)}, {escape(run.device.name)}</span>'
    )
    points = accuracy.loss_points if accuracy else None
    lost = "" if points is None else f' <span class="dim">{_lost(points)}</span>'
    p50, p50_key = duration(lambda run: run.summary.p50_ms)
    if len(group.p50s_ms) > 1:
        low, high = group.p50s_ms[0], group.p50s_ms[-1]
        p50 += f'<span class="dim">{milliseconds(low)} to {milliseconds(high)}</span>'
    first, first_key = duration(lambda run: run.cold.first_inference_ms)
    load, load_key = duration(lambda run: run.cold.load_ms)
    load = "" if load_key is None else f'<span class="dim">{load} load</span>'
    links = " ".join(
        f'<a href="#run-{one.run_id}"{_aside(one)}>{number}</a>'
        for number, one in enumerate(group.runs, start=1)
    )
    cells: list[tuple[str, str | float | None]] = [
        (name, f"{run.artifact.title} {run.artifact.variant} {run.target}"),
        (_badges(group), group.verdict),
        (
            f"{escape(run.inference_precision)}, {run.threads}&nbsp;thr."
            f'<span class="dim">{escape(run.mode)}, {escape(run.runner.name)}</span>',
            f"{run.mode} {run.inference_precision} {run.threads:04}",
        ),
        (f'{links}<span class="dim">{samples} samples</span>', len(group.runs)),
        (p50, p50_key),
        duration(lambda run: run.summary.p90_ms, percentile=True),
        duration(lambda run: run.summary.p99_ms, percentile=True),
        (first + load, first_key),
        (milliseconds(run.published.latency_ms), run.published.latency_ms)
        if run.published
        else ("-", None),
        ("-", None) if ratio is None else (f"{ratio:.2f}", ratio),
        (f"{escape(accuracy.metric)} {accuracy.value:.4f}{lost}", accuracy.value)
        if accuracy
        else ("-", None),
    ]
    shown = []
    for (label, kind), (text, value) in zip(_COLUMNS, cells, strict=True):
        tag = "th" if label == "What" else "td"
        scope = ' scope="row"' if tag == "th" else ""
        key = "" if value is None else escape(str(value))
        shown.append(
            f'<{tag}{scope} class="{kind}" data-label="{label}" data-sort="{key}">{text}</{tag}>'
        )
    kind = _kind(group.used[0] if group.used else run)
    return f'<tr class="{kind}">{"".join(shown)}</tr>'


def _aside(run: RunResult) -> str:
    """How the link to a run says that it does not count."""
    return "" if run.valid or run.emulated else ' class="bad" title="INVALID"'


def _lost(points: float) -> str:
    if abs(points) < 0.005:
        return "none lost"
    return f"{abs(points):.2f} points {'lost' if points > 0 else 'gained'}"


def _kind(run: RunResult) -> str:
    return "emulated" if run.emulated else "valid" if run.valid else "invalid"


def _badge(run: RunResult, count: int = 0) -> str:
    """The verdict of a run, or of so many of its kind."""
    sign = {"valid": "✓", "invalid": "✕", "emulated": "◌"}[_kind(run)]
    text = f"{count} {run.verdict}" if count else run.verdict
    return (
        f'<span class="badge {_kind(run)}"><span aria-hidden="true">{sign}</span> '
        f"{escape(text)}</span>"
    )


def _badges(group: Group) -> str:
    """One where all runs are alike, else one a kind with its number."""
    kinds: dict[str, list[RunResult]] = {}
    for run in sorted(group.runs, key=lambda run: not run.valid):
        kinds.setdefault(_kind(run), []).append(run)
    if len(kinds) == 1:
        return _badge(group.runs[0])
    return " ".join(_badge(runs[0], len(runs)) for runs in kinds.values())


def _cards(group: Group) -> str:
    count = len(group.runs)
    return "".join(
        _run(run, f"run {number} of {count}" if count > 1 else "")
        for number, run in enumerate(group.runs, start=1)
    )


def _run(run: RunResult, which: str = "") -> str:
    """One run as a card: what it was, what speaks against it, its pictures, its facts."""
    stamp = EMULATED if run.emulated else "" if run.valid else "INVALID"
    notes = "".join(f"<li>{escape(note)}</li>" for note in run_notes(run))
    if run.samples_ns:
        figures = [histogram(run, stamp), over_time(run, stamp), *state_over_time(run, stamp)]
        plots = f'<div class="plots">{"".join(_figure(figure) for figure in figures)}</div>'
    else:
        plots = '<p class="dim">No sample was taken.</p>'
    return (
        f'<article class="card {_kind(run)}" id="run-{run.run_id}" '
        f'aria-labelledby="h-{run.run_id}"><h3 id="h-{run.run_id}">'
        f"{escape(run.artifact.title)} {escape(run.artifact.variant)} "
        f'<span class="dim">on {escape(run.target)}, {threads_text(run)}, {escape(run.mode)}'
        f"{f', {which}' if which else ''}</span>"
        f' <time class="dim" datetime="{escape(run.started_utc)}">{escape(_minute(run))}</time>'
        f" {_badge(run)}</h3>"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}{_figures(run)}{plots}{_facts(run)}"
        "</article>"
    )


def _minute(run: RunResult) -> str:
    return run.started_utc[:16].replace("T", " ")


def _figure(figure: Figure) -> str:
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure><h4>{escape(figure.title)}</h4>{figure.svg}{caption}</figure>"


def _figures(run: RunResult) -> str:
    figures = run.summary
    pairs = [
        ("p50", figures.p50_ms), ("p90", figures.p90_ms), ("p99", figures.p99_ms),
        ("mean", figures.mean_ms), ("min", figures.min_ms), ("max", figures.max_ms),
        ("load", run.cold.load_ms), ("first", run.cold.first_inference_ms),
    ]  # fmt: skip
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{'too few' if value is None else milliseconds(value)}"
        f"{'' if value is None else ' <small>ms</small>'}</dd></div>"
        for name, value in pairs
        if value is not None or (name in ("p90", "p99") and figures.count)
    )
    label = f'<p class="dim">{EMULATED}; the figures say how long the emulator took.</p>'
    return f'{label if run.emulated else ""}<dl class="figures">{shown}</dl>'


def _facts(run: RunResult) -> str:
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
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f'<details><summary>All facts</summary><dl class="facts">{rows}</dl></details>'


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


def _reading() -> str:
    items: Iterable[str] = (
        "A percentile is the smallest sample that at least so many percent do not exceed. p90 "
        f"needs {P90_SAMPLES} samples and p99 {P99_SAMPLES}; below that it says too few.",
        "A run is INVALID when the state of the device, its answers or the spread of the samples "
        "say that it was not fair. Its reasons are given, and it enters no median, no picture with "
        "other runs and no comparison.",
        f"{EMULATED}: another machine played the device. Its answers count, its times do not.",
        "The ratio is the measured median over the published figure, above 1 where it is slower. "
        "Published figures come without a recipe, so it is a hint, not a verdict.",
    )
    shown = "".join(f"<li>{escape(item)}</li>" for item in items)
    return (
        '<section aria-labelledby="reading"><h2 id="reading">How to read it</h2>'
        f"<ul>{shown}</ul></section>"
    )
