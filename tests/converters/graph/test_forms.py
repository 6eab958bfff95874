"""ONNX files as exporters write them: whatever the form, the network's own answers come out."""

from __future__ import annotations

import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.chain import Row
from converters.conversion import ConversionRequest
from converters.convert import Source, convert_model
from converters.graph.data_files import source_digest
from converters.graph.file import load_onnx
from converters.graph.prepare import prepare
from converters.graph.sized_copy import sized_copy
from converters.job import FeedSource, NamedFeeds
from converters.sdk.archive import read_sdk
from edge.artifact import load_artifact
from edge.errors import ArtifactError, ModelFileError
from edge.session import Array, open_session
from edge.spec import ModelSpec, Variant
from tests.stand_ins.onnx_forms import FORMS, float_types, saved_with_data, tiny
from tests.stand_ins.sdk_bundles import in_folder, simcc_files

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

IMAGE = np.random.default_rng(3).normal(0, 1, (1, 3, 64, 48)).astype(np.float32)
# Of the largest value: what the type of the weights costs, and rounding in float32.
LIMITS = {"bfloat16": 0.02, "float16": 2e-3, "half inside, conversions last": 2e-3}


def answers(model: Any, image: Array = IMAGE) -> list[Array]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(v) for v in session.run(None, {session.get_inputs()[0].name: image})]


def assert_alike(got: list[Array], want: list[Array], limit: float = 1e-5) -> None:
    for one, other in zip(got, want, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=limit * np.abs(other).max())


