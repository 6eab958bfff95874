"""The training loop: any network, any objective, within a wall-clock budget; resumable.

AdamW, linear warm-up and cosine, gradient clipping and averaged weights as in the official
recipes; the schedule follows the clock instead of the epoch, because the budget is an hour of two
CPU cores and not days of eight GPUs.
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
from torch.utils.data import DataLoader, Sampler

from edge.files import replacing

RESUME_FILE = "last.pth"
EMA_FILE = "ema.pth"


class Dataset(Protocol):
    """A map-style data set."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Image (3, H, W) float32, normalised; targets, an array of one shape for all samples."""


class Objective(Protocol):
    """What a network is trained for."""

    settings: Any
    """A frozen dataclass of what the losses depend on; kept in every checkpoint."""

    def attach(self, model: nn.Module) -> nn.Module:
        """What is trained along with the model and then thrown away; may hook into the model."""

    def detach(self) -> None:
        """Leave the model as it was before `attach`."""

    def losses(
        self, model: nn.Module, images: Tensor, targets: Tensor, done: float, bf16: bool
    ) -> dict[str, Tensor]:
        """The parts of the loss, scalars by name, after the fraction `done` of the budget."""

    def evaluate(self, model: nn.Module) -> Any:
        """Scores on held-out data, whose `str` is shown; None where there are none."""


@dataclass(frozen=True)
class TrainingSettings:
    """What a run depends on besides the model, the data and the objective."""

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
class TrainingResult:
    """What a run came to; `scores` is what the objective's evaluation gave for `averaged`."""

    samples: int
    elapsed_s: float
    scores: Any
    averaged: nn.Module
    ema_path: Path


def learning_rate_at(progress: float, settings: TrainingSettings) -> float:
    """The rate after the fraction `progress` of the budget: linear warm-up, then cosine."""
    if progress < settings.warm_up_fraction:
        return settings.learning_rate * max(progress / settings.warm_up_fraction, 0.01)
    past = (progress - settings.warm_up_fraction) / (1 - settings.warm_up_fraction)
    cosine = 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))
    low = settings.final_learning_rate
    return low + (settings.learning_rate - low) * cosine


