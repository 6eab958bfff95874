"""ncnn's threads, and sessions in processes that were forked from the one that opened them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge.engines.ncnn_threads as threads_module
from edge.artifact import Artifact, sha256_of
from edge.engines.ncnn_threads import ThreadTeam, import_ncnn
from edge.errors import EngineError
from edge.session import OpenSession
from edge.spec import Variant
from tests.conftest import ROOT
from tests.stand_ins.native_networks import ncnn_files
from tests.stand_ins.specs import pose_spec
from tests.stand_ins.tflite_convolution import artifact_of as tflite_artifact
from tests.stand_ins.tiny_artifacts import tiny_artifact

FORK = """
import multiprocessing, os, sys
import numpy as np
from edge import EngineSettings, load_artifact, open_session

session = open_session(load_artifact(sys.argv[1]), EngineSettings(threads=2))
shape = [size or 1 for size in session.spec.input.shape]
feeds = {session.spec.input.name: np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)}
expected = session.run(feeds)

def of_its_own(_):
    with open_session(load_artifact(sys.argv[1]), EngineSettings(threads=2)) as opened:
        return same(used=opened)

def same(_=None, used=session):
    found = used.run(feeds)
    return all(np.allclose(found[name], expected[name], atol=1e-4) for name in expected)

assert all(same() for _ in range(5))
child = os.fork()
if not child:
    os._exit(0 if same() and same() else 9)
assert os.waitpid(child, 0)[1] == 0
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert all(pool.map_async(same, range(4)).get(timeout=60))
    assert all(pool.map_async(of_its_own, range(2)).get(timeout=60))
assert same()
print("as in the parent")
"""


def on_disk(artifact: Artifact) -> Path:
    names = artifact.files.values()
    hashes = {name: sha256_of(artifact.folder / name) for name in names}
    replace(artifact, sha256=hashes).write_manifest()
    return artifact.folder


def saved(engine: str, folder: Path) -> Path:
    """A tiny network of an engine's format."""
    if engine == "tflite":
        pytest.importorskip("ai_edge_litert")
        return on_disk(tflite_artifact(folder))
    pytest.importorskip("onnxruntime")
    tiny = tiny_artifact(folder)
    if engine == "onnx":
        return on_disk(tiny)
    if engine == "openvino":
        pytest.importorskip("openvino")
        from tests.stand_ins.openvino_artifacts import as_openvino

        return on_disk(as_openvino(tiny))
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    param, weights, spec = ncnn_files(tiny.path("model"), folder / "ncnn")
    files = {"model": param.name, "weights": weights.name}
    return on_disk(Artifact(folder / "ncnn", Variant("ncnn", "fp16"), spec, files, {}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("engine", ["onnx", "ncnn", "openvino", "tflite"])
def test_a_session_answers_in_forked_processes(tmp_path: Path, engine: str) -> None:
    argv = [sys.executable, "-W", "ignore", "-c", FORK, str(saved(engine, tmp_path))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "as in the parent", done.stderr


def test_an_engine_that_does_not_work_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    state = OpenSession(pose_spec(), forks=False)
    state.check()
    mine = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: mine + 1)
    with pytest.raises(EngineError, match=rf"opened in process {mine}.*open it in this process"):
        state.check()
    OpenSession(pose_spec()).check()
    state.close()
    with pytest.raises(EngineError, match="the session of pose is closed"):
        state.check()


# --- ncnn's threads -------------------------------------------------------------------------------


class FakeOpenMp:
    """The library of a network that takes ``cost[threads]`` ns a call."""

    def __init__(self, alone_ns: int, all_ns: int) -> None:
        self.cost = {True: alone_ns, False: all_ns}
        self.levels = 9
        self.now_ns = 0
        self.calls: list[bool] = []

    def omp_get_max_active_levels(self) -> int:
        return self.levels

    def omp_set_max_active_levels(self, levels: int) -> None:
        self.levels = levels

    def call(self, team: ThreadTeam) -> None:
        with team.running():
            alone = self.levels == 0
            self.calls.append(alone)
            self.now_ns += self.cost[alone]
        assert self.levels == 9

    def clock_ns(self) -> int:
        return self.now_ns


def team_on(library: FakeOpenMp, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> ThreadTeam:
    monkeypatch.setattr(threads_module, "_openmp_of", lambda _: library)
    monkeypatch.setattr(threads_module, "_loaded_with", [])
    return ThreadTeam(None, count, library.clock_ns)


@pytest.mark.parametrize(("alone_ns", "all_ns"), [(10, 6), (10, 100), (10, 2000)])
def test_a_session_takes_what_is_faster(
    alone_ns: int, all_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = FakeOpenMp(alone_ns, all_ns)
    team = team_on(library, monkeypatch)
    for _ in range(2000):
        library.call(team)
    best = alone_ns < all_ns
    assert library.calls[-200:].count(best) >= 198
    tries = library.calls.count(not best)
    assert 3 <= tries < 25
    # Trying the other way costs less than a tenth, were it ten times as slow.
    assert 10 * tries < 0.15 * 2000


def test_a_session_goes_with_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeOpenMp(10, 6)
    team = team_on(library, monkeypatch)
    for _ in range(300):
        library.call(team)
    library.cost[False] = 200  # somebody wants the CPUs
    for _ in range(10):
        library.call(team)
    assert library.calls[-5:] == [True] * 5
    library.cost[False] = 6  # and leaves them
    for _ in range(1200):
        library.call(team)
    assert library.calls[-100:].count(False) >= 98


def test_threads_that_sleep_at_once_are_all_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeOpenMp(10, 100)
    team_on(library, monkeypatch)
    monkeypatch.setattr(threads_module, "_loaded_with", ["0"])
    team = ThreadTeam(None, 2, library.clock_ns)
    for _ in range(50):
        library.call(team)
    assert library.calls == [False] * 50


def test_one_thread_is_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeOpenMp(10, 6)
    team = team_on(library, monkeypatch, count=1)
    for _ in range(50):
        library.call(team)
    assert library.calls == [False] * 50  # nothing is switched


def test_a_forked_process_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeOpenMp(10, 6)
    team = team_on(library, monkeypatch)
    mine = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: mine + 1)
    for _ in range(50):
        library.call(team)
    assert library.calls == [True] * 50


def test_without_openmp_nothing_is_chosen() -> None:
    team = ThreadTeam(SimpleNamespace(), 4)
    with team.running():
        pass


def test_whether_cpus_are_free_is_told_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads_module, "default_threads", lambda: 2)
    for others, free in ((0, True), (2, True), (3, False), (9, False)):
        text = f"0.10 0.20 0.30 {others + 1}/200 4711\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert threads_module.cpus_are_free() is free
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "what is this")
    assert threads_module.cpus_are_free()


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("own", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_threads_wait_is_said_before_the_library_is_loaded(
    own: str | None, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "cpus_are_free", lambda: free)
    monkeypatch.setattr(threads_module, "_loaded_with", [])
    seen: dict[str, Any] = {}

    def load(*_: str) -> str:
        seen.update(os.environ)
        return "ncnn"

    monkeypatch.setattr(threads_module, "import_engine", load)
    monkeypatch.delitem(sys.modules, "ncnn", raising=False)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(own, "passive")
    before = dict(os.environ)
    assert import_ncnn() == "ncnn"
    assert seen.get("GOMP_SPINCOUNT") == {
        None: "2000" if free else "0",
        "GOMP_SPINCOUNT": "passive",
    }.get(own)
    assert dict(os.environ) == before
