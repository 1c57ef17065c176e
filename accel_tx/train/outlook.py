"""What a run will be like, in rows of a table, and what speaks against starting it: pure functions of the numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from accel_tx.config import Config, OptimConfig, RunError, UserError
from accel_tx.data.forecast import shown_epochs
from accel_tx.train.schedule import check_length, rate_of

_MOST_EPOCHS = 100
"""Passes over the pairs that `train.max_updates` may come to; who wants more says so in `train.epochs`."""
_LARGE_SHARE = 0.2
"""Sentences that a validation translates for each pair trained on since the last; more take much of the time."""
_BLEU_OF = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab", "th": "flores200"}
"""sacreBLEU's tokenizer for target languages that 13a knows no words in."""
_MB = 1e6
_STOPS = 10
"""Stops between two saves, each of which leaves a checkpoint more, that a run of few saves is given room for."""


@dataclass
class Outlook:
    """What was found out so far."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    """Label and value, in the order in which they are shown."""
    notes: list[str] = field(default_factory=list)
    """Worth knowing; nothing that keeps a run from its end."""
    problems: list[str] = field(default_factory=list)
    """A line each: what would end the run, or make it another one than was meant."""

    def row(self, label: str, value: str) -> None:
        """Add a row to the table."""
        self.rows.append((label, value))

    @contextlib.contextmanager
    def problem_told(self) -> Iterator[None]:
        """What is raised inside because of the input or the machine becomes a problem."""
        try:
            yield
        except (UserError, RunError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))


@dataclass(frozen=True)
class Length:
    """How long a run is, in updates."""

    n_updates: int
    per_epoch: int
    first: int = 0
    """Updates done by earlier starts."""

    @property
    def epochs(self) -> float:
        """Passes over the training pairs."""
        return self.n_updates / self.per_epoch


def length_row(length: Length, config: Config) -> str:
    """Updates and epochs; where this start ends before the schedule does."""
    stop = config.train.stop_at_update
    stops = f"; this start ends at {stop:,}" if stop is not None and stop < length.n_updates else ""
    return f"{length.n_updates:,} updates, {length.per_epoch:,} an epoch: {shown_epochs(length.epochs)} epochs{stops}"


def rate_row(n_updates: int, optim: OptimConfig) -> str:
    """The rate of the first update, of the peak, and of the last one."""
    rates = [rate_of(update, n_updates, optim) for update in _places(n_updates, optim)]
    peak = max(range(len(rates)), key=rates.__getitem__)
    at = list(_places(n_updates, optim))[peak]
    return (
        f"{optim.name}, {optim.schedule}: {rates[0]:.2e}, up to {rates[peak]:.2e} at update {at + 1:,}, "
        f"{rates[-1]:.2e} at the end"
    )


def _places(n_updates: int, optim: OptimConfig) -> list[int]:
    """The first update, those around the corner where the rate is highest, the last one; from 0."""
    corner = (
        round(optim.pct_start * n_updates) - 1 if optim.schedule == "one_cycle" else (optim.warmup_updates or 1) - 1
    )
    return [min(max(0, place), n_updates - 1) for place in (0, corner - 1, corner, corner + 1, n_updates - 1)]


def schedule_problems(length: Length, config: Config) -> list[str]:
    """A warm-up as long as the run; more passes over the data than anybody means who counts updates."""
    found = Outlook()
    with found.problem_told():
        check_length(length.n_updates, config.optim)
    max_updates = config.train.max_updates
    if max_updates is not None and length.epochs > _MOST_EPOCHS:
        found.problems.append(
            f"train.max_updates is {max_updates:,}, which is {shown_epochs(length.epochs)} passes over the training "
            f"pairs, {length.per_epoch:,} updates each; expected at most {_MOST_EPOCHS} passes "
            f"({_MOST_EPOCHS * length.per_epoch:,} updates), or train.epochs {math.ceil(length.epochs)} where so many "
            "are meant"
        )
    return found.problems


def schedule_notes(length: Length, config: Config) -> list[str]:
    """What is set but will not come to anything in a run of this length."""
    train, validation, n_updates = config.train, config.validation, length.n_updates
    n_validations = -(-n_updates // validation.every_updates)
    notes = []
    if length.n_updates < length.per_epoch:
        notes.append(
            f"the run ends before it has seen all pairs: {n_updates:,} of the {length.per_epoch:,} updates of an epoch"
        )
    if train.save_every_updates >= n_updates > 1:
        notes.append(
            f"train.save_every_updates is {train.save_every_updates:,}: the only checkpoint is that of the end, and "
            "a run that is killed begins anew"
        )
    for name, needed in (("average_last", validation.average_last), ("patience", validation.patience)):
        if needed is not None and needed >= n_validations + (name == "average_last"):
            notes.append(f"validation.{name} is {needed}, but there are only {n_validations} validation(s)")
    if train.ema_decay is not None and 1 / (1 - train.ema_decay) > n_updates:
        notes.append(
            f"train.ema_decay {train.ema_decay} is made to cover the last {1 / (1 - train.ema_decay):,.0f} updates, "
            f"the run has {n_updates:,}"
        )
    return notes


def validation_notes(n_sentences: int, n_pairs_between: float, config: Config) -> list[str]:
    """What makes validations slow, or their BLEU none.

    `n_sentences`: of all validation sets; `n_pairs_between`: training pairs between two validations.
    """
    notes = []
    if n_sentences > _LARGE_SHARE * n_pairs_between:
        notes.append(
            f"each validation translates {n_sentences:,} sentences, for {n_pairs_between:,.0f} pairs that are trained "
            "on between two of them: a smaller set (such as data.valid_size 2000) or a higher validation.every_updates "
            "saves time"
        )
    usual = _BLEU_OF.get(config.data.tgt_lang)
    if usual is not None and config.validation.tokenize == "13a":
        notes.append(
            f"validation.tokenize is 13a, which is not made for data.tgt_lang {config.data.tgt_lang}: BLEU is usually "
            f"reported with {usual}"
        )
    return notes


def hours_row(length: Length, update_s: float, config: Config) -> tuple[str, str | None]:
    """How long the updates that are left take, and a note where `max_hours` ends this start before them."""
    train = config.train
    last = min(length.n_updates, train.stop_at_update or length.n_updates)
    hours = max(0, last - length.first) * update_s / 3600
    n_validations = last // config.validation.every_updates - length.first // config.validation.every_updates
    n_validations += length.first < last == length.n_updates and bool(last % config.validation.every_updates)
    row = f"about {shown_hours(hours)}, and {max(0, n_validations)} validation(s)"
    if train.max_hours is None or hours <= train.max_hours:
        return row, None
    reached = length.first + int(train.max_hours * 3600 / update_s)
    rate = rate_of(max(0, reached - 1), length.n_updates, config.optim)
    return row, (
        f"train.max_hours {train.max_hours} ends this start at about update {reached:,} of {length.n_updates:,}, where "
        f"the rate is {rate:.2e}; the run is complete after about {math.ceil(hours / train.max_hours)} starts of the "
        "same command"
    )


def shown_hours(hours: float) -> str:
    """In the unit that people would take."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.1f} h"


