"""Training of the demo model: RTMPose on any data set of crops, within a wall-clock budget.

Loss and codec are those of the official recipe (SimCC targets, Kullback-Leibler divergence with
beta 10 and label softmax). Three things differ because the budget is an hour of two CPU cores and
not days of eight GPUs: the attention starts small, an auxiliary loss first teaches the coarse
maps of two stages where each keypoint is, and the schedule follows the clock instead of the
epoch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate

from converters.architectures.rtmpose import SIMCC_SPLIT_RATIO, RTMPose
from converters.simcc_loss import pose_loss

RESUME_FILE = "last.pth"
EMA_FILE = "ema.pth"
BOX_PADDING = 1.25
"""A crop holds the box times this, so an aspect-fixed box has the long side H / 1.25 px."""


class PoseDataset(Protocol):
    """A map-style data set of crops."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Image (3, H, W) float32 normalised RGB; keypoints (K, 3) float32: x, y in px, v."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a run depends on besides the model and the data; kept in every checkpoint."""

    minutes: float
    """Wall-clock budget, evaluations and earlier parts of a resumed run included."""
    batch: int = 16
    learning_rate: float = 5e-4
    final_learning_rate: float = 4e-6
    weight_decay: float = 0.05
    warm_up_fraction: float = 0.02
    """Of the budget; the rate then follows a cosine to `final_learning_rate`."""
    clip_norm: float = 20.0
    ema_decay: float = 0.998
    auxiliary_weight: float = 3.0
    auxiliary_fraction: float = 0.8
    """Of the budget; the auxiliary weight falls linearly to zero until then."""
    sigma_bins: tuple[float, float] = (4.9, 5.66)
    """Deviation of the target Gaussians along x and y, in bins (half pixels)."""
    beta: float = 10.0
    bf16: bool = False
    """Run the convolutions in bfloat16; for processors that have it (avx512_bf16, AMX)."""
    workers: int = 1
    """Processes that prepare samples; 0 prepares them in the training process."""
    evaluate_every_s: float = 300.0
    save_every_s: float = 60.0
    log_every_s: float = 20.0
    max_samples: int = 0
    """Stop after so many samples even within the budget; 0 for no limit (tests)."""

    def __post_init__(self) -> None:
        if self.minutes <= 0 or self.batch < 1:
            raise ValueError("minutes must be positive and batch at least 1")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            raise ValueError("final_learning_rate must be in (0, learning_rate]")


@dataclass(frozen=True)
class PoseScores:
    """PCK: the fraction of keypoints within 5 % and 10 % of the box's long side; mean error."""

    pck_05: float
    pck_10: float
    mean_px: float
    keypoints: int


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to; `scores` (averaged weights) is None without held-out data."""

    samples: int
    elapsed_s: float
    scores: PoseScores | None
    ema_path: Path


def initialise(model: RTMPose) -> None:
    """Start the head so that the coordinate losses are felt at once.

    Uniform(0, 1) gamma and beta, the layers' defaults, make the squared attention large and the
    same for every keypoint: training then sits on a plateau for tens of thousands of samples.
    Near zero it is dead, because the gradient of a square vanishes there with the scores. In
    between, with gamma ~ N(0.3, 0.05) and beta 0, the scores of unit-norm inputs are about 0.1
    and all 17 keypoints together add about a quarter of v. With cls_x, cls_y ~ N(0, 0.01) the
    logits, which the loss multiplies by beta = 10, start near zero.
    """
    nn.init.normal_(model.head.gau.gamma, mean=0.3, std=0.05)
    nn.init.zeros_(model.head.gau.beta)
    nn.init.normal_(model.head.cls_x.weight, std=0.01)
    nn.init.normal_(model.head.cls_y.weight, std=0.01)


def learning_rate_at(progress: float, settings: TrainingSettings) -> float:
    """The rate after the fraction `progress` of the budget: linear warm-up, then cosine."""
    if progress < settings.warm_up_fraction:
        return settings.learning_rate * max(progress / settings.warm_up_fraction, 0.01)
    past = (progress - settings.warm_up_fraction) / (1 - settings.warm_up_fraction)
    cosine = 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))
    low = settings.final_learning_rate
    return low + (settings.learning_rate - low) * cosine


def auxiliary_weight_at(progress: float, settings: TrainingSettings) -> float:
    """The auxiliary loss's weight after the fraction `progress` of the budget."""
    if settings.auxiliary_fraction <= 0:
        return 0.0
    return settings.auxiliary_weight * max(0.0, 1 - progress / settings.auxiliary_fraction)


