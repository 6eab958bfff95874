"""The zoo for reading: the table, the details, and no tool loaded for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from converters.zoo.models import find_entry, zoo_entries
from converters.zoo.table import zoo_details, zoo_json, zoo_table
from tests.conftest import ROOT
from tests.stand_ins.mirror_server import Server, left, server  # noqa: F401


def test_the_table_fits_and_names_everything(tmp_path: Path) -> None:
    entries = zoo_entries()
    text = zoo_table(entries.values(), tmp_path)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    named = [line.split()[0] for line in lines if line and line.split()[0] in entries]
    assert sorted(named) == sorted(entries)
    row = next(line for line in lines if line.startswith("rtmpose-m-body7 "))
    assert row.split() == [
        "rtmpose-m-body7",
        "256x192",
        "coco17",
        "13.59",
        "1.93",
        "74.9",
        *("zip", "pth"),
    ]
    # Columns stand under each other.
    head = lines[0]
    assert row.index("74.9") + 4 == head.index("AP") + 2
    assert row.index("zip") == head.index("files")


def test_what_is_in_the_cache_is_marked(tmp_path: Path) -> None:
    entry = find_entry("rtmpose-m-body7")
    assert entry.archive is not None
    (tmp_path / entry.archive.rpartition("/")[2]).write_bytes(b"")
    assert zoo_table([entry], tmp_path).count("zip* pth") == 1
    assert zoo_json([entry], tmp_path)[entry.name]["cached"] == {
        "archive": str(tmp_path / entry.archive.rpartition("/")[2])
    }
    assert zoo_json([entry], tmp_path / "b")[entry.name]["cached"] == {}


def test_the_details_hold_every_fact(tmp_path: Path) -> None:
    for entry in zoo_entries().values():
        text = zoo_details(entry, tmp_path)
        for key, value in entry.to_json().items():
            shown = {
                "input_hw": f"{entry.input_hw[0]}x{entry.input_hw[1]}",
                "checkpoint_sha256": entry.checkpoint_sha256 and entry.checkpoint_sha256[0][:8],
                "archive_sha256": entry.archive_sha256 and entry.archive_sha256[0][:8],
                "sha256": "",
            }.get(key, f"{value:g}" if isinstance(value, float) else str(value))
            assert str(shown) in text, (entry.name, key)
        assert json.loads(json.dumps(zoo_json([entry], tmp_path)))[entry.name]["task"] == entry.task


def test_naming_a_model_loads_no_tool() -> None:
    code = (
        "import sys, converters.zoo.models, converters.zoo.table as t\n"
        "t.zoo_table(converters.zoo.models.zoo_entries().values())\n"
        "print(*sorted(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    heavy = {"onnx", "onnxruntime", "torch", "cv2", "onnxslim", "ssl", "http.client"}
    assert not heavy & loaded
    assert "converters.convert" not in loaded
