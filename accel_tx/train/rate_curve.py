"""A learning-rate range test as numbers: the ramp of rates, the smoothed loss, where it ends, what it proposes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from accel_tx.config import UserError

_DECADES_AVERAGED = 0.6
"""What the smoothed loss is about the mean of: it lags as far behind however long the ramp is."""
_LEAST_AVERAGED = 5
_NOISE = 0.05
"""Share of the loss by which its mean over so few updates varies with their sentences."""


@dataclass(frozen=True)
class Ramp:
    """Rates that grow by the same factor from update to update."""

    lr_from: float
    lr_to: float
    n_updates: int

    def __post_init__(self) -> None:
        if not 0 < self.lr_from < self.lr_to < math.inf:
            raise UserError(
                f"--lr_from {self.lr_from:g} --lr_to {self.lr_to:g}: expected 0 < lr_from < lr_to, such as 1e-6 and 1"
            )
        if self.n_updates < 20:
            raise UserError(f"--updates {self.n_updates}: expected at least 20, or the curve is all noise")

    def rate(self, update: int) -> float:
        """Of update 0, 1, ... n_updates - 1; the last one gets `lr_to`, and so does any later."""
        share = min(1.0, update / (self.n_updates - 1))
        return float(self.lr_from ** (1 - share) * self.lr_to**share)


@dataclass
class Curve:
    """The loss of each update of a ramp, and what is read off it.

    Proposed is the rate at which the smoothed loss had made three quarters of its fall. Of the rules that were held
    against sweeps (see docs/experiments.md) it alone was within a factor of 2.3 of the best rate each time: the
    steepest point and fastai's valley lie lower, the lowest loss lies far higher, and a tenth of its rate too high.
    """

    ramp: Ramp
    losses: list[float] = field(default_factory=list)
    """Nats a target token, as trained."""
    smoothed: list[float] = field(default_factory=list)
    """Their exponential moving average, corrected for its bias at the beginning (Kingma and Ba 2015, section 3)."""
    _average: float = 0.0

    def add(self, loss: float) -> None:
        """The loss of the next update."""
        beta = 1 - 1 / self.n_averaged
        self.losses.append(loss)
        self._average = beta * self._average + (1 - beta) * loss
        self.smoothed.append(self._average / (1 - beta ** len(self.losses)))

    @property
    def n_averaged(self) -> int:
        """Updates that the smoothed loss is about the mean of: the same share of a decade whatever their number."""
        n_decades = math.log10(self.ramp.lr_to / self.ramp.lr_from)
        return max(_LEAST_AVERAGED, round(_DECADES_AVERAGED * self.ramp.n_updates / n_decades))

    @property
    def lrs(self) -> list[float]:
        """The rate of each loss."""
        return [self.ramp.rate(update) for update in range(len(self.losses))]

    @property
    def first(self) -> float:
        """The loss before it fell: the mean of the first `n_averaged`."""
        early = self.losses[: self.n_averaged]
        return sum(early) / len(early)

    @property
    def lowest(self) -> int:
        """The update at which the smoothed loss was lowest, from 0; of the first ones it is a mean of too few."""
        begin = min(self.n_averaged, len(self.smoothed)) - 1
        return min(range(begin, len(self.smoothed)), key=self.smoothed.__getitem__)

    @property
    def has_fallen(self) -> bool:
        """Whether the loss has fallen by more than its noise."""
        return len(self.losses) > self.n_averaged and self.smoothed[self.lowest] < (1 - _NOISE) * self.first

    @property
    def has_diverged(self) -> bool:
        """Whether the loss is past its lowest point for good: half of the fall is lost again, or it is no number."""
        if not math.isfinite(self.losses[-1]):
            return True
        if self.has_fallen:
            return self.smoothed[-1] > self._level(0.5)
        return len(self.losses) > self.n_averaged and self.smoothed[-1] > 1.5 * self.first

    @property
    def proposal(self) -> float | None:
        """The rate to take for `optim.max_lr`, of two digits; None where `objection` says why."""
        return None if self.objection is not None else float(f"{self.lrs[self._three_quarters()]:.1e}")

    @property
    def objection(self) -> str | None:
        """Why this curve proposes nothing, and what to do."""
        if self.has_diverged and not self.has_fallen:
            return "the loss has not fallen before it rose, so nothing is proposed: give a lower --lr_from"
        if not self.has_fallen:
            return "the loss has not fallen, so nothing is proposed: give more --updates, or a wider range of rates"
        if self._falls_at_once:
            return "the loss fell at the first rates already, so nothing is proposed: give a lower --lr_from"
        if not self.has_diverged and self.lowest == len(self.losses) - 1:
            return "the loss still fell at the last rate, so nothing is proposed: give a higher --lr_to"
        return None

    @property
    def _falls_at_once(self) -> bool:
        """Whether there is no level part before the fall, so that nobody knows how far it fell."""
        second = self.losses[self.n_averaged : 2 * self.n_averaged]
        return sum(second) / len(second) < self._level(0.2)

    def _level(self, share: float) -> float:
        """The loss with this share of the fall behind it."""
        return self.first - share * (self.first - self.smoothed[self.lowest])

    def _three_quarters(self) -> int:
        """The first update with three quarters of the fall behind it."""
        level = self._level(0.75)
        return next(u for u in range(self.n_averaged - 1, len(self.smoothed)) if self.smoothed[u] <= level)

    def in_words(self) -> list[str]:
        """What happened and what is proposed, a line each."""
        n, lrs = len(self.losses), self.lrs
        lines = [
            f"{n} updates of {self.ramp.n_updates}, from {lrs[0]:.1e} to {lrs[-1]:.1e}: {self._end()}",
            f"loss {self.first:.3f} at first, lowest {self.smoothed[self.lowest]:.3f} at {lrs[self.lowest]:.1e}",
        ]
        if self.proposal is None:
            return [*lines, str(self.objection)]
        rule = "where the smoothed loss had made three quarters of its fall"
        return [*lines, f"proposed peak rate {self.proposal:.1e}: {rule}"]

    def _end(self) -> str:
        if not self.has_diverged:
            return "the end"
        if not math.isfinite(self.losses[-1]):
            return "stopped, for the loss is no number"
        return f"stopped, for {'half of the fall was lost again' if self.has_fallen else 'the loss rose by half'}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; a loss that is no number is null."""
        return {
            "lr": self.lrs,
            "loss": [loss if math.isfinite(loss) else None for loss in self.losses],
            "smoothed": [loss if math.isfinite(loss) else None for loss in self.smoothed],
            "n_averaged": self.n_averaged,
            "diverged": self.has_diverged,
            "proposal": self.proposal,
            "objection": self.objection,
        }
