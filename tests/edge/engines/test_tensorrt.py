"""TensorRT as an engine, on stand-ins that follow its documented interfaces.

There is no TensorRT where these tests run: they tell that the session speaks to the interfaces as
they are documented, and nothing about TensorRT itself.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.engines.tensorrt
from edge.artifact import Artifact
from edge.engines.tensorrt import TensorRtSession, TrtexecSession, open_engine
from edge.engines.trtexec import BuildKit
from edge.errors import ArtifactError, EngineError, EngineMissingError, FeedError, SpecError
from edge.session import Array, EngineSettings, open_session
from edge.spec import TensorSpec, Variant
from tests.stand_ins.contracts import check_engine, images_of
from tests.stand_ins.made_artifacts import some_constants
from tests.stand_ins.specs import rtmo_spec
from tests.stand_ins.tensorrt_stand_ins import (
    MAGIC,
    MOST,
    Device,
    cuda_runtime,
    pycuda_driver,
    stand_in,
    tensorrt_package,
)
from tests.stand_ins.tiny_artifacts import (
    check_all_is_there,
    fixed_answers_onnx,
    some_answers,
    tiny_artifact,
)

pytest.importorskip("onnxruntime")
ONE = EngineSettings(threads=1)

CUDA_MODULES = ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart")
PYCUDA_MODULES = ("pycuda", "pycuda.driver")


class World:
    """Which packages there are."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.device = patch, Device()
        self.engines: list[Any] = []
        for name in ("tensorrt", *CUDA_MODULES, *PYCUDA_MODULES):
            patch.setitem(sys.modules, name, None)  # an import of it fails
        patch.setattr(edge.engines.tensorrt, "find_trtexec", lambda: None)

    def has(self, name: str, module: Any) -> None:
        parent, _, last = name.rpartition(".")
        if parent:
            self.has(parent, sys.modules.get(parent) or types.ModuleType(parent))
            setattr(sys.modules[parent], last, module)
        self.patch.setitem(sys.modules, name, module)

    def has_tensorrt(self, version: str, cuda: str = "cuda.bindings.runtime") -> None:
        self.has("tensorrt", tensorrt_package(self.device, version, self.engines))
        driver = cuda.startswith("pycuda")
        self.has(cuda, pycuda_driver(self.device) if driver else cuda_runtime(self.device))

    def has_trtexec(self, program: Path) -> None:
        self.patch.setattr(edge.engines.tensorrt, "find_trtexec", lambda: str(program))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    here = World(monkeypatch)
    yield here
    # Whatever happened, nothing is left on the device.
    assert (here.device.blocks, here.device.depth, here.device.streams) == ({}, 0, 0)


def as_engine(source: Artifact, *, magic: bytes = MAGIC) -> Artifact:
    """An ``onnx`` artifact's file as the plan of a built kit."""
    plan = source.folder / "tiny.engine"
    plan.write_bytes(magic + source.path("model").read_bytes())
    shape = source.spec.input.shape
    batches = (1, 2, MOST) if shape[0] is None else None
    kit = BuildKit("tiny-fp16", "fp16", "input", shape, {"plain": "p", "strong": "s"}, batches)
    (source.folder / "tiny.build.json").write_text(json.dumps(kit.to_json()))
    files = source.files | {"engine": plan.name, "build": "tiny.build.json"}
    return replace(source, variant=Variant("tensorrt", "fp16"), files=files)


def images(count: int) -> Array:
    return np.random.default_rng(0).normal(0, 1, (count, 3, 64, 48)).astype(np.float32)


GENERATIONS = [
    ("8.2.1.8", "cuda.cudart"),
    ("8.4.1.5", "pycuda.driver"),
    ("8.6.2.3", "pycuda.driver"),
    ("10.3.0", "cuda.cudart"),
    ("11.4.0.106", "cuda.bindings.runtime"),
]


# --- TensorRT's Python package --------------------------------------------------------------------


@pytest.mark.parametrize(("version", "cuda"), GENERATIONS)
def test_every_generation_gives_the_networks_answers(
    tmp_path: Path, world: World, version: str, cuda: str
) -> None:
    source = tiny_artifact(tmp_path)
    world.has_tensorrt(version, cuda)
    with open_session(source, ONE) as reference, open_engine(as_engine(source), ONE) as session:
        assert isinstance(session, TensorRtSession)
        assert session.engine == f"tensorrt {version}"
        assert session.inference_precision == "fp16"
        assert session.max_batch is None
        # 9: more than the engine's profile takes, so in turns of 4, 4 and 1.
        for count in (1, 3, 9, 2):
            want = reference.run({"input": images(count)})
            got = session.run({"input": images(count)})
            assert list(got) == ["simcc_x", "simcc_y"]
            for name, value in want.items():
                np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
                assert got[name].dtype == np.float32
    # One block a tensor, for the largest batch, taken once: the input and two rows of bins.
    assert world.device.allocated_bytes == 4 * MOST * (3 * 64 * 48 + 17 * 96 + 17 * 128)


