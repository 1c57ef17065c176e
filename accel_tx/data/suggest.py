"""Thresholds for cleaning, read off the corpus' own distribution; printed as YAML, applied by nobody but the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_tx.config import CleanConfig, TrainConfig
from accel_tx.data.histogram import RATIO_BINS_PER_OCTAVE, RATIO_OCTAVES, SCALES, Histogram

# Beyond this share of the pairs, on the side of the long or the unlike, a pair is an outlier.
_TAIL = 0.001
# Limits of length leave room above what the corpus holds: a pair a little longer is no worse.
_ROOM = 1.5
_LEAST_LIMIT = {"max_words": 10, "max_chars": 50, "max_word_chars": 20}
_LEAST_RATIO = 1.5
# A ratio this far from the median, in robust standard deviations (1.4826 x MAD) of its logarithm, is an outlier.
_N_DEVIATIONS = 6.0
_DEVIATIONS_PER_MAD = 1.4826
_POSITIONS_MULTIPLE = 8
_LONG_PAIRS_TOGETHER = 32


@dataclass(frozen=True)
class Proposal:
    """One field of the config with a value, the reason for it, and what it would cost."""

    section: str
    field: str
    value: int | float
    reason: str
    n_dropped: int | None
    """Pairs as read that it would drop, were it the only rule; None where it is no rule."""


def suggest(statistics: Mapping[str, Any], clean: CleanConfig, train: TrainConfig) -> list[Proposal]:
    """Proposals from the statistics of a report; none for a rule that the config switches off by name."""
    before = {name: Histogram.from_dict(values) for name, values in statistics["text"]["before"].items()}
    rules = [
        _longest("max_words", before["longer_words"], "word-level tokens of the longer side"),
        _longest("max_chars", before["longer_chars"], "characters of the longer side"),
        _ratio("max_word_ratio", before["word_ratio"], before["word_excess"], "words"),
        _ratio("max_char_ratio", before["char_ratio"], before["char_excess"], "characters"),
        _longest("max_word_chars", before["longest_word"], "characters of the longest word"),
        _letters(before["letter_share"]),
    ]
    off = clean.switched_off()
    lengths = [Histogram.from_dict(h) for sides in statistics["tokens"].values() for h in sides.values()]
    return [rule for rule in rules if rule.field not in off] + _sizes(lengths, train)


def as_yaml(proposals: Sequence[Proposal], n_read: int) -> str:
    """A fragment for a config file: sections whose fields carry their reason as a comment."""
    lines = [f"# Proposed from {n_read:,} pairs as read; what a rule drops is counted as if it were the only one."]
    for section in dict.fromkeys(p.section for p in proposals):
        lines.append(f"{section}:")
        for p in (p for p in proposals if p.section == section):
            cost = "" if p.n_dropped is None else f"; drops {p.n_dropped:,} ({p.n_dropped / max(n_read, 1):.2%})"
            lines += [
                f"  # {p.reason}{cost}",
                f"  {p.field}: {p.value if isinstance(p.value, int) else format(p.value, 'g')}",
            ]
    return "\n".join(lines) + "\n"


def _longest(field: str, histogram: Histogram, what: str) -> Proposal:
    """Half as much again as all but a thousandth have, at the upper end of a bin, so that the count is exact."""
    most = histogram.quantile(1 - _TAIL)
    wanted = max(most * _ROOM, _LEAST_LIMIT[field])
    bins = SCALES["count"]
    value = int(bins.lower(bins.index(np.array([wanted])) + 1)[0]) - 1
    reason = f"{what}: 99.9 % have at most {most:,.0f}, the largest has {histogram.largest:,.0f}"
    return Proposal("clean", field, value, reason, round(histogram.share_above(value) * histogram.n))


def _ratio(field: str, ratios: Histogram, excess: Histogram, what: str) -> Proposal:
    """As far from 1 as the median and six robust standard deviations of the logarithm reach on the farther side."""
    middles = np.arange(len(ratios.counts)) / RATIO_BINS_PER_OCTAVE - RATIO_OCTAVES
    median = weighted_median(middles, ratios.counts)
    deviation = _DEVIATIONS_PER_MAD * weighted_median(np.abs(middles - median), ratios.counts)
    # Where more than half of the ratios fall into one bin its width stands in for the deviation.
    reach = abs(median) + _N_DEVIATIONS * max(deviation, 1 / RATIO_BINS_PER_OCTAVE)
    bins = SCALES["ratio"]
    edge = bins.index(np.array([max(2.0**reach, _LEAST_RATIO)])) + 1  # so that the count is exact but for rounding
    value = round(float(bins.lower(edge)[0]), 2)
    reason = f"target / source {what}: median {2.0**median:.2f}, spread (1.48 MAD) a factor of {2.0**deviation:.2f}"
    return Proposal("clean", field, value, reason, int(excess.counts[edge[0] :].sum()))


def _letters(shares: Histogram) -> Proposal:
    least = shares.quantile(_TAIL)
    value = min(least, 0.5)
    n_dropped = round(shares.share_below(value + 1e-9) * shares.n)
    reason = f"share of letters: all but a thousandth of the pairs have {least:.0%} or more on both sides"
    return Proposal("clean", "min_letter_share", value, reason, n_dropped)


def _sizes(lengths: Sequence[Histogram], train: TrainConfig) -> list[Proposal]:
    """Room for longer text than was seen, and batches in which even long pairs have company."""
    longest = max(h.largest for h in lengths)
    usual = max(h.quantile(1 - _TAIL) for h in lengths)
    positions = math.ceil(longest * _ROOM / _POSITIONS_MULTIPLE) * _POSITIONS_MULTIPLE
    reason = f"tokens with EOS: the longest side has {longest:,.0f}, and text to translate may be half as long again"
    proposals = [Proposal("model", "max_positions", positions, reason, None)]
    if isinstance(train.max_tokens, int):
        wanted = max(usual * _LONG_PAIRS_TOGETHER, positions)
        reason = f"a power of two that holds {_LONG_PAIRS_TOGETHER} pairs of {usual:,.0f} tokens (99.9 % have no more)"
        proposals.append(Proposal("train", "max_tokens", 2 ** math.ceil(math.log2(wanted)), reason, None))
    return proposals


def weighted_median(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """The least of the values (n,) that half of the counts (n,) do not exceed; 0 where nothing is counted."""
    if not counts.sum():
        return 0.0
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])
