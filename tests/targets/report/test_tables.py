"""Tables, Markdown and JSON of runs: what counts is counted, and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from targets.report.compare import compare_runs
from targets.report.page import html_page
from targets.report.tables import (
    comparison_json,
    comparison_markdown,
    comparison_text,
    group_runs,
    markdown,
    report_json,
    text_report,
)
from targets.result import RunResult
from tests.stand_ins.synthetic_runs import (
    emulated_run,
    hot_phone_run,
    interleaved_runs,
    jetson_run,
    latencies_ns,
    mixed_runs,
    phone_run,
    pipeline_run,
    python_run,
    state,
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
        "runner": "native", "computes in": "fp16", "threads": "4", "mode": "burst", "runs": "1",
        "p50 ms": "18.04", "p90 ms": "18.04", "p99 ms": "18.04", "load ms": "31.40",
        "first ms": "14.90", "published": "9.02", "ratio": "2.00", "accuracy": "AP 0.6597",
        "loss": "+0.02", "verdict": "valid",
    }  # fmt: skip


def test_invalid_figures_stand_in_brackets_with_their_reasons_and_without_a_ratio() -> None:
    run = hot_phone_run(700)
    text = text_report([run])
    (row,) = cells(text, "target")
    assert row["verdict"] == "INVALID"
    assert "ratio" not in row
    assert row["p50 ms"].startswith("(")
    assert all(f"INVALID: {reason}" in text for reason in run.reasons)


def test_emulated_figures_are_not_shown() -> None:
    (row,) = cells(text_report([emulated_run()]), "target")
    assert row["verdict"] == "emulated: not a latency"
    # Beside others a dash, alone no column at all.
    assert not {"p50 ms", "p90 ms", "load ms", "first ms", "ratio"} & set(row)
    _, row = cells(text_report([phone_run(count=70), emulated_run()]), "target")
    assert {row[name] for name in ("p50 ms", "p90 ms", "load ms", "first ms", "ratio")} == {"-"}


def test_too_few_samples_are_said() -> None:
    (row,) = cells(text_report([phone_run(count=64)]), "target")
    assert row["p90 ms"] != "too few"
    assert row["p99 ms"] == "too few"


def test_repeats_share_a_row_and_invalid_ones_do_not_count() -> None:
    spoiled = replace(constant(99.0, 3), valid=False, reasons=("busy",))
    runs = [constant(10.0, 1), constant(12.0, 2), spoiled, constant(11.0, 4)]
    (row,) = cells(text_report(runs), "target")
    assert (row["runs"], row["verdict"]) == ("4", "3 valid, 1 INVALID")
    assert (row["p50 ms"], row["spread"], row["p99 ms"]) == ("11.00", "10.00-12.00", "11.00")
    assert row["ratio"] == "1.22"
    group = report_json(runs)["groups"]
    assert [(one["p50_ms"], len(one["used"])) for one in group] == [(11.0, 3)]
    assert group[0]["ratio"] == pytest.approx(11 / 9.02)
    # What no run of a group is worth is shown, in brackets.
    (row,) = cells(text_report([spoiled, replace(spoiled, run_id="again")]), "target")
    assert (row["runs"], row["p50 ms"], row["verdict"]) == ("2", "(99.00)", "INVALID")


def test_runs_in_turn_are_a_row_a_variant() -> None:
    runs = interleaved_runs()
    rows = cells(text_report(runs), "target")
    assert [row["variant"] for row in rows] == ["onnx-fp32", "openvino-fp16", "openvino-int8"]
    assert [row["runs"] for row in rows] == ["3", "3", "3"]
    for row in rows:
        medians = sorted(
            float(np.median(run.samples_ns)) / 1e6
            for run in runs
            if run.artifact.variant == row["variant"]
        )
        low, high = row["spread"].split("-")
        for shown, true in zip((low, row["p50 ms"], high), medians, strict=True):
            assert float(shown) == pytest.approx(true, abs=0.006)


def test_what_all_repeats_say_is_said_once() -> None:
    runs = [replace(constant(10.0, number), warnings=("the load was 2",)) for number in (1, 2, 4)]
    runs[1] = replace(runs[1], warnings=("the load was 2", "its screen was off"))
    text = text_report(runs)
    assert text.count("the load was 2") == 1
    assert f"{runs[0].run_id} and its repeats\n  warning: the load was 2\n" in text
    assert f"{runs[1].run_id}\n  warning: its screen was off" in text


def test_a_device_is_named_where_a_target_has_several() -> None:
    one = constant(10.0)
    other = replace(one, run_id="other", device=replace(one.device, name="adb 5e6f"))
    slow = replace(one, run_id="slow", state_before=state(power_mode="15W"))
    assert not {"device", "power mode"} & set(cells(text_report([one]), "target")[0])
    assert [row["device"] for row in cells(text_report([one, other]), "target")] == [
        "adb 1a2b3c4d", "adb 5e6f",
    ]  # fmt: skip
    rows = cells(text_report([one, slow]), "target")
    assert [row["power mode"] for row in rows] == ["-", "15W"]


def test_runners_and_pipelines_beside_each_other() -> None:
    runs = [
        phone_run(), python_run(), pipeline_run(1), pipeline_run(2), pipeline_run(3, people=3),
        jetson_run(),
    ]  # fmt: skip
    rows = cells(text_report(runs), "target")
    assert [(row["runner"], row["model"], row["runs"]) for row in rows] == [
        ("native", "rtmpose-t", "1"),
        ("python", "rtmpose-t", "1"),
        ("native", "rtmdet-nano-person+rtmpose-t (detector 1 in 5, 1 person)", "2"),
        ("native", "rtmdet-nano-person+rtmpose-t (detector 1 in 5, 3 people)", "1"),
        ("trtexec", "rtmpose-m", "1"),
    ]
    assert len({run.artifact.model for run in runs[2:5]}) == 1


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
        replace(one, runner=replace(one.runner, name="python")),
        replace(one, state_before=state(power_mode="15W")),
    ]
    assert len(group_runs([one, *others])) == 10
    assert group_runs([replace(one, valid=False, reasons=("busy",))])[0].p50_ms is None


def test_markdown_is_one_table_with_nothing_that_breaks_it() -> None:
    run = replace(
        phone_run(count=70), target="a|b *c*\nd", valid=False, reasons=("x | y\n<script>",)
    )
    text = markdown([run, phone_run(2, count=70)])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({len(line.replace("\\|", "").split("|")) for line in table}) == 1
    assert "\\<script\\>" in text
    assert "<script>" not in text


def test_json_of_the_report_is_json_without_samples() -> None:
    data = json.loads(json.dumps(report_json(mixed_runs()), allow_nan=False))
    assert (data["schema"], data["kind"]) == (1, "edgepose-report")
    assert len(data["runs"]) == 18
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


def test_a_percentile_that_some_repeats_lack_is_of_none() -> None:
    """The p99 of the long ones alone could lie below the p90 of all."""
    runs = [phone_run(1, count=1000), phone_run(2, count=100), phone_run(3, count=100)]
    (row,) = cells(text_report(runs), "target")
    assert (row["runs"], row["verdict"]) == ("3", "valid")
    assert row["p90 ms"] != "too few"
    assert row["p99 ms"] == "too few"


def test_control_characters_of_a_device_reach_no_report() -> None:
    name = "Pixel\x1b[31m 8\x1b]0;owned\x07\r\u202ex\x9b2J\nnext"
    runs = [
        replace(
            run,
            device=replace(run.device, name=name, model=name, soc=name, os=name),
            artifact=replace(run.artifact, model=name),
            warnings=(f"odd {name}",),
        )
        for run in mixed_runs()
    ]
    comparison = compare_runs(runs[:1], runs[:1], include_invalid=True)
    made = datetime(2024, 1, 1, tzinfo=UTC)
    texts = [text_report(runs), markdown(runs), html_page(runs, made=made)]
    texts += [comparison_text(comparison), comparison_markdown(comparison)]
    for text in texts:
        assert "Pixel\\x1b" in text or "Pixel\\\\x1b" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert not any(line.startswith("next") for text in texts[:2] for line in text.splitlines())
