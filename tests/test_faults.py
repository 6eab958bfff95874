"""The harness of `make test-faults` itself, and a little of what it does; CI runs more of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from converters.graph.prepare import prepare
from edge.errors import ModelFileError
from tests.conftest import tiny_simcc_model
from tests.faults.fuzz import fuzz, summary
from tests.faults.mutations import mutated_json, mutated_text
from tests.faults.readers import KINDS
from tests.faults.worker import input_of

FEW = ("artifact", "spec", "known-hosts", "onnx")


def test_an_input_has_a_number_and_is_the_same_again() -> None:
    seeds = [b'{"a": [1, 2, {"b": null}], "c": "text 12"}']
    made = [input_of("spec", 3, number, seeds) for number in range(200)]
    assert made == [input_of("spec", 3, number, seeds) for number in range(200)]
    assert len(set(made)) > 100
    assert made != [input_of("spec", 4, number, seeds) for number in range(200)]
    for mutated in (mutated_json, mutated_text):
        assert mutated(b"{}", random.Random(1)) is not None


def test_what_escapes_is_counted() -> None:
    (tally,) = fuzz(24, kinds=("itself",), workers=1).values()
    wanted = [input_of("itself", 0, number, [b"right"]) for number in range(24)]
    assert tally.ok == wanted.count(b"right") > 0
    assert tally.refused == wanted.count(b"refuse") > 0
    escaped = {what: len(numbers) for what, numbers in tally.escaped.items()}
    dead = [number for number, data in enumerate(wanted) if data == b"die"]
    assert tally.escaped.pop("the process died (9)") == dead
    assert sum(map(len, tally.escaped.values())) == wanted.count(b"escape") > 0
    assert all(what.startswith("ValueError: 'as it should not be'") for what in tally.escaped)
    assert tally.count == 24 - len(dead)
    assert len(escaped) == 2


def test_damaged_inputs_are_refused_or_right() -> None:
    tallies = {kind: fuzz(60, seed=11, kinds=(kind,), workers=1)[kind] for kind in FEW}
    assert not any(tally.escaped for tally in tallies.values()), summary(tallies)
    assert all(tally.count == 60 and tally.refused > 5 for tally in tallies.values())
    assert set(FEW) < set(KINDS)


def test_outputs_that_no_picture_reaches_are_refused(tmp_path: Path) -> None:
    import onnx

    model = tiny_simcc_model()
    # The first node computes from a constant in the picture's place.
    picture = np.zeros((1, 3, 64, 48), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(picture, "blank"))
    model.graph.node[0].input[0] = "blank"
    onnx.save(model, tmp_path / "blank.onnx")
    with pytest.raises(ModelFileError, match="do not depend on the picture"):
        prepare(tmp_path / "blank.onnx", "blank")
