"""Artifacts whose sessions take a known time, on a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact
from edge.choice import Check, Choice, ChoiceSettings, choose
from edge.session import Array, EngineSettings, Feeds, Session
from edge.spec import ModelSpec, TensorSpec, Variant
from tests.stand_ins.made_artifacts import make_artifact
from tests.stand_ins.specs import pose_spec

SMALL_POSE = pose_spec(
    input=TensorSpec("input", (None, 3, 64, 48)),
    outputs=(TensorSpec("simcc_x", (None, 17, 96)), TensorSpec("simcc_y", (None, 17, 128))),
)

Cost = Callable[[int], float]
"""The time in ms of a call with so many people."""


class Bench:
    """A folder of artifacts, an engine for all of them, and the clock that it moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_ns = 0
        self.artifacts: list[Artifact] = []
        self.costs: dict[str, float | Cost] = {}
        self.calls: list[str] = []
        self.opened: list[tuple[str, int]] = []
        self.open_now = 0
        self.has_bf16 = True
        self.said: list[str] = []
        self.checked: list[str] = []
        self.check_error: dict[str, Exception] = {}

    def add(self, variant: str, cost: float | Cost | Exception = 100.0, **changes: Any) -> Artifact:
        made = {
            "variant": Variant.parse(variant),
            "spec": SMALL_POSE,
            "accuracy": {"passed": True},
            **changes,
        }
        artifact = make_artifact(self.folder / variant, **made)
        self.artifacts.append(artifact)
        self.costs[variant] = cost if not isinstance(cost, Exception) else self._raising(cost)
        return artifact

    @staticmethod
    def _raising(error: Exception) -> Cost:
        def cost(people: int) -> float:
            del people
            raise error

        return cost

    def open(self, artifact: Artifact, settings: EngineSettings) -> Session:
        return TimedSession(self, artifact, settings)

    def check(self, artifact: Artifact, session: Session) -> str:
        name = f"{artifact.variant} {session.inference_precision}"
        self.checked.append(name)
        if name in self.check_error:
            raise self.check_error[name]
        return "pass: as good"

    def choose(self, check: Check | None = None, **settings: Any) -> Choice:
        return choose(
            self.artifacts,
            ChoiceSettings(folder=self.folder / "kept", **settings),
            check=check,
            say=self.said.append,
            open_artifact=self.open,
            clock_ns=lambda: self.now_ns,
        )


class TimedSession(Session):
    """Answers nothing, and takes the time that it was given for it."""

    engine = "clockwork 1"

    def __init__(self, bench: Bench, artifact: Artifact, settings: EngineSettings) -> None:
        wanted = settings.inference_precision
        held = "bf16" if wanted == "bf16" and bench.has_bf16 else "fp32"
        self.spec: ModelSpec = artifact.spec
        self.inference_precision = held
        self.max_batch = None
        self._bench, self._variant = bench, str(artifact.variant)
        self._name = self._variant + (" bf16" if held == "bf16" else "")
        bench.opened.append((f"{self._variant} {wanted}", settings.threads))
        bench.open_now += 1

    def run(self, feeds: Feeds) -> dict[str, Array]:
        (batch,) = feeds.values()
        cost = self._bench.costs.get(self._name, self._bench.costs[self._variant])
        ms = cost(len(batch)) if callable(cost) else cost * len(batch)
        self._bench.now_ns += round(ms * 1e6)
        self._bench.calls.append(self._name)
        shapes = {
            tensor.name: [size or len(batch) for size in tensor.shape]
            for tensor in self.spec.outputs
        }
        # Far below any threshold, also as logits.
        return {name: np.full(shape, -20.0, np.float32) for name, shape in shapes.items()}

    def close(self) -> None:
        self._bench.open_now -= 1