def test_it_keeps_the_contract_of_engines(tmp_path: Path, world: World) -> None:
    source = tiny_artifact(tmp_path)
    world.has_tensorrt("10.3.0")
    with open_session(source, ONE) as reference:
        want = [reference.run(feeds) for feeds in images_of(source.spec, 4, seed=99)]
    check_engine(open_engine, as_engine(source), want)


@pytest.mark.parametrize("version", ["8.2.1", "10.3.0"])
def test_a_fixed_batch_needs_no_shape(tmp_path: Path, world: World, version: str) -> None:
    spec = rtmo_spec()
    answers, constants = some_answers(spec), some_constants()
    path = fixed_answers_onnx(tmp_path / "rtmo.onnx", rtmo_spec(constants=()), answers)
    np.savez(tmp_path / "rtmo.npz", **constants)
    files = {"model": path.name, "constants": "rtmo.npz"}
    source = Artifact(tmp_path, Variant("onnx", "fp32"), spec, files, {})
    world.has_tensorrt(version)
    with open_engine(as_engine(source), ONE) as session:
        assert session.max_batch == 1
        check_all_is_there(session, spec, answers | constants)


def test_outputs_and_feeds_belong_to_the_caller(tmp_path: Path, world: World) -> None:
    world.has_tensorrt("10.3.0")
    feed = images(1)
    with open_engine(as_engine(tiny_artifact(tmp_path)), ONE) as session:
        first = session.run({"input": feed})
        kept = {name: value.copy() for name, value in first.items()}
        session.run({"input": feed + 1})
        np.testing.assert_array_equal(first["simcc_x"], kept["simcc_x"])
        first["simcc_y"][:] = 0
        np.testing.assert_array_equal(session.run({"input": feed})["simcc_y"], kept["simcc_y"])
    np.testing.assert_array_equal(feed, images(1))
    session.close()  # again
    with pytest.raises(EngineError, match="is closed: open it again"):
        session.run({"input": feed})


@pytest.mark.parametrize(("version", "cuda"), [GENERATIONS[0], GENERATIONS[-1]])
def test_an_engine_of_another_version_is_one_line(
    tmp_path: Path, world: World, version: str, cuda: str
) -> None:
    world.has_tensorrt(version, cuda)
    artifact = as_engine(tiny_artifact(tmp_path), magic=b"stand-in plan 9.8 ")
    with pytest.raises(EngineError) as caught:
        open_engine(artifact, ONE)
    line = str(caught.value)
    assert "Serialized Engine Version: 236" in line
    assert "build it again on this device" in line
    assert "\n" not in line
    assert version in line


def test_an_engine_of_another_network_is_refused(tmp_path: Path, world: World) -> None:
    world.has_tensorrt("10.3.0")
    artifact = as_engine(tiny_artifact(tmp_path))
    x, y = artifact.spec.outputs
    other = replace(artifact.spec, outputs=(x, replace(y, name="simcc_z")))
    with pytest.raises(EngineError, match=r"outputs \['simcc_x', 'simcc_y'\], the spec of tiny"):
        open_engine(replace(artifact, spec=other), ONE)
    larger = replace(
        artifact.spec,
        input=TensorSpec("input", (None, 3, 128, 96)),
        outputs=(TensorSpec("simcc_x", (None, 17, 192)), TensorSpec("simcc_y", (None, 17, 256))),
    )
    with pytest.raises(EngineError, match=r"does not take 'input' as \(4, 3, 128, 96\): Param"):
        open_engine(replace(artifact, spec=larger), ONE)


