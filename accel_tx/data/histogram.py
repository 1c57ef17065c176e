"""Histograms with fixed bins, so that those of two batches add up to that of both; quantiles are read from them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]

_VALUES_AT_A_TIME = 1 << 18
_EXACT_BELOW = 64
_BINS_PER_OCTAVE = 32
_LARGEST_COUNT = 2**40
RATIO_BINS_PER_OCTAVE = 16
RATIO_OCTAVES = 8


@dataclass(frozen=True)
class Scale:
    """Where a kind of number falls."""

    index: Callable[[Values], Counts]
    """The bins of values."""
    lower: Callable[[Counts], Values]
    """The least value of each bin."""


def _count_index(values: Values) -> Counts:
    whole = np.clip(values, 0, _LARGEST_COUNT).astype(np.int64)
    exponent = np.frexp(np.maximum(whole, 1).astype(np.float64))[1].astype(np.int64) - 1
    octave = np.maximum(exponent - 5, 0)
    return np.where(whole < _EXACT_BELOW, whole, octave * _BINS_PER_OCTAVE + (whole >> octave))


def _count_lower(bins: Counts) -> Values:
    octave = np.maximum(bins // _BINS_PER_OCTAVE - 1, 0)
    lower: Values = ((bins - octave * _BINS_PER_OCTAVE) << octave).astype(np.float64)
    return lower


def _ratio_index(values: Values) -> Counts:
    bound = 2.0**RATIO_OCTAVES
    octaves = np.log2(np.clip(values, 1 / bound, bound))
    # The middle of a bin is a multiple of the step, so that equal sides stand in the middle of one.
    return (np.floor(octaves * RATIO_BINS_PER_OCTAVE + 0.5) + RATIO_OCTAVES * RATIO_BINS_PER_OCTAVE).astype(np.int64)


def _ratio_lower(bins: NDArray[Any]) -> Values:
    lower: Values = np.exp2((bins - 0.5) / RATIO_BINS_PER_OCTAVE - RATIO_OCTAVES)
    return lower


SCALES = {
    # Whole numbers: exact below 64, then 32 bins from each power of two to the next (at most 3 % wide).
    "count": Scale(_count_index, _count_lower),
    # Positive ratios: 16 bins an octave from 2^-8 to 2^8; what lies beyond falls into the last one.
    "ratio": Scale(_ratio_index, _ratio_lower),
    # Shares from 0 to 1 in hundredths.
    "share": Scale(lambda v: np.floor(np.clip(v, 0, 1) * 100 + 1e-9).astype(np.int64), lambda b: b / 100.0),
}


@dataclass(frozen=True)
class Histogram:
    """How often which value occurs. Add two with `+`."""

    scale: str
    """A key of SCALES."""
    counts: Counts
    """(n_bins,), without empty bins at the end."""
    total: float
    """Sum of the values."""
    largest: float
    """The largest value; 0 where there is none."""

    @classmethod
    def of(cls, scale: str, values: ArrayLike) -> Histogram:
        """Histogram of values (n,), none of them negative."""
        given = np.asarray(values)
        # The bins of a value take many times its own memory while they are found.
        if len(given) > _VALUES_AT_A_TIME:
            parts = (given[i : i + _VALUES_AT_A_TIME] for i in range(0, len(given), _VALUES_AT_A_TIME))
            return reduce(operator.add, (cls.of(scale, part) for part in parts))
        array = given.astype(np.float64)
        counts = np.bincount(SCALES[scale].index(array)) if len(array) else np.zeros(0)
        return cls(scale, counts.astype(np.int64), float(array.sum()), float(array.max(initial=0)))

    def __add__(self, other: Histogram) -> Histogram:
        if self.scale != other.scale:
            raise ValueError(f"a histogram of scale {self.scale} and one of {other.scale} do not add up")
        counts = np.zeros(max(len(self.counts), len(other.counts)), dtype=np.int64)
        counts[: len(self.counts)] += self.counts
        counts[: len(other.counts)] += other.counts
        return Histogram(self.scale, counts, self.total + other.total, max(self.largest, other.largest))

    @property
    def n(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean of the values; 0 where there is none."""
        return self.total / max(self.n, 1)

    @property
    def lower(self) -> Values:
        """Least value of each bin, and behind the last one where the next would begin: (n_bins + 1,)."""
        return SCALES[self.scale].lower(np.arange(len(self.counts) + 1))

    def quantile(self, share: float) -> float:
        """The value that at least `share` of all do not exceed, as far as its bin tells.

        The largest number of the bin, the middle ratio, the least share.
        """
        if not self.n:
            return 0.0
        rank = max(1, int(np.ceil(share * self.n - 1e-9)))
        at = int(np.searchsorted(np.cumsum(self.counts), rank))
        if self.scale == "count":
            return float(min(self.lower[at + 1] - 1, self.largest))
        return float(_ratio_lower(np.array(at + 0.5)) if self.scale == "ratio" else self.lower[at])

    def share_above(self, value: float) -> float:
        """Share of the values in bins that begin above `value`."""
        return float(self.counts[self.lower[:-1] > value].sum() / max(self.n, 1))

    def share_below(self, value: float) -> float:
        """Share of the values in bins that end at or below `value`."""
        return float(self.counts[self.lower[1:] <= value].sum() / max(self.n, 1))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: a summary for readers, and the count of each bin that is not empty by its least value."""
        shares = {"1%": 0.01, "50%": 0.5, "99%": 0.99, "99.9%": 0.999}
        return {
            "scale": self.scale,
            "n": self.n,
            "mean": self.mean,
            "largest": self.largest,
            "quantiles": {name: self.quantile(share) for name, share in shares.items()},
            "bins": {repr(float(self.lower[i])): int(self.counts[i]) for i in np.flatnonzero(self.counts)},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Histogram:
        """Inverse of `to_dict`."""
        scale, bins = values["scale"], values["bins"]
        # A little above the least value: its decimal form may have been rounded down.
        at = SCALES[scale].index(np.array([float(key) * (1 + 1e-9) + 1e-12 for key in bins]))
        counts = np.zeros(int(at.max(initial=-1)) + 1, dtype=np.int64)
        counts[at] = list(bins.values())
        return cls(scale, counts, values["mean"] * values["n"], values["largest"])
