"""What is damaged and who reads it: seeds, a mutation and a reader of each kind.

A reader returns where the input was accepted and is consistent, raises `EdgeError` where it was
refused, and raises AssertionError where an accepted input gives an answer that cannot be right.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.errors import EdgeError, EngineError
from tests.conftest import ROOT, tiny_simcc_model
from tests.faults.mutations import mutated_json, mutated_text
from tests.faults.onnx_mutations import mutated_onnx

__all__ = ["KINDS", "Kind"]

_HOST = "board.example"
# An ed25519 key of nobody.
_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJ1y0mE2mLr3oY0b1VQm1sVq1m8mE0l7n2Jm3mO4t8kZ"


@dataclass(frozen=True)
class Kind:
    """``seeds`` are made in a folder; ``read`` gets an input and a folder to put it in.

    Of a thousand inputs ``share`` are of this kind.
    """

    seeds: Callable[[Path], list[bytes]]
    mutated: Callable[[bytes, random.Random], bytes]
    read: Callable[[bytes, Path], None]
    share: int


def _artifact_seeds(folder: Path) -> list[bytes]:
    from edge.artifact import MANIFEST
    from tests.stand_ins.python_runners import tiny_artifact

    tiny_artifact(folder / "artifact")
    plain = json.loads((folder / "artifact" / MANIFEST).read_text())
    rich = plain | {
        "source": {"file": "t.onnx", "sha256": "0" * 64, "path": "/a/t.onnx", "images": "none"},
        "tools": {"onnx": "1.16.0", "numpy": "2.0"},
        "parity": {
            "summary": "pass: 3 keypoints",
            "engine": "ONNX Runtime",
            "inference_precision": "fp32",
            "machine": "this one",
            "reference": "ONNX Runtime",
            "image_count": 3,
            "images": "synthetic people",
            "tensors": [{"name": "x", "max_abs": 1e-5, "mean_abs": 1e-6, "cosine_min": 0.99}],
            "fp16_peak": {"max_abs": 12.5, "tensor": "x", "limit": 65504},
            "failures": ["one"],
        },
        "quantisation": {
            "calibration": {"text": "people", "sha256": "0" * 64},
            "float_parts": ["a", "b"],
            "parts": 12,
        },
        "accuracy": {"passed": True, "summary": "AP 0.5", "data": "people"},
        "arm": {
            "checked": True,
            "safe": "fp16",
            "text": "ARM: uses fp16",
            "cpu": "cortex-a76",
            "runner": "ncnn",
            "tried": {"fp16": {"images": 3, "summary": "pass", "failures": []}},
        },
    }
    return [json.dumps(one).encode() for one in (plain, rich, rich)]


def _read_artifact(data: bytes, folder: Path) -> None:
    from edge.artifact import MANIFEST, load_artifact
    from edge.cli.info import run as info

    place = folder / "artifact"
    (place / MANIFEST).write_bytes(data)
    artifact = load_artifact(place, allow_failed=True)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        info(_asked("info", str(place), "--allow-failed", "--json"))
        split = shown.tell()
        info(_asked("info", str(place), "--allow-failed"))
    again = json.loads(shown.getvalue()[:split], parse_constant=_no_constant)
    assert again["spec"] == json.loads(json.dumps(artifact.spec.to_json()))
    assert not set(shown.getvalue()[split:]) & {"\x1b", "\r", "\x00"}


@functools.cache
def _asked(*argv: str) -> argparse.Namespace:
    from edge.cli.main import parse

    return parse(list(argv))


def _no_constant(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def _spec_seeds(folder: Path) -> list[bytes]:
    from tests.stand_ins.python_runners import SPEC
    from tests.stand_ins.sdk_artifacts import detector_spec

    del folder
    return [json.dumps(spec.to_json()).encode() for spec in (SPEC, detector_spec())]


def _read_spec(data: bytes, folder: Path, suffix: str = "json") -> None:
    from converters.zoo.models import read_spec_file
    from edge.spec import ModelSpec

    path = folder / f"spec.{suffix}"
    path.write_bytes(data)
    spec = read_spec_file(path)
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert ModelSpec.from_json(json.loads(text)) == spec
    assert all(np.isfinite([*spec.mean, *spec.std])) and all(value != 0 for value in spec.std)
    assert min(spec.input_hw) > 0 and max(spec.input_hw) < 100_000


def _toml_seeds(folder: Path) -> list[bytes]:
    return [_as_toml(json.loads(seed)).encode() for seed in _spec_seeds(folder)]


def _as_toml(data: dict[str, Any]) -> str:
    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            # TOML has no null; an open size is -1 there.
            return "[" + ", ".join("-1" if v is None else inline(v) for v in value) + "]"
        return json.dumps(value)

    return "\n".join(f"{key} = {inline(value)}" for key, value in data.items() if value is not None)


def _profile_seeds(folder: Path) -> list[bytes]:
    del folder
    return [path.read_bytes() for path in sorted((ROOT / "targets").rglob("profiles/*.toml"))]


def _read_profile(data: bytes, folder: Path) -> None:
    from targets.profile import read_profile

    path = folder / "own.toml"
    path.write_bytes(data)
    profile = read_profile(path)
    assert profile.variants and profile.threads < 10_000


def _known_hosts_seeds(folder: Path) -> list[bytes]:
    del folder
    hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg="
    return [
        f"{_HOST} ssh-ed25519 {_KEY}\n".encode(),
        f"# all\n*.example,!x.example ssh-ed25519 {_KEY} me@here\n{hashed} ssh-rsa AA\n".encode(),
        f"@revoked {_HOST} ssh-rsa AAAAB3NzaC1yc2E=\n@cert-authority * a b\n"
        f"[{_HOST}]:2222,{_HOST} ssh-ed25519 {_KEY}\n".encode(),
    ]


class _HostKey:
    def get_base64(self) -> str:
        return _KEY

    def get_name(self) -> str:
        return "ssh-ed25519"


def _read_known_hosts(data: bytes, folder: Path) -> None:
    from targets.transports.known_hosts import known_keys
    from targets.transports.ssh_config import read_login
    from targets.transports.ssh_login import _check_host_key

    path, config = folder / "known_hosts", folder / "config"
    path.write_bytes(data)
    config.write_bytes(b"")
    login = read_login(_HOST, config=config, known_hosts=path)
    _check_host_key(login, _HostKey(), known_keys(login.known_hosts, login.host_key_name))
    # Accepted: then the key is there, letter by letter.
    assert _KEY.encode() in data


def _config_seeds(folder: Path) -> list[bytes]:
    del folder
    return [
        b"Host board.example b*\n  HostName 10.0.0.5\n  Port 2222\n  User pi\n"
        b"  IdentityFile ~/.ssh/x\n  ProxyJump gate\n  HostKeyAlias other\nHost *\n"
        b"  IdentitiesOnly yes\n"
        b"  UserKnownHostsFile ~/.ssh/a ~/.ssh/b\nMatch host x\n  User y\nInclude more/*\n"
    ]


def _read_config(data: bytes, folder: Path) -> None:
    from targets.devices.nearby import configured_hosts
    from targets.transports.ssh_config import read_login

    config = folder / "config"
    config.write_bytes(data)
    login = read_login(_HOST, config=config)
    assert login.hostname and 0 < login.port < 65536
    with contextlib.suppress(ValueError):
        configured_hosts(config)


class _Device:
    """A device that prints one thing, whatever it is asked."""

    kind, name, work_dir = "ssh", "ssh board", "/tmp/edgepose/device"

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def run(self, argv: Any, **_: Any) -> Any:
        from targets.transports.transport import Done

        return Done(tuple(argv), 0, self.answer, b"")


def _device_seeds(folder: Path) -> list[bytes]:
    """What devices of all kinds print when their whole state is asked."""
    from targets.devices import state as device_state
    from targets.devices.readings import HEAD
    from tests.stand_ins import state_stand_ins

    scripts = [device_state._DEVICE_SCRIPT]
    for whole, point, _ in device_state._PLATFORMS.values():
        scripts += [whole, point]
    seeds = []
    for name in ("phone", "raspberry_pi", "jetson"):
        device = getattr(state_stand_ins, name)(folder / name)
        for script in scripts:
            answer = device.run(["sh", "-c", HEAD + script], timeout_s=60).stdout
            seeds += [answer] if answer.count(b"@= 0") > 1 else []
    return seeds


def _read_device(data: bytes, folder: Path) -> None:
    from edge.records import plain_values, read_record
    from targets.devices.state import _PLATFORMS, read_device, read_point, read_state

    del folder
    transport: Any = _Device(data)
    for kind in _PLATFORMS:
        records: list[Any] = [read_state(transport, kind), read_point(transport, kind)]
        for record in (*records, read_device(transport).record):
            # As a run's file has it, whose reader takes only what can be.
            text = json.dumps(plain_values(record), allow_nan=False)
            assert read_record(type(record), json.loads(text)) == record


def _adb_seeds(folder: Path) -> list[bytes]:
    del folder
    return [
        b"adb-0A1B (2)._adb-tls-connect._tcp device usb:1-2 product:a model:Mi_10 transport_id:7\n"
        b"0123456789ABCDEF       no permissions (user in plugdev); see [http://x] usb:1-1\n"
        b"emulator-5554          offline transport_id:1\n192.168.1.5:5555 unauthorized\n"
    ]


def _read_adb(data: bytes, folder: Path) -> None:
    from targets.transports.adb_server import parse_device

    del folder
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        device = parse_device(line)
        if device:
            assert line.startswith(device.serial) and isinstance(device.problem, str)


def _runner_seeds(folder: Path) -> list[bytes]:
    """The lines of both runners and the files of trtexec."""
    from tests.stand_ins.runner_output import LINE

    del folder
    python = {
        "schema": 1,
        "kind": "edgepose-python-runner",
        **dict.fromkeys(("edge", "python", "numpy", "engine", "inference_precision"), "1.0"),
        "threads": 2,
        "affinity": ["f0"],
        "affinity_after": ["f0"],
        "load_ms": 12.5,
        "first_inference_ms": 3.25,
        "input_shape": [1, 3, 64, 48],
        "reasons": [],
        "warnings": ["one"],
        "peak_memory_kb": 1000,
        "clocks_khz_after": {"cpu0": 1800000},
        "outputs": [{"image": 0, "name": "x", "shape": [1], "non_finite": 0, "file": "x.npy"}],
        "samples_ns": [9, 8],
        "starts_ns": [1, 20],
    }
    names = ("latencyMs", "h2dMs", "computeMs", "d2hMs", "startH2dMs", "startComputeMs")
    times = [dict.fromkeys(names, 1.5)] * 3
    values = [{"name": "x", "dimensions": "1x2x2", "values": [1, 2, 3, 4.5]}]
    return [json.dumps(one).encode() for one in (LINE, python, times, values)]


def _read_runner(data: bytes, folder: Path) -> None:
    """Whoever it is for takes it; all others refuse it."""
    from edge.engines.trtexec_output import read_export_output, read_export_times
    from targets.runners.native.call import parse_runner_line
    from targets.runners.python.call import parse_python_line

    text = data.decode("utf-8", "replace")
    path = folder / "times.json"
    path.write_bytes(data)
    readers: list[Callable[[], Any]] = [
        lambda: parse_runner_line(text, "board"),
        lambda: parse_python_line(text, "board"),
        lambda: read_export_times(path),
        lambda: read_export_output(path),
    ]
    errors = []
    for reader in readers:
        try:
            reader()
        except EdgeError as error:
            errors.append(error)
    if len(errors) == len(readers):
        raise errors[0]


def _runs_seeds(folder: Path) -> list[bytes]:
    from tests.stand_ins.synthetic_runs import jetson_run, phone_run, pipeline_run, python_run

    runs = (phone_run(count=40), jetson_run(), python_run(), pipeline_run())
    return [_written(run, folder) for run in runs]


def _written(run: Any, folder: Path) -> bytes:
    from dataclasses import replace

    from targets.result import summarise, write_run

    few = run.samples_ns[:40]
    run = replace(run, samples_ns=few, starts_ns=run.starts_ns[:40], summary=summarise(few))
    path = write_run(run, folder)
    return Path(path).read_bytes()


def _read_runs(data: bytes, folder: Path) -> None:
    from datetime import UTC, datetime

    from targets.report.page import html_page
    from targets.report.tables import markdown, text_report
    from targets.result import read_runs

    path = folder / "run.json"
    path.write_bytes(data)
    runs = read_runs([path])
    for text in (
        text_report(runs),
        markdown(runs),
        html_page(runs, made=datetime(2024, 1, 1, tzinfo=UTC)),
    ):
        assert not set(text) & {"\x1b", "\r", "\x00"}


def _sdk_seeds(folder: Path) -> list[bytes]:
    from tests.stand_ins.sdk_bundles import simcc_files

    del folder
    return [json.dumps(simcc_files([48, 64])).encode()]


def _read_sdk(data: bytes, folder: Path) -> None:
    from converters.sdk.archive import read_sdk

    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        files = {"deploy.json": None}
    if not isinstance(files, dict):
        return
    place = folder / "sdk"
    place.mkdir(exist_ok=True)
    for path in place.glob("*.json"):
        path.unlink()
    for name, content in files.items():
        if "/" not in name and name.endswith(".json") and name.isprintable() and len(name) < 99:
            (place / name).write_text(json.dumps(content), "utf-8", "replace")
    if not (place / "end2end.onnx").exists():
        (place / "end2end.onnx").write_bytes(tiny_simcc_model().SerializeToString())
    read_sdk(place, "sdk", folder / "unpacked")


def _onnx_seeds(folder: Path) -> list[bytes]:
    from tests.stand_ins.sdk_artifacts import detector_model, detector_spec

    del folder
    models = [
        tiny_simcc_model(),
        tiny_simcc_model(scale_norm=True),
        tiny_simcc_model(keypoints=133),
        detector_model(detector_spec()),
    ]
    return [model.SerializeToString() for model in models]


def _read_onnx(data: bytes, folder: Path) -> None:
    """Recognised and prepared; where that went well, the answers are those of the file."""
    import onnx
    import onnxruntime

    from converters.graph.prepare import prepare
    from tests.stand_ins.sdk_artifacts import detector_spec

    path = folder / "model.onnx"
    path.write_bytes(data)
    spec = detector_spec() if b"distances_8" in data else None
    prepared = prepare(path, "model", spec=spec)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    shape = [1 if size is None else size for size in prepared.spec.input.shape]
    image = np.random.default_rng(1).random(shape, np.float32)
    try:
        source = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feeds = {source.get_inputs()[0].name: image}
        wanted = dict(
            zip((o.name for o in source.get_outputs()), source.run(None, feeds), strict=True)
        )
    except Exception:  # what does not run at all has no right answer
        return
    try:
        made = onnxruntime.InferenceSession(
            prepared.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # as `edge.engines.onnxruntime` tells a conversion
        raise EngineError(str(error).splitlines()[0]) from None
    names = [output.name for output in made.get_outputs()]
    found = dict(zip(names, made.run(None, {made.get_inputs()[0].name: image}), strict=True))
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    if any(np.abs(one[np.isfinite(one)]).max(initial=0) > 1e15 for one in weights):
        return  # squares of such numbers overflow, in one order of the steps and not in another
    for name, tap in prepared.taps.items():
        if tap in wanted and name in found and wanted[tap].shape == found[name].shape:
            scale = max(1.0, float(np.nan_to_num(np.abs(wanted[tap]), posinf=0).max(initial=0)))
            assert np.allclose(wanted[tap], found[name], 0, 1e-3 * scale, equal_nan=True), name


def _read_toml_spec(data: bytes, folder: Path) -> None:
    _read_spec(data, folder, "toml")


KINDS = {
    "artifact": Kind(_artifact_seeds, mutated_json, _read_artifact, 150),
    "spec": Kind(_spec_seeds, mutated_json, _read_spec, 150),
    "spec-toml": Kind(_toml_seeds, mutated_text, _read_toml_spec, 90),
    "profile": Kind(_profile_seeds, mutated_text, _read_profile, 150),
    "known-hosts": Kind(_known_hosts_seeds, mutated_text, _read_known_hosts, 100),
    "ssh-config": Kind(_config_seeds, mutated_text, _read_config, 60),
    "device": Kind(_device_seeds, mutated_text, _read_device, 130),
    "adb": Kind(_adb_seeds, mutated_text, _read_adb, 20),
    "runner": Kind(_runner_seeds, mutated_json, _read_runner, 20),
    "runs": Kind(_runs_seeds, mutated_json, _read_runs, 20),
    "sdk": Kind(_sdk_seeds, mutated_json, _read_sdk, 10),
    "onnx": Kind(_onnx_seeds, mutated_onnx, _read_onnx, 100),
}


def _read_itself(data: bytes, folder: Path) -> None:
    """For the test of the harness: what is right, refused, an escape or a death."""
    del folder
    match data:
        case b"refuse":
            raise EdgeError("no")
        case b"escape":
            raise ValueError("as it should not be")
        case b"die":
            os._exit(9)


_ITSELF = Kind(
    lambda _: [b"right"],
    lambda _, rng: rng.choice((b"right", b"refuse", b"escape", b"die")),
    _read_itself,
    0,
)
KINDS["itself"] = _ITSELF

assert sum(kind.share for kind in KINDS.values()) == 1000
