"""Real kits of a tiny network, and this machine as a board with a stand-in for trtexec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.conversion import ConversionRequest
from converters.convert import Source, convert_model
from converters.job import FeedSource, NamedFeeds
from edge.artifact import Artifact, load_artifact
from edge.latency import LatencySettings
from edge.session import Array
from edge.spec import ModelSpec, Variant
from targets.devices.readings import DeviceInfo
from targets.runners.trtexec.session import RemoteTrtexecSession, open_trtexec
from targets.transports.local import LocalTransport
from tests.conftest import tiny_simcc_model
from tests.stand_ins import trtexec_stand_in as stand_in

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Version = tuple[int, int, int]
VERSIONS: list[Version] = [(8, 2, 1), (8, 4, 1), (8, 5, 2), (8, 6, 1), (10, 3, 0), (11, 4, 0)]
ORIN = DeviceInfo(
    "local", "NVIDIA Jetson Orin NX Engineering Reference", "nvidia,tegra234", None, "aarch64", 8,
    "jetson",
)  # fmt: skip
WORD = "nvidia-jetson-orin-nx-engineering-reference-nvidia-tegra234"
SHORT = LatencySettings(5, 0.2, 50, 1.0, 60.0)


def noise(spec: ModelSpec, count: int = 3) -> list[NamedFeeds]:
    rng = np.random.default_rng(11)
    shape = (1, 3, *spec.input_hw)
    return [
        NamedFeeds(f"noise {i}", {spec.input.name: rng.normal(0, 1, shape).astype(np.float32)})
        for i in range(count)
    ]


class Kits:
    """One network's kits, with a fixed and with an open batch; another network's; the source."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "tiny.onnx"
        onnx.save(tiny_simcc_model(scale_norm=True), str(self.source))
        other = folder / "other.onnx"
        onnx.save(tiny_simcc_model(keypoints=5), str(other))
        self.one = self._convert(self.source, folder / "one", 1)
        self.open = self._convert(self.source, folder / "open", None)
        self.other = self._convert(other, folder / "other", 1)
        self.image: Array = noise(self.one.spec)[0].feeds["input"]
        session = onnxruntime.InferenceSession(str(self.source), providers=["CPUExecutionProvider"])
        self._reference = session

    @staticmethod
    def _convert(path: Path, out: Path, batch: int | None) -> Artifact:
        request = ConversionRequest(parity=FeedSource("noise", noise), batch=batch)
        variant = Variant("tensorrt", "fp16")
        (made,) = convert_model(Source(path.stem, path), [variant], out, request, lambda _: None)
        assert made.error is None
        return load_artifact(made.folder)

    def answers(self, image: Array) -> dict[str, Array]:
        return dict(
            zip(("simcc_x", "simcc_y"), self._reference.run(None, {"input": image}), strict=True)
        )


class Board:
    """This machine as a board: trtexec on its PATH, a working folder with a space in its name."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")
        self.transport = LocalTransport(root / "a b" / "edgepose" / "device")
        self.work = Path(self.transport.work_dir)
        self.logs = root / "logs"
        self.said: list[str] = []
        self.program = self.bin / "trtexec"

    def install(self, version: Version = (10, 3, 0), **settings: Any) -> None:
        self.program = stand_in.install(self.bin, version, **settings)

    def open(self, artifact: Artifact, **options: Any) -> RemoteTrtexecSession:
        transport = options.pop("transport", self.transport)
        return open_trtexec(
            transport,
            artifact,
            remote_folder=str(artifact.folder),
            log_folder=self.logs,
            say=self.said.append,
            **{"device": ORIN, **options},
        )

    def calls(self, option: str) -> list[list[str]]:
        """The command lines with an option, without the program itself."""
        return [
            words[1:]
            for words in stand_in.calls(self.program)
            if any(word.startswith(option) for word in words)
        ]

    def kept(self) -> list[str]:
        """What lies in the folder of engines."""
        folder = self.work / "engines"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def clean(self) -> bool:
        """Whether no call left a file of its own."""
        return not list((self.work / "tmp").glob("*"))
