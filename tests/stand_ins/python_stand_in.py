"""A stand-in for a device's Python."""

from __future__ import annotations

from targets.runners.python.wheels import DevicePython

__all__ = ["python"]


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
