"""Confidence intervals and paired significance tests, from numbers of each line that add up to a score.

The draws and the rounding are sacreBLEU's, so that equal seeds give its numbers; but never more than a block of draws
is in memory, where sacreBLEU holds all of them (8 bytes x lines x resamples, and as much again for every number of a
line).
Source: Koehn 2004 (bootstrap); Riezler and Maxwell 2005 (approximate randomization).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Statistics = NDArray[np.float64]
"""What a metric counts in each line, (n, k): their sum over lines decides the score."""
Score = Callable[[NDArray[Any]], float]
"""The score of summed statistics (k,)."""

SEED = 12345
"""sacreBLEU's own."""
# A multiple of 32: NumPy draws so many booleans from one random number, and leaves the rest of it at the end of a call.
_DRAWS_PER_BLOCK = 64


@dataclass(frozen=True)
class Resampling:
    """How much is drawn."""

    n_resamples: int = 1_000
    """Of the bootstrap, for intervals and for the paired test."""
    n_trials: int = 10_000
    """Of approximate randomization."""
    seed: int = SEED


@dataclass(frozen=True)
class Interval:
    """Where the scores of 95 % of the bootstrap resamples lie."""

    mean: float
    """Of the scores of all resamples."""
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """What sacreBLEU writes after ±."""
        return (self.high - self.low) / 2


def bootstrap_scores(statistics: Statistics, score: Score, n_resamples: int, seed: int) -> NDArray[Any]:
    """Scores of as many lines drawn with replacement, again and again, (n_resamples,)."""
    n = len(statistics)
    rng = np.random.default_rng(seed)
    scores = []
    for n_draws in _blocks(n_resamples):
        drawn = rng.choice(n, size=(n_draws, n), replace=True)
        times = np.stack([np.bincount(lines, minlength=n) for lines in drawn])
        # Single precision is sacreBLEU's: a count beyond 16,777,216 loses its last digits.
        scores += [score(sums) for sums in (times @ statistics).astype(np.float32)]
    return np.array(scores)


def interval(scores: NDArray[Any]) -> Interval:
    """The middle 95 % of bootstrap scores (n,)."""
    in_order = np.sort(scores).astype(np.float64)
    n_cut = len(in_order) // 40
    return Interval(float(in_order.mean()), float(in_order[n_cut]), float(in_order[-1 - n_cut]))


def bootstrap_p(own: NDArray[Any], other: NDArray[Any], difference: float) -> float:
    """How often the bootstrap scores (n,) of two systems, drawn alike, differ by chance as much as the scores do.

    `difference` is that of the scores on all lines; its sign does not count.
    """
    differences = np.abs(own - other)
    return _p_value(differences - differences.mean(), abs(difference))


def randomization_p(
    own: Statistics, other: Statistics, score: Score, difference: float, n_trials: int, seed: int
) -> float:
    """How often two systems differ as much as they do, when each line goes to one or the other at random.

    `difference` is that of their scores; its sign does not count.
    """
    rng = np.random.default_rng(seed)
    differences: list[float] = []
    total = own + other
    for n_draws in _blocks(n_trials):
        is_kept = rng.integers(2, size=(n_draws, len(own)), dtype=bool)
        first = is_kept @ own + ~is_kept @ other
        differences += [abs(score(a) - score(b)) for a, b in zip(first, total.sum(0) - first, strict=True)]
    return _p_value(np.array(differences), abs(difference))


def _p_value(differences: NDArray[Any], difference: float) -> float:
    # One more of both: else a test of few trials could claim to have excluded chance.
    return (int(np.sum(differences > difference)) + 1) / (len(differences) + 1)


def _blocks(n: int) -> Iterator[int]:
    """Sizes of blocks that make `n` draws together."""
    return (min(_DRAWS_PER_BLOCK, n - start) for start in range(0, n, _DRAWS_PER_BLOCK))
