"""Parameters and multiply-accumulates, counted as the published tables count them.

The published "FLOPS(G)" are those of mmengine's ``FlopAnalyzer``, at batch 1:

- a convolution or a linear layer: its multiply-accumulates, without the bias; a transposed
  convolution: weight elements times the cells of its *input*;
- a product of two tensors that are no weights (attention): its multiply-accumulates;
- a batch norm in eval mode: 2 an element; a layer norm: 5 an element;
- an average pooling: 1 an element of its input; nearest-neighbour upsampling: 1 of its output;
- activations, sums, concatenations and maximum pooling: nothing.

Networks are built and run on torch's meta device, where no number is ever computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from converters.architectures.checkpoint import Architecture, Description
from converters.architectures.official import build, default_input_hw
from converters.architectures.rtmo import RTMO, switch_to_deploy
from edge.terminal import columns

__all__ = [
    "CountRow",
    "Counts",
    "PublishedModel",
    "count",
    "count_rows",
    "counts_table",
]


@dataclass(frozen=True)
class Counts:
    """What one image costs; everything but ``parameters`` in multiply-accumulates or operations."""

    parameters: int
    convolution: int
    linear: int
    matmul: int
    batch_norm: int
    layer_norm: int
    pooling: int
    upsampling: int

    @property
    def total(self) -> int:
        """The sum of all but the parameters: the published FLOPS are this, in units of 1e9."""
        values: dict[str, int] = asdict(self)
        return sum(values.values()) - self.parameters


def count(model: nn.Module, input_hw: tuple[int, int]) -> Counts:
    """Count a model at batch 1 by running it once on zeros (1, 3, H, W).

    The model may be on the meta device; it is put into eval mode, which batch norms are counted
    in. Whatever its `forward` computes is counted and nothing else.
    """
    model.eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    device = next(model.parameters()).device
    with torch.inference_mode(), device, _Counting() as counting:
        model(torch.zeros(1, 3, *input_hw))
    kinds = ("convolution", "linear", "matmul", "batch_norm", "layer_norm", "pooling", "upsampling")
    return Counts(parameters, **{kind: counting.operations[kind] for kind in kinds})


def _convolution(inputs: tuple[Any, ...], output: Tensor) -> int:
    return int(inputs[1].numel()) * len(output) * math.prod(map(int, output.shape[2:]))


def _transposed(inputs: tuple[Any, ...], output: Tensor) -> int:
    image, weight = inputs[:2]
    return int(weight.numel()) * len(output) * math.prod(map(int, image.shape[2:]))


def _product(inputs: tuple[Any, ...], output: Tensor) -> int:
    return int(output.numel()) * int(inputs[0].shape[-1])


def _attention(inputs: tuple[Any, ...], output: Tensor) -> int:
    query, key = inputs[:2]
    return int(key.shape[-2]) * (int(query.numel()) + int(output.numel()))


# Named as torch's dispatcher names them in inference mode, where it shows layers undivided.
_OPERATIONS: dict[str, tuple[str, Callable[[tuple[Any, ...], Tensor], int]]] = {
    "aten::conv2d": ("convolution", _convolution),
    "aten::conv_transpose2d": ("convolution", _transposed),
    "aten::linear": ("linear", _product),
    "aten::matmul": ("matmul", _product),
    "aten::scaled_dot_product_attention": ("matmul", _attention),
    "aten::batch_norm": ("batch_norm", lambda inputs, _: 2 * inputs[0].numel()),
    "aten::layer_norm": ("layer_norm", lambda inputs, _: 5 * inputs[0].numel()),
    "aten::adaptive_avg_pool2d": ("pooling", lambda inputs, _: inputs[0].numel()),
    "aten::upsample_nearest2d": ("upsampling", lambda _, output: output.numel()),
}


class _Counting(TorchDispatchMode):
    """While it is entered, adds up the operations that torch is asked for, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        known = _OPERATIONS.get(func.name().partition(".")[0])
        if known is not None:
            kind, operations = known
            self.operations[kind] += operations(args, output)
        return output


# --- beside the published figures -----------------------------------------------------------------


@dataclass(frozen=True)
class PublishedModel:
    """A model and what its publishers say of it; figures that they do not give are None.

    ``params_m`` is in millions, ``flops_g`` in 1e9 multiply-accumulates. A ``cspnext`` with
    ``classes`` is a classifier, with ``keypoints`` a heatmap model, with neither a backbone.
    """

    name: str
    architecture: Architecture
    size: str
    input_hw: tuple[int, int] | None = None
    keypoints: int | None = None
    classes: int | None = None
    params_m: float | None = None
    flops_g: float | None = None