def evaluate(model: RTMPose, dataset: PoseDataset, batch: int = 32) -> PoseScores:
    """PCK@0.05, PCK@0.1 and mean error in crop px over the keypoints with visibility > 0.

    Decodes as the device does (first argmax of each axis over 2), in float32, in eval mode.
    Distances are over the long side of an aspect-fixed box, H / 1.25 px.
    """
    was_training = model.training
    model.eval()
    box_px = model.input_hw[0] / BOX_PADDING
    errors = []
    with torch.no_grad():
        for start in range(0, len(dataset), batch):
            stop = min(start + batch, len(dataset))
            images, keypoints = default_collate([dataset[i] for i in range(start, stop)])
            images = images.contiguous(memory_format=torch.channels_last)
            found = torch.stack([axis.argmax(dim=-1) for axis in model(images)], dim=-1)
            gaps = found / SIMCC_SPLIT_RATIO - keypoints[..., :2]
            distances = torch.linalg.vector_norm(gaps, dim=-1)
            errors.append(distances[keypoints[..., 2] > 0])
    model.train(was_training)
    all_px = torch.cat(errors)
    if not len(all_px):
        raise ValueError("the data set has no visible keypoint")
    return PoseScores(
        pck_05=float((all_px < 0.05 * box_px).float().mean()),
        pck_10=float((all_px < 0.1 * box_px).float().mean()),
        mean_px=float(all_px.mean()),
        keypoints=len(all_px),
    )


