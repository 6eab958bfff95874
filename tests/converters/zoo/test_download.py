"""Downloads against a real server that does what servers do: cut, stall, refuse, forget."""

from __future__ import annotations

import fcntl
import hashlib
import io
import signal
import socket
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from converters.zoo.download import DownloadError, fetch
from tests.stand_ins.mirror_server import (
    DATA,
    NAME,
    SHA256,
    Server,
    left,
    server,  # noqa: F401
    start,
)

pytestmark = pytest.mark.alone


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def get(server: Server, folder: Path, **settings: Any) -> Path:
    usual: dict[str, Any] = {"sha256": [SHA256[:8]], "timeout_s": 5.0, "pause_s": 0.0}
    return fetch(f"{server.url}/zoo/{NAME}", folder, **(usual | settings))


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "cache"
    steps: list[tuple[int, int | None]] = []
    path = get(server, folder, progress=lambda *step: steps.append(step))
    assert path == folder / NAME
    assert path.read_bytes() == DATA
    assert left(folder) == {NAME: len(DATA)}
    assert steps == sorted(steps)
    assert steps[-1] == (len(DATA), len(DATA))
    assert get(server, folder) == path
    assert len(server.seen) == 1


@pytest.mark.parametrize("fault", [{"cut": 100_000}, {"cut": 100_000, "reset": True}])
def test_a_broken_transfer_goes_on_where_it_broke(
    server: Server, tmp_path: Path, fault: dict[str, Any]
) -> None:
    server.faults = [fault, fault | {"cut": 200_000}]
    said: list[str] = []
    assert get(server, tmp_path, say=said.append).read_bytes() == DATA
    offsets = [int((asked or "bytes=0-")[6:-1]) for _, asked in server.seen]
    if "reset" in fault:  # a reset may take unread bytes with it
        assert offsets[0] == 0
        assert offsets == sorted(offsets)
    else:
        assert offsets == [0, 100_000, 200_000]
        assert server.sent == len(DATA)  # no byte twice
    assert len(said) == 2
    assert all("trying again" in line for line in said)


def test_three_breaks_are_enough_and_leave_what_came(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 100}, {"cut": 200}, {"cut": 300}]
    with pytest.raises(DownloadError, match=r"broke off after 300 of 300,000 bytes, 3 times"):
        get(server, tmp_path)
    assert left(tmp_path) == {NAME + ".part": 300}
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.seen[-1][1] == "bytes=300-"


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 100_000}, {"no_ranges": True}]
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.seen) == 2


def test_only_what_was_announced_is_read(server: Server, tmp_path: Path) -> None:
    # A server that says more, or keeps the connection, does not hold anything up.
    server.faults = [{"extra": b"more", "stall": True}]
    begin = time.monotonic()
    assert get(server, tmp_path).read_bytes() == DATA
    assert time.monotonic() - begin < 3


def test_a_server_that_goes_on_elsewhere_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 100_000}, {"shift": 5}]
    assert get(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.seen] == [None, "bytes=100000-", None]


def test_a_part_file_that_is_whole_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA)
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.sent == 0


@pytest.mark.parametrize("size", [1_000, len(DATA) + 10])
def test_a_part_file_of_another_version_does_no_harm(
    server: Server, tmp_path: Path, size: int
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * size)
    assert get(server, tmp_path).read_bytes() == DATA
    assert [asked for _, asked in server.seen] == [f"bytes={size}-", None]


def test_a_part_file_that_is_too_long_is_noticed_without_a_hash(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA + b"x")
    assert get(server, tmp_path, sha256=()).read_bytes() == DATA


def test_a_wrong_file_is_deleted_and_named(server: Server, tmp_path: Path) -> None:
    got = hashlib.sha256(DATA).hexdigest()[:8]
    with pytest.raises(DownloadError, match=rf"starts with {got}, not 00000000\) and was deleted"):
        get(server, tmp_path, sha256=["00000000"])
    assert left(tmp_path) == {}
    assert len(server.seen) == 1
    get(server, tmp_path, sha256=["00000000", SHA256])  # any one of several