@dataclass(frozen=True)
class CountRow:
    """Counted and published figures of one model; ``asdict`` of it is plain JSON.

    ``params_equal`` and ``flops_equal`` say whether the counted figure, rounded to the digits that
    are published, is the published one; None where nothing is published. ``deploy_parameters`` are
    those left when the parallel branches of training are merged (RTMO).
    """

    name: str
    input_hw: tuple[int, int]
    parameters: int
    params_m: float | None
    params_equal: bool | None
    flops: int
    flops_g: float | None
    flops_equal: bool | None
    deploy_parameters: int | None
    note: str


def count_rows(models: Iterable[PublishedModel]) -> list[CountRow]:
    """Count each model on the meta device and set the result beside the published figures.

    Raises:
        SpecError: there is no such network.
    """
    return [_row(model) for model in models]


def _row(published: PublishedModel) -> CountRow:
    description = Description(
        published.architecture,
        published.size,
        published.keypoints,
        published.classes,
        published.input_hw,
    )
    input_hw = default_input_hw(description)
    deploy_parameters = None
    with torch.device("meta"):
        model = build(description)
        if isinstance(model, RTMO):
            merged = switch_to_deploy(model)
            deploy_parameters = sum(parameter.numel() for parameter in merged.parameters())
    counts = count(model, input_hw)
    millions, billions = counts.parameters / 1e6, counts.total / 1e9
    params_equal = _equal(millions, published.params_m)
    flops_equal = _equal(billions, published.flops_g)
    notes = []
    if params_equal is False and published.params_m:
        notes.append(f"parameters {millions / published.params_m - 1:+.1%}")
    if flops_equal is False and published.flops_g:
        notes.append(_why(counts, published.flops_g))
    return CountRow(
        name=published.name,
        input_hw=input_hw,
        parameters=counts.parameters,
        params_m=published.params_m,
        params_equal=params_equal,
        flops=counts.total,
        flops_g=published.flops_g,
        flops_equal=flops_equal,
        deploy_parameters=deploy_parameters,
        note="; ".join(notes),
    )


def _why(counts: Counts, published: float) -> str:
    """The ways of counting or rounding that give the published figure, or the difference."""
    unit = 10 ** _decimals(published)
    reasons = []
    if math.floor(counts.total / 1e9 * unit) == round(published * unit):
        reasons.append("cut off instead of rounded")
    if _equal((counts.total - counts.batch_norm) / 1e9, published):
        reasons.append("without batch norms")
    text = f"FLOPS {counts.total / 1e9 / published - 1:+.1%}"
    if reasons:
        text = f"published: {' or '.join(reasons)}"
    alone = (counts.convolution + counts.linear) / 1e9
    return f"{text}; convolutions and linear layers alone {alone:.4f}"


def _equal(counted: float, published: float | None) -> bool | None:
    if published is None:
        return None
    half_a_digit: float = 0.5 * 10.0 ** -_decimals(published)
    return abs(counted - published) <= half_a_digit * (1 + 1e-9)


def _decimals(published: float) -> int:
    """Decimals of a published figure; two at the least, as tables print 4.50 and a float is 4.5."""
    return max(2, len(repr(float(published)).partition(".")[2]))


def counts_table(rows: Iterable[CountRow]) -> str:
    """The rows as aligned text; ``=`` and ``~`` say whether the figures agree in all digits."""
    head = ("model", "input", "params M", "published", "", "GMACs", "published", "", "note")
    lines = [head, *(_cells(row) for row in rows)]
    return "\n".join(columns(lines, right=(2, 3, 5, 6)))


def _cells(row: CountRow) -> tuple[str, ...]:
    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.{_decimals(value)}f}"

    signs = {True: "=", False: "~", None: ""}
    notes = [row.note] if row.note else []
    if row.deploy_parameters is not None:
        notes.append(f"{row.deploy_parameters:,} parameters when deployed")
    return (
        row.name,
        f"{row.input_hw[0]}x{row.input_hw[1]}",
        f"{row.parameters / 1e6:.3f}",
        shown(row.params_m),
        signs[row.params_equal],
        f"{row.flops / 1e9:.4f}",
        shown(row.flops_g),
        signs[row.flops_equal],
        "; ".join(notes),
    )
