"""Hands of about as many tokens, each a sample of all lengths, in other company each time."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accel_tx.bench.workload import book_like_lengths
from accel_tx.config import UserError
from accel_tx.data.dealing import Indices, _cards_of, deal, n_hands

LONGEST = 900  # more than a card, and less
any_lengths = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.integers(1, LONGEST), st.integers(1, LONGEST))
    ),
    min_size=1,
    max_size=80,
)
quick = settings(max_examples=100, deadline=None)


def as_arrays(pairs: list[tuple[int, int]]) -> tuple[Indices, Indices]:
    src, tgt = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return src, tgt


def hands_of(src: Indices, tgt: Indices, n: int, seed: int) -> list[Indices]:
    order, starts = deal(src, tgt, n, np.random.default_rng(seed))
    assert (len(starts), starts[0], starts[-1]) == (n + 1, 0, len(src))
    return [order[a:b] for a, b in pairwise(starts)]


def fills(hands: list[Indices], sizes: Indices) -> list[int]:
    return [int(sizes[hand].sum()) for hand in hands]


@quick
@given(any_lengths, st.integers(1, 20), st.integers(0, 99))
def test_every_pair_is_dealt_once_from_long_to_short_and_no_hand_is_empty(
    pairs: list[tuple[int, int]], n: int, seed: int
) -> None:
    src, tgt = as_arrays(pairs)
    sizes = np.maximum(src, tgt)
    hands = hands_of(src, tgt, n, seed)
    assert sorted(int(i) for hand in hands for i in hand) == list(range(len(pairs)))
    for hand in hands:
        assert hand.dtype == np.int32
        assert (np.diff(sizes[hand]) <= 0).all()
    assert sum(len(hand) > 0 for hand in hands) == min(n, len(pairs))


@quick
@given(any_lengths, st.integers(1, 20))
def test_how_many_tokens_the_hands_hold_depends_on_the_lengths_alone(pairs: list[tuple[int, int]], n: int) -> None:
    src, tgt = as_arrays(pairs)
    sizes = np.maximum(src, tgt)
    assert len({tuple(sorted(fills(hands_of(src, tgt, n, seed), sizes))) for seed in range(4)}) == 1


@quick
@given(any_lengths, st.integers(LONGEST, 5_000), st.integers(1, 5))
@example([(1, 1)], LONGEST, 4)
@example([(800, 1)] + [(1, 2)] * 79, LONGEST, 2)  # one giant among tiny ones
@example([(LONGEST, LONGEST)] * 7, LONGEST, 4)
def test_no_fewer_hands_would_hold_the_pairs(pairs: list[tuple[int, int]], max_tokens: int, multiple_of: int) -> None:
    src, tgt = as_arrays(pairs)
    sizes = np.maximum(src, tgt)

    def fits(n: int) -> bool:
        return max(fills(hands_of(src, tgt, n, seed=n), sizes)) <= max_tokens

    n = n_hands(sizes, max_tokens, multiple_of)
    assert n % multiple_of == 0 or n == len(pairs)
    assert fits(n)
    assert not any(fits(fewer) for fewer in range(multiple_of, min(n, len(pairs)), multiple_of))


@pytest.mark.parametrize("multiple_of", [1, 4])
@pytest.mark.parametrize("max_tokens", [4_096, 1_024])
def test_hands_of_many_pairs_are_nearly_as_few_as_can_be(max_tokens: int, multiple_of: int) -> None:
    src, tgt = book_like_lengths(50_000, 150, seed=1)
    sizes = np.maximum(src, tgt)
    assert n_hands(sizes, max_tokens, multiple_of) <= 1.04 * sizes.sum() / max_tokens


def test_no_pairs_need_no_hand() -> None:
    nothing = np.empty(0, dtype=np.int64)
    assert n_hands(nothing, 100, 4) == 0
    order, starts = deal(nothing, nothing, 0, np.random.default_rng(1))
    assert (order.tolist(), starts.tolist()) == ([], [0])


def test_a_pair_larger_than_a_hand_is_refused() -> None:
    assert n_hands(np.array([3, 10, 3]), 10, 1) == 2
    with pytest.raises(ValueError, match="a pair of 11 tokens does not fit a micro-batch of 10"):
        n_hands(np.array([3, 11, 3]), 10, 1)


def test_lengths_of_small_integers_do_not_overflow() -> None:
    src, tgt = book_like_lengths(20_000, 120, seed=1)
    small = hands_of(src.astype(np.int8), tgt.astype(np.int8), 100, seed=1)
    assert [hand.tolist() for hand in small] == [hand.tolist() for hand in hands_of(src, tgt, 100, seed=1)]
    assert n_hands(np.maximum(src, tgt).astype(np.int8), 4_096, 1) == n_hands(np.maximum(src, tgt), 4_096, 1)


# Samples of all lengths


def test_hands_hold_as_many_tokens_to_within_a_short_pair() -> None:
    src, tgt = book_like_lengths(20_000, 150, seed=1)
    sizes = np.maximum(src, tgt)
    held = fills(hands_of(src, tgt, 128, seed=1), sizes)
    assert np.mean(held) > 3_500
    assert max(held) - min(held) <= 10


@pytest.mark.parametrize(("tokens_a_hand", "most"), [(8_192, 0.5), (1_024, 1.0)])
def test_a_token_stands_in_as_long_a_pair_in_every_hand(tokens_a_hand: int, most: float) -> None:
    """The mean length of its tokens' pairs varies by less than in random hands of as many tokens, by so much of it."""
    src, tgt = book_like_lengths(40_000, 150, seed=1)
    sizes = np.maximum(src, tgt)
    n = round(sizes.sum() / tokens_a_hand)
    ends = np.cumsum(sizes[order := np.random.default_rng(1).permutation(len(src))])
    at_random = np.split(order, np.searchsorted(ends, np.arange(1, n) * ends[-1] / n))

    def spread(hands: list[Indices]) -> float:
        return float(np.std([np.average(sizes[hand], weights=sizes[hand]) for hand in hands]))

    assert spread(hands_of(src, tgt, n, seed=1)) < most * spread(at_random)


