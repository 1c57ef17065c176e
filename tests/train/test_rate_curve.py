"""What is read off the curve of a learning-rate range test, on curves whose answer is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from accel_tx.train.rate_curve import Curve, Ramp

RAMP = Ramp(1e-6, 1.0, 100)


def curve_of(loss_at: Callable[[float], float], ramp: Ramp = RAMP) -> Curve:
    curve = Curve(ramp)
    for update in range(ramp.n_updates):
        curve.add(loss_at(ramp.rate(update)))
        if curve.has_diverged:
            break
    return curve


def valley(lr: float) -> float:
    """8 at first, halfway down at 1e-3, three quarters at 2.1e-3, 5 from 1e-2 on, and up from 0.3."""
    return 8 - 3 / (1 + (1e-3 / lr) ** 1.5) + max(0.0, lr - 0.3) * 20


def noisy_valley(seed: int) -> Callable[[float], float]:
    rng = random.Random(seed)
    return lambda lr: valley(lr) + rng.gauss(0, 0.4)


def test_rates_grow_by_the_same_factor_from_the_first_to_the_last() -> None:
    ramp = Ramp(1e-4, 1.0, 21)
    assert [ramp.rate(update) for update in (0, 5, 10, 20, 25)] == pytest.approx([1e-4, 1e-3, 1e-2, 1.0, 1.0])
    assert (ramp.rate(0), ramp.rate(20)) == (1e-4, 1.0)


def test_the_average_is_corrected_for_its_beginning() -> None:
    curve = Curve(Ramp(1e-6, 1.0, 50))  # averages over 5
    for loss in (4.0, 2.0, 1.0):
        curve.add(loss)
    weights = [0.2, 0.2 * 0.8, 0.2 * 0.8**2]
    assert curve.smoothed == pytest.approx(
        [4, (2 * weights[0] + 4 * weights[1]) / sum(weights[:2]), (1 * 0.2 + 2 * 0.16 + 4 * 0.128) / sum(weights)]
    )


@pytest.mark.parametrize("n_updates", [50, 100, 400])
@pytest.mark.parametrize("lr_from", [1e-7, 1e-6, 1e-5])
def test_the_proposal_lies_at_the_foot_of_the_fall_whatever_the_ramp(n_updates: int, lr_from: float) -> None:
    curve = curve_of(valley, Ramp(lr_from, 1.0, n_updates))
    assert curve.has_diverged
    assert curve.proposal is not None
    # The average lags 0.6 decades behind the loss, a factor of 4.
    assert 2.1e-3 * 10**0.5 < curve.proposal < 2.1e-3 * 10**0.7


def test_noise_moves_the_proposal_little() -> None:
    proposals = [curve_of(noisy_valley(seed)).proposal or 0.0 for seed in range(30)]
    assert 0 < max(proposals) < 4 * min(proposals)


def test_it_stops_where_half_of_the_fall_is_lost_or_the_loss_is_no_number() -> None:
    curve = curve_of(valley)
    assert 0.3 < curve.lrs[-1] < 1.0
    assert curve_of(lambda lr: valley(lr) if lr < 0.01 else math.nan).lrs[-1] == pytest.approx(0.01, rel=0.2)
    assert curve_of(lambda lr: 8 if lr < 0.1 else 16).has_diverged
    assert not curve_of(lambda lr: 8 + lr).has_diverged


@pytest.mark.parametrize(
    ("loss_at", "ramp", "words"),
    [
        (lambda lr: 8 + lr, RAMP, "has not fallen"),
        (lambda lr: 7.8 if lr > 1e-3 else 8, RAMP, "has not fallen"),
        (lambda lr: 8 if lr < 0.1 else 16, RAMP, "give a lower --lr_from"),
        (lambda lr: math.nan, RAMP, "give a lower --lr_from"),
        (valley, Ramp(1e-6, 1e-3, 100), "give a higher --lr_to"),
        (valley, Ramp(5e-4, 1.0, 100), "give a lower --lr_from"),
    ],
)
def test_a_curve_that_shows_no_valley_proposes_nothing(
    loss_at: Callable[[float], float], ramp: Ramp, words: str
) -> None:
    curve = curve_of(loss_at, ramp)
    assert curve.proposal is None
    assert words in curve.in_words()[-1]


@pytest.mark.parametrize(
    ("loss_at", "ended"),
    [
        (valley, "half of the fall was lost again"),
        (lambda lr: 8 if lr < 0.1 else 16, "the loss rose by half"),
        (lambda lr: valley(lr) if lr < 0.01 else math.inf, "the loss is no number"),
    ],
)
def test_it_says_why_it_stopped(loss_at: Callable[[float], float], ended: str) -> None:
    assert curve_of(loss_at).in_words()[0].endswith(f": stopped, for {ended}")


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    values = curve_of(lambda lr: valley(lr) if lr < 0.01 else math.inf).to_dict()
    assert values["loss"][-1] is values["smoothed"][-1] is None
    assert values["diverged"]
    assert values["proposal"] is not None
