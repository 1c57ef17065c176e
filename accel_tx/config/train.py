"""Sections `optim`, `train` and `validation`: how it is trained and watched."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from accel_tx.config.checks import all_usable, at_least, at_most, exactly_one, in_range
from accel_tx.config.decode import WIDEST_BEAM
from accel_tx.config.errors import UserError

_ONE_CYCLE = ("one_cycle",)
USED_BY = {
    **dict.fromkeys(("pct_start", "div_factor", "final_div_factor", "three_phase", "anneal"), _ONE_CYCLE),
    "warmup_updates": ("inverse_sqrt", "cosine", "linear"),
    "min_lr": ("cosine", "linear"),
}
"""The schedules that use a field, where not all do."""


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
BEST_METRICS = ("bleu", "chrf", "val_loss", "cer", "wer")
# Far beyond what helps; more than some thousands end a process in native code.
_MOST_THREADS = 1_024
_LARGEST_SEED = 2**64 - 1
LOWER_IS_BETTER = ("val_loss", "cer", "wer")


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate, one value an update."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    """Adam, with L2 regularisation where weight_decay is set; AdamW, with decoupled weight decay; or Muon for the
    matrices of linear layers beside AdamW for the rest, at the same rate."""
    schedule: Literal["one_cycle", "inverse_sqrt", "cosine", "linear"] = "one_cycle"
    """Rise to max_lr and fall in a wave (`one_cycle`, shaped by the five fields from `pct_start` on); or rise over
    `warmup_updates`, then fall as 1 / sqrt(update), as a half cosine or straight, the last two to `min_lr`."""
    max_lr: float = 1e-3
    """Peak learning rate."""
    warmup_updates: int | None = None
    """Of `inverse_sqrt` (needed there), `cosine` and `linear`: the update that gets max_lr, to which the rate rises in
    equal steps (null: the first one)."""
    min_lr: float = 0.0
    """Of `cosine` and `linear`: the rate of the last update."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Adam's decay rates; constant over the run."""
    eps: float = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Weight decay of matrices, embeddings among them; norms and biases are never decayed."""
    pct_start: float = 0.3
    """Of `one_cycle`, as the four below: share of the updates spent rising to max_lr."""
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
    r_drop: float = 0.0
    """R-Drop (Liang et al. 2021): weight, their alpha, of the divergence between two passes of each micro-batch under
    different dropout; about twice the computing of an update. The training loss is then the mean over both passes plus
    alpha / 4 times KL(1|2) + KL(2|1), half of the paper's (0: one pass)."""

    def __post_init__(self) -> None:
        all_usable("optim", self)
        for name in ("max_lr", "eps", "div_factor", "final_div_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"optim.{name} is {getattr(self, name)}; expected a finite number above 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"optim.clip_norm is {self.clip_norm}; expected a number above 0, or null for no clipping")
        in_range("optim.pct_start", self.pct_start, 0.0, 0.5 if self.three_phase else 1.0)
        self._check_schedule()
        in_range("optim.label_smoothing", self.label_smoothing, 0.0, 1.0)
        in_range("optim.r_drop", self.r_drop, 0.0, math.inf)
        in_range("optim.weight_decay", self.weight_decay, 0.0, 1.0)
        for beta in self.betas:
            in_range("optim.betas", beta, 0.0, 1.0)

    def _check_schedule(self) -> None:
        """No field may be set in vain."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        vain = [
            name
            for name, schedules in USED_BY.items()
            if self.schedule not in schedules and getattr(self, name) != defaults[name]
        ]
        if vain:
            given = " and ".join(f"optim.{name} is {getattr(self, name)}" for name in vain)
            shown = {name: "null" if defaults[name] is None else str(defaults[name]).lower() for name in vain}
            raise UserError(
                f"{given}, of use to {', '.join(USED_BY[vain[0]])} only; with optim.schedule {self.schedule} expected "
                f"{' '.join(f'--optim.{name} {default}' for name, default in shown.items())}"
            )
        at_least("optim", self, 1, "warmup_updates")
        if self.schedule == "inverse_sqrt" and self.warmup_updates is None:
            raise UserError("optim.warmup_updates is null; optim.schedule inverse_sqrt needs it, such as 2000")
        if not 0 <= self.min_lr < self.max_lr:
            raise UserError(f"optim.min_lr is {self.min_lr}; expected from 0 to below optim.max_lr = {self.max_lr}")


@dataclass(frozen=True)
class TrainConfig:
    """How long, in which batches, and what is written when."""

    max_updates: int | None = None
    """Optimizer updates in all; give this or `epochs`."""
    epochs: int | None = None
    """Passes over the training pairs; give this or `max_updates`."""
    max_tokens: int | Literal["auto"] | None = None
    """Tokens of a micro-batch, the longer side of each pair; it is a sample of all lengths. Or give `batch_size`.
    `auto`: as many as the memory holds, found before the first update; give `tokens_per_update` with it."""
    batch_size: int | None = None
    """Sentence pairs of a micro-batch, drawn at random whatever their length. Or give `max_tokens`."""
    micro_batches_per_update: int = 1
    """Micro-batches whose gradients make one update, over all processes together; under `auto` it is derived."""
    tokens_per_update: int | None = None
    """Tokens of an update on either side, over all processes, in place of `micro_batches_per_update`: what is learned
    in an update does not depend on the memory. They make the fewest equal micro-batches of at most `max_tokens`.
    The run's config.yaml has their size and number in its place; under `auto` a start that goes on takes these."""
    scale_with_processes: bool = False
    """Make updates larger, and the rate higher, the more processes begin the run: `micro_batches_per_update` (under
    `auto` `tokens_per_update`) times their number, `optim.max_lr` and `min_lr` times its square root; the run's
    config.yaml has the products in place of it. Otherwise any number of processes makes the same updates."""
    seed: int = 1
    """Of initial weights, batch order and dropout."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: what `accelerate launch` was told, else bf16 where the hardware has it, else fp16 on a GPU, else none."""
    tf32: bool = False
    """Compute float32 matrix products in TF32 (10 bits of mantissa, up to eight times as fast) on GPUs that have it."""
    compile: bool = False
    """Train with layers compiled by torch.compile for all shapes: numbers differ in rounding, and dropout in its draws,
    so a run keeps to it."""
    cuda_graphs: bool = False
    """Replay forward and backward as CUDA graphs, on one GPU in bf16: several times as fast where micro-batches are
    small for the GPU. Dropout draws other numbers; a start of a run may have it and the next one not."""
    log_every_updates: int = 50
    """Updates between two lines of metrics."""
    trackers: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Where the curves go besides metrics.jsonl; all but tensorboard need their package."""
    histograms_every_updates: int | None = None
    """Updates between two histograms of all weights and gradients in TensorBoard (null: none)."""
    save_every_updates: int = 1_000
    """Updates between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept. Besides stay the one of the best validation, where one was saved at that update, and,
    where a stop made the oldest of the newest, the last regular one before it: a bad update goes back to regular ones.
    """
    mirror_dir: str | None = None
    """Second folder, on another disk, that gets a copy of the run after every checkpoint, of whole ones only. A start
    goes on from whichever of the two is further along (null: none)."""
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
    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the layer again there: the same numbers, far less
    memory, a third more computing."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights, this much of which stays at an update (0.999 covers about the
    last 1,000; less early on); validation scores it beside the raw weights (null: none is kept)."""
    cpu_threads: int | None = None
    """Threads of a process on CPU (null: cores over local processes)."""
    loader_workers: int = 0
    """Processes that collate batches ahead of the training (0: the training process does)."""

    def __post_init__(self) -> None:
        all_usable("train", self)
        exactly_one(self, "train", "max_updates", "epochs")
        exactly_one(self, "train", "max_tokens", "batch_size")
        at_least("train", self, 1, "max_updates", "epochs", "batch_size", "micro_batches_per_update")
        at_least("train", self, 1, "tokens_per_update", *(() if self.max_tokens == "auto" else ("max_tokens",)))
        if self.max_tokens == "auto" and self.tokens_per_update is None:
            raise UserError(
                "train.max_tokens is auto, but train.tokens_per_update is not given; expected the tokens of an update, "
                "such as 32768, so that they do not depend on the memory"
            )
        if self.max_tokens is None and self.tokens_per_update is not None:
            raise UserError(
                f"train.tokens_per_update is {self.tokens_per_update}, but train.max_tokens is not given; with "
                "train.batch_size expected null, and train.micro_batches_per_update instead"
            )
        if self.max_tokens != "auto" and self.tokens_per_update is not None and self.micro_batches_per_update != 1:
            raise UserError(
                f"train.tokens_per_update is {self.tokens_per_update} and train.micro_batches_per_update "
                f"{self.micro_batches_per_update}; expected null for the first, or 1 for the second"
            )
        at_least("train", self, 1, "log_every_updates", "save_every_updates", "keep_checkpoints")
        at_least("train", self, 1, "stop_at_update", "cpu_threads", "max_bad_updates", "histograms_every_updates")
        at_least("train", self, 0, "loader_workers", "seed")
        at_most("train", self, _LARGEST_SEED, "seed")
        at_most("train", self, _MOST_THREADS, "cpu_threads", "loader_workers")
        if self.ema_decay is not None:
            in_range("train.ema_decay", self.ema_decay, 0.0, 1.0, low_open=True)
        if self.max_hours is not None and not self.max_hours > 0:
            raise UserError(f"train.max_hours is {self.max_hours}; expected hours above 0")
        if self.spike_factor is not None and not self.spike_factor > 1:
            raise UserError(f"train.spike_factor is {self.spike_factor}; expected a number above 1, or null")


