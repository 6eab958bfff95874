"""Targets and losses against naive formulas, the schedule, resuming, and a tiny overfit run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from converters.architectures.checkpoint import load_checkpoint, load_state_dict  # noqa: E402
from converters.architectures.rtmpose import RTMPose  # noqa: E402
from converters.training import loop, simcc_loss  # noqa: E402
from converters.training.loop import TrainingSettings, train  # noqa: E402
from converters.training.pose import (  # noqa: E402
    PoseObjective,
    PoseSettings,
    auxiliary_weight_at,
    evaluate,
    initialise,
)

pytestmark = [pytest.mark.long, pytest.mark.alone]

# A crop of 64x64 keeps a run in seconds; nothing in the code knows 256x192.
HW = (64, 64)
KEYPOINTS = 5
FOREVER = TrainingSettings(minutes=1000.0, batch=4, workers=0, warm_up_fraction=0.0)
POSE = PoseSettings()
LOSS = (POSE.sigma_bins, POSE.beta)

Sample = tuple[NDArray[np.float32], NDArray[np.float32]]


class Dots:
    """Pictures with one coloured square a keypoint."""

    def __init__(self, count: int) -> None:
        self.samples = [self.sample(index) for index in range(count)]

    @staticmethod
    def sample(index: int) -> Sample:
        rng = np.random.default_rng(index)
        image = np.full((3, *HW), rng.normal(), np.float32)
        keypoints = np.full((KEYPOINTS, 3), 2, np.float32)
        keypoints[:, :2] = rng.integers(6, 58, (KEYPOINTS, 2))
        for k, (x, y, _) in enumerate(keypoints.astype(int)):
            image[:, y - 3 : y + 4, x - 3 : x + 4] = np.array([k - 2, 2 - k, 1.0])[:, None, None]
        return image, keypoints

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def fresh_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = RTMPose("t", HW, KEYPOINTS)
    initialise(model)
    return model


@pytest.fixture
def ticks() -> Callable[[], Callable[[], float]]:
    """Makes clocks on which each look takes one second."""

    def make() -> Callable[[], float]:
        now = iter(range(10**6))
        return lambda: float(next(now))

    return make


# --- targets and losses -------------------------------------------------------------------------


def test_targets_are_the_naive_gaussian() -> None:
    coordinates = np.array([[0.0, 10.2, 31.75], [12.25, -3.0, 40.0]])
    bins, sigma = 64, 4.9
    wanted = np.zeros((2, 3, bins))
    for n in range(2):
        for k in range(3):
            mu = round(coordinates[n, k] * 2)
            for i in range(bins):
                wanted[n, k, i] = np.exp(-((i - mu) ** 2) / (2 * sigma**2))
    found = simcc_loss.simcc_targets(torch.from_numpy(coordinates), bins, sigma).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    # The peak is where the decoder looks: bin / 2 is the coordinate.
    assert found[0, 1].argmax() / 2 == 10.0
    assert found[0, 1].max() == 1.0


def test_divergence_is_the_naive_sum() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(1, 2, 6)), rng.random((1, 2, 6))
    wanted = np.zeros((1, 2))
    for k in range(2):
        p = np.exp(10 * targets[0, k]) / np.exp(10 * targets[0, k]).sum()
        q = np.exp(10 * logits[0, k]) / np.exp(10 * logits[0, k]).sum()
        wanted[0, k] = np.sum(p * np.log(p / q))
    found = simcc_loss.divergence(torch.from_numpy(logits), torch.from_numpy(targets), 10.0)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)


def random_answers() -> tuple[tuple[Any, Any], Any]:
    generator = torch.Generator().manual_seed(0)
    simcc = tuple(torch.randn(2, KEYPOINTS, 128, generator=generator) for _ in range(2))
    return (simcc[0], simcc[1]), torch.randn(2, KEYPOINTS, 2, 2, generator=generator)


def test_absent_keypoints_weigh_nothing_and_hidden_ones_count() -> None:
    simcc, maps = random_answers()
    keypoints = torch.tensor(np.stack([Dots.sample(i)[1] for i in range(2)]))
    keypoints[0, 1, 2] = 0
    losses = simcc_loss.pose_loss(simcc, [maps], keypoints, *LOSS, 1.0)
    moved = keypoints.clone()
    moved[0, 1, :2] = torch.tensor([-500.0, 900.0])
    same = simcc_loss.pose_loss(simcc, [maps], moved, *LOSS, 1.0)
    assert [float(loss) for loss in losses] == [float(loss) for loss in same]
    hidden = keypoints.clone()
    hidden[1, :, 2] = 1
    same = simcc_loss.pose_loss(simcc, [maps], hidden, *LOSS, 1.0)
    assert [float(loss) for loss in losses] == [float(loss) for loss in same]


def test_a_batch_without_visible_keypoints_costs_nothing() -> None:
    simcc, maps = random_answers()
    losses = simcc_loss.pose_loss(simcc, [maps], torch.zeros(2, KEYPOINTS, 3), *LOSS, 1.0)
    assert [float(loss) for loss in losses] == [0.0, 0.0]


def test_auxiliary_loss_asks_for_the_keypoints_cell() -> None:
    simcc, _ = random_answers()
    keypoints = torch.zeros(2, KEYPOINTS, 3)
    keypoints[..., 0], keypoints[..., 1], keypoints[..., 2] = 40.0, 10.0, 2.0  # row 0, column 1
    maps = torch.zeros(2, KEYPOINTS, 2, 2)
    maps[..., 0, 1] = 30.0
    assert float(simcc_loss.pose_loss(simcc, [maps], keypoints, *LOSS, 1.0)[1]) < 1e-6
    assert float(simcc_loss.pose_loss(simcc, [-maps], keypoints, *LOSS, 1.0)[1]) > 20
    assert float(simcc_loss.pose_loss(simcc, [-maps], keypoints, *LOSS, 0.0)[1]) == 0


# --- schedule -----------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls() -> None:
    settings = dataclasses.replace(FOREVER, warm_up_fraction=0.1)
    rates = [loop.learning_rate_at(i / 100, settings) for i in range(101)]
    assert max(rates) == rates[10] == settings.learning_rate
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(settings.final_learning_rate)
    assert loop.learning_rate_at(1.5, settings) == rates[100]


def test_auxiliary_weight_decays_to_zero() -> None:
    weights = [auxiliary_weight_at(p, POSE) for p in (0.0, 0.2, 0.4, 0.8)]
    assert weights == pytest.approx([3.0, 2.25, 1.5, 0.0])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="minutes"):
        TrainingSettings(minutes=0)
    with pytest.raises(ValueError, match="final_learning_rate"):
        TrainingSettings(minutes=1, final_learning_rate=1.0)


# --- runs ---------------------------------------------------------------------------------------


def test_four_samples_are_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = Dots(4)
    model = fresh_model()
    images, keypoints = (
        torch.from_numpy(np.stack(part)) for part in zip(*data.samples, strict=True)
    )

    def loss() -> float:
        with torch.no_grad():
            maps = model.keypoint_maps(images)
            simcc = model.head.coordinates(maps)
            return float(simcc_loss.pose_loss(simcc, [maps], keypoints, *LOSS, 0.0)[0])

    before = loss()
    result = train(
        model,
        data,
        PoseObjective(POSE, data),
        dataclasses.replace(FOREVER, max_samples=4 * 120, ema_decay=0.9, learning_rate=1.5e-3),
        tmp_path,
        progress=lambda _: None,
    )
    assert loss() < 0.5 * before
    assert result.samples == 480
    averaged = RTMPose("t", HW, KEYPOINTS)
    load_checkpoint(averaged, result.ema_path)
    assert evaluate(averaged, data) == result.scores
    assert result.scores is not None
    assert result.scores.pck_10 > 0.5


def test_the_run_ends_with_the_budget(tmp_path: Path, ticks: Any) -> None:
    lines: list[str] = []
    settings = dataclasses.replace(
        FOREVER, minutes=0.5, batch=2, log_every_s=5, save_every_s=10, evaluate_every_s=12
    )
    result = train(
        fresh_model(),
        Dots(4),
        PoseObjective(POSE, Dots(2)),
        settings,
        tmp_path,
        progress=lines.append,
        clock=ticks(),
    )
    assert 30 <= result.elapsed_s < 36
    assert any("samples/s" in line and "min left" in line for line in lines)
    assert sum("PCK@0.05" in line for line in lines) >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ema.pth", "last.pth"]


def test_resuming_continues_where_the_run_stopped(tmp_path: Path) -> None:
    """Two halves with a resume between them end in the weights of one run."""
    data = Dots(6)
    # A budget so long that the clock does not move the schedule.
    settings = dataclasses.replace(FOREVER, minutes=1e9, batch=2)

    def run(folder: str, samples: int, lines: list[str]) -> Any:
        model = fresh_model()
        train(
            model,
            data,
            PoseObjective(POSE),
            dataclasses.replace(settings, max_samples=samples),
            tmp_path / folder,
            progress=lines.append,
        )
        return model.state_dict()

    whole = run("whole", 8, [])
    run("halves", 4, [])
    lines: list[str] = []
    halves = run("halves", 8, lines)
    assert lines[0].startswith("resumed after 4 samples")
    for key, value in whole.items():
        torch.testing.assert_close(halves[key], value, atol=1e-5, rtol=1e-5)
    left, right = (load_state_dict(tmp_path / name / "ema.pth") for name in ("whole", "halves"))
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, atol=1e-5, rtol=1e-5)


def test_the_elapsed_budget_survives(tmp_path: Path, ticks: Any) -> None:
    settings = dataclasses.replace(FOREVER, minutes=0.5, batch=2, max_samples=4)
    pose = PoseObjective(POSE)
    first = train(fresh_model(), Dots(4), pose, settings, tmp_path, progress=print, clock=ticks())
    later = dataclasses.replace(settings, max_samples=0)
    second = train(fresh_model(), Dots(4), pose, later, tmp_path, progress=print, clock=ticks())
    assert 0 < first.elapsed_s < 30 <= second.elapsed_s < 36


def test_other_settings_are_not_resumed(tmp_path: Path) -> None:
    settings = dataclasses.replace(FOREVER, max_samples=4)
    train(fresh_model(), Dots(4), PoseObjective(POSE), settings, tmp_path, progress=lambda _: None)
    other = PoseObjective(dataclasses.replace(POSE, beta=5.0))
    with pytest.raises(ValueError, match=r"beta was 10\.0 and is 5\.0"):
        train(fresh_model(), Dots(4), other, settings, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    data = Dots(4)
    data.samples[2][0][:] = np.nan
    with pytest.raises(ValueError, match="loss is nan"):
        train(
            fresh_model(),
            data,
            PoseObjective(POSE),
            dataclasses.replace(FOREVER, max_samples=4),
            tmp_path,
        )


def test_samples_are_taken_in_order_and_around() -> None:
    indices = iter(loop._Onwards(size=3, start=4))
    assert [next(indices) for _ in range(5)] == [1, 2, 0, 1, 2]


# --- evaluation ---------------------------------------------------------------------------------


class Oracle:
    """A model that reads the answers from its images' first pixels, `off_px` to the right."""

    input_hw = HW
    training = False

    def __init__(self, off_px: float) -> None:
        self.off_px = off_px

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def __call__(self, images: Any) -> tuple[Any, Any]:
        wanted = images[:, :2, 0, :KEYPOINTS]
        bins = ((wanted + torch.tensor([self.off_px, 0.0])[:, None]) * 2).long()
        one_hot = torch.nn.functional.one_hot(bins, 2 * HW[0]).float()
        return one_hot[:, 0], one_hot[:, 1]


