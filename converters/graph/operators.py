"""Which operators and versions a file is written in, and whether the tools here know them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from converters.graph.walk import all_nodes
from edge.errors import ModelFileError
from edge.printable import printable

__all__ = [
    "STANDARD_DOMAINS",
    "check_operators",
    "check_versions",
    "opset_of",
    "refuse_quantised",
    "restate_opset",
    "state_functions_as",
]

STANDARD_DOMAINS = ("", "ai.onnx")

# ONNX Runtime 1.31.1 runs these versions of the standard operators, and this IR at most. What is
# newer and means the same is stated as older; the device's own runtime may be older still.
_LEAST_OPSET, _MOST_OPSET, _MOST_IR = 7, 26, 13

_ANY_VERSION = (1 << 31) - 1

_QUANTISED = {
    "QDQ": ("QuantizeLinear", "DequantizeLinear", "FakeQuantize"),
    "dynamically quantised": (
        *("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
        *("MatMulIntegerToFloat", "ConvInteger", "MatMulInteger", "MatMulNBits"),
    ),
    "QOperator": ("QAttention", "QGemm", "QEmbedLayerNormalization", "QMoE"),
}


def check_versions(model: Any, path: Path) -> None:
    """Refuse a file that is too new or too old; state it as older, in place, where that is true.

    Raises ModelFileError for an IR that the ONNX package does not know, and for operators that
    mean something else before the version that ONNX Runtime ends at.
    """
    import onnx

    if model.ir_version > onnx.IR_VERSION:
        raise ModelFileError(
            f"{path}: written for a newer ONNX than the tools here know (IR version "
            f"{model.ir_version}, they know {onnx.IR_VERSION}): export it with an older exporter, "
            "or install newer tools"
        )
    if model.ir_version < 3:
        raise ModelFileError(
            f"{path}: written for the first ONNX (IR version {model.ir_version}), before operators "
            "had versions: export it again with opset 17"
        )
    opset = opset_of(model)
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        raise ModelFileError(
            f"{path}: written for newer operators than the tools here know (opset {opset}, they "
            f"know {known}): export it with opset {_MOST_OPSET} or lower, best 17"
        )
    if opset < _LEAST_OPSET:
        raise ModelFileError(
            f"{path}: written for older operators than the tools here run (opset {opset}, at least "
            f"{_LEAST_OPSET}): export it again with opset 17"
        )
    if opset > _MOST_OPSET:
        changed = restate_opset(model, _MOST_OPSET)
        if changed:
            raise ModelFileError(
                f"{path}: opset {opset} is newer than ONNX Runtime knows ({_MOST_OPSET}), and "
                f"{', '.join(changed)} changed since: export it with opset {_MOST_OPSET} or lower, "
                "best 17"
            )
    for one in model.opset_import:
        newest = _newest(one.domain)
        if newest is not None and one.version > newest:
            raise ModelFileError(
                f"{path}: written for newer operators of {one.domain} than the tools here know "
                f"(version {one.version}, they know {newest}): export it with version {newest} or "
                "lower"
            )
    if model.ir_version > _MOST_IR:
        # Later ones add types of numbers, no meaning; a file with those fails as one with them.
        model.ir_version = _MOST_IR


def opset_of(model: Any) -> int:
    """The version of the standard operators; 1 where the file does not say it."""
    return next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), 1)


def restate_opset(model: Any, opset: int) -> list[str]:
    """State a model, in place, in an older opset where all its operators mean the same in both.

    Returns the operators that do not; nothing is changed then.
    """
    import onnx

    now = opset_of(model)
    changed = set()
    for node in all_nodes(model):
        if node.domain in STANDARD_DOMAINS:
            versions = [_since(onnx, node, version) for version in (opset, now)]
            if versions[0] != versions[1]:
                changed.add(node.op_type)
    if changed:
        return sorted(changed)
    for one in (*model.opset_import, *(o for f in model.functions for o in f.opset_import)):
        if one.domain in STANDARD_DOMAINS:
            one.version = min(one.version, opset)
    return []


def state_functions_as(model: Any, opset: int) -> bool:
    """State a file's functions in the model's opset; False where that means something else."""
    import onnx

    for function in model.functions:
        own = opset_of(function)
        for node in function.node:
            if node.domain in STANDARD_DOMAINS and own != opset:
                versions = [_since(onnx, node, version) for version in (own, opset)]
                if versions[0] != versions[1]:
                    return False
    for function in model.functions:
        for one in function.opset_import:
            if one.domain in STANDARD_DOMAINS:
                one.version = opset
    return True


def check_operators(model: Any, path: Path) -> None:
    """Raise ModelFileError for an operator that no schema knows: a custom one, in any domain."""
    import onnx

    versions = {one.domain: one.version for one in model.opset_import}
    opset = opset_of(model)
    for node in all_nodes(model):
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        version = min(versions.get(node.domain, 1), _ANY_VERSION) if domain else opset
        try:
            onnx.defs.get_schema(node.op_type, version, domain)
            continue
        except onnx.defs.SchemaError:
            pass
        name, operator = node.name or next(iter(node.output), ""), printable(node.op_type)
        since = [
            schema.since_version
            for schema in onnx.defs.get_all_schemas_with_history()
            if schema.name == node.op_type and schema.domain == domain
        ]
        if since:
            raise ModelFileError(
                f"{path}: node {name!r} is {operator}, which opset {version} does not have "
                f"({min(since)} and later do): export the model with such an opset"
            )
        quantised = _quantised_kind([node])
        if quantised:
            raise ModelFileError(_already_quantised(path, quantised))
        shown = f"{printable(node.domain)}::{operator}" if domain else operator
        raise ModelFileError(
            f"{path}: node {name!r} is the custom operator {shown}, which no converter knows; "
            + _without_it(node.domain)
        )


def _without_it(domain: str) -> str:
    if domain.startswith("com.microsoft") or domain == "com.ms.internal.nhwc":
        return (
            "ONNX Runtime wrote it when it optimised or converted the model: start from the file "
            "before that"
        )
    return (
        "export the model without it (for mmdeploy: with the onnxruntime backend's configuration; "
        "a suppression is the kit's own work)"
    )


def refuse_quantised(model: Any, path: Path) -> None:
    """Raise ModelFileError for a file that is quantised already, in whatever form."""
    kind = _quantised_kind(all_nodes(model))
    if kind:
        raise ModelFileError(_already_quantised(path, kind))


def _already_quantised(path: Path, kind: str) -> str:
    return (
        f"{path}: already quantised ({kind}); start from the float file that it was made of, the "
        "kit quantises by itself (for example --formats onnx-int8)"
    )


def _quantised_kind(nodes: Iterable[Any]) -> str | None:
    names = {node.op_type for node in nodes}
    for kind, operators in reversed(_QUANTISED.items()):
        if names.intersection(operators):
            return kind
    return "QOperator" if any(name.startswith("QLinear") for name in names) else None


def _since(onnx: Any, node: Any, version: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(node.op_type, version, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _newest(domain: str) -> int | None:
    """The newest version of a domain that the ONNX package knows; None for one that it does not."""
    import onnx

    if domain in STANDARD_DOMAINS:
        return None  # judged by itself
    versions = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.domain == domain
    ]
    return max(versions, default=None)
