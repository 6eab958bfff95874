"""Parameters and multiply-accumulates: closed forms, published figures, official key lists."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tests.conftest import shared

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from converters.architectures.checkpoint import Description  # noqa: E402
from converters.architectures.counts import (  # noqa: E402
    CountRow,
    Counts,
    PublishedModel,
    count,
    count_rows,
    counts_table,
)
from converters.architectures.official import build  # noqa: E402
from edge.errors import SpecError  # noqa: E402


def on_meta(description: Description) -> Any:
    with torch.device("meta"):
        return build(description)


# --- names and shapes -------------------------------------------------------------------------

OFFICIAL = {
    **{f"rtmpose_{size}": Description("rtmpose", size, 17) for size in "tsml"},
    **{f"rtmo_{size}": Description("rtmo", size, 17) for size in "tsml"},
    "rtmdet_nano": Description("rtmdet", "nano", classes=1),
    "rtmdet_tiny80": Description("rtmdet", "t", classes=80),
    "rtmdet_m1": Description("rtmdet", "m", classes=1),
}


def test_every_official_list_of_keys_is_compared() -> None:
    lists = shared("reference/state_dict_keys").glob("*.json")
    assert {path.stem for path in lists} == set(OFFICIAL)


@pytest.mark.parametrize("name", OFFICIAL)
def test_state_dict_is_the_official_one(name: str) -> None:
    wanted = json.loads(shared(f"reference/state_dict_keys/{name}.json").read_text())
    model = on_meta(OFFICIAL[name])
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == wanted


# --- closed forms -----------------------------------------------------------------------------


class Product(nn.Module):  # type: ignore[misc]
    """x times itself: (N, C, H, W) -> (N, C, H, H)."""

    def forward(self, x: Any) -> Any:
        return torch.matmul(x, x.transpose(2, 3))


class Attention(nn.Module):  # type: ignore[misc]
    """Eight cells of 12 channels attend to each other with 3 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Any) -> Any:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("layer", "kind", "operations", "parameters"),
    [
        # out channels x in channels a group x kernel x output cells, whatever the bias
        (nn.Conv2d(12, 10, 3, stride=2), "convolution", 10 * 12 * 9 * 3 * 5, 10 * 12 * 9 + 10),
        (nn.Conv2d(12, 24, 5, padding=2, groups=12, bias=False), "convolution", 24 * 25 * 96, 600),
        # every input cell meets every weight
        (nn.ConvTranspose2d(12, 7, 4, 2, 1, bias=False), "convolution", 12 * 7 * 16 * 96, 1344),
        # along the last axis
        (nn.Linear(12, 5), "linear", 12 * 8 * 12 * 5, 65),
        (nn.BatchNorm2d(12), "batch_norm", 2 * 12 * 96, 24),
        (nn.LayerNorm(12), "layer_norm", 5 * 12 * 96, 24),
        (nn.AdaptiveAvgPool2d(1), "pooling", 12 * 96, 0),
        (nn.UpsamplingNearest2d(scale_factor=2), "upsampling", 12 * 96 * 4, 0),
        (Product(), "matmul", 12 * 8 * 8 * 12, 0),
        (nn.SiLU(), "matmul", 0, 0),
        (nn.MaxPool2d(2), "pooling", 0, 0),
    ],
)
def test_one_layer(layer: Any, kind: str, operations: int, parameters: int, device: str) -> None:
    # The parameter in front says which device the model is on; it costs nothing.
    model = nn.Sequential(nn.PReLU(), layer).to(device)
    with torch.device(device):
        wrapped = nn.Sequential(_Widen(), model)
    counts = asdict(count(wrapped, (8, 12)))
    assert counts.pop("parameters") == parameters + 1
    assert counts.pop(kind) == operations
    assert set(counts.values()) == {0}


class _Widen(nn.Module):  # type: ignore[misc]
    """Three channels, four times: (N, 3, H, W) -> (N, 12, H, W)."""

    def forward(self, x: Any) -> Any:
        return torch.cat((x, x, x, x), dim=1)


