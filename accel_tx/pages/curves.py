"""Line charts as inline SVG, coloured by the page's style sheet: points in, text out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from accel_tx.data.charts import round_up

Point = tuple[float, float]

N_COLOURS = 7
"""Further curves begin with the first again; the number at its end tells each from all others."""
# Colours of equal lightness that also those tell apart who see no red or no green; from Okabe and Ito 2008, darker on
# white and lighter on black until each has a contrast of at least 3:1.
CURVE_STYLE = """
:root{--c0:#0a63b0;--c1:#c2500a;--c2:#00805c;--c3:#9b3a94;--c4:#8a6d00;--c5:#4d5660;--c6:#2b8fb8}
@media (prefers-color-scheme:dark){:root{--c0:#6db1f5;--c1:#ff9b60;--c2:#41cfa0;--c3:#e492dc;--c4:#dcbc50;--c5:#b9c1ca;
--c6:#7fd3f0}}
svg .curve{fill:none;stroke-width:1.8;stroke-linejoin:round}
svg .number{font-size:12px;font-weight:700}
.badge{display:inline-block;min-width:19px;padding:0 4px;border-radius:10px;text-align:center;font-size:12px;
font-weight:700;line-height:19px;color:var(--paper);font-variant-numeric:tabular-nums}
""" + "".join(
    f"svg .curve.c{i}{{stroke:var(--c{i})}}svg .dot.c{i},svg .number.c{i}{{fill:var(--c{i})}}"
    f".badge.c{i}{{background:var(--c{i})}}\n"
    for i in range(N_COLOURS)
)

_WIDTH, _HEIGHT = 440, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 26, 10, 36
_MOST_POINTS = 300  # of a curve: more than one a pixel can not be seen
_MOST_DOTS = 25
_NUMBER_GAP = 12.0
_SHARE_IN_SIGHT = 0.95


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    number: int
    """From 1: written at its end, and it gives the colour."""
    name: str
    pieces: Sequence[Sequence[Point]]
    """Points with rising x, joined within a piece; between pieces something is missing."""

    @property
    def points(self) -> list[Point]:
        """All of them."""
        return [point for piece in self.pieces for point in piece]

    @property
    def colour(self) -> str:
        """The class of the style sheet."""
        return f"c{(self.number - 1) % N_COLOURS}"


def badge(number: int) -> str:
    """The number of a run on its colour, for legends and tables."""
    return f'<span class="badge {Curve(number, "", []).colour}">{number}</span>'


def pieces_of(points: Iterable[tuple[float | None, float | None]]) -> list[list[Point]]:
    """Points cut where a number is missing."""
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if x is not None and y is not None:
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """The points, or means of neighbours where there are more than `most`; the last one stays as it is."""
    if len(points) <= most:
        return list(points)
    groups = np.array_split(np.array(points[:-1]), most - 1)
    return [*((float(x), float(y)) for x, y in (group.mean(0) for group in groups)), points[-1]]


def below(points: Sequence[Point], top: float) -> list[list[Point]]:
    """What can be seen of a line under `top`: pieces that begin and end where it crosses."""
    pieces: list[list[Point]] = [[]]
    for i, (x, y) in enumerate(points):
        if i and (points[i - 1][1] > top) != (y > top):
            x0, y0 = points[i - 1]
            crossing = (x0 + (x - x0) * (top - y0) / (y - y0), top)
            pieces[-1].append(crossing)
            if y > top:
                pieces.append([])
        if y <= top:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def spread(at: Sequence[float], gap: float, high: float) -> list[float]:
    """Places from 0 to `high` near those asked for, at least `gap` apart where there is room for that."""
    order = sorted(range(len(at)), key=lambda i: at[i])
    gap = min(gap, high / max(len(at) - 1, 1))
    placed = [0.0] * len(at)
    lowest = 0.0
    for i in order:
        placed[i] = max(at[i], lowest)
        lowest = placed[i] + gap
    highest = high
    for i in reversed(order):
        placed[i] = min(placed[i], highest)
        highest = placed[i] - gap
    return placed


def line_chart(label: str, x_title: str, curves: Sequence[Curve], is_loss: bool) -> str:
    """The chart as an `<svg>` element; `label` describes it to those who cannot see it.

    Of losses the chart shows what all but their largest values need: a training begins high, and one that diverges
    leaves it at the top.
    """
    curves = [curve for curve in curves if curve.points]
    frame = _Frame.around(curves, is_loss)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">',
        *_grid(frame, x_title),
        *(part for curve in curves for part in _drawn(curve, frame)),
        *_numbers(curves, frame),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Frame:
    """The numbers at the edges."""

    right: float
    bottom: float
    top: float

    @classmethod
    def around(cls, curves: Sequence[Curve], is_loss: bool) -> _Frame:
        points = [point for curve in curves for point in curve.points]
        right = max((x for x, _ in points), default=1.0) or 1.0
        if not points:
            return cls(right, 0.0, 1.0)
        smallest, top = min(y for _, y in points), max(y for _, y in points)
        if is_loss:
            top = max(float(np.quantile([y for _, y in curve.points], _SHARE_IN_SIGHT)) for curve in curves)
        room = 0.05 * ((top - smallest) or max(abs(top), 1.0))
        return cls(right, smallest - room, top + room)

    def x(self, value: float) -> float:
        return _LEFT + value / self.right * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame, x_title: str) -> list[str]:
    step = round_up((frame.top - frame.bottom) / 7)
    parts = []
    for i in range(math.ceil(frame.bottom / step - 1e-9), math.floor(frame.top / step + 1e-9) + 1):
        y = frame.y(i * step)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="count" x="{_LEFT - 5}" y="{y + 4:.1f}">{_tick(i * step, step)}</text>')
    floor, step = _HEIGHT - _BOTTOM, round_up(frame.right / 6)
    for i in range(math.floor(frame.right / step + 1e-9) + 1):
        x = frame.x(i * step)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{floor + 14}">{_tick(i * step, step)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*parts, f'<text class="axis" x="{middle:.0f}" y="{_HEIGHT - 5}">{escape(x_title)}</text>']


def _drawn(curve: Curve, frame: _Frame) -> list[str]:
    parts = []
    for piece in curve.pieces:
        for part in below(thinned(piece), frame.top):
            line = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in part)
            parts.append(
                f'<polyline class="curve {curve.colour}" points="{line}"><title>{escape(curve.name)}</title></polyline>'
            )
    lonely = [piece[0] for piece in curve.pieces if len(piece) == 1]
    for x, y in curve.points if len(curve.points) <= _MOST_DOTS else lonely:
        if y <= frame.top:
            parts.append(
                f'<circle class="dot {curve.colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3">'
                f"<title>{escape(curve.name)}: {y:.4g} at {x:,.6g}</title></circle>"
            )
    return parts


def _numbers(curves: Sequence[Curve], frame: _Frame) -> list[str]:
    """Each curve's number behind its end, moved apart where they would lie upon each other."""
    ends = [curve.points[-1] for curve in curves]
    at = [max(frame.y(y), _TOP) - _TOP for _, y in ends]
    placed = spread(at, _NUMBER_GAP, _HEIGHT - _TOP - _BOTTOM)
    return [
        f'<text class="number {curve.colour}" x="{frame.x(x) + 6:.1f}" y="{y + _TOP + 4:.1f}">{curve.number}</text>'
        for curve, (x, _), y in zip(curves, ends, placed, strict=True)
    ]


def _tick(value: float, step: float) -> str:
    """As many digits behind the point as the step between two ticks has."""
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
