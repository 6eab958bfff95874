"""RTMDet's assignment and losses against naive formulas, and a tiny overfit run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from converters.architectures.rtmdet import STRIDES, RTMDet  # noqa: E402
from converters.training import detection_loss as loss  # noqa: E402
from converters.training.detection import DetectionObjective, initialise  # noqa: E402
from converters.training.loop import Averaged, TrainingSettings, train  # noqa: E402

pytestmark = pytest.mark.long

Boxes = NDArray[np.float32]


def naive_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def naive_giou(a: Sequence[float], b: Sequence[float]) -> float:
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return naive_iou(a, b) - (hull - union) / hull


def random_boxes(rng: np.random.Generator, count: int) -> Boxes:
    low = rng.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)


def test_iou_and_its_generalised_form_are_the_naive_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 40), random_boxes(rng, 40)
    found = loss.iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    wanted = [naive_iou(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert 0 < np.count_nonzero(found) < 40  # some meet and some do not
    found = loss.iou(torch.from_numpy(a), torch.from_numpy(b), generalised=True).numpy()
    wanted = [naive_giou(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_box_inside_out_has_no_area() -> None:
    turned = torch.tensor([[20.0, 20.0, 10.0, 10.0]])
    assert float(loss.iou(turned, torch.tensor([[0.0, 0.0, 30.0, 30.0]]))) == 0


def test_cells_lie_where_the_codec_has_them() -> None:
    """Logits and distances placed by hand come out at the cell and box that the codec decodes."""
    outputs = [torch.full((1, 1, 96 // s, 64 // s), -9.0) for s in STRIDES]
    outputs += [torch.zeros(1, 4, 96 // s, 64 // s) for s in STRIDES]
    outputs[1][0, 0, 4, 2] = 3.0
    outputs[4][0, :, 4, 2] = torch.tensor([10.0, 20.0, 5.0, 7.0])
    found = loss.gather_levels(outputs, STRIDES)
    best = int(found.logits[0].argmax())
    assert best == 12 * 8 + 4 * 4 + 2
    assert found.priors_xy[best].tolist() == [32.0, 64.0]
    assert float(found.strides[best]) == 16
    assert found.boxes_xyxy[0, best].tolist() == [22.0, 44.0, 37.0, 71.0]


def naive_assign(
    logits: NDArray[Any], boxes: NDArray[Any], priors: NDArray[Any], strides: NDArray[Any],
    truth: NDArray[Any],
) -> dict[int, int]:  # fmt: skip
    """Cell -> box, by the paper's text, one pair at a time."""
    cost = np.full((len(logits), len(truth)), np.inf)
    overlap = np.zeros_like(cost)
    for a, (x, y) in enumerate(priors):
        for g, box in enumerate(truth):
            if not (box[0] < x < box[2] and box[1] < y < box[3]):
                continue
            overlap[a, g] = naive_iou(boxes[a], box)
            score = 1 / (1 + math.exp(-logits[a]))
            quality = overlap[a, g]
            entropy = -quality * math.log(score) - (1 - quality) * math.log(1 - score)
            centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            distance = math.dist((x, y), centre) / strides[a]
            cost[a, g] = (
                entropy * (quality - score) ** 2
                - 3 * math.log(quality + 1e-7)
                + 10 ** (distance - 3)
            )
    owner: dict[int, int] = {}
    for g in range(len(truth)):
        count = max(1, int(np.sort(overlap[:, g])[::-1][:13].sum()))
        for a in np.argsort(cost[:, g], kind="stable")[:count]:
            if math.isinf(cost[a, g]):
                continue
            if a not in owner or cost[a, g] < cost[a, owner[a]]:
                owner[int(a)] = g
    return owner


@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_is_the_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strides = np.repeat([8.0, 16.0], (256, 64))
    grid = [(x * s, y * s) for s, n in ((8, 16), (16, 8)) for y in range(n) for x in range(n)]
    priors = np.array(grid, np.float32)
    truth = random_boxes(rng, 3)
    boxes = np.concatenate([priors, priors], axis=1) + rng.uniform(5, 40, (320, 4)) * (
        [-1, -1, 1, 1]
    )
    logits = rng.normal(-1, 1.5, 320)
    cells, owner = loss.assign(
        *(torch.from_numpy(np.asarray(v, np.float64)) for v in (logits, boxes, priors, strides)),
        torch.from_numpy(truth.astype(np.float64)),
    )
    found = dict(zip(cells.tolist(), owner.tolist(), strict=True))
    wanted = naive_assign(logits, boxes, priors, strides, truth)
    assert found == wanted
    assert len(found) >= 3