@pytest.mark.parametrize("form", FORMS)
def test_a_form_keeps_the_answers(form: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(FORMS[form](tiny()), path)
    limit, want = LIMITS.get(form, 1e-5), answers(tiny())
    assert_alike(answers(load_onnx(path)), want, limit)  # the reference of every comparison
    prepared = prepare(path, "tiny")
    assert_alike(answers(prepared.model), want, limit)  # what every format starts from
    assert prepared.spec.input.shape == (1, 3, 64, 48)
    assert prepared.rewritten_scale_norms == 1
    # Reductions take their axes as an attribute up to 17, which every format reads.
    assert 11 <= prepared.model.opset_import[0].version <= 17
    names = [name for node in prepared.model.graph.node for name in (node.name, *node.output)]
    assert all(name.isascii() and not set(name) & set(" \t\n") for name in names)
    prepare(path, "tiny", batch=None)


def noise(spec: ModelSpec) -> list[NamedFeeds]:
    return [NamedFeeds("noise", {spec.input.name: IMAGE})]


def converted(path: Path, out: Path, *names: str) -> tuple[list[Path], list[str]]:
    """The folders of variants, which must all pass, and the table's steps."""
    rows: list[Row] = []
    request = ConversionRequest(parity=FeedSource("noise", noise))
    variants = [Variant.parse(name) for name in names]
    made = convert_model(Source("tiny", path), variants, out, request, rows.append)
    for one in made:
        if one.error:
            raise one.error
    return [one.folder for one in made], [row.step for row in rows]


@pytest.mark.skipif(find_spec("pnnx") is None, reason="pnnx is not installed")
@pytest.mark.parametrize(
    "form", ["opset 9", "opset 23", "half inside, conversions last", "odd names", "channels last"]
)
def test_a_form_becomes_every_format(form: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(FORMS[form](tiny()), path)
    names = ["onnx-fp32", "onnx-fp16", "ncnn-fp16", "openvino-fp16"]
    folders, _ = converted(path, tmp_path / "out", *names)
    want = answers(tiny())
    for folder in folders:
        artifact = load_artifact(folder)
        with open_session(artifact) as session:
            got = list(session.run({artifact.spec.input.name: IMAGE}).values())
        assert_alike(got, want, 0.01)


def test_a_branch_that_stays_becomes_what_can_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(FORMS["If"](tiny()), path)
    folders, _ = converted(path, tmp_path / "out", "onnx-fp32", "onnx-fp16", "openvino-fp16")
    assert "If" in {node.op_type for node in onnx.load(folders[0] / "tiny.onnx").graph.node}


def grey_levels(model: Any) -> Any:
    """For whole grey levels: a conversion to floats, then ImageNet's mean and std."""
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "ready" if name == "input" else name
    for name, value in (("mean", [123.675, 116.28, 103.53]), ("std", [58.395, 57.12, 57.375])):
        array = np.array(value, np.float32).reshape(1, 3, 1, 1)
        graph.initializer.append(numpy_helper.from_array(array, name))
    for node in (
        helper.make_node("Div", ["centred", "std"], ["ready"]),
        helper.make_node("Sub", ["floats", "mean"], ["centred"]),
        helper.make_node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
    ):
        graph.node.insert(0, node)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


@pytest.mark.parametrize("layout", ["first", "last"])
def test_grey_levels_are_fed_as_they_are(layout: str, tmp_path: Path) -> None:
    path = tmp_path / "grey.onnx"
    model = grey_levels(tiny())
    onnx.save(model if layout == "first" else FORMS["channels last"](model), path)
    levels = np.random.default_rng(5).integers(0, 256, (1, 3, 64, 48))
    want = answers(grey_levels(tiny()), levels.astype(np.uint8))
    prepared = prepare(path, "grey")
    assert (prepared.spec.mean, prepared.spec.std) == ((0, 0, 0), (1, 1, 1))
    assert_alike(answers(prepared.model, levels.astype(np.float32)), want)


def test_an_integer_input_that_is_computed_with_is_refused(tmp_path: Path) -> None:
    model = grey_levels(tiny())
    model.graph.initializer.append(numpy_helper.from_array(np.array([7], np.uint8), "seven"))
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    cast.input[0] = "shifted"
    shift = helper.make_node("BitShift", ["input", "seven"], ["shifted"], direction="RIGHT")
    model.graph.node.insert(0, shift)
    onnx.save(model, tmp_path / "bits.onnx")
    with pytest.raises(ModelFileError, match=r"not an image: input uint8 .*one float32 image"):
        load_onnx(tmp_path / "bits.onnx")


def test_operators_of_later_opsets_are_restated(tmp_path: Path) -> None:
    """Each as opset 20 writes it, put into the way of the picture."""
    nodes = [
        helper.make_node("Pad", ["input", "pads", "", "sides"], ["padded"]),
        helper.make_node("Split", ["padded"], ["left", "right"], axis=3, num_outputs=2),
        helper.make_node("Concat", ["right", "left"], ["joined"], axis=3),
        helper.make_node("Resize", ["joined", "", "", "size"], ["sized"], mode="linear",
                         antialias=0, keep_aspect_ratio_policy="stretch"),
        helper.make_node("ReduceMean", ["sized", "channels"], ["means"], keepdims=1),
        helper.make_node("Sub", ["sized", "means"], ["centred"]),
        helper.make_node("Gelu", ["centred"], ["bent"], approximate="tanh"),
        helper.make_node("Mish", ["bent"], ["ready"]),
    ]  # fmt: skip
    values = {"pads": [0, 1, 0, 1], "sides": [2, 3], "size": [1, 3, 64, 48], "channels": [1]}
    model = onnx.version_converter.convert_version(tiny(), 20)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["ready" if name == "input" else name for name in node.input]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    for name, value in values.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    del graph.value_info[:]
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    prepared = prepare(path, "tiny").model
    assert prepared.opset_import[0].version == 17
    assert not {"Gelu", "Mish"} & {node.op_type for node in prepared.graph.node}
    assert_alike(answers(prepared), answers(model), 1e-4)


# --- weights in a file of their own ---------------------------------------------------------------


def trained_anew(model: Any) -> Any:
    tensor = next(one for one in model.graph.initializer if one.name == "w_x")
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(value[:, ::-1].copy(), "w_x"))
    return model


def test_weights_beside_a_file_decide_what_is_up_to_date(tmp_path: Path) -> None:
    path, out = tmp_path / "tiny.onnx", tmp_path / "out"
    saved_with_data(tiny(), path)
    first = path.read_bytes()
    (folder,), _ = converted(path, out, "onnx-fp32")
    assert converted(path, out, "onnx-fp32")[1] == ["onnx-fp32 up to date"]
    before = source_digest(path)

    saved_with_data(trained_anew(tiny()), path)
    assert path.read_bytes() == first  # the .onnx alone does not tell
    assert source_digest(path) != before
    from converters.parity.answers import source_file

    with pytest.raises(ArtifactError, match=r"tiny\.onnx\.data: not the file that .*sha256"):
        source_file(load_artifact(folder))
    assert converted(path, out, "onnx-fp32")[1] == ["prepare", "onnx-fp32", "parity"]
    assert_alike(answers(onnx.load(folder / "tiny.onnx")), answers(trained_anew(tiny())))
    assert source_file(load_artifact(folder)) == path


def test_nodes_that_were_written_twice_count_once(tmp_path: Path) -> None:
    """As onnxconverter-common writes a Cast once for each reader, by the same name."""
    model = tiny()
    model.graph.node.append(model.graph.node[0])
    onnx.save(model, tmp_path / "tiny.onnx")
    assert_alike(answers(prepare(tmp_path / "tiny.onnx", "tiny").model), answers(tiny()))


def test_a_resized_copy_follows_the_weights_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heatmap network that carries its description, at another size, before and after."""
    import json

    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "heat.onnx"
    spec = {
        "name": "heat", "task": "pose", "codec": "heatmap", "keypoint_set": "unnamed-2",
        "input": {"name": "input", "shape": [1, 3, 64, 64]},
        "outputs": [{"name": "heat", "shape": [1, 2, 16, 16]}],
        "color_order": "rgb", "mean": [0, 0, 0], "std": [255, 255, 255],
    }  # fmt: skip

    def write(factor: float) -> None:
        weight = np.full((2, 3, 4, 4), factor, np.float32)
        conv = helper.make_node("Conv", ["input", "w"], ["heat"], strides=[4, 4])
        graph = helper.make_graph(
            [conv],
            "heat",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 64, 64])],
            [helper.make_tensor_value_info("heat", TensorProto.FLOAT, [1, 2, 16, 16])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model.metadata_props.add(key="edgepose.spec", value=json.dumps(spec))
        saved_with_data(model, path)

    for factor in (1.0, 2.0):
        write(factor)
        copy = sized_copy(path, (32, 32))
        assert copy != path
        (found,) = answers(onnx.load(copy), np.ones((1, 3, 32, 32), np.float32))
        assert found.shape == (1, 2, 8, 8)
        assert np.allclose(found, 48 * factor)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data.unlink(), r"tiny\.onnx\.data, which holds its weights, is not beside"),
        (lambda data: data.write_bytes(b"12"), r"has 2 bytes, but the weights 'w?.*truncated"),
        (lambda data: (data.unlink(), data.mkdir()), r"is not beside it"),
    ],
)
def test_weights_that_are_not_there(tmp_path: Path, spoil: Any, words: str) -> None:
    path = tmp_path / "tiny.onnx"
    saved_with_data(tiny(), path)
    spoil(tmp_path / "tiny.onnx.data")
    with pytest.raises(ModelFileError, match=words) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_weights_in_a_folder_below_are_read_and_asked_for_with_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    (tmp_path / "below").mkdir()
    onnx.save(tiny(), path, save_as_external_data=True, location="below/all.bin", size_threshold=0)
    want = [numpy_helper.to_array(one) for one in tiny().graph.initializer]
    found = [numpy_helper.to_array(one) for one in load_onnx(path).graph.initializer]
    assert all(np.array_equal(a, b) for a, b in zip(want, found, strict=True))
    (tmp_path / "below" / "all.bin").rename(tmp_path / "all.bin")
    with pytest.raises(
        ModelFileError, match=r"below/all\.bin, .*; copy the folder 'below' with it"
    ):
        load_onnx(path)


def test_an_archive_keeps_the_weights_beside_its_network(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "sdk", simcc_files([48, 64]), tiny())
    saved_with_data(tiny(), folder / "end2end.onnx")
    archive = tmp_path / "sdk.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in folder.iterdir():
            packed.write(file, f"sdk/{file.name}")
    for _ in range(2):  # the second time it lies there already
        model = read_sdk(archive, "mine", tmp_path / "unpacked")
        assert_alike(answers(load_onnx(model.onnx_path)), answers(tiny()))


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    saved_with_data(tiny(), inner / "tiny.onnx")
    model = onnx.load(inner / "tiny.onnx", load_external_data=False)
    shutil.move(inner / "tiny.onnx.data", tmp_path / "tiny.onnx.data")
    for place in ("../tiny.onnx.data", str(tmp_path / "tiny.onnx.data")):
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = place
        onnx.save(model, inner / "tiny.onnx")
        with pytest.raises(ModelFileError, match="outside its folder"):
            load_onnx(inner / "tiny.onnx")


def test_constants_of_a_scale_norm_are_of_the_type_they_meet() -> None:
    from converters.graph.scale_norm import make_scale_norm_fp16_safe

    model = float_types(tiny(), TensorProto.FLOAT16)
    assert make_scale_norm_fp16_safe(model) == 1
    onnx.checker.check_model(model, full_check=True)
