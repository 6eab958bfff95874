"""Tables, Markdown and JSON of runs: what counts is counted, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from targets.report import (
    comparison_json,
    comparison_markdown,
    comparison_text,
    group_runs,
    markdown,
    report_json,
    text_report,
)
from targets.report_compare import compare_runs
from targets.result import RunResult
from tests.synthetic_runs import (
    emulated_run,
    hot_phone_run,
    latencies_ns,
    mixed_runs,
    phone_run,
    with_samples,
)


def cells(text: str, start: str) -> list[dict[str, str]]:
    """The rows of the first table of a text by their column, where a cell has one space at most."""
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith(start))
    names = [name for name in head.split("  ") if name.strip()]
    rows = []
    for line in lines[lines.index(head) + 1 :]:
        values = [value.strip() for value in line.split("  ") if value.strip()]
        if len(values) != len(names):
            break
        rows.append(dict(zip((name.strip() for name in names), values, strict=True)))
    return rows


def constant(level_ms: float, number: int = 1) -> RunResult:
    """A phone's run in which every inference takes as long."""
    return with_samples(phone_run(number), (int(level_ms * 1e6),) * 700)


def test_the_table_says_of_a_run_what_was_measured() -> None:
    (row,) = cells(text_report([constant(18.04)]), "target")
    assert row == {
        "target": "android-sd865", "model": "rtmpose-t", "variant": "ncnn-fp16",
        "computes in": "fp16", "threads": "4", "mode": "burst", "samples": "700",
        "p50 ms": "18.04", "p90 ms": "18.04", "p99 ms": "18.04", "load ms": "31.40",
        "first ms": "14.90", "published": "9.02", "ratio": "2.00", "accuracy": "AP 0.6597",
        "loss": "+0.02", "verdict": "valid",
    }  # fmt: skip


def test_invalid_figures_stand_in_brackets_with_their_reasons_and_without_a_ratio() -> None:
    run = hot_phone_run(700)
    text = text_report([run])
    (row,) = cells(text, "target")
    assert (row["verdict"], row["ratio"]) == ("INVALID", "-")
    assert row["p50 ms"].startswith("(")
    assert all(f"INVALID: {reason}" in text for reason in run.reasons)


def test_emulated_figures_are_not_shown() -> None:
    (row,) = cells(text_report([emulated_run()]), "target")
    assert row["verdict"] == "emulated: not a latency"
    assert {row[name] for name in ("p50 ms", "p90 ms", "load ms", "first ms", "ratio")} == {"-"}


def test_too_few_samples_are_said() -> None:
    (row,) = cells(text_report([phone_run(count=64)]), "target")
    assert row["p90 ms"] != "too few"
    assert row["p99 ms"] == "too few"


def test_repeats_count_valid_runs_only() -> None:
    spoiled = replace(constant(99.0, 3), valid=False, reasons=("busy",))
    runs = [constant(10.0, 1), constant(12.0, 2), spoiled, constant(11.0, 4)]
    text = text_report(runs)
    (row,) = cells(text[text.index("repeated") :], "target")
    assert (row["runs"], row["left out"]) == ("4", "1")
    assert (row["median p50 ms"], row["lowest"], row["highest"]) == ("11.00", "10.00", "12.00")
    group = report_json(runs)["groups"]
    assert [(one["p50_ms"], len(one["used"])) for one in group] == [(11.0, 3)]
    assert group[0]["ratio"] == pytest.approx(11 / 9.02)


def test_what_was_measured_otherwise_is_no_repeat() -> None:
    one = constant(10.0)
    others = [
        replace(one, threads=1),
        replace(one, inference_precision="fp32"),
        replace(one, engine="ncnn 2"),
        replace(one, mode="sustained"),
        replace(one, device=replace(one.device, name="adb other")),
        replace(one, artifact=replace(one.artifact, key="rebuilt")),
        replace(one, emulated=True),
    ]
    assert len(group_runs([one, *others])) == 8
    assert group_runs([replace(one, valid=False, reasons=("busy",))])[0].p50_ms is None


def test_markdown_is_one_table_with_nothing_that_breaks_it() -> None:
    run = replace(
        phone_run(count=70), target="a|b *c*\nd", valid=False, reasons=("x | y\n<script>",)
    )
    text = markdown([run, phone_run(2, count=70)])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {len(line.replace("\\|", "").split("|")) for line in table} == {19}
    assert "\\<script\\>" in text
    assert "<script>" not in text


def test_json_of_the_report_is_json_without_samples() -> None:
    data = json.loads(json.dumps(report_json(mixed_runs()), allow_nan=False))
    assert (data["schema"], data["kind"]) == (1, "edgepose-report")
    assert len(data["runs"]) == 15
    assert not any("samples_ns" in run for run in data["runs"])
    emulated = [run for run in data["runs"] if run["verdict"] == "emulated: not a latency"]
    assert len(emulated) == 1
    assert emulated[0]["ratio"] is None


def test_a_comparison_in_three_forms() -> None:
    old = [with_samples(phone_run(), latencies_ns(700, 9.0)), hot_phone_run(700), emulated_run()]
    new = [with_samples(phone_run(), latencies_ns(700, 9.9)), hot_phone_run(700)]
    comparison = compare_runs(old, new)
    text = comparison_text(comparison)
    rows = cells(text, "target")
    assert [row["verdict"] for row in rows] == ["REGRESSION", "REFUSED"]
    assert rows[0]["change"] == "+10.0%"
    assert "1 of 1 compared are past the limit of +5.0% on the median; 1 could not" in text
    assert "emulated: not a latency" in text
    table = [line for line in comparison_markdown(comparison).splitlines() if line[:1] == "|"]
    assert len(table) == 4
    data = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert data["passed"] is False
    assert [row["past"] for row in data["rows"]] == [True, False]
    assert data["rows"][0]["p50"]["change"] == pytest.approx(0.1, abs=0.01)


def test_a_change_that_may_be_chance_says_so() -> None:
    # Two runs a side that differ by a third from each other prove nothing at 6 %.
    old = [constant(9.0, 1), constant(12.0, 2)]
    new = [constant(9.5, 1), constant(12.8, 2)]
    text = comparison_text(compare_runs(old, new))
    assert "REGRESSION, not sure" in text
    assert "may be chance" in text
    quiet = comparison_text(compare_runs(old, old))
    assert "is not ruled out" in quiet