@dataclass(frozen=True)
class Disk:
    """Bytes that a run writes at most, and those that there are."""

    checkpoint: int
    weights: int
    """Of one copy of the weights."""
    n_checkpoints: int
    """At a time, the one that is being written included."""
    n_weights: int
    """Copies of the weights beside the checkpoints, likewise."""
    present: int
    """What an earlier start has written already."""
    free: int

    @property
    def needed(self) -> int:
        """Bytes that the run takes in all at its largest."""
        return self.n_checkpoints * self.checkpoint + self.n_weights * self.weights

    def row(self) -> str:
        """Needed and free."""
        there = f", {self.present / _MB:,.1f} MB of them are there" if self.present else ""
        return f"at most {self.needed / _MB:,.1f} MB needed{there}; {self.free / _MB:,.1f} MB free"

    def problem(self, where: str, option: str) -> str | None:
        """That it does not fit into the folder that `option` gives, if so."""
        if self.needed - self.present <= self.free:
            return None
        return (
            f"{where}: {self.n_checkpoints} checkpoints of {self.checkpoint / _MB:,.1f} MB and {self.n_weights} copies "
            f"of the weights of {self.weights / _MB:,.1f} MB need {(self.needed - self.present) / _MB:,.1f} MB, "
            f"{self.free / _MB:,.1f} MB are free; make room, give a {option} on another disk, or set "
            "train.keep_checkpoints lower"
        )


def largest_numbers(n_updates: int, config: Config) -> tuple[int, int]:
    """Checkpoints, and copies of the weights beside them, that are on the disk at a time when most are.

    The newest `keep_checkpoints`, that of the best validation, a regular one where a stop made the oldest of the newest
    (see `checkpoint_removal.py`), and the one that is being written; `best/` while it is replaced, `final/`, and for
    `average_last` what every checkpoint may need (see `validated.py`).
    """
    n_saves = -(-n_updates // config.train.save_every_updates)
    n_checkpoints = min(config.train.keep_checkpoints + 3, n_saves + _STOPS, n_updates)
    n_validations = -(-n_updates // config.validation.every_updates)
    averaged = min((config.validation.average_last or 0) * (1 + n_checkpoints), n_validations)
    return n_checkpoints, 3 + averaged
