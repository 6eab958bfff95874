"""Engines built by trtexec on a device: once each, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edge.artifact import Artifact, sha256_of
from edge.errors import DeviceError
from targets.devices.readings import DeviceInfo
from targets.runners.trtexec import build as trtexec_build
from targets.transports.fake import FakeTransport
from targets.transports.local import LocalTransport
from targets.transports.transport import Done
from tests.stand_ins.trtexec_board import ORIN, SHORT, WORD, Board, Kits, Version


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    return Kits(tmp_path_factory.mktemp("kits"))


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, monkeypatch)


# --- the engine, once -----------------------------------------------------------------------------


def test_an_engine_is_built_once(board: Board, kits: Kits) -> None:
    board.install()
    first = board.open(kits.one)
    assert [line for line in board.said if "takes minutes" in line] == [
        "building the TensorRT 10.3.0 engine of tiny-fp16 on local: takes minutes, and is done once"
    ]
    content = sha256_of(kits.one.path("plain"))[:16]
    (name,) = [name for name in board.kept() if name.endswith(".engine")]
    assert name.startswith(f"{WORD}-10.3.0-{content}-")
    board.said.clear()
    second = board.open(kits.one)
    assert len(board.calls("--onnx")) == 1
    assert board.said == []
    timed = [session.measure({"input": kits.image}, SHORT) for session in (first, second)]
    assert [one.details["engine_name"] for one in timed] == [name.removesuffix(".engine")] * 2
    assert timed[0].details["engine_build_s"] is not None
    assert timed[1].details["engine_build_s"] is None
    assert board.clean()


def test_what_an_engine_depends_on_gives_another(board: Board, kits: Kits) -> None:
    board.install()
    board.open(kits.one)
    cache = board.work / "engines" / f"{WORD}-10.3.0.timing-cache"
    learnt = len(cache.read_bytes())
    board.open(kits.other)  # another ONNX file
    assert len(cache.read_bytes()) == 2 * learnt
    board.open(kits.one, workspace_mb=256)
    board.open(kits.open)
    board.open(kits.open, batch=1)
    board.open(kits.one, device=DeviceInfo("local", "AGX", "tegra234", None, None, 12, "jetson"))
    assert len([name for name in board.kept() if name.endswith(".engine")]) == 6
    board.install((10, 7, 0))
    board.open(kits.one)
    assert len([name for name in board.kept() if name.endswith(".engine")]) == 7
    # And all of them are still good.
    before = len(board.calls("--onnx"))
    board.open(kits.other, device=ORIN)
    board.install()
    board.open(kits.open, batch=1)
    assert len(board.calls("--onnx")) == before + 1  # kits.other by 10.7


def test_another_machines_gpu_is_asked_for(board: Board, kits: Kits) -> None:
    board.install()
    smi = board.bin / "nvidia-smi"
    smi.write_text("#!/bin/sh\n[ \"$1\" = --query-gpu=name ] && echo 'NVIDIA H200'\n")
    smi.chmod(0o755)
    board.open(kits.one, device=DeviceInfo("local", "PowerEdge", "EPYC", None, None, 8, "linux"))
    assert any(name.startswith("nvidia-h200-10.3.0-") for name in board.kept())


def test_an_engine_of_another_gpu_makes_room_for_a_new_one(board: Board, kits: Kits) -> None:
    board.install(device="compute 7.2")
    board.open(kits.one)
    board.install(device="compute 8.7")
    session = board.open(kits.one)
    with pytest.raises(DeviceError) as caught:
        session.run({"input": kits.image})
    text = str(caught.value)
    assert "expecting compute 8.7 got compute 7.2, please rebuild" in text
    assert "the engine was removed there, so that another try builds it anew" in text
    assert "\n" not in text
    log = Path(text.rpartition(" is in ")[2])
    assert log.parent == board.logs and "Engine deserialization failed" in log.read_text()
    assert board.open(kits.one).run({"input": kits.image})
    assert board.clean()


def test_it_tells_that_it_goes_on(
    board: Board, kits: Kits, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.install(build_s=0.5)
    monkeypatch.setattr(trtexec_build, "_BEAT_S", 0.1)
    board.open(kits.one)
    assert sum(line.endswith("s so far") for line in board.said) >= 3
    assert board.said[-1].startswith("built within ")


# --- builds that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("killed", "trtexec was killed, as the kernel does when memory runs out; close what else"),
        ("half", "trtexec was killed, as the kernel does when memory runs out; close what else"),
        ("no memory", r".*OutOfMemory \(Requested size was 536870912 bytes\.\); close"),
        ("disk full", r"Saving engine to file failed\."),
        ("forgets", "trtexec said that it passed and left nothing"),
    ],
)
def test_a_build_that_fails_leaves_nothing_but_its_log(
    board: Board, kits: Kits, fault: str, message: str
) -> None:
    board.install(fault=fault)
    what = "building the TensorRT 10.3.0 engine of tiny-fp16 on local failed: "
    with pytest.raises(DeviceError, match=what + message) as caught:
        board.open(kits.one)
    text = str(caught.value)
    assert "\n" not in text
    log = Path(text.rpartition(" is in ")[2])
    assert log.parent == board.logs
    assert "&&&& RUNNING TensorRT.trtexec [TensorRT v100300]" in log.read_text()
    assert board.kept() == [] and board.clean()
    board.install()
    assert board.open(kits.one).run({"input": kits.image})


def test_a_full_storage_is_named(board: Board, kits: Kits) -> None:
    board.install(fault="disk full")
    df = board.bin / "df"
    df.write_text(
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available Capacity Mounted on'\n"
        "echo '/dev/mmcblk0p1 14384136 14380000 3072 100% /'\n"
    )
    df.chmod(0o755)
    with pytest.raises(DeviceError, match=r"is full \(3 MiB free\): make room there; all that"):
        board.open(kits.one)


def test_a_build_that_takes_too_long_is_ended(board: Board, kits: Kits) -> None:
    board.install(build_s=30)
    with pytest.raises(DeviceError, match=r"did not end within 1\.5 s.*build\.log") as caught:
        board.open(kits.one, build_timeout_s=1.5)
    assert "\n" not in str(caught.value)
    assert board.kept() == [] and board.clean()


class Cable(LocalTransport):
    """A connection that breaks, or a Ctrl-C, when the build is half done."""

    def __init__(self, work_dir: Path, error: BaseException) -> None:
        super().__init__(work_dir)
        self.error = error
        self.gone = False

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> Done:
        if self.gone:
            raise DeviceError("local: the connection is gone")
        done = super().run(argv, timeout_s=timeout_s, env=env, stdin=stdin)
        if any(word.startswith("--saveEngine") for word in argv):
            self.gone = isinstance(self.error, DeviceError)
            raise self.error
        return done


def test_a_cable_that_is_pulled_leaves_no_engine(board: Board, kits: Kits) -> None:
    board.install(fault="half")
    cable = Cable(board.work, DeviceError("local: the cable was pulled"))
    with pytest.raises(DeviceError, match="the cable was pulled"):
        board.open(kits.one, transport=cable)
    assert board.kept() == []
    assert not board.clean()  # nobody could remove what a call had begun; it is below tmp
    board.install()
    assert board.open(kits.one).run({"input": kits.image})
    assert len(board.kept()) == 2


def test_ctrl_c_leaves_nothing(board: Board, kits: Kits) -> None:
    board.install()
    with pytest.raises(KeyboardInterrupt):
        board.open(kits.one, transport=Cable(board.work, KeyboardInterrupt()))
    assert board.kept() == [] and board.clean()


# --- what is on the device ------------------------------------------------------------------------


@pytest.mark.skipif(
    any(Path(folder).exists() for folder in ("/usr/src/tensorrt", "/opt/tensorrt")),
    reason="TensorRT is installed here",
)
def test_a_device_without_trtexec(board: Board, kits: Kits) -> None:
    message = r"local: trtexec is not there.*on a Jetson `sudo apt install tensorrt`"
    with pytest.raises(DeviceError, match=message):
        board.open(kits.one)


@pytest.mark.parametrize("version", [(7, 1, 3), (12, 0, 0)], ids=str)
def test_a_version_that_nobody_knows(board: Board, kits: Kits, version: Version) -> None:
    board.install(version)
    dotted = ".".join(map(str, version))
    with pytest.raises(DeviceError, match=rf"local: TensorRT {dotted} is not known here"):
        board.open(kits.one)
    assert board.calls("--onnx") == []


def test_a_kit_for_newer_versions(board: Board, kits: Kits, tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(kits.one.folder, folder)
    newer = Artifact(folder, kits.one.variant, kits.one.spec, kits.one.files, kits.one.sha256)
    path = newer.path("build")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"oldest": [8, 6]}))
    board.install((8, 5, 2))
    with pytest.raises(DeviceError, match=r"local: tiny-fp16 needs TensorRT 8\.6 or newer .*8\.5"):
        board.open(newer)
    assert board.calls("--onnx") == []


def scripted(help_text: str | Done, dpkg: str | Done = "") -> FakeTransport:
    return FakeTransport(
        {
            ("sh", ...): "/usr/src/tensorrt/bin/trtexec\n",
            ("/usr/src/tensorrt/bin/trtexec", "--help"): help_text,
            ("dpkg-query", ...): dpkg,
        },
        name="ssh nv@orin",
    )


def test_the_version_is_asked_of_the_program_then_of_its_package() -> None:
    banner = "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help\n"
    found = trtexec_build.find_on_device(scripted(Done((), 1, banner.encode(), b"[E] no")))
    assert found == trtexec_build.Trtexec("/usr/src/tensorrt/bin/trtexec", (8, 5, 2))
    silent = scripted("=== Model Options ===\n", "10.3.0.30-1+cuda12.5")
    assert trtexec_build.find_on_device(silent).version == (10, 3, 0)
    for device in (
        scripted("=== Model Options ===\n", Done((), 1, b"", b"no packages found")),
        scripted(Done((), 127, b"", b"trtexec: error while loading shared libraries: libx.so.8\n")),
    ):
        with pytest.raises(DeviceError, match=r"ssh nv@orin: /usr.* does not say which TensorRT"):
            trtexec_build.find_on_device(device)