class Averaged:
    """Exponential moving average of a model's parameters and float buffers."""

    def __init__(self, model: RTMPose, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: RTMPose) -> None:
        """Take one step of `model` into the average; early steps weigh more."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        latest = model.state_dict()
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                value.lerp_(latest[key], 1 - decay)
            else:
                value.copy_(latest[key])


class FineMaps(nn.Module):
    """Keypoint maps of the third stage, (N, K, H / 16, W / 16), for the auxiliary loss.

    Supervision in the middle of the network: the early layers learn where keypoints are from a
    loss three blocks away, at twice the head's resolution. It belongs to the training, not to
    the model: `detach` leaves that as it was.
    """

    def __init__(self, model: RTMPose) -> None:
        super().__init__()
        channels = model.backbone.stage3[0].conv.out_channels
        self.conv = nn.Conv2d(channels, model.head.final_layer.out_channels, 3, padding=1)
        self.features: Tensor | None = None
        hook = model.backbone.stage3.register_forward_hook(self._keep)
        self.detach: Callable[[], None] = hook.remove

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG002
        self.features = output

    def forward(self) -> Tensor:
        """The maps of the images that the model saw last; each can be had once."""
        features, self.features = self.features, None
        return self.conv(features)


class _Onwards(Sampler):
    """Indices start, start + 1, ... around the data set, without end."""

    def __init__(self, size: int, start: int) -> None:
        self.size, self.start = size, start

    def __iter__(self) -> Iterator[int]:
        index = self.start
        while True:
            yield index % self.size
            index += 1


def train(
    model: RTMPose,
    dataset: PoseDataset,
    settings: TrainingSettings,
    out_dir: Path,
    held_out: PoseDataset | None = None,
    progress: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train `model` in place until the budget is spent; resumes where `out_dir` has a checkpoint.

    Args:
        model: its weights are the start, unless `out_dir` holds `last.pth`.
        dataset: training crops, taken in order and again from the first one after the last;
            shuffle them beforehand where their order means something.
        settings: the run's; on resuming only the budget, the cadences and `workers` may differ.
        out_dir: gets `last.pth` (everything to resume) and `ema.pth` (the averaged weights, to
            be read by `load_checkpoint`), each replaced atomically.
        held_out: fixed crops for the periodic evaluation of the averaged weights.
        progress: is given one line of text at a time.
        clock: seconds, monotonic.

    Raises:
        ValueError: `last.pth` is of other settings or another model, or the loss is not finite.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    model = model.to(memory_format=torch.channels_last).train()
    averaged = Averaged(model, settings.ema_decay)
    fine_maps = FineMaps(model)
    optimizer = _optimizer(model, fine_maps, settings)
    samples, elapsed_before_s = 0, 0.0
    if (out_dir / RESUME_FILE).exists():
        state = torch.load(out_dir / RESUME_FILE, map_location="cpu", weights_only=True)
        _check_settings(state["settings"], settings)
        model.load_state_dict(state["model"])
        fine_maps.load_state_dict(state["fine_maps"])
        averaged.model.load_state_dict(state["ema"])
        averaged.updates = state["updates"]
        optimizer.load_state_dict(state["optimizer"])
        samples, elapsed_before_s = state["samples"], state["elapsed_s"]
        progress(f"resumed after {samples} samples, {elapsed_before_s / 60:.1f} min")

    budget_s = settings.minutes * 60
    started_s = clock()

    def elapsed_s() -> float:
        return elapsed_before_s + clock() - started_s

    def save() -> None:
        meta = {"samples": samples, "elapsed_s": elapsed_s(), "settings": asdict(settings)}
        ema = averaged.model.state_dict()
        _save({"meta": meta, "state_dict": ema}, out_dir / EMA_FILE)
        state = {
            **meta,
            "model": model.state_dict(),
            "ema": ema,
            "updates": averaged.updates,
            "optimizer": optimizer.state_dict(),
            "fine_maps": fine_maps.state_dict(),
        }
        _save(state, out_dir / RESUME_FILE)

    loader = DataLoader(
        dataset,
        batch_size=settings.batch,
        sampler=_Onwards(len(dataset), samples),
        num_workers=settings.workers,
        drop_last=True,
        prefetch_factor=4 if settings.workers else None,
    )
    batches = iter(loader)
    sums, steps, last_samples = [0.0, 0.0], 0, samples
    logged_s = saved_s = evaluated_s = elapsed_s()
    while (now_s := elapsed_s()) < budget_s:
        if settings.max_samples and samples >= settings.max_samples:
            break
        images, keypoints = next(batches)
        done = now_s / budget_s
        rate = learning_rate_at(done, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight = auxiliary_weight_at(done, settings)
        coordinate, auxiliary = _step(
            model, fine_maps, images, keypoints, settings, weight, optimizer
        )
        averaged.update(model)
        samples += len(images)
        steps += 1
        sums[0] += coordinate
        sums[1] += auxiliary
        now_s = elapsed_s()
        if now_s - logged_s >= settings.log_every_s:
            speed = (samples - last_samples) / (now_s - logged_s)
            progress(
                f"{samples} samples, loss {sums[0] / steps:.4f}, auxiliary {sums[1] / steps:.4f}, "
                f"lr {rate:.2e}, {speed:.1f} samples/s, {(budget_s - now_s) / 60:.1f} min left"
            )
            sums, steps, last_samples, logged_s = [0.0, 0.0], 0, samples, now_s
        if now_s - saved_s >= settings.save_every_s:
            save()
            saved_s = elapsed_s()
        if held_out is not None and now_s - evaluated_s >= settings.evaluate_every_s:
            progress(_described(samples, evaluate(averaged.model, held_out)))
            evaluated_s = elapsed_s()
    save()
    fine_maps.detach()
    scores = None
    if held_out is not None:
        scores = evaluate(averaged.model, held_out)
        progress(_described(samples, scores))
    return TrainingResult(samples, elapsed_s(), scores, out_dir / EMA_FILE)


def _optimizer(model: RTMPose, fine_maps: FineMaps, settings: TrainingSettings) -> Any:
    """AdamW; norms, biases, scale factors and the attention's gamma and beta are not decayed.

    The official recipe decays the last two; a run of an hour must not pull the attention to zero.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in (*model.named_parameters(), *fine_maps.named_parameters()):
        is_scale = parameter.ndim < 2 or name.endswith((".gamma", ".beta"))
        (free if is_scale else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _step(
    model: RTMPose,
    fine_maps: FineMaps,
    images: Tensor,
    keypoints: Tensor,
    settings: TrainingSettings,
    auxiliary_weight: float,
    optimizer: Any,
) -> tuple[float, float]:
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        keypoint_maps = model.keypoint_maps(images)
        maps = [keypoint_maps.float()]
        if auxiliary_weight:
            maps.append(fine_maps().float())
    # The head stays in float32: its norms and squared scores lose too much in bfloat16.
    simcc = model.head.coordinates(maps[0])
    coordinate, auxiliary = pose_loss(
        simcc, maps, keypoints, settings.sigma_bins, settings.beta, auxiliary_weight
    )
    loss = coordinate + auxiliary
    if not bool(loss.isfinite()):
        raise ValueError(f"the loss is {float(loss.detach())}; resume with a smaller learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    return float(coordinate.detach()), float(auxiliary.detach())


def _save(content: dict[str, Any], path: Path) -> None:
    """Write beside the file, then rename: a reader never sees half a checkpoint."""
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    partial.replace(path)


_MAY_DIFFER = {
    "minutes", "workers", "evaluate_every_s", "save_every_s", "log_every_s", "max_samples",
    "learning_rate", "final_learning_rate",
}  # fmt: skip


def _check_settings(saved: dict[str, Any], settings: TrainingSettings) -> None:
    current = asdict(settings)
    changed = [
        f"{key} was {saved.get(key)!r} and is {value!r}"
        for key, value in current.items()
        if key not in _MAY_DIFFER and saved.get(key) != value
    ]
    if changed:
        raise ValueError(f"{RESUME_FILE} is of other settings: " + "; ".join(changed))


def _described(samples: int, scores: PoseScores) -> str:
    return (
        f"evaluation after {samples} samples: PCK@0.05 {scores.pck_05:.4f}, "
        f"PCK@0.1 {scores.pck_10:.4f}, mean {scores.mean_px:.2f} px "
        f"({scores.keypoints} keypoints)"
    )