@pytest.mark.parametrize(
    ("off_px", "pck_05", "pck_10"), [(0.0, 1.0, 1.0), (4.0, 0.0, 1.0), (6.0, 0.0, 0.0)]
)
def test_pck_is_relative_to_the_box(off_px: float, pck_05: float, pck_10: float) -> None:
    """The box's long side is 64 / 1.25 = 51.2 px: the thresholds are 2.56 and 5.12 px."""
    data = Dots(3)
    for image, keypoints in data.samples:
        image[:2, 0, :KEYPOINTS] = keypoints[:, :2].T
        keypoints[0] = (1000, 1000, 0)  # absent: not counted
    oracle: Any = Oracle(off_px)
    scores = evaluate(oracle, data, batch=2)
    assert (scores.pck_05, scores.pck_10, scores.keypoints) == (pck_05, pck_10, 12)
    assert scores.mean_px == pytest.approx(off_px)


def test_evaluation_needs_a_visible_keypoint() -> None:
    data = Dots(1)
    data.samples[0][1][:, 2] = 0
    with pytest.raises(ValueError, match="no visible keypoint"):
        evaluate(fresh_model(), data)


@pytest.mark.parametrize(
    ("name", "codec", "input_hw", "scores"),
    [
        ("rtmpose-t-demo", "simcc", (256, 192), "on 500 held-out crops"),
        ("rtmdet-nano-demo", "rtmdet", (320, 320), "on 300 held-out pictures"),
    ],
)
def test_the_command_trains_and_exports(
    name: str,
    codec: str,
    input_hw: tuple[int, int],
    scores: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from converters.graph.file import load_onnx
    from converters.graph.recognise import recognise
    from edge.cli import main

    command = ["train", "--model", name, "--out", str(tmp_path), "--variety", "0"]
    assert main([*command, "--minutes", "0.1"]) == 0
    assert scores in capsys.readouterr().out
    path = tmp_path / f"{name}.onnx"
    spec = recognise(load_onnx(path), path, name).source_spec
    assert (spec.codec, spec.input_hw) == (codec, input_hw)
    assert (tmp_path / "last.pth").is_file()
