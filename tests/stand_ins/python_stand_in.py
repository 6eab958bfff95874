"""A stand-in for a device's Python."""

from __future__ import annotations

import json
from typing import Any

from targets.runners.python.wheels import DevicePython
from targets.transports.fake import FakeTransport

__all__ = ["board", "probe_answer", "python"]


def python(version: str, machine: str = "aarch64", glibc: str = "2.36") -> DevicePython:
    short = ".".join(version.split(".")[:2])
    return DevicePython(
        executable="/usr/bin/python3",
        environment={
            "implementation_name": "cpython",
            "implementation_version": version,
            "os_name": "posix",
            "platform_machine": machine,
            "platform_python_implementation": "CPython",
            "platform_release": "6.6.31",
            "platform_system": "Linux",
            "platform_version": "#1",
            "python_full_version": version,
            "python_version": short,
            "sys_platform": "linux",
        },
        glibc=glibc,
        has_venv=True,
    )


def probe_answer(device: DevicePython) -> str:
    return json.dumps(
        {
            "executable": device.executable,
            "glibc": device.glibc,
            "has_venv": device.has_venv,
            "environment": dict(device.environment),
        }
    )


def board(device: DevicePython | None) -> FakeTransport:
    """A board with one Python, whose venv and pip do as they are told."""
    scripted: dict[Any, Any] = {("/usr/bin/python3", "-I", "-m", "venv", ...): ""}
    if device is not None:
        scripted["python3", "-c", ...] = probe_answer(device)
    fake = FakeTransport(scripted, name="ssh pi@board", work_dir="/home/pi/.cache/edgepose/device")
    fake.kind = "ssh"
    return fake
