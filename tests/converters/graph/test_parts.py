"""Groups of layers: of exported names, of nameless files, and which of them int8 breaks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from converters.graph.parts import fragile_parts, network_parts, node_name
from converters.graph.prepare import prepare
from converters.zoo.models import find_source
from tests.conftest import tiny_simcc_model

onnx = pytest.importorskip("onnx")


def network(nodes: Sequence[Any], outputs: Sequence[str]) -> Any:
    """A graph of nodes alone; weights and shapes do not matter here."""
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            "net",
            [onnx.helper.make_tensor_value_info("input", 1, None)],
            [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs],
        )
    )


def node(op: str, inputs: str, output: str, name: str = "") -> Any:
    return onnx.helper.make_node(op, inputs.split(), [output], name=name)


def prepared(name: str) -> Any:
    source = find_source(name)
    return prepare(source.path, source.name, spec=source.spec).model


def holds_every_node_once(model: Any, parts: dict[str, list[str]]) -> bool:
    names = [name for part in parts.values() for name in part]
    return sorted(names) == sorted(node_name(n) for n in model.graph.node)


def test_the_parts_of_the_pose_model_are_its_modules() -> None:
    model = prepared("rtmpose-t-demo")
    parts = network_parts(model)
    backbone = ["backbone.stem", *(f"backbone.stage{n}" for n in (1, 2, 3, 4))]
    assert list(parts) == [*backbone, "final_layer", "mlp", "gau", "cls_x", "cls_y"]
    assert holds_every_node_once(model, parts)
    assert "/gau/uv/MatMul" in parts["gau"]
    # The rewritten ScaleNorm has names of its own, and belongs to what it feeds.
    assert all(name in parts["mlp"] for part in parts.values() for name in part if "norm_0" in name)
    assert fragile_parts(model, parts) == ["mlp", "gau", "cls_x", "cls_y"]


def test_the_parts_of_the_detector_are_modules_of_neck_and_head() -> None:
    model = prepared("rtmdet-nano-demo")
    parts = network_parts(model)
    assert 10 <= len(parts) <= 30
    assert holds_every_node_once(model, parts)
    assert {"backbone.stage1", "neck.top_down_blocks.0", "bbox_head.rtm_cls.0"} <= set(parts)
    assert parts["bbox_head.rtm_cls.0"] == ["/bbox_head/rtm_cls.0/Conv"]
    # Between two modules: the upsampled map is what the next block reads.
    assert {"/neck/Resize", "/neck/Concat"} <= set(parts["neck.top_down_blocks.0"])
    last = [f"bbox_head.rtm_{kind}.{level}" for level in range(3) for kind in ("cls", "reg")]
    assert fragile_parts(model, parts) == last


def test_a_nameless_file_has_outputs_towers_and_segments(rtmdet_file: Path) -> None:
    model = prepare(rtmdet_file, "nano").model
    parts = network_parts(model)
    assert 10 <= len(parts) <= 30
    assert holds_every_node_once(model, parts)
    outputs = [value.name for value in model.graph.output]
    assert set(outputs) | {f"{name}.tower" for name in outputs} <= set(parts)
    assert set(fragile_parts(model, parts)) == set(outputs)
    # What is left of the towers: consecutive layers, named by the first and the last of them.
    layers = [n.name for n in model.graph.node if n.op_type == "Conv"]
    segments = [part for part in parts if ".." in part]
    trunk = [[name for name in parts[part] if name in layers] for part in segments]
    assert all(part == f"{run[0]}..{run[-1]}" for part, run in zip(segments, trunk, strict=True))
    flat = [name for run in trunk for name in run]
    assert flat == [name for name in layers if name in flat]
    # A tower is two separable convolutions with their activations.
    assert len(parts["logits_8.tower"]) == 4 * 3
    assert len(parts["logits_8"]) == 1


def test_nodes_without_names_are_called_by_their_output() -> None:
    model = tiny_simcc_model(scale_norm=True)
    parts = network_parts(model)
    norm = ["tokens", "norm", "scaled", "clipped", "unit", "normed"]
    assert parts == {"map": ["map"], "simcc_x": [*norm, "simcc_x"], "simcc_y": ["simcc_y"]}
    assert fragile_parts(model, parts) == ["simcc_x", "simcc_y"]


def test_a_large_module_is_split_and_its_own_layers_stay_under_its_name() -> None:
    nodes, last = [], "input"
    for index in range(14):
        path = f"/net/block{index // 7}" if index else "/net"
        nodes.append(node("Conv", f"{last} w", f"y{index}", f"{path}/Conv_{index}"))
        nodes.append(node("Relu", f"y{index}", f"z{index}", f"Relu_{index}"))
        last = f"z{index}"
    parts = network_parts(network(nodes, [last]))
    assert {part: len(names) for part, names in parts.items()} == {
        "net": 2,
        "net.block0": 12,
        "net.block1": 14,
    }
    assert parts["net"] == ["/net/Conv_0", "Relu_0"]


def test_one_output_has_no_tower_of_everything() -> None:
    nodes = [node("Conv", f"t{i} w", f"t{i + 1}", f"Conv_{i}") for i in range(20)]
    nodes[0].input[0] = "input"
    parts = network_parts(network(nodes, ["t20"]))
    assert list(parts) == [*(f"Conv_{i}..Conv_{i + 1}" for i in range(0, 18, 2)), "Conv_18", "t20"]
    assert fragile_parts(network(nodes, ["t20"]), parts) == ["t20"]


def test_a_normalisation_makes_its_part_fragile() -> None:
    nodes = [
        node("Conv", "input w", "a", "/stem/Conv"),
        node("Softmax", "a", "b", "/attention/Softmax"),
        node("Conv", "b w", "c", "/attention/Conv"),
        node("Conv", "c w", "d", "/out/Conv"),
    ]
    model = network(nodes, ["d"])
    parts = network_parts(model)
    assert list(parts) == ["stem", "attention", "out"]
    assert fragile_parts(model, parts) == ["attention", "out"]
