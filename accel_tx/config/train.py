"""Sections `optim`, `train` and `validation`: how it is trained and watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accel_tx.config.checks import at_least, exactly_one, in_range
from accel_tx.config.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate, one value an update."""

    name: Literal["adam", "adamw"] = "adam"
    """Adam, with L2 regularisation where weight_decay is set; or AdamW, with decoupled weight decay."""
    max_lr: float = 1e-3
    """Peak learning rate of OneCycle."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates; constant over the run."""
    eps: float = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Weight decay, of all parameters."""
    pct_start: float = 0.3
    """Share of the updates spent rising to max_lr."""
    div_factor: float = 25.0
    """The first rate is max_lr / div_factor."""
    final_div_factor: float = 1e4
    """The last rate is the first one / final_div_factor."""
    three_phase: bool = False
    """Fall back to the first rate as long as the rise took, then to the last; else fall in one phase."""
    anneal: Literal["cos", "linear"] = "cos"
    """Shape of rise and fall."""
    clip_norm: float | None = 1.0
    """Largest norm of an update's gradient (null: not clipped)."""
    label_smoothing: float = 0.1
    """Probability mass spread over the whole vocabulary in the training loss."""

    def __post_init__(self) -> None:
        for name in ("max_lr", "eps", "div_factor", "final_div_factor"):
            if not getattr(self, name) > 0:
                raise UserError(f"optim.{name} is {getattr(self, name)}; expected a number above 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"optim.clip_norm is {self.clip_norm}; expected a number above 0, or null for no clipping")
        in_range("optim.pct_start", self.pct_start, 0.0, 0.5 if self.three_phase else 1.0)
        in_range("optim.label_smoothing", self.label_smoothing, 0.0, 1.0)
        in_range("optim.weight_decay", self.weight_decay, 0.0, 1.0)
        for beta in self.betas:
            in_range("optim.betas", beta, 0.0, 1.0)


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which batches, and what is written when."""

    max_updates: int | None = None
    """Optimizer updates in all; give this or `epochs`."""
    epochs: int | None = None
    """Passes over the training pairs; give this or `max_updates`."""
    max_tokens: int | None = None
    """Padded tokens of a micro-batch on either side; pairs of similar length go together. Or give `batch_size`."""
    batch_size: int | None = None
    """Sentence pairs of a micro-batch, drawn at random whatever their length. Or give `max_tokens`."""
    micro_batches_per_update: int = 1
    """Micro-batches whose gradients make one update, over all processes together."""
    seed: int = 1
    """Of initial weights, batch order and dropout."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: what `accelerate launch` was told, else bf16 where the hardware has it, else fp16 on a GPU, else none."""
    log_every_updates: int = 50
    """Updates between two lines of metrics."""
    save_every_updates: int = 1_000
    """Updates between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept; the one of the best validation stays besides, where one was saved at that update."""
    max_hours: float | None = None
    """Stop in time to have a checkpoint by so many hours after the program began; the schedule is unchanged."""
    stop_at_update: int | None = None
    """Stop with a checkpoint after this update; the schedule is unchanged."""
    on_bad_update: Literal["skip", "rollback", "stop"] = "skip"
    """What to do where a loss or gradient is not finite, or spikes: skip the update; go back to the checkpoint that
    `save_every_updates` made last and skip all updates from there to this one; or stop."""
    max_bad_updates: int = 10
    """Stop after so many bad updates in a row."""
    spike_factor: float | None = None
    """An update whose loss is more than this times the average of the last hundred is bad (null: none is)."""
    cpu_threads: int | None = None
    """Threads of a process on CPU (null: cores over local processes)."""
    loader_workers: int = 0
    """Processes that collate batches ahead of the training (0: the training process does)."""

    def __post_init__(self) -> None:
        exactly_one(self, "train", "max_updates", "epochs")
        exactly_one(self, "train", "max_tokens", "batch_size")
        at_least("train", self, 1, "max_updates", "epochs", "max_tokens", "batch_size", "micro_batches_per_update")
        at_least("train", self, 1, "log_every_updates", "save_every_updates", "keep_checkpoints")
        at_least("train", self, 1, "stop_at_update", "cpu_threads", "max_bad_updates")
        at_least("train", self, 0, "loader_workers", "seed")
        if self.max_hours is not None and not self.max_hours > 0:
            raise UserError(f"train.max_hours is {self.max_hours}; expected hours above 0")
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise UserError(f"train.spike_factor is {self.spike_factor}; expected a number above 1, or null")


@dataclass(frozen=True)
class ValidationConfig:
    """Scoring the whole validation set during training."""

    every_updates: int = 1_000
    """Updates between two validations; the last update is always validated."""
    best_metric: Literal["bleu", "chrf", "val_loss"] = "bleu"
    """Decides which weights are kept in `best/`."""
    n_samples: int = 3
    """Translations printed and written to TensorBoard each time."""

    def __post_init__(self) -> None:
        at_least("validation", self, 1, "every_updates")
        at_least("validation", self, 0, "n_samples")