# Other company


def met_again(src: Indices, tgt: Indices, n: int, n_times: int = 6) -> float:
    """Of those who share a hand the first time, who also do later."""
    numbers = np.empty((n_times, len(src)), dtype=np.int64)
    for seed, of_pairs in enumerate(numbers):
        for number, hand in enumerate(hands_of(src, tgt, n, seed)):
            of_pairs[hand] = number

    def n_meetings(hand_numbers: Indices) -> int:
        sizes = np.bincount(hand_numbers)
        return int((sizes * (sizes - 1)).sum())

    return float(np.mean([n_meetings(numbers[0] * n + other) for other in numbers[1:]]) / n_meetings(numbers[0]))


def test_pairs_meet_others_each_time() -> None:
    src, tgt = book_like_lengths(50_000, 150, seed=1)
    assert met_again(src, tgt, n=296) < 0.06


def test_pairs_meet_others_each_time_also_where_no_two_have_the_same_lengths() -> None:
    src, tgt = (side.ravel() for side in np.meshgrid(np.arange(1, 101), np.arange(1, 101)))
    assert met_again(src, tgt, n=200) < 0.25


def test_who_meets_whom_of_equal_lengths_is_uniform() -> None:
    n_equal, n_times = 40, 800
    src, tgt = book_like_lengths(300, 150, seed=1)
    equal = np.arange(100, 100 + n_equal)
    src[equal], tgt[equal] = 30, 25
    meetings = np.zeros((n_equal, n_equal))
    for seed in range(n_times):
        for hand in hands_of(src, tgt, 4, seed):
            here = np.isin(equal, hand)
            meetings += np.outer(here, here)
    counts = np.array([meetings[a, b] for a, b in combinations(range(n_equal), 2)])
    share = counts.mean() / n_times
    assert 0.1 < share < 0.6
    assert np.abs(counts - counts.mean()).max() < 4.5 * np.sqrt(n_times * share * (1 - share))


@pytest.mark.parametrize("n_pairs", [60, 3_000])
def test_where_a_pair_comes_is_uniform_whatever_its_length(n_pairs: int) -> None:
    src, tgt = book_like_lengths(n_pairs, 150, seed=1)
    from_long, n, n_times = np.argsort(-np.maximum(src, tgt), kind="stable"), 12, 400
    pairs = from_long[[0, n_pairs // 2, -1]]
    counts = np.zeros((n, len(pairs)))
    for seed in range(n_times):
        counts += [np.isin(pairs, hand) for hand in hands_of(src, tgt, n, seed)]
    assert (counts.sum(0) == n_times).all()
    assert np.abs(counts - n_times / n).max() < 4.5 * np.sqrt(n_times / n)


def test_more_pairs_than_can_be_numbered_are_refused() -> None:
    lengths = np.broadcast_to(np.int16(5), (2**31,))
    for plan in (lambda: deal(lengths, lengths, 2, np.random.default_rng(1)), lambda: n_hands(lengths, 100, 2)):
        with pytest.raises(UserError, match="2,147,483,648 training pairs an epoch; expected at most 2,147,483,647"):
            plan()


def test_cards_of_more_tokens_than_64_bits_can_multiply() -> None:
    total, n_cards = 2 * 10**12, 2 * 10**10 // 96
    middles = np.linspace(1, total - 1, 1_001, dtype=np.int64)
    found = _cards_of(middles, total, n_cards)
    exact = [int(middle) * n_cards // total for middle in middles]
    assert max(abs(int(a) - b) for a, b in zip(found, exact, strict=True)) <= 1
    assert (np.diff(found) >= 0).all()
    assert (found.min(), found.max()) == (0, n_cards - 1)
