"""ncnn on the CPU."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from edge.artifact import Artifact, load_constants
from edge.engines.ncnn_threads import ThreadTeam, import_ncnn
from edge.errors import EngineError
from edge.session import (
    Array,
    EngineSettings,
    Feeds,
    OpenSession,
    Session,
    check_feeds,
    check_outputs,
    refuse_bf16,
)

__all__ = ["NcnnSession", "open_engine"]


class NcnnSession(Session):
    """A ``.param`` / ``.bin`` pair on ncnn, which takes one image a call.

    Where an artifact's record says that another arithmetic than fp16 is safe on ARM, one that may
    compute in fp16 is opened with that there.
    """

    def __init__(self, artifact: Artifact, settings: EngineSettings) -> None:
        refuse_bf16(settings, "ncnn")
        ncnn = import_ncnn()
        self._constants = load_constants(artifact)
        arithmetic = _arithmetic(artifact, settings)
        half = arithmetic in ("fp16", "fp16-storage")
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = settings.thread_count
        net.opt.use_fp16_packed = half
        net.opt.use_fp16_storage = half
        net.opt.use_fp16_arithmetic = arithmetic == "fp16"
        net.opt.use_bf16_storage = arithmetic == "bf16"
        param, weights = artifact.path("model"), artifact.path("weights")
        self._team = ThreadTeam(ncnn, settings.thread_count)
        with self._team.safe():
            loaded = net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
        if not loaded:
            raise EngineError(f"ncnn cannot load {param} with {weights}")
        self._ncnn: Any = ncnn
        self._net: Any = net
        self.spec = artifact.spec
        self._state = OpenSession(self.spec)
        self.engine = f"ncnn {ncnn.__version__}"
        if arithmetic == "fp16" and not ncnn.cpu_support_arm_asimdhp():
            # x86 widens the weights on loading. Cores before ARMv8.2 (Cortex-A53, -A72) keep half
            # floats in memory and compute in floats.
            arithmetic = "fp16-storage" if _on_arm() else "fp32"
        self.inference_precision = arithmetic
        self.max_batch = 1

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Outputs by name, in the order of ``spec.outputs``, and the constants."""
        self._state.check()
        image = check_feeds(self.spec, feeds)[0]
        with self._team.running():
            outputs = self._extract(image)
        return check_outputs(self.spec, outputs, "ncnn") | self._constants

    def _extract(self, image: Array) -> dict[str, Array]:
        extractor = self._net.create_extractor()
        # A clone: a Mat only points into its array, and a first layer that works in place (a
        # multiplication, say) would write into the caller's image or crash (ncnn 1.0.20261020).
        if extractor.input(self.spec.input.name, self._ncnn.Mat(image).clone()) != 0:
            raise EngineError(f"ncnn has no input blob {self.spec.input.name!r}")
        outputs: dict[str, Array] = {}
        for tensor in self.spec.outputs:
            code, mat = extractor.extract(tensor.name)
            if code != 0:
                raise EngineError(f"ncnn failed on output {tensor.name!r} of {self.spec.name}")
            outputs[tensor.name] = np.array(mat)[None]  # a copy: its memory is the extractor's
        return outputs

    def close(self) -> None:
        """Free the network."""
        self._state.close()
        self._net = None


def _arithmetic(artifact: Artifact, settings: EngineSettings) -> str:
    """What the network is opened with: fp32, fp16, fp16-storage or bf16."""
    if settings.inference_precision != "fp16":
        return "fp32"
    safe = artifact.arm.get("safe")
    return str(safe) if safe and _on_arm() else "fp16"


def _on_arm() -> bool:
    return platform.machine() in ("aarch64", "arm64")


def open_engine(artifact: Artifact, settings: EngineSettings) -> NcnnSession:
    """Load an ``ncnn-*`` artifact."""
    return NcnnSession(artifact, settings)