def test_attention_counts_its_two_products() -> None:
    counts = count(nn.Sequential(_Widen(), Attention()), (2, 4))
    assert counts.linear == 8 * 12 * 12 * 4
    # Query by key and weights by value, 8 x 8 pairs of 12 channels each.
    assert counts.matmul == 2 * 8 * 8 * 12
    assert counts.total == counts.linear + counts.matmul


# --- published figures ------------------------------------------------------------------------

# What mmengine's FlopAnalyzer counts in the real models: parameters, convolutions, batch norms,
# average pooling.
RTMPOSE = {
    "t": (3_337_007, 343_261_440, 3_723_264, 276_480),
    "s": (5_473_251, 664_870_912, 5_406_720, 368_640),
    "m": (13_587_611, 1_906_136_064, 10_432_512, 552_960),
    "l": (27_660_339, 4_130_775_040, 17_006_592, 737_280),
}


@pytest.mark.parametrize("size", RTMPOSE)
def test_rtmpose_is_counted_to_the_unit(size: str) -> None:
    parameters, convolution, batch_norm, pooling = RTMPOSE[size]
    wanted = Counts(parameters, convolution, 11_350_016, 184_960, batch_norm, 0, pooling, 0)
    assert count(on_meta(Description("rtmpose", size, 17)), (256, 192)) == wanted


@pytest.mark.parametrize(
    ("size", "keypoints", "input_hw", "parameters", "billions"),
    [
        ("t", 26, (256, 192), 3_506_360, 0.3687),
        ("m", 133, (256, 192), 17_953_039, 2.2045),
        ("m", 17, (384, 288), 13_717_659, 4.3014),
    ],
)
def test_convolutions_and_linear_layers_of_variants(
    size: str, keypoints: int, input_hw: tuple[int, int], parameters: int, billions: float
) -> None:
    counts = count(on_meta(Description("rtmpose", size, keypoints, None, input_hw)), input_hw)
    assert counts.parameters == parameters
    assert round((counts.convolution + counts.linear) / 1e9, 4) == billions


def test_rtmdet_convolutions() -> None:
    counts = count(on_meta(OFFICIAL["rtmdet_nano"]), (320, 320))
    assert (counts.parameters, counts.convolution) == (994_423, 308_035_840)


CUT_OFF, NO_NORMS = "cut off instead of rounded", "without batch norms"


def pose(name: str, size: str, flops: float, params: float | None = None, **more: Any) -> Any:
    return PublishedModel(
        name, "rtmpose", size, **{"keypoints": 17, **more}, params_m=params, flops_g=flops
    )


def published(name: str, params: float, flops: float, **more: Any) -> PublishedModel:
    architecture, size = name.split("-")[:2]
    return PublishedModel(name, architecture, size, params_m=params, flops_g=flops, **more)  # type: ignore[arg-type]


