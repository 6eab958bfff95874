"""What ncnn is opened with, and what the session says of it, on CPUs that are not here."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.engines import ncnn as engine
from edge.session import EngineSettings, InferencePrecision, open_session
from tests.stand_ins.made_artifacts import make_artifact


class FakeNcnn:
    """The package on a CPU that has half-precision arithmetic, or has not."""

    __version__ = "1.0"

    def __init__(self, asimdhp: bool) -> None:
        self.cpu_support_arm_asimdhp = lambda: int(asimdhp)
        self.opt = SimpleNamespace(use_bf16_storage=None)
        self.Net = lambda: SimpleNamespace(
            opt=self.opt, load_param=lambda _: 0, load_model=lambda _: 0
        )


def opened(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    machine: str,
    asimdhp: bool,
    asked: InferencePrecision = "fp16",
    safe: str | None = None,
) -> tuple[str, str]:
    """What the session says, and the switches that are on."""
    fake = FakeNcnn(asimdhp)
    monkeypatch.setattr(engine, "import_ncnn", lambda: fake)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    record: dict[str, Any] = {"checked": safe is not None, "safe": safe}
    artifact = make_artifact(folder, arm=record)
    with open_session(artifact, EngineSettings(1, asked)) as session:
        names = ("fp16_storage", "fp16_arithmetic", "bf16_storage")
        on = [name for name in names if getattr(fake.opt, f"use_{name}")]
        assert fake.opt.use_fp16_packed is fake.opt.use_fp16_storage
        assert fake.opt.use_vulkan_compute is False
        return session.inference_precision, " ".join(on)


ARITHMETIC = "fp16_storage fp16_arithmetic"


@pytest.mark.parametrize(
    ("machine", "asimdhp", "precision"),
    [
        ("aarch64", True, "fp16"),
        ("arm64", True, "fp16"),
        # Cortex-A53 and -A72: half floats in memory alone.
        ("aarch64", False, "fp16-storage"),
        ("x86_64", False, "fp32"),
    ],
)
def test_what_a_cpu_makes_of_fp16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, asimdhp: bool, precision: str
) -> None:
    cpu: dict[str, Any] = {"machine": machine, "asimdhp": asimdhp}
    assert opened(monkeypatch, tmp_path, **cpu) == (precision, ARITHMETIC)
    assert opened(monkeypatch, tmp_path, **cpu, asked="fp32") == ("fp32", "")


@pytest.mark.parametrize(
    ("safe", "switches"),
    [
        (None, ARITHMETIC),
        ("fp16", ARITHMETIC),
        ("fp16-storage", "fp16_storage"),
        ("bf16", "bf16_storage"),
        ("fp32", ""),
    ],
)
def test_on_arm_the_record_of_an_artifact_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, safe: str | None, switches: str
) -> None:
    arm: dict[str, Any] = {"machine": "aarch64", "asimdhp": True, "safe": safe}
    assert opened(monkeypatch, tmp_path, **arm) == (safe or "fp16", switches)
    # Whoever asks for fp32 gets it, and x86 knows no difference.
    assert opened(monkeypatch, tmp_path, **arm, asked="fp32") == ("fp32", "")
    x86: dict[str, Any] = arm | {"machine": "x86_64", "asimdhp": False}
    assert opened(monkeypatch, tmp_path, **x86) == ("fp32", ARITHMETIC)
