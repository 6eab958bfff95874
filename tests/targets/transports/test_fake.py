"""The device that is not there, and what may be said only with its help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.errors import DeviceError
from targets.transports.fake import Call, FakeTransport
from targets.transports.transport import Done, push_changed, remove_work_dir


def test_fake_answers_by_exact_key_then_by_longest_beginning() -> None:
    device = FakeTransport(
        {
            ("getprop", ...): "any",
            ("getprop", "ro.x", ...): b"x",
            ("getprop", "ro.x", "now"): Done(("other",), 3, b"", b"no"),
            ("count",): ["1", "2"],
            ("call", ...): lambda argv: argv[-1].upper(),
            ("gone",): DeviceError("fake: gone"),
        }
    )

    def out(*argv: str) -> bytes:
        return device.run(argv, timeout_s=1).stdout

    assert [out("getprop", "a"), out("getprop", "ro.x", "b")] == [b"any", b"x"]
    assert device.run(["getprop", "ro.x", "now"], timeout_s=1).returncode == 3
    assert [out("count"), out("count"), out("count")] == [b"1", b"2", b"2"]
    assert out("call", "me") == b"ME"
    with pytest.raises(DeviceError, match="gone"):
        out("gone")
    assert device.run(["absent"], timeout_s=1).returncode == 127
    assert device.ran[0] == ("getprop", "a")


def test_fake_keeps_files_and_records(tmp_path: Path) -> None:
    device = FakeTransport(files={"/sys/temp": "48300"})
    (tmp_path / "runner").write_bytes(b"\x7fELF")
    where = f"{device.work_dir}/runner"
    assert push_changed(device, tmp_path / "runner", where, executable=True, timeout_s=5) == (
        where,
    )
    assert push_changed(device, tmp_path / "runner", where, executable=True, timeout_s=5) == ()
    assert device.programs == {where}
    assert [call.verb for call in device.calls].count("push") == 1
    assert device.run(["cat", "/sys/temp"], timeout_s=1).stdout == b"48300"
    assert device.run(["cat", "/sys/none"], timeout_s=1).returncode == 1
    device.pull(where, tmp_path / "back", timeout_s=1)
    assert (tmp_path / "back").read_bytes() == b"\x7fELF"
    remove_work_dir(device)
    assert set(device.files) == {"/sys/temp"}
    with pytest.raises(ValueError, match="deadline"):
        device.run(["true"], timeout_s=0)
    device.close()
    assert device.calls[-1] == Call("close", (), {})
    with pytest.raises(DeviceError, match="closed"):
        device.run(["true"], timeout_s=1)


def test_what_arrives_changed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"right")
    device = FakeTransport()
    honest: Callable[..., None] = device.push

    def lossy(local: Path, remote: str, **options: float) -> None:
        honest(local, remote, **options)
        device.files[remote] = b"wrong"

    device.push = lossy  # type: ignore[method-assign, assignment]
    with pytest.raises(DeviceError, match="not what was pushed"):
        push_changed(device, tmp_path / "file", "/x/file", timeout_s=5)


def test_a_device_without_hashes_gets_the_files_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    device = FakeTransport({("sha256sum", ...): Done((), 127, b"", b"not found")})
    for _ in range(2):
        assert push_changed(device, tmp_path / "file", "/x/file", timeout_s=5) == ("/x/file",)