# The models with the figures of the tables that they are published in, and what comes of it.
FACTS: list[tuple[PublishedModel, bool | None, bool, str]] = [
    (pose("rtmpose-t", "t", 0.36, 3.34), True, True, ""),
    (pose("rtmpose-s", "s", 0.68, 5.47), True, True, ""),
    (pose("rtmpose-m", "m", 1.93, 13.59), True, True, ""),
    (pose("rtmpose-l", "l", 4.16, 27.66), True, True, ""),
    (pose("rtmpose-m-384", "m", 4.33, 13.72, input_hw=(384, 288)), True, True, ""),
    (pose("rtmpose-l-384", "l", 9.35, 27.79, input_hw=(384, 288)), True, True, ""),
    (pose("rtmpose-m-ap10k", "m", 2.57, input_hw=(256, 256)), None, True, ""),
    # All three figures of one table, none of which is rounded.
    (pose("wholebody-m", "m", 2.22, keypoints=133), None, False, CUT_OFF),
    (pose("wholebody-l", "l", 4.52, keypoints=133), None, False, CUT_OFF),
    (
        pose("wholebody-l-384", "l", 10.07, keypoints=133, input_hw=(384, 288)),
        *(None, False, CUT_OFF),
    ),
    # Both detectors of one table.
    (published("rtmdet-nano", 0.99, 0.31, classes=1), True, False, NO_NORMS),
    (published("rtmdet-m", 24.66, 38.95, classes=1), True, False, NO_NORMS),
    (published("rtmdet-t-80", 4.896168, 8.09, classes=80), True, True, ""),
    # Everything but the coordinate classifier, which runs once for each person.
    (published("rtmo-t", 6.829875, 3.377, keypoints=17), True, True, ""),
    (published("rtmo-s", 9.868899, 12.129, keypoints=17), True, True, ""),
    (published("rtmo-m", 22.526307, 31.656, keypoints=17), True, True, ""),
    (published("rtmo-l", 44.693315, 67.543, keypoints=17), True, True, ""),
    (published("cspnext-t-in1k", 2.73, 0.34, classes=1000, input_hw=(224, 224)), True, True, ""),
    (published("cspnext-s-in1k", 4.89, 0.66, classes=1000, input_hw=(224, 224)), True, True, ""),
    (published("cspnext-m-in1k", 13.05, 1.93, classes=1000, input_hw=(224, 224)), True, True, ""),
    (published("cspnext-l-in1k", 27.16, 4.19, classes=1000, input_hw=(224, 224)), True, True, ""),
    # Backbone, three transposed convolutions and 19 heatmaps. One row of the table says more
    # operations, another repeats the parameters of the classifier.
    (published("cspnext-t-udp", 6.03, 1.43, keypoints=19), True, True, ""),
    (published("cspnext-s-udp", 8.58, 1.78, keypoints=19), True, False, "FLOPS -0.3%"),
    (published("cspnext-m-udp", 13.05, 3.06, keypoints=19), False, True, "parameters +34.3%"),
    (published("cspnext-l-udp", 32.44, 5.33, keypoints=19), True, True, ""),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, CountRow]:
    return {row.name: row for row in count_rows(fact[0] for fact in FACTS)}


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact[0].name)
def test_published_figures_come_out(
    rows: dict[str, CountRow], fact: tuple[PublishedModel, bool | None, bool, str]
) -> None:
    model, params_equal, flops_equal, note = fact
    row = rows[model.name]
    assert (row.params_m, row.flops_g) == (model.params_m, model.flops_g)
    assert (row.params_equal, row.flops_equal) == (params_equal, flops_equal)
    assert note in row.note
    assert bool(note) == bool(row.note)


def test_rtmdet_m_in_full(rows: dict[str, CountRow]) -> None:
    """What FlopAnalyzer says of the real model, where the table says 38.95."""
    assert rows["rtmdet-m"].parameters == 24_663_447
    assert round(rows["rtmdet-m"].flops / 1e9, 2) == 39.08


def test_rtmo_when_deployed(rows: dict[str, CountRow]) -> None:
    found = [rows[f"rtmo-{size}"].deploy_parameters for size in "tsml"]
    assert found == [6_787_507, 9_797_475, 22_222_435, 43_893_315]
    assert rows["rtmpose-t"].deploy_parameters is None


def test_rows_are_json_and_a_table(rows: dict[str, CountRow]) -> None:
    some = [rows["rtmpose-t"], rows["wholebody-m"], rows["rtmo-t"]]
    data = json.loads(json.dumps([asdict(row) for row in some]))
    assert data[0]["flops"] == 358_796_160
    assert data[0]["input_hw"] == [256, 192]
    assert data[1]["params_equal"] is None
    lines = counts_table(some).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["rtmpose-t", "256x192", "3.337", "3.34", "=", "0.3588", "0.36", "="]
    assert lines[2].split()[:7] == [
        "wholebody-m",
        "256x192",
        "17.953",
        "2.2268",
        "2.22",
        "~",
        "published:",
    ]
    assert lines[3].endswith("6,787,507 parameters when deployed")


def test_a_figure_is_compared_in_the_digits_it_has() -> None:
    models = [PublishedModel("m", "rtmpose", "t", keypoints=17, params_m=p) for p in (3.3, 3.337)]
    # A table's 3.30 is a float's 3.3: two digits are the least.
    assert [row.params_equal for row in count_rows(models)] == [False, True]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(SpecError, match="RTMPose has the sizes"):
        count_rows([PublishedModel("m", "rtmpose", "huge", keypoints=17)])