def test_what_fails_on_the_device_is_an_engine_error(tmp_path: Path, world: World) -> None:
    artifact = as_engine(tiny_artifact(tmp_path))
    world.has_tensorrt("10.3.0")
    with open_engine(artifact, ONE) as session:
        world.engines[-1].broken = True
        world.engines[-1].log("Cask error")
        with pytest.raises(EngineError, match="failed on tiny: Cask error"):
            session.run({"input": images(1)})
        with pytest.raises(FeedError):
            session.run({"input": images(1).astype(np.float64)})
        world.device.queue.clear()
    world.has("cuda.bindings.runtime", cuda_runtime(world.device, fails="cudaMalloc"))
    with pytest.raises(EngineError, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
        open_engine(artifact, ONE)
    world.has("cuda.bindings.runtime", cuda_runtime(world.device, fails="cudaStreamCreate"))
    with pytest.raises(EngineError, match="cudaStreamCreate failed"):
        open_engine(artifact, ONE)


def test_cuda_without_a_driver_is_an_engine_error(tmp_path: Path, world: World) -> None:
    """As cuda-python 12 has it: RuntimeError where it cannot load the driver's library."""
    world.has_tensorrt("10.3.0")

    def no_driver() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    runtime = cuda_runtime(world.device)
    runtime.cudaStreamCreate = no_driver
    world.has("cuda.bindings.runtime", runtime)
    with pytest.raises(EngineError, match=r"CUDA does not work here: Failed to dlopen libcuda"):
        open_engine(as_engine(tiny_artifact(tmp_path)), ONE)


# --- what is missing ------------------------------------------------------------------------------


def test_a_kit_without_its_engine_says_so(tmp_path: Path, world: World) -> None:
    world.has_tensorrt("10.3.0")
    artifact = as_engine(tiny_artifact(tmp_path))
    files = {role: name for role, name in artifact.files.items() if role != "engine"}
    with pytest.raises(ArtifactError, match=r"is a build kit .* of tiny\.build\.json"):
        open_engine(replace(artifact, files=files), ONE)


def test_bf16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="TensorRT does not compute in bf16"):
        open_engine(as_engine(tiny_artifact(tmp_path)), EngineSettings(1, "bf16"))


@pytest.mark.usefixtures("world")
def test_nothing_at_all_is_installed(tmp_path: Path) -> None:
    with pytest.raises(EngineMissingError, match=r"tensorrt \(.*\); nor is the program trtexec"):
        open_engine(as_engine(tiny_artifact(tmp_path)), ONE)


def test_tensorrt_without_a_cuda_package(tmp_path: Path, world: World) -> None:
    world.has("tensorrt", tensorrt_package(world.device, "10.3.0", []))
    with pytest.raises(EngineMissingError, match="pip install cuda-python"):
        open_engine(as_engine(tiny_artifact(tmp_path)), ONE)


# --- trtexec --------------------------------------------------------------------------------------


def test_trtexec_answers_where_the_package_is_missing(tmp_path: Path, world: World) -> None:
    source = tiny_artifact(tmp_path)
    world.has_trtexec(stand_in(tmp_path, "v8502"))
    with open_session(source, ONE) as reference, open_engine(as_engine(source), ONE) as session:
        assert isinstance(session, TrtexecSession)
        assert session.engine.startswith("trtexec 8.5.2 (a process for each call")
        assert session.inference_precision == "fp16"
        want = reference.run({"input": images(6)})
        got = session.run({"input": images(6)})
    assert list(got) == ["simcc_x", "simcc_y"]
    for name, value in want.items():
        assert got[name].dtype == np.float32
        # Six significant digits are what it prints.
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    shapes = [flag for call in calls for flag in call if flag.startswith("--shapes")]
    assert shapes == ["--shapes=input:4x3x64x48", "--shapes=input:2x3x64x48"]


def test_what_trtexec_refuses_is_one_line(tmp_path: Path, world: World) -> None:
    artifact = as_engine(tiny_artifact(tmp_path), magic=b"another ")
    world.has_trtexec(stand_in(tmp_path, "v8502"))
    with (
        open_engine(artifact, ONE) as session,
        pytest.raises(
            EngineError, match=r"failed on tiny: Error\[1\]: Version tag .*again on this"
        ),
    ):
        session.run({"input": images(1)})
    # A program that answers to a name of another version's options.
    world.has_trtexec(stand_in(tmp_path, "v110400"))
    with (
        open_engine(artifact, ONE) as session,
        pytest.raises(EngineError, match=r"Unknown option: --includeDataTransfers"),
    ):
        session.run({"input": images(1)})


def test_a_program_that_is_no_trtexec_is_refused(tmp_path: Path, world: World) -> None:
    artifact = as_engine(tiny_artifact(tmp_path))
    world.has_trtexec(Path("/bin/echo"))
    with pytest.raises(EngineError, match="does not say which TensorRT it is of"):
        open_engine(artifact, ONE)
    world.has_trtexec(tmp_path / "nowhere")
    with pytest.raises(EngineError, match="cannot be started"):
        open_engine(artifact, ONE)
