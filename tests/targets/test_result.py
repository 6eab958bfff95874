"""A run and its file: nothing is lost, nothing wrong is read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.errors import SpecError
from targets.result import RunResult, read_runs, summarise, write_run
from tests.stand_ins.synthetic_runs import (
    emulated_run,
    hot_phone_run,
    mixed_runs,
    phone_run,
    with_samples,
)


@pytest.fixture(scope="module")
def plain() -> str:
    """A run as its file has it."""
    return json.dumps(phone_run(count=70).to_json())


def changed(plain: str, path: str, value: Any) -> dict[str, Any]:
    """The run with the value at a dotted path replaced."""
    data: dict[str, Any] = json.loads(plain)
    place: Any = data
    *parents, last = path.split(".")
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[int(last) if isinstance(place, list) else last] = value
    return data


def test_every_kind_of_run_survives_its_file(tmp_path: Path) -> None:
    runs = mixed_runs()
    paths = [write_run(run, tmp_path) for run in runs]
    assert [path.name for path in paths] == [f"{run.run_id}.json" for run in runs]
    assert list(read_runs(paths)) == runs
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}


def test_the_file_is_plain_json_with_the_documented_keys(tmp_path: Path) -> None:
    path = write_run(phone_run(count=70), tmp_path)
    data = json.loads(path.read_text(encoding="ascii"))
    assert list(data) == [
        "schema", "kind", "run_id", "started_utc", "target", "transport", "emulated", "device",
        "artifact", "runner", "engine", "inference_precision", "threads", "cpu_mask", "affinity",
        "input_shape", "mode", "settings", "cold", "samples_ns", "starts_ns", "summary",
        "state_before", "state_after", "state_series", "parity", "published", "valid", "reasons",
        "warnings",
    ]  # fmt: skip
    assert (data["schema"], data["kind"]) == (1, "edgepose-run")
    assert data["summary"]["p99_ms"] is None
    assert data["state_before"]["battery"] == {
        "level_percent": 87, "powered": True, "saver": False
    }  # fmt: skip
    # A reader finds a key by its line.
    assert len(path.read_text().splitlines()) == len(data) + 2


def test_summary_by_hand() -> None:
    # 100 samples of 1 to 100 ms, out of order: nearest rank takes the 50th and the 90th.
    samples = [(37 * i % 101) * 1_000_000 for i in range(1, 101)]
    summary = summarise(samples)
    assert (summary.p50_ms, summary.p90_ms, summary.p99_ms) == (50.0, 90.0, None)
    assert (summary.min_ms, summary.max_ms, summary.count) == (1.0, 100.0, 100)
    assert math.isclose(summary.mean_ms or 0, 50.5)
    assert summarise(samples[:63]).p90_ms is None
    assert summarise(samples[:64]).p90_ms is not None
    assert summarise([5] * 661).p99_ms is None
    assert summarise([5] * 662).p99_ms == 5e-6
    assert summarise([]).p50_ms is None
    assert summarise([]).count == 0


def test_a_run_that_broke_off_before_its_first_sample_is_stored(tmp_path: Path) -> None:
    run = with_samples(phone_run(), (), valid=False, reasons=("the cable was pulled",))
    assert read_runs([write_run(run, tmp_path)]) == (run,)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("colour", "red", "unknown key 'colour'"),
        ("device.serial", "x", "unknown key 'device.serial'"),
        ("artifact.accuracy.ap", 1, "unknown key 'artifact.accuracy.ap'"),
        ("state_before.battery.volt", 1, "unknown key 'state_before.battery.volt'"),
        ("state_series.0.t", 1, "unknown key 'state_series[0].t'"),
        ("threads", "4", "'threads' must be a whole number, got \"4\""),
        ("threads", True, "'threads' must be a whole number, got true"),
        ("threads", 4.0, "'threads' must be a whole number, got 4.0"),
        ("valid", 1, "'valid' must be true or false, got 1"),
        ("target", None, "'target' must be a text, got null"),
        ("cpu_mask", 15, "'cpu_mask' must be a text or null, got 15"),
        ("samples_ns.3", 1.5, "'samples_ns[3]' must be a whole number"),
        ("samples_ns", {}, "'samples_ns' must be a list, got {}"),
        ("samples_ns.3", 10**30, "'samples_ns[3]' must be a whole number"),
        ("artifact.accuracy.value", "high", "'artifact.accuracy.value' must be a number"),
        ("state_before.temperatures_c.cpu", None, "'state_before.temperatures_c.cpu' must be"),
        ("device", [], "'device' must be a table of keys, got []"),
        ("kind", "edgepose-report", "no run: its key 'kind'"),
        ("schema", 2, "written by a newer edgepose (schema 2, this one reads up to 1); upgrade"),
        ("schema", "1", "'schema' is \"1\""),
        ("schema", 0, "'schema' is 0"),
        ("run_id", "../evil", "run_id '../evil' is no file name"),
        ("started_utc", "yesterday", "'yesterday' is no time in UTC"),
        ("started_utc", "2026-11-21T18:15:00+01:00", "is no time in UTC"),
        ("threads", 0, "threads is 0"),
        ("valid", False, "'valid' is false without a reason"),
        ("reasons", ["hot"], "'valid' is true beside reasons against it"),
        ("parity.passed", False, "'valid' is true though the answers differ"),
        ("mode", "turbo", "mode is 'turbo', not one of burst, sustained"),
        ("runner.name", "perl", "runner.name is 'perl', not one of native, python, trtexec"),
        ("state_before.throttle_counts.cpu0", 1.5, "'state_before.throttle_counts.cpu0' must be"),
        ("artifact.pipeline", {"detector": "x"}, "key 'artifact.pipeline.detector_variant'"),
        ("starts_ns", [0], "1 starts for 70 samples"),
        ("starts_ns.5", 0, "'starts_ns' goes backwards"),
        ("state_series.0.t_s", 99.0, "'state_series' goes backwards"),
        ("published.latency_ms", 0, "the published latency is not positive"),
        ("summary.p50_ms", 1.0, "summary.p50_ms is 1.0, its samples say 9."),
        ("summary.p99_ms", 11.0, "summary.p99_ms is 11.0, its samples say null"),
        ("summary.count", 71, "summary.count is 71, its samples say 70"),
    ],
)
def test_what_is_wrong_is_named(plain: str, path: str, value: Any, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunResult.from_json(changed(plain, path, value))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        *("warnings", "device.soc", "cold.load_ms", "summary.p90_ms", "state_before.load_1m"),
        *("artifact.pipeline", "state_before.throttle_counts", "state_after.power_mw"),
    ],
)
def test_a_missing_key_is_named(plain: str, path: str) -> None:
    data = json.loads(plain)
    place = data
    *parents, last = path.split(".")
    for parent in parents:
        place = place[parent]
    del place[last]
    with pytest.raises(SpecError, match=f"missing key '{path}'"):
        RunResult.from_json(data)


def test_a_whole_number_is_a_number(plain: str) -> None:
    run = RunResult.from_json(changed(plain, "published.latency_ms", 9))
    assert run.published
    assert run.published.latency_ms == 9.0
    assert isinstance(run.published.latency_ms, float)


def test_whoever_rounds_to_a_microsecond_is_believed(plain: str) -> None:
    data = json.loads(plain)
    data["summary"] = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in data["summary"].items()
    }
    assert RunResult.from_json(data).samples_ns == phone_run(count=70).samples_ns


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    path = write_run(phone_run(count=70), tmp_path)
    before = path.read_bytes()
    with pytest.raises(SpecError, match="never overwritten"):
        write_run(phone_run(count=71), tmp_path)
    assert path.read_bytes() == before


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    one = write_run(phone_run(1, count=70), tmp_path / "a")
    two = write_run(phone_run(2, count=70), tmp_path / "b")
    assert len(read_runs([tmp_path / "a", one, str(tmp_path / "*" / "*.json")])) == 2
    assert [run.run_id for run in read_runs([two, one])] == [two.stem, one.stem]
    with pytest.raises(SpecError, match=r"no file has such a name"):
        read_runs([str(tmp_path / "c*.json")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"no \.json file in this folder"):
        read_runs([tmp_path / "empty"])
    with pytest.raises(SpecError, match=r"nowhere.json: cannot be read \(No such file"):
        read_runs([tmp_path / "nowhere.json"])


def test_a_name_with_magic_characters_is_first_of_all_a_name(tmp_path: Path) -> None:
    path = write_run(phone_run(count=70), tmp_path)
    odd = path.rename(tmp_path / "run [1].json")
    assert len(read_runs([odd])) == 1


def test_damaged_files_are_named_in_one_line(tmp_path: Path) -> None:
    good = write_run(phone_run(count=70), tmp_path)
    text = good.read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "nan.json").write_text(text.replace('"load_ms": 31.4', '"load_ms": NaN'))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(SpecError) as caught:
        read_runs([tmp_path])
    said = str(caught.value)
    assert "\n" not in said
    assert all(name in said for name in ("binary.json: no text", "cut.json: no valid JSON"))
    assert "(and 1 more file" in said
    with pytest.raises(SpecError, match=r"nan\.json: no valid JSON.*NaN is no number"):
        read_runs([tmp_path / "nan.json"])


def test_two_runs_of_one_name_are_refused_and_a_copy_is_not(tmp_path: Path) -> None:
    one = write_run(phone_run(count=70), tmp_path / "a")
    copy = tmp_path / "copy.json"
    copy.write_bytes(one.read_bytes())
    assert len(read_runs([one, copy])) == 1
    other = write_run(phone_run(count=71), tmp_path / "b")
    with pytest.raises(SpecError, match="another run called"):
        read_runs([one, other])


def test_verdicts() -> None:
    assert phone_run(count=70).verdict == "valid"
    assert hot_phone_run(700).verdict == "INVALID"
    assert emulated_run().verdict == "emulated: not a latency"
    spoiled = replace(emulated_run(), valid=False, reasons=("busy",))
    assert spoiled.verdict == "emulated: not a latency"
    assert [run.comparable for run in (phone_run(count=70), hot_phone_run(700), spoiled)] == [
        True, False, False,
    ]  # fmt: skip
