"""Line charts: where points lie, what is cut off, and that numbers at the ends can be read."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.pages.curves import Curve, below, line_chart, pieces_of, spread, thinned
from tests.outline import outline


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline class="curve c\d" points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in text.split())] for text in found]


def test_equal_steps_are_equally_far_apart() -> None:
    svg = line_chart("label", "updates", [Curve(1, "run", [[(0, 0), (5, 10), (10, 20)]])], is_loss=False)
    (line,) = lines(svg)
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.11)
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.11)
    assert line[0][1] > line[2][1]
    assert [text for text in outline(svg).text if text.isdigit()][:3] == ["0", "5", "10"]


def test_a_missing_number_cuts_the_line_and_a_lonely_point_is_a_dot() -> None:
    pieces = pieces_of([(1, 1.0), (2, 2.0), (3, None), (4, 3.0), (None, 1.0), (6, 2.0), (7, 1.0)])
    assert pieces == [[(1, 1.0), (2, 2.0)], [(4, 3.0)], [(6, 2.0), (7, 1.0)]]
    svg = line_chart("label", "x", [Curve(1, "run", pieces)], is_loss=False)
    assert [len(line) for line in lines(svg)] == [2, 1, 2]
    many = pieces_of((i, None if i in (50, 52) else 1.0) for i in range(100))
    assert line_chart("label", "x", [Curve(1, "run", many)], is_loss=False).count("<circle") == 1


def test_a_loss_that_explodes_leaves_the_chart_and_spoils_no_other() -> None:
    calm = Curve(1, "calm", [[(i, 3 - i / 50) for i in range(100)]])
    wild = Curve(2, "wild", [[(i, 3.0 if i < 96 else 1e6) for i in range(100)]])
    svg = line_chart("label", "updates", [calm, wild], is_loss=True)
    heights = [y for _, y in lines(svg)[0]]
    assert max(heights) - min(heights) > 100
    assert all(0 <= y <= 220 for line in lines(svg) for _, y in line)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0, 10))
def test_what_is_seen_of_a_line_is_all_that_lies_below_the_top(heights: list[float], top: float) -> None:
    points = [(float(i), y) for i, y in enumerate(heights)]
    pieces = below(points, top)
    seen = [point for piece in pieces for point in piece]
    assert set(seen) >= {point for point in points if point[1] <= top}
    assert all(y <= top for _, y in seen)
    assert [x for x, _ in seen] == sorted(x for x, _ in seen)


def test_a_line_ends_where_it_crosses_the_top_and_begins_again_where_it_comes_back() -> None:
    pieces = below([(0, 1), (1, 3), (2, 3), (3, 2), (4, 0)], 2)
    assert pieces == [[(0, 1), (0.5, 2)], [(3, 2), (3, 2), (4, 0)]]
    assert below([(0, 3), (1, 1), (2, 3)], 2) == [[(0.5, 2), (1, 1), (1.5, 2)]]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_numbers_at_the_ends_keep_their_order_and_distance(at: list[float]) -> None:
    placed = spread(at, 9, 100)
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in placed)
    in_order = sorted(placed)
    assert all(b - a >= min(9, 100 / max(len(at) - 1, 1)) - 1e-6 for a, b in itertools.pairwise(in_order))
    assert [i for _, i in sorted(zip(placed, range(len(at))))] == sorted(range(len(at)), key=lambda i: (at[i], i))


def test_a_long_curve_is_thinned_to_means_and_keeps_its_end() -> None:
    points = [(float(i), float(i % 2)) for i in range(1_001)]
    found = thinned(points, 101)
    assert len(found) == 101
    assert found[-1] == points[-1]
    assert all(y == pytest.approx(0.5) for _, y in found[:-1])
    assert thinned(points[:7], 101) == points[:7]


@pytest.mark.parametrize("is_loss", [True, False])
@pytest.mark.parametrize(
    "points", [[], [(0.0, 0.0)], [(3.0, 2.0)], [(1.0, 5.0), (2.0, 5.0)], [(1.0, -1e-9), (1e7, 1e9)]]
)
def test_any_numbers_make_a_chart(points: list[tuple[float, float]], is_loss: bool) -> None:
    svg = line_chart("label", "x", [Curve(9, "<b>", [points])], is_loss)
    outline(svg)
    assert "nan" not in svg
    assert "inf" not in svg