class Averaged:
    """Exponential moving average of a model's parameters and float buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step of `model` into the average; early steps weigh more."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        latest = model.state_dict()
        # A convolution that several levels share has a key each and must move once.
        moved = set()
        for key, value in self.model.state_dict().items():
            if value.data_ptr() in moved:
                continue
            moved.add(value.data_ptr())
            if value.is_floating_point():
                value.lerp_(latest[key], 1 - decay)
            else:
                value.copy_(latest[key])


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
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    settings: TrainingSettings,
    out_dir: Path,
    progress: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train `model` in place until the budget is spent; resumes where `out_dir` has a checkpoint.

    Args:
        model: its weights are the start, unless `out_dir` holds `last.pth`.
        dataset: training samples, taken in order and again from the first one after the last;
            shuffle them beforehand where their order means something.
        objective: the losses, and the scores that are shown now and then.
        settings: the run's; on resuming only the budget, the cadences, the learning rates and
            `workers` may differ.
        out_dir: gets `last.pth` (everything to resume) and `ema.pth` (the averaged weights, to
            be read by `load_checkpoint`), each replaced atomically.
        progress: is given one line of text at a time.
        clock: seconds, monotonic.

    Raises:
        ValueError: `last.pth` is of other settings or another model, or the loss is not finite.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    model = model.to(memory_format=torch.channels_last).train()
    averaged = Averaged(model, settings.ema_decay)
    extra = objective.attach(model)
    optimizer = _optimizer(model, extra, settings)
    samples, elapsed_before_s = 0, 0.0
    all_settings = asdict(settings) | asdict(objective.settings)
    if (out_dir / RESUME_FILE).exists():
        state = torch.load(out_dir / RESUME_FILE, map_location="cpu", weights_only=True)
        _check_settings(state["settings"], all_settings)
        model.load_state_dict(state["model"])
        extra.load_state_dict(state["extra"])
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
        meta = {"samples": samples, "elapsed_s": elapsed_s(), "settings": all_settings}
        ema = averaged.model.state_dict()
        _save({"meta": meta, "state_dict": ema}, out_dir / EMA_FILE)
        state = {
            **meta,
            "model": model.state_dict(),
            "ema": ema,
            "updates": averaged.updates,
            "optimizer": optimizer.state_dict(),
            "extra": extra.state_dict(),
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
    sums: dict[str, float] = {}
    steps, last_samples = 0, samples
    logged_s = saved_s = evaluated_s = elapsed_s()
    while (now_s := elapsed_s()) < budget_s:
        if settings.max_samples and samples >= settings.max_samples:
            break
        images, targets = next(batches)
        done = now_s / budget_s
        rate = learning_rate_at(done, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = images.contiguous(memory_format=torch.channels_last)
        losses = objective.losses(model, images, targets, done, settings.bf16)
        _step(model, losses, settings, optimizer)
        averaged.update(model)
        samples += len(images)
        steps += 1
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + float(loss.detach())
        now_s = elapsed_s()
        if now_s - logged_s >= settings.log_every_s:
            speed = (samples - last_samples) / (now_s - logged_s)
            parts = ", ".join(f"{name} {total / steps:.4f}" for name, total in sums.items())
            progress(
                f"{samples} samples, {parts}, lr {rate:.2e}, {speed:.1f} samples/s, "
                f"{(budget_s - now_s) / 60:.1f} min left"
            )
            sums, steps, last_samples, logged_s = {}, 0, samples, now_s
        if now_s - saved_s >= settings.save_every_s:
            save()
            saved_s = elapsed_s()
        if now_s - evaluated_s >= settings.evaluate_every_s:
            _evaluate(objective, averaged, samples, progress)
            evaluated_s = elapsed_s()
    save()
    objective.detach()
    scores = _evaluate(objective, averaged, samples, progress)
    return TrainingResult(samples, elapsed_s(), scores, averaged.model, out_dir / EMA_FILE)


def _evaluate(
    objective: Objective, averaged: Averaged, samples: int, progress: Callable[[str], None]
) -> Any:
    scores = objective.evaluate(averaged.model)
    if scores is not None:
        progress(f"evaluation after {samples} samples: {scores}")
    return scores


def _optimizer(model: nn.Module, extra: nn.Module, settings: TrainingSettings) -> Any:
    """AdamW; norms, biases, scale factors and the attention's gamma and beta are not decayed.

    The official recipe decays the last two; a run of an hour must not pull the attention to zero.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in (*model.named_parameters(), *extra.named_parameters()):
        is_scale = parameter.ndim < 2 or name.endswith((".gamma", ".beta"))
        (free if is_scale else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _step(
    model: nn.Module, losses: dict[str, Tensor], settings: TrainingSettings, optimizer: Any
) -> None:
    loss = torch.stack(list(losses.values())).sum()
    if not bool(loss.isfinite()):
        raise ValueError(f"the loss is {float(loss.detach())}; resume with a smaller learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()


def _save(content: dict[str, Any], path: Path) -> None:
    """Write beside the file, then rename: a reader never sees half a checkpoint."""
    with replacing(path) as private:
        torch.save(content, private)


_MAY_DIFFER = {
    "minutes", "workers", "evaluate_every_s", "save_every_s", "log_every_s", "max_samples",
    "learning_rate", "final_learning_rate",
}  # fmt: skip


def _check_settings(saved: dict[str, Any], current: dict[str, Any]) -> None:
    changed = [
        f"{key} was {saved.get(key)!r} and is {value!r}"
        for key, value in current.items()
        if key not in _MAY_DIFFER and saved.get(key) != value
    ]
    if changed:
        raise ValueError(f"{RESUME_FILE} is of other settings: " + "; ".join(changed))
