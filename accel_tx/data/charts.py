"""Bar charts as inline SVG, coloured by the page's style sheet: text in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from accel_tx.data.histogram import Histogram

Values = NDArray[np.float64]

_WIDTH, _HEIGHT = 440, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 18, 8, 36
_N_BARS = 40


@dataclass(frozen=True)
class Series:
    """One set of bars of a chart."""

    name: str
    """Shown on hovering, and the CSS class of the bars."""
    histogram: Histogram


@dataclass(frozen=True)
class Axis:
    """Bars between `edges` (n + 1,), drawn equally wide; the last one holds all that lies beyond if `is_open`."""

    edges: Values
    is_open: bool
    ticks: Sequence[tuple[float, str]]
    """Where, in bars from the left, and what to write there."""


def count_axis(histograms: Sequence[Histogram]) -> Axis:
    """Whole numbers from 0: about 40 bars of a round width for 99 % of the values, and one for the rest."""
    top = max([h.quantile(0.99) for h in histograms] + [1.0])
    largest = max([h.largest for h in histograms] + [1.0])
    width = np.ceil(top / _N_BARS) if top <= 10 * _N_BARS else round_up(top / _N_BARS)
    n = int(top // width) + 1
    is_open = largest >= n * width
    edges = np.arange(n + 1, dtype=np.float64) * width
    step = round_up(max(n * width / 5, 1.0))
    room = (n - 2) * width if is_open else n * width  # "more" stands at the end
    ticks = [(at / width, f"{at:,.0f}") for at in np.arange(0, room, step)]
    return Axis(np.append(edges, np.inf) if is_open else edges, is_open, ticks)


def ratio_axis(histograms: Sequence[Histogram]) -> Axis:
    """Ratios on a logarithmic scale, a bar for each bin, symmetric about 1, at least from 1/4 to 4."""
    widest = 2.0
    for h in histograms:
        for share in (0.001, 0.999):
            widest = max(widest, abs(np.log2(max(h.quantile(share), 1e-9))))
    n_octaves = min(int(np.ceil(widest)), 8)
    edges = np.exp2((np.arange(-16 * n_octaves, 16 * n_octaves + 2) - 0.5) / 16)
    ticks = [(16 * (octave + n_octaves) + 0.5, _power_of_two(octave)) for octave in range(-n_octaves, n_octaves + 1)]
    return Axis(edges, False, ticks)


def rebin(histogram: Histogram, edges: Values) -> Values:
    """Counts between other edges (n + 1,), as if the values were spread evenly inside each bin: (n,).

    What lies beyond the edges is counted with the first or the last.
    """
    if not histogram.n:
        return np.zeros(len(edges) - 1)
    below = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    inner = np.interp(edges[1:-1], histogram.lower, below)
    return np.diff(np.concatenate([[0.0], inner, [float(histogram.n)]]))


def bar_chart(label: str, x_title: str, axis: Axis, series: Sequence[Series]) -> str:
    """The chart as an `<svg>` element; later series stand in front of earlier ones.

    `label` describes it to those who cannot see it. Bars are heights per bar, in pairs.
    """
    heights = [rebin(s.histogram, axis.edges) for s in series]
    tallest = max([float(h.max(initial=0)) for h in heights] + [1.0])
    n = len(axis.edges) - 1
    step = (_WIDTH - _LEFT - _RIGHT) / n
    scale = (_HEIGHT - _TOP - _BOTTOM) / tallest
    floor = _HEIGHT - _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">',
        *_grid(tallest, scale, floor),
    ]
    for s, counts in zip(series, heights, strict=True):
        for i in np.flatnonzero(counts >= 0.5):
            height = max(float(counts[i]) * scale, 0.8)
            parts.append(
                f'<rect class="{escape(s.name)}" x="{_LEFT + i * step:.1f}" y="{floor - height:.1f}" '
                f'width="{max(step - 0.8, 0.8):.1f}" height="{height:.1f}">'
                f"<title>{escape(s.name)}, {_range(axis, int(i))}: {counts[i]:,.0f} pairs</title></rect>"
            )
    for at, text in axis.ticks:
        parts.append(f'<text class="tick" x="{_LEFT + at * step:.1f}" y="{floor + 14}">{escape(text)}</text>')
    if axis.is_open:
        parts.append(f'<text class="tick" x="{_LEFT + (n - 0.5) * step:.1f}" y="{floor + 14}">more</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle:.0f}" y="{_HEIGHT - 5}">{escape(x_title)}</text></svg>')
    return "".join(parts)


def _grid(tallest: float, scale: float, floor: int) -> list[str]:
    step = round_up(max(tallest / 3, 1.0))
    parts = []
    for value in np.arange(0, tallest + 1e-9, step):
        y = floor - value * scale
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="count" x="{_LEFT - 5}" y="{y + 4:.1f}">{short_number(value)}</text>')
    return parts


def _range(axis: Axis, i: int) -> str:
    low, high = axis.edges[i], axis.edges[i + 1]
    if np.isinf(high):
        return f"{low:,.0f} and more"
    if float(low).is_integer() and float(high).is_integer():
        return f"{low:,.0f}" if high - low == 1 else f"{low:,.0f} to {high - 1:,.0f}"
    return f"{low:.2f} to {high:.2f}"


def short_number(value: float) -> str:
    """At most five characters: 950, 12k, 1.5M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def round_up(value: float) -> float:
    """The next of ..., 0.5, 1, 2, 5, 10, 20, ... from a number above 0."""
    power = 10.0 ** np.floor(np.log10(value))
    return next(float(m * power) for m in (1, 2, 5, 10) if m * power >= value)


def _power_of_two(octave: int) -> str:
    return str(2**octave) if octave >= 0 else f"1/{2**-octave}"