def test_the_losses_are_the_naive_sums() -> None:
    rng = np.random.default_rng(3)
    outputs = [torch.from_numpy(rng.normal(-2, 1, (2, 1, 64 // s, 64 // s))) for s in STRIDES]
    outputs += [torch.from_numpy(rng.uniform(4, 40, (2, 4, 64 // s, 64 // s))) for s in STRIDES]
    predictions = loss.gather_levels(outputs, STRIDES)
    truth = [torch.from_numpy(random_boxes(rng, 2).astype(np.float64)), torch.zeros(0, 4)]
    found = loss.detection_loss(predictions, truth)
    owner = naive_assign(
        predictions.logits[0].numpy(),
        predictions.boxes_xyxy[0].numpy(),
        predictions.priors_xy.numpy(),
        predictions.strides.numpy(),
        truth[0].numpy(),
    )
    boxes = predictions.boxes_xyxy[0].tolist()
    quality = {a: naive_iou(boxes[a], truth[0][g].tolist()) for a, g in owner.items()}
    total = 0.0
    for image in range(2):
        for a, logit in enumerate(predictions.logits[image].tolist()):
            wanted = quality.get(a, 0.0) if image == 0 else 0.0
            score = 1 / (1 + math.exp(-logit))
            entropy = -wanted * math.log(score) - (1 - wanted) * math.log(1 - score)
            total += entropy * (wanted - score) ** 2
    assert float(found["class"]) == pytest.approx(total / max(sum(quality.values()), 1), rel=1e-5)
    weights = [max(quality[a], 0.1) for a in owner]
    errors = [1 - naive_giou(boxes[a], truth[0][g].tolist()) for a, g in owner.items()]
    wanted_box = 2 * np.dot(errors, weights) / max(sum(weights), 1)
    assert float(found["box"]) == pytest.approx(wanted_box, rel=1e-5)


def test_pictures_without_anybody_teach_the_background_alone() -> None:
    outputs = [torch.zeros(1, 1, 64 // s, 64 // s, requires_grad=True) for s in STRIDES]
    outputs += [torch.ones(1, 4, 64 // s, 64 // s) for s in STRIDES]
    found = loss.detection_loss(loss.gather_levels(outputs, STRIDES), [torch.zeros(0, 4)])
    assert float(found["box"].detach()) == 0
    assert float(found["class"].detach()) > 0
    found["class"].backward()
    assert all(float(output.grad.sum()) > 0 for output in outputs[:3])


class Squares:
    """Pictures of one bright square, 24 to 48 px."""

    def __init__(self, count: int) -> None:
        self.samples = [self.sample(index) for index in range(count)]

    @staticmethod
    def sample(index: int) -> tuple[Boxes, Boxes]:
        rng = np.random.default_rng(index)
        image = rng.normal(0, 0.1, (3, 96, 96)).astype(np.float32)
        side = int(rng.integers(24, 48))
        x, y = rng.integers(4, 92 - side, 2)
        image[:, y : y + side, x : x + side] += 2
        rows = np.zeros((3, 5), np.float32)
        rows[0] = (x, y, x + side, y + side, 1)
        return image, rows

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Boxes, Boxes]:
        return self.samples[index]


def test_squares_are_learnt_and_found_by_the_codec(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = Squares(8)
    model = RTMDet("nano")
    initialise(model)

    def mean_iou(truth: Sequence[Boxes], answers: Sequence[Boxes]) -> float:
        best = [
            max((naive_iou(box, answer) for answer in found[:1]), default=0.0)
            for boxes, found in zip(truth, answers, strict=True)
            for box in boxes.tolist()
        ]
        return float(np.mean(best))

    settings = TrainingSettings(
        minutes=1e6, batch=8, learning_rate=4e-3, workers=0, max_samples=8 * 120, ema_decay=0.9,
        warm_up_fraction=0.0,
    )  # fmt: skip
    result = train(
        model, data, DetectionObjective(data, mean_iou), settings, tmp_path, lambda _: None
    )
    assert result.scores > 0.7


def test_convolutions_that_levels_share_are_averaged_once() -> None:
    """A shared weight has a key a level: the average must not move thrice as fast."""
    model = RTMDet("t")
    averaged = Averaged(model, 0.5)
    averaged.updates = 1000
    before = averaged.model.bbox_head.cls_convs[0][0].conv.weight.clone()
    with torch.no_grad():
        model.bbox_head.cls_convs[0][0].conv.weight.add_(1.0)
    averaged.update(model)
    for level in averaged.model.bbox_head.cls_convs:
        torch.testing.assert_close(level[0].conv.weight, before + 0.5)
