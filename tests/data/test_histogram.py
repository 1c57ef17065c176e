from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.data.histogram import SCALES, Histogram

VALUES = {
    "count": st.integers(0, 10**7).map(float),
    "ratio": st.floats(1e-4, 1e4),
    "share": st.integers(0, 1000).map(lambda n: n / 1000),
}
SOME = st.sampled_from(sorted(SCALES)).flatmap(
    lambda scale: st.tuples(st.just(scale), st.lists(VALUES[scale], max_size=60), st.lists(VALUES[scale], max_size=60))
)


@pytest.mark.parametrize("scale", SCALES)
def test_bins_follow_each_other_and_hold_their_least_value(scale: str) -> None:
    bins = np.arange({"count": 1000, "ratio": 257, "share": 101}[scale])
    lower = SCALES[scale].lower(bins)
    assert (np.diff(lower) > 0).all()
    assert (SCALES[scale].index(lower * (1 + 1e-9) + 1e-12) == bins).all()
    assert (SCALES[scale].index(np.maximum(lower * (1 - 1e-6) - 1e-6, 0))[1:] == bins[:-1]).all()


@settings(max_examples=100, deadline=None)
@given(SOME)
def test_histograms_of_batches_add_up_to_that_of_all(some: tuple[str, list[float], list[float]]) -> None:
    scale, one, other = some
    both, whole = Histogram.of(scale, one) + Histogram.of(scale, other), Histogram.of(scale, one + other)
    assert both.counts.tolist() == whole.counts.tolist()
    assert both.largest == whole.largest
    assert both.total == pytest.approx(whole.total)
    assert whole.n == len(one + other)


@settings(max_examples=100, deadline=None)
@given(SOME)
def test_a_histogram_comes_back_from_json(some: tuple[str, list[float], list[float]]) -> None:
    scale, values, _ = some
    histogram = Histogram.of(scale, values)
    back = Histogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    assert back.counts.tolist() == histogram.counts.tolist()
    assert (back.largest, back.mean) == pytest.approx((histogram.largest, histogram.mean))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=80), st.sampled_from([0.01, 0.25, 0.5, 0.99, 1.0]))
def test_quantiles_are_exact_for_small_numbers_and_close_for_large_ones(values: list[int], share: float) -> None:
    expected = sorted(values)[int(np.ceil(share * len(values) - 1e-9)) - 1]
    found = Histogram.of("count", values).quantile(share)
    assert found == expected if expected < 64 else expected <= found <= expected * 33 / 32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1), st.integers(0, 200))
def test_the_share_above_is_exact_at_the_last_number_of_a_bin(values: list[int], at: int) -> None:
    last = int(SCALES["count"].lower(np.array([at + 1]))[0]) - 1
    assert Histogram.of("count", values).share_above(last) == pytest.approx(np.mean(np.array(values) > last))
    assert Histogram.of("count", values).share_below(last + 1) == pytest.approx(np.mean(np.array(values) <= last))


def test_histograms_of_different_scales_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        Histogram.of("count", [1]) + Histogram.of("ratio", [1])