def test_what_lies_in_the_cache_is_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(DATA[:-1])
    with pytest.raises(DownloadError, match="delete it and it is fetched again"):
        get(server, tmp_path)
    assert server.seen == []
    assert left(tmp_path) == {NAME: len(DATA) - 1}


def test_a_zip_vouches_for_itself(server: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("end2end.onnx", DATA)
    whole = buffer.getvalue()
    middle = len(whole) // 2
    for name, data, flaw in (
        ("good", whole, None),
        ("flipped", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "damaged"),
        ("short", whole[:-100], "no zip file"),
        ("page", b"<html>sign in</html>", "no zip file"),
    ):
        server.files[f"/{name}.zip"] = data
        if flaw is None:
            assert fetch(f"{server.url}/{name}.zip", tmp_path).read_bytes() == data
            continue
        with pytest.raises(DownloadError, match=flaw):
            fetch(f"{server.url}/{name}.zip", tmp_path)
    assert list(left(tmp_path)) == ["good.zip"]


@pytest.mark.parametrize(
    ("status", "line"),
    [(404, "not there$"), (403, r"refused by the server \(403"), (503, r"\(503 ")],
)
def test_a_refusal_is_one_line(server: Server, tmp_path: Path, status: int, line: str) -> None:
    server.faults = [{"status": status}]
    with pytest.raises(DownloadError, match=line) as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == {}
    assert len(server.seen) == 1


def test_a_stalled_server_is_given_up(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 100_000, "stall": True}]
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"no byte for 0\.3 s"):
        get(server, tmp_path, timeout_s=0.3)
    assert 0.3 <= time.monotonic() - begin < 2
    assert left(tmp_path) == {f"{NAME}.part": 100_000}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_network_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{closed_port()}/zoo/{NAME}"
    with pytest.raises(DownloadError) as caught:
        fetch(url, tmp_path, sha256=[SHA256])
    line = str(caught.value)
    assert "cannot be reached (Connection refused)" in line
    assert f"put {NAME} into {tmp_path}, or set EDGEPOSE_MIRROR" in line
    assert left(tmp_path) == {}

    def no_names(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    with pytest.raises(DownloadError, match=r"models\.invalid cannot be reached \(Name or service"):
        fetch(f"https://models.invalid/{NAME}", tmp_path)
    (tmp_path / NAME).write_bytes(DATA)  # as told
    assert fetch(url, tmp_path, sha256=[SHA256]).read_bytes() == DATA


def test_proxies_are_honoured(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("https_proxy", server.url)
    url = f"http://models.invalid/zoo/{NAME}"
    assert fetch(url, tmp_path, sha256=[SHA256]).read_bytes() == DATA
    assert server.seen == [(url, None)]
    with pytest.raises(DownloadError, match="403 Forbidden"):
        fetch("https://models.invalid/other.pth", tmp_path)
    assert server.seen[1:] == [("models.invalid:443", None)]
    # And not where no_proxy says so.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / NAME).unlink()
    assert get(server, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("place", [NAME, f"zoo/{NAME}"])
def test_a_mirror_folder(server: Server, tmp_path: Path, place: str) -> None:
    mirror = tmp_path / "mirror"
    (mirror / place).parent.mkdir(parents=True)
    (mirror / place).write_bytes(DATA)
    path = get(server, tmp_path / "cache", mirror=str(mirror))
    assert path.read_bytes() == DATA
    assert left(tmp_path / "cache") == {NAME: len(DATA)}
    assert server.seen == []
    (mirror / place).write_bytes(DATA[:-1])
    with pytest.raises(DownloadError, match="not the file expected"):
        get(server, tmp_path / "cache2", mirror=str(mirror))
    assert (mirror / place).stat().st_size == len(DATA) - 1


def test_a_mirror_server_instead_of_the_official_one(server: Server, tmp_path: Path) -> None:
    url = f"https://models.invalid/zoo/{NAME}"
    settings: dict[str, Any] = {"sha256": [SHA256], "mirror": f"{server.url}/"}
    assert fetch(url, tmp_path, **settings).read_bytes() == DATA
    assert [path for path, _ in server.seen] == [f"/{NAME}", f"/zoo/{NAME}"]
    with pytest.raises(DownloadError, match="the official host was not asked") as caught:
        fetch("https://models.invalid/zoo/other.pth", tmp_path, **settings)
    assert f"{server.url}/other.pth nor {server.url}/zoo/other.pth" in str(caught.value)


def test_a_mirror_that_is_neither(tmp_path: Path) -> None:
    for mirror in (str(tmp_path / "absent"), "ftp://somewhere/models"):
        with pytest.raises(DownloadError, match="neither a folder nor an http"):
            fetch(f"https://models.invalid/{NAME}", tmp_path, mirror=mirror)
    with pytest.raises(DownloadError, match="not the http"):
        fetch(f"file:///etc/{NAME}", tmp_path)


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="EDGEPOSE_CACHE"):
        get(server, tmp_path / "file")
    with pytest.raises(DownloadError, match=r"file/cache.*EDGEPOSE_CACHE"):
        get(server, tmp_path / "file" / "cache")


def wait_for(folder: Path, size: int) -> None:
    part = folder / f"{NAME}.part"
    for _ in range(500):
        if part.exists() and part.stat().st_size == size:
            return
        time.sleep(0.02)
    raise AssertionError(f"{part} did not grow to {size}")


def test_a_full_disk_is_one_line(server: Server, tmp_path: Path) -> None:
    # A limit on file sizes fails a write as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (99_000, 99_000))\n"
    process = start(server, tmp_path, limit)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("refused: ")
    assert "make room, or choose another folder with EDGEPOSE_CACHE" in err
    assert err.count("\n") == 1
    assert left(tmp_path) == {f"{NAME}.part": 99_000}


def test_an_interrupt_leaves_the_part_file_only(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 150_000, "stall": True}]
    process = start(server, tmp_path)
    wait_for(tmp_path, 150_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert left(tmp_path) == {f"{NAME}.part": 150_000}
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.seen[-1][1] == "bytes=150000-"


def test_two_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 150_000, "stall": True}]
    other = start(server, tmp_path)
    wait_for(tmp_path, 150_000)
    said: list[str] = []

    def let_the_other_go_on(line: str) -> None:
        said.append(line)
        server.go_on.set()

    assert get(server, tmp_path, say=let_the_other_go_on).read_bytes() == DATA
    _, err = other.communicate(timeout=30)
    assert other.returncode == 0, err
    assert said == [f"another process is fetching {NAME}: waiting for it"]
    assert left(tmp_path) == {NAME: len(DATA)}
    assert server.sent == len(DATA)