@dataclass(frozen=True)
class ValidationConfig:
    """Scoring the whole validation set during training."""

    every_updates: int = 1_000
    """Updates between two validations; the last update is always validated."""
    best_metric: str = "bleu"
    """Decides which weights are kept in `best/`: bleu, chrf, val_loss, cer or wer (of the last three the lowest) of the
    main validation set, or of one of `data.valid_sets`: bleu/NAME."""
    tokenize: Literal["13a", "none", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200"] = "13a"
    """sacreBLEU's tokenizer for BLEU; `none` for text that is tokenized already."""
    average_last: int | None = None
    """Also score the mean of the weights at so many last validations, this one included; they are kept in `validated/`
    (null: none, and a validation removes earlier ones). Each kind of weights costs a validation of its own, and the
    best of them goes into `best/`."""
    patience: int | None = None
    """End the run, complete, after so many validations in a row without a better best_metric (null: never)."""
    min_delta: float = 0.0
    """For `patience`, better means by more than this, in units of best_metric."""
    beam_size: int = 1
    """In place of `decode.beam_size`; 1 is greedy search, which keeps validations cheap."""
    n_samples: int = 3
    """Translations printed and written to TensorBoard each time."""
    draw_attention: bool = True
    """Write the cross-attention of the first of them to TensorBoard as a picture, where matplotlib is installed."""

    def __post_init__(self) -> None:
        all_usable("validation", self)
        at_least("validation", self, 1, "every_updates", "beam_size")
        at_most("validation", self, WIDEST_BEAM, "beam_size")
        name = self.best_metric.partition("/")[0]
        if name not in BEST_METRICS:
            expected = f"{', '.join(BEST_METRICS)}, or one of these with /NAME of a set of data.valid_sets"
            raise UserError(f"validation.best_metric is {self.best_metric!r}; expected {expected}")
        at_least("validation", self, 0, "n_samples", "min_delta")
        at_least("validation", self, 2, "average_last")
        at_least("validation", self, 1, "patience")
        if self.min_delta and self.patience is None:
            raise UserError(f"validation.min_delta is {self.min_delta} but validation.patience is null; give both")
