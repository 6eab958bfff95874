"""OpenVINO's ``.xml`` and ``.bin``: written small, and proven by reading them back."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np

from edge.engines.openvino import import_openvino
from edge.errors import StepError

__all__ = ["save_ir"]

# A constant of fewer numbers costs less as float32 than the layer that would widen it again.
_SMALLEST_HALF = 128
_LARGEST_FP16 = 65504.0
# Attributes that the reader takes for granted: of any layer, and of convolutions.
_DEFAULTS = {("auto_broadcast", "numpy"), ("auto_pad", "explicit")}
_CONVOLUTION_DEFAULTS = {
    ("dilations", "1, 1"),
    ("pads_begin", "0, 0"),
    ("pads_end", "0, 0"),
    ("strides", "1, 1"),
}
_WEIGHTED = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul"}


def save_ir(model: Any, folder: Path, name: str, *, small: bool) -> dict[str, str]:
    """Write ``<name>.xml`` and ``<name>.bin``; role -> file name.

    ``small`` changes ``model``: weights are stored as half floats, and the XML leaves out what
    OpenVINO finds out by itself when it reads it: the shapes between layers, and the names of
    constants and of tensors inside. A network of 120 small convolutions has an XML as large as a
    quarter of its half-float weights; this halves it. Layers, their order and their names stay.
    Raises StepError where OpenVINO reads back something else than was written.
    """
    openvino = import_openvino()
    # Otherwise every network is called after the reader of its file.
    model.set_friendly_name(name)
    path = folder / f"{name}.xml"
    if small:
        _share_limits(model)
        _store_halves(model)
    openvino.save_model(model, path, compress_to_fp16=False)
    if small:
        _write_less(path)
        try:
            found = openvino.Core().read_model(path)
        except RuntimeError:
            # What stands inside an If or a Loop is not found out again: with all that there is.
            openvino.save_model(model, path, compress_to_fp16=False)
            found = openvino.Core().read_model(path)
        if _described(found) != _described(model):
            raise StepError(f"{path.name} is read back by OpenVINO as another network")
    return {"model": path.name, "weights": f"{name}.bin"}


def _share_limits(model: Any) -> None:
    """One pair of constants where the limits of a quantiser are the same before and after it."""
    for op in model.get_ops():
        if op.get_type_name() != "FakeQuantize":
            continue
        for before, after in ((1, 3), (2, 4)):
            low, same = (op.input_value(port).get_node() for port in (before, after))
            if {low.get_type_name(), same.get_type_name()} == {"Constant"} and np.array_equal(
                low.data, same.data
            ):
                op.input(after).replace_source_output(low.output(0))


def _store_halves(model: Any) -> None:
    """Float32 weights as float16 and a Convert back; what FP16 cannot hold stays.

    Biases and the scales of quantised weights stay too: they are few, and errors in them add up.
    """
    from openvino import opset13

    for op in model.get_ops():
        if op.get_type_name() != "Constant" or op.get_element_type().get_type_name() != "f32":
            continue
        data, users = op.data, op.output(0).get_target_inputs()
        if (
            data.size >= _SMALLEST_HALF
            and np.abs(data).max() <= _LARGEST_FP16
            and {user.get_node().get_type_name() for user in users} <= _WEIGHTED
        ):
            half = opset13.convert(opset13.constant(data.astype(np.float16)), "f32")
            for user in users:
                user.replace_source_output(half.output(0))


def _write_less(path: Path) -> None:
    """Rewrite an IR's XML without what its reader does not need.

    The reader (OpenVINO 2026.4, ``src/frontends/ir``) infers each shape and the precision of each
    input from the layers and knows the defaults of their attributes; tensor names count at the
    network's inputs and outputs.
    """
    net = ElementTree.parse(path).getroot()
    sources: dict[str, list[str]] = {}
    for edge in net.findall("edges/edge"):
        sources.setdefault(edge.attrib["to-layer"], []).append(edge.attrib["from-layer"])
    kinds = {layer.attrib["id"]: layer.attrib["type"] for layer in net.findall("layers/layer")}
    outputs = {one for to, ones in sources.items() if kinds[to] == "Result" for one in ones}
    fixed: set[str] = set()  # what depends on constants alone
    for layer in net.findall("layers/layer"):
        number, kind = layer.attrib["id"], layer.attrib["type"]
        if kind == "Const" or (number in sources and fixed.issuperset(sources[number])):
            fixed.add(number)
            layer.set("name", f"{kind}{number}")
        implied = _DEFAULTS | (_CONVOLUTION_DEFAULTS if kind.endswith("Convolution") else set())
        for data in layer.findall("data"):
            for key, value in list(data.items()):
                if (key, value) in implied:
                    del data.attrib[key]
                else:
                    data.set(key, value.replace(", ", ","))
            if not data.attrib:
                layer.remove(data)
        for port in layer.findall("input/port") + layer.findall("output/port"):
            for dimension in port.findall("dim"):
                port.remove(dimension)
        for port in layer.findall("input/port"):
            port.attrib.pop("precision", None)
        for port in layer.findall("output/port"):
            if kind != "Parameter" and number not in outputs:
                port.attrib.pop("names", None)
    for facts in net.findall("rt_info"):  # versions and settings of the program that wrote it
        net.remove(facts)
    for element in net.iter():
        element.text = element.tail = None
    text = ElementTree.tostring(net, encoding="unicode").replace(" />", "/>")
    path.write_text(f'<?xml version="1.0"?>{text}', encoding="utf-8")


def _described(model: Any) -> list[tuple[str, ...]]:
    """Each layer in order: its kind, its attributes, and what its outputs are."""
    layers = [
        (
            op.get_type_name(),
            str(op.get_attributes()),
            *(f"{port.get_element_type()} {port.get_partial_shape()}" for port in op.outputs()),
        )
        for op in model.get_ordered_ops()
    ]
    return [*layers, *((port.get_any_name(),) for port in model.inputs + model.outputs)]