def test_a_part_file_that_the_other_one_deleted_is_made_anew(
    server: Server, tmp_path: Path
) -> None:
    part = tmp_path / f"{NAME}.part"
    with part.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def give_up(line: str) -> None:
            assert "another process" in line
            part.unlink()
            fcntl.flock(other, fcntl.LOCK_UN)

        assert get(server, tmp_path, say=give_up).read_bytes() == DATA
    assert left(tmp_path) == {NAME: len(DATA)}


def test_the_second_takes_over_where_the_first_dies(server: Server, tmp_path: Path) -> None:
    server.faults = [{"cut": 150_000, "stall": True}]
    other = start(server, tmp_path)
    wait_for(tmp_path, 150_000)
    assert get(server, tmp_path, say=lambda _: other.kill()).read_bytes() == DATA
    other.communicate(timeout=30)
    assert server.seen[-1][1] == "bytes=150000-"


def test_encryption_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Redirected(io.BytesIO):
        url = "http://elsewhere.invalid/model.pth"

    class Opener:
        def open(self, *_: Any, **__: Any) -> Redirected:
            return Redirected(b"")

    monkeypatch.setattr("converters.zoo.download.build_opener", Opener)
    with pytest.raises(DownloadError, match="not encrypted"):
        fetch("https://models.invalid/model.pth", tmp_path)
    assert left(tmp_path) == {}
