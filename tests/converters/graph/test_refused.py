"""Model files that nothing can be made of: one line each, with what they are and what to do."""

from __future__ import annotations

import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.graph.file import load_onnx
from converters.graph.prepare import load_float_onnx, prepare
from converters.zoo.models import find_source
from edge.errors import EdgeError, ModelFileError
from tests.conftest import ROOT
from tests.stand_ins.onnx_forms import tiny

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_float_onnx(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def saved(tmp_path: Path, model: Any) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


# --- files of another kind ------------------------------------------------------------------------

KINDS = {
    "page": (b"<!DOCTYPE html><html><body>404", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "empty": (b"", "an empty file"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(99), "a TensorFlow Lite network"),
    "param": (b"7767517\n2 2\nInput in0 0 1 in0\n", "ncnn"),
    "halves": (b"\x47\x6b\x30\x01" + bytes(range(99)), "the weights of an ncnn network"),
    "xml": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "an OpenVINO network"),
    "pickle": (b"\x80\x02}q\x00.", "name it NAME.pth"),
    "zeros": (bytes(4096), "download it again"),
    "json": (b'{"name": "pose"}', "--spec"),
    "noise": (bytes(np.random.default_rng(0).integers(0, 256, 999, np.uint8)), "not an ONNX file"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "export the network to ONNX"),
    "gzip": (b"\x1f\x8b\x08" + bytes(range(99)), "unpack it"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(range(99)), "a picture"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named(kind: str, tmp_path: Path) -> None:
    content, words = KINDS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    text = refusal(path)
    assert words in text
    assert "--spec" not in text or kind == "json"
    if kind != "noise":  # it might be a damaged one
        assert "truncated" not in text


@pytest.mark.parametrize(
    "suffix", [".bin", ".param", ".tflite", ".engine", ".trt", ".pb", ".mnn", ".om", ".rknn"]
)
def test_a_suffix_tells_what_bytes_do_not(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(bytes(np.random.default_rng(1).integers(1, 256, 999, np.uint8)))
    text = refusal(path)
    assert "truncated" not in text
    assert "not an ONNX file" not in text
    assert "ONNX" in text  # what to give


def test_suffixes_that_are_wrong_are_said(tmp_path: Path) -> None:
    onnx_bytes = tiny().SerializeToString()
    for name, words in (("model.pth", "NAME.onnx"), ("model.zip", "NAME.onnx")):
        (tmp_path / name).write_bytes(onnx_bytes)
        with pytest.raises(ModelFileError, match=words):
            find_source(str(tmp_path / name))
    for member, words in (("a/deploy.json", "NAME.zip"), ("a/data.pkl", "NAME.pth")):
        with zipfile.ZipFile(tmp_path / "model.onnx", "w") as archive:
            archive.writestr(member, "{}")
        with pytest.raises(ModelFileError, match=words):
            find_source(str(tmp_path / "model.onnx"))
    for name in ("page.zip", "page.pth"):
        (tmp_path / name).write_bytes(b"<html>404</html>")
        with pytest.raises(ModelFileError, match="a web page"):
            find_source(str(tmp_path / name))


def test_folders_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"name an ONNX file, a checkpoint"):
        find_source(str(tmp_path))
    (tmp_path / "model.param").write_bytes(b"7767517")
    with pytest.raises(ModelFileError, match=r"it holds an ncnn network: give the ONNX file"):
        find_source(str(tmp_path))
    saved(tmp_path, tiny())
    with pytest.raises(ModelFileError, match=r"name the file in it \(model\.onnx\)"):
        find_source(str(tmp_path))
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(ModelFileError, match="it is an artifact"):
        find_source(str(tmp_path))
    (tmp_path / "model.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(99))
    assert f"name its folder, {tmp_path}" in refusal(tmp_path / "model.tflite")


def test_a_truncated_file_is_called_so(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny())
    path.write_bytes(path.read_bytes()[:-5000])
    assert "truncated or damaged ONNX file" in refusal(path)


# --- versions and operators -----------------------------------------------------------------------


def with_opset(version: int, domain: str = "") -> Callable[[Any], None]:
    def change(model: Any) -> None:
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, version))
        else:
            model.opset_import[0].version = version

    return change


def with_node(op_type: str, domain: str = "", **attributes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = helper.make_node(op_type, ["simcc_x"], ["extra"], "it", domain=domain, **attributes)
        model.graph.node.append(node)
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def in_a_branch(model: Any) -> None:
    node = helper.make_node("Anything", ["simcc_x"], ["out"], "it", domain="my")
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body = helper.make_graph([node], "body", [], [value])
    choice = helper.make_node("If", ["flag"], ["extra"], then_branch=body, else_branch=body)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.append(choice)
    model.opset_import.append(helper.make_opsetid("my", 1))


def newest_ir(model: Any) -> None:
    model.ir_version = onnx.IR_VERSION + 1


VERSIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "IR": (newest_ir, r"written for a newer ONNX than the tools here know \(IR version \d+"),
    "opset": (with_opset(999), r"newer operators .*\(opset 999, .*export it with opset"),
    "old opset": (with_opset(5), r"older operators .*\(opset 5, .*opset 17"),
    "ml": (with_opset(999, "ai.onnx.ml"), r"newer operators of ai\.onnx\.ml"),
    "default domain": (with_node("EfficientNMS_TRT"), r"'it' is the custom operator EfficientNMS_"),
    "own domain": (with_node("Nms", "TRT"), r"'it' is the custom operator TRT::Nms"),
    "in a branch": (in_a_branch, r"'it' is the custom operator my::Anything"),
    "too early": (with_node("Gelu"), r"'it' is Gelu, which opset 17 does not have \(20 and later"),
    "optimised": (with_node("FusedConv", "com.microsoft"), r"FusedConv.*ONNX Runtime wrote it"),
    "QOperator": (with_node("QLinearAdd", "com.microsoft"), r"already quantised \(QOperator\)"),
    "weights of 4 bits": (with_node("MatMulNBits", "com.microsoft"), "already quantised"),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_versions_and_operators(case: str, tmp_path: Path) -> None:
    change, words = VERSIONS[case]
    model = tiny()
    change(model)
    path = saved(tmp_path, model)
    with pytest.raises(ModelFileError, match=words):
        load_float_onnx(path)
    assert "damaged" not in refusal(path)


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_quantised_files_start_nothing(kind: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    source, path = saved(tmp_path, tiny()), tmp_path / "quantised.onnx"

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.left = [{"input": np.zeros((1, 3, 64, 48), np.float32)}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    if kind == "dynamic":
        quantization.quantize_dynamic(source, path)
    else:
        form = getattr(quantization.QuantFormat, kind)
        quantization.quantize_static(source, path, Reader(), quant_format=form)
    assert "already quantised" in refusal(path)
    if kind == "QDQ":
        load_onnx(path)  # it may be run as it is


# --- what is damaged or too large -----------------------------------------------------------------


def test_inputs_that_are_no_image(tmp_path: Path) -> None:
    model = tiny()
    second = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1, 3, 1, 1])
    model.graph.input.append(second)
    model.graph.node.insert(0, helper.make_node("Mul", ["input", "scale"], ["scaled_input"]))
    model.graph.node[1].input[0] = "scaled_input"
    assert "2 inputs (input float" in refusal(saved(tmp_path, model))

    model = tiny()
    model.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("input", TensorProto.FLOAT, [1, 3, 64, 48])
    )
    text = refusal(saved(tmp_path, model))
    assert "sequence" in text or "damaged" in text


def bad_type(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def bad_weights(model: Any) -> None:
    model.graph.initializer[0].data_type = TensorProto.FLOAT16


def bad_shape(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def own_result(model: Any) -> None:
    model.graph.node[0].input[0] = "simcc_x"


def endless_functions(model: Any) -> None:
    opsets = [helper.make_opsetid("my", 1)]
    node = helper.make_node("Again", ["x"], ["y"], domain="my")
    model.functions.append(helper.make_function("my", "Again", ["x"], ["y"], [node], opsets))
    model.graph.node.append(helper.make_node("Again", ["simcc_x"], ["extra"], domain="my"))
    model.opset_import.extend(opsets)


def many_functions(model: Any) -> None:
    """Each calls the next ten times: 10 ** 12 nodes."""
    opsets = [helper.make_opsetid("my", 1), helper.make_opsetid("", 17)]
    for level in range(12):
        nodes = [
            helper.make_node(f"F{level + 1}", [f"t{i}"], [f"t{i + 1}"], domain="my")
            if level < 11
            else helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"])
            for i in range(10)
        ]
        function = helper.make_function("my", f"F{level}", ["t0"], ["t10"], nodes, opsets)
        model.functions.append(function)
    model.graph.node.append(helper.make_node("F0", ["simcc_x"], ["extra"], domain="my"))
    model.opset_import.append(opsets[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (bad_type, "damaged ONNX|not an image"),
        (bad_weights, "damaged ONNX: the constant 'conv.w' does not fit its type and shape"),
        (bad_shape, "damaged ONNX: the constant 'conv.w' does not fit"),
        (own_result, "depends on its own result"),
        (endless_functions, "calls itself"),
        (many_functions, "unfold to more than"),
    ],
)
def test_what_does_not_hold_together(
    change: Callable[[Any], None], words: str, tmp_path: Path
) -> None:
    model = tiny()
    change(model)
    path = saved(tmp_path, model)
    with pytest.raises(ModelFileError, match=words):
        load_onnx(path)
    refusal(path)


def giant(model: Any, op_type: str) -> None:
    """A tensor of 10 GB from two numbers, of which only a sum is used."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([50000, 50000]), "sides"))
    graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.float32), "one"))
    inputs = ["one", "sides"] if op_type in ("Expand", "Tile") else ["sides"]
    before = []
    if op_type == "a computed shape":
        graph.initializer.append(numpy_helper.from_array(np.array([2.5e9, 2.5e9]), "squares"))
        before = [
            helper.make_node("Sqrt", ["squares"], ["roots"]),
            helper.make_node("Cast", ["roots"], ["computed"], to=TensorProto.INT64),
        ]
        op_type, inputs = "ConstantOfShape", ["computed"]
    for node in graph.node:
        if node.op_type == "Conv":
            node.output[0] = "plain_map"
    nodes = [
        *before,
        helper.make_node(op_type, inputs, ["giant"]),
        helper.make_node("ReduceSum", ["giant"], ["sum"], keepdims=0),
        helper.make_node("Add", ["plain_map", "sum"], ["map"]),
    ]
    for node in reversed(nodes):
        graph.node.insert(1, node)


@pytest.mark.parametrize("op_type", ["ConstantOfShape", "Expand", "Tile", "a computed shape"])
def test_nothing_beyond_any_network_is_computed(op_type: str, tmp_path: Path) -> None:
    """In a process of its own that may have 2 GB."""
    model = tiny()
    giant(model, op_type)
    path = saved(tmp_path, model)
    code = (
        "import sys; from pathlib import Path; from converters.graph.prepare import prepare\n"
        "from edge.errors import ModelFileError\n"
        "try: prepare(Path(sys.argv[1]), 'giant')\n"
        "except ModelFileError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30)),
        check=False,
    )
    assert "makes a tensor of 50000x50000, 10.0 GB" in done.stdout, done.stderr


def endless_range(model: Any) -> None:
    for name, value in (("start", 0), ("end", 10**10), ("step", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node.append(helper.make_node("Range", ["start", "end", "step"], ["giant"]))


def endless_loop(model: Any) -> None:
    values = [("i", TensorProto.INT64), ("on", TensorProto.BOOL)]
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in values]
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"])],
        "body",
        inputs,
        [helper.make_tensor_value_info("still", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(10**9), "rounds"))
    model.graph.node.append(helper.make_node("Loop", ["rounds", ""], [], "l", body=body))


@pytest.mark.parametrize(
    ("change", "words"),
    [(endless_range, "makes a tensor of 10000000000"), (endless_loop, "runs 1000000000 times")],
)
def test_nothing_runs_for_ever(change: Callable[[Any], None], words: str, tmp_path: Path) -> None:
    model = tiny()
    change(model)
    assert words in refusal(saved(tmp_path, model))


def test_random_damage_ends_in_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(17)
    whole = tiny().SerializeToString()
    path = tmp_path / "model.onnx"
    for _ in range(60):
        data = bytearray(whole)
        # Most bytes are weights; what describes the network stands at the ends.
        for place in rng.choice([*range(300), *range(len(data) - 300, len(data))], 3):
            data[place] = int(rng.integers(0, 256))
        path.write_bytes(bytes(data))
        said = ""
        try:
            prepare(path, "model")
        except EdgeError as error:
            said = str(error)
        assert "\n" not in said
