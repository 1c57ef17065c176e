"""Dealing pairs out to micro-batches: each a sample of all lengths, and all of about as many tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_tx.config import UserError

Indices = NDArray[np.signedinteger[Any]]
Lengths = NDArray[np.signedinteger[Any]]
"""Tokens, in whatever integers they are kept."""

# Tokens of a card: a few pairs of about one length, so that attention needs little padding. After 300 updates of
# multi30k_en_fr (2 x 2,048 tokens) the gradients of updates varied around their mean by 1.18, 1.12, 1.06 and 0.99 times
# what those of random batches do, with cards of 512, 256, 128 and 64 tokens.
_TOKENS_PER_CARD = 96
_LEAST_ROUNDS = 16
_PAIRS_AT_ONCE = 1 << 16
_MOST_PAIRS = 2**31 - 1


def deal(
    src_lengths: Lengths, tgt_lengths: Lengths, n: int, rng: np.random.Generator, sizes: Lengths | None = None
) -> tuple[Indices, Indices]:
    """Deal the pairs out to `n` hands: hand i gets `order[starts[i]:starts[i + 1]]`, int32, from long to short.

    Pairs are sorted by length and cut into cards of as many tokens. Every round deals the next n cards out, one to each
    hand: those with fewer tokens so far get the larger cards, and chance decides between equals. So a hand is a sample
    stratified by length, and the hands' tokens, of the longer side of each pair, differ by a few at the end. How many
    they are depends on the lengths alone, not on `rng`. Pairs of lengths that few others have often meet again.
    `sizes`: the longer side of each pair, where the caller has them.
    Raises: UserError for more pairs than int32 numbers.
    """
    _check_can_be_numbered(len(src_lengths))
    sizes = np.maximum(src_lengths, tgt_lengths) if sizes is None else sizes
    order = _from_long_to_short(src_lengths, tgt_lengths, sizes, rng)
    n_pairs, n_tokens = _cut(_taken(sizes, order, np.empty_like(sizes)), n)
    hands, _ = _hands(n_tokens, n, rng)
    cards = np.argsort(hands, kind="stable")
    starts = np.cumsum([0, *np.bincount(hands, weights=n_pairs, minlength=n)], dtype=np.int64)
    dealt = _runs_of((np.cumsum(n_pairs, dtype=np.int32) - n_pairs)[cards], n_pairs[cards])
    return _taken(order, dealt, dealt), starts


def n_hands(sizes: Lengths, max_tokens: int, multiple_of: int) -> int:
    """Few hands, a multiple of `multiple_of` where there are pairs enough, that `deal` fills to `max_tokens` at most.

    `sizes`: the longer side of each pair.
    Raises: ValueError if a pair alone is larger than `max_tokens`; UserError as `deal`.
    """
    _check_can_be_numbered(len(sizes))
    longest = int(sizes.max(initial=0))
    if longest > max_tokens:
        raise ValueError(f"a pair of {longest} tokens does not fit a micro-batch of {max_tokens}")
    from_long = np.sort(sizes)[::-1]
    n = -(-int(sizes.sum(dtype=np.int64)) // max_tokens)
    while True:
        n = min(-(-n // multiple_of) * multiple_of, len(sizes))
        _, held = _hands(_cut(from_long, n)[1], n, None)
        if held.max(initial=0) <= max_tokens:
            return n
        n += max(1, n // 100)


def _check_can_be_numbered(n_pairs: int) -> None:
    if n_pairs > _MOST_PAIRS:
        raise UserError(
            f"{n_pairs:,} training pairs an epoch; expected at most {_MOST_PAIRS:,}: lower the weight of a corpus, or "
            "train on a part"
        )


def _from_long_to_short(src: Lengths, tgt: Lengths, sizes: Lengths, rng: np.random.Generator) -> Indices:
    """By the longer side; for one longer side from short sources on to short targets, and for the next one back."""
    pairs, ends = _sorted_descending(rng.permutation(np.arange(len(sizes), dtype=np.int32)), sizes)
    for first, last in pairwise(ends):
        alike = pairs[first:last]
        size = int(sizes[alike[0]])
        along = src[alike].astype(np.int32) - tgt[alike]
        alike = alike[np.argsort(along if size % 2 else -along, kind="stable")]
        # About a card's pairs to and fro, so that each epoch has other neighbours where all have the same lengths, too.
        place = rng.random(len(alike), dtype=np.float32) * np.float64(_TOKENS_PER_CARD / size)
        place += np.arange(first, last)
        pairs[first:last] = alike[np.argsort(place, kind="stable")]
    return pairs


def _sorted_descending(pairs: Indices, sizes: Lengths) -> tuple[Indices, list[int]]:
    """The pairs by size, stable, and the bounds of those of one size; in pieces, as numpy sorts by 8 bytes each."""
    pieces = range(0, len(pairs), _PAIRS_AT_ONCE)
    counts = Counter[int]()
    for first in pieces:
        counts.update(dict(zip(*np.unique(sizes[first : first + _PAIRS_AT_ONCE], return_counts=True), strict=True)))
    descending = sorted(counts, reverse=True)
    bounds = np.cumsum([0, *(counts[size] for size in descending)]).tolist()
    next_place = dict(zip(descending, bounds, strict=False))
    found = np.empty_like(pairs)
    for first in pieces:
        piece = pairs[first : first + _PAIRS_AT_ONCE]
        piece = piece[np.argsort(-sizes[piece], kind="stable")]
        for size, run in _by_value(piece, sizes[piece]):
            found[next_place[size] : next_place[size] + len(run)] = run
            next_place[size] += len(run)
    return found, bounds


def _by_value(items: Indices, values: Lengths) -> Iterator[tuple[int, Indices]]:
    """The items of each run of equal values."""
    edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1), len(values)]
    for first, last in pairwise(edges):
        yield int(values[first]), items[first:last]


def _taken(values: Indices, index: Indices, out: Indices) -> Indices:
    """`values[index]` into `out`, which may be `index`; piece by piece, as numpy copies an index into 8 bytes each."""
    for first in range(0, len(index), _PAIRS_AT_ONCE):
        piece = slice(first, first + _PAIRS_AT_ONCE)
        out[piece] = values[index[piece]]
    return out


def _runs_of(starts: Indices, lengths: Indices) -> NDArray[np.int32]:
    """start, start + 1, ... of each run, one after the other; no run is empty but where there are no numbers at all."""
    kept = lengths > 0
    starts, lengths = starts[kept], lengths[kept]
    steps = np.ones(int(lengths.sum()), dtype=np.int32)
    begins = np.cumsum(lengths, dtype=np.int32) - lengths
    steps[begins[:1]] = starts[:1]
    # From the last number of the run before.
    steps[begins[1:]] += starts[1:] - starts[:-1] - lengths[:-1]
    return np.cumsum(steps, dtype=np.int32, out=steps)


def _cut(from_long: Lengths, n: int) -> tuple[Indices, Indices]:
    """Pairs and tokens of each card: cards of about as many tokens, a multiple of n of them."""
    total = int(from_long.sum(dtype=np.int64))
    n_cards = n * max(_LEAST_ROUNDS, round(total / (n * _TOKENS_PER_CARD))) if n else 0
    n_pairs, n_tokens = np.zeros((2, n_cards), dtype=np.int32)
    end = 0
    for first in range(0, len(from_long), _PAIRS_AT_ONCE):
        sizes = from_long[first : first + _PAIRS_AT_ONCE].astype(np.int64)
        ends = end + np.cumsum(sizes)
        cards = _cards_of(2 * ends - sizes, 2 * total, n_cards)
        these = slice(cards[0], cards[-1] + 1)
        n_pairs[these] += np.bincount(cards - cards[0]).astype(np.int32)
        n_tokens[these] += np.bincount(cards - cards[0], weights=sizes).astype(np.int32)
        end = int(ends[-1])
    if np.count_nonzero(n_pairs) < n:
        return np.ones(len(from_long), dtype=np.int32), from_long.astype(np.int32)
    n_cards = int(np.max(np.flatnonzero(n_pairs), initial=-1)) + 1
    return n_pairs[:n_cards], n_tokens[:n_cards]


def _cards_of(middles: Indices, total: int, n_cards: int) -> Indices:
    """The card of each pair, by where its middle lies in all the tokens, both counted in halves."""
    if total * n_cards < 2**63:
        return middles * n_cards // total
    return np.minimum((middles / total * n_cards).astype(np.int64), n_cards - 1)


def _hands(tokens: Indices, n: int, rng: np.random.Generator | None) -> tuple[NDArray[np.int32], Indices]:
    """The hand of each card of so many tokens, and the tokens that each hand then holds."""
    hand_of_card = np.empty(len(tokens), dtype=np.int32)
    held = np.zeros(n, dtype=np.int64)
    for first in range(0, len(tokens), max(1, n)):
        n_dealt = min(n, len(tokens) - first)
        cards, players = (np.arange(k) if rng is None else rng.permutation(k) for k in (n_dealt, n))
        dealt = first + cards[np.argsort(-tokens[first + cards], kind="stable")]
        takers = players[np.argsort(held[players], kind="stable")][: len(dealt)]
        hand_of_card[dealt] = takers
        held[takers] += tokens[dealt]
    return hand_of_card, held
