"""What every system of a bench trains on: the same pairs, and an order of updates that samples the whole epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from accel_tx.config import Config, UserError
from accel_tx.data.batching import BatchPlan
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.dealing import Indices
from accel_tx.data.token_pairs import Ragged, TokenPairs

if TYPE_CHECKING:
    import pyarrow as pa

    from accel_tx.data.clean_report import CleanReport
    from accel_tx.data.tokenizer import TokenizerPair

# The ids below are PAD, UNK, BOS and EOS.
_N_SPECIAL = 4
_BOOK_MEAN_TOKENS, _BOOK_SPREAD, _BOOK_RATIO_SPREAD = 22, 0.7, 0.25


@dataclass(frozen=True)
class Workload:
    """Token ids of the training pairs and the sizes of the vocabularies."""

    pairs: TokenPairs
    src_vocab_size: int
    tgt_vocab_size: int
    name: str

    def as_prepared_data(self) -> PreparedData:
        """The same for `Run`, which asks its tokenizers only for their sizes as long as it does not validate."""
        tokenizers = _Sizes(_Size(self.src_vocab_size), _Size(self.tgt_vocab_size))
        nothing = Ragged([])
        return PreparedData(
            folder=Path(),
            train=self.pairs,
            valid=TokenPairs(nothing, nothing),
            valid_src=cast("pa.ChunkedArray", None),
            valid_tgt=cast("pa.ChunkedArray", None),
            tokenizers=cast("TokenizerPair", tokenizers),
            report=cast("CleanReport", None),
            sha256="",
            notes=[],
        )


@dataclass(frozen=True)
class _Size:
    vocab_size: int


@dataclass(frozen=True)
class _Sizes:
    src: _Size
    tgt: _Size


def load_workload(config: Config, n_synthetic: int | None, vocab_size: int | None) -> Workload:
    """The config's corpus, or `n_synthetic` pairs of book-like lengths; `vocab_size` replaces what was found.

    Raises: UserError for input that cannot be used.
    """
    if n_synthetic is not None:
        size = vocab_size or config.tokenizer.vocab_size
        return Workload(synthetic_pairs(n_synthetic, size, config), size, size, f"{n_synthetic:,} book-like pairs")
    data = prepare_data(config)
    src_size, tgt_size = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
    if vocab_size is not None:
        found = max(src_size, tgt_size)
        if vocab_size < found:
            raise UserError(f"--vocab {vocab_size}: the tokenizers have up to {found} entries; expected no fewer")
        src_size = tgt_size = vocab_size
    return Workload(data.train, src_size, tgt_size, f"{config.data.corpus}, {len(data.train):,} pairs")


def book_like_lengths(n_pairs: int, longest: int, seed: int) -> tuple[Indices, Indices]:
    """Source and target lengths in tokens with EOS, at most `longest`, as books have them.

    Log-normal with a mean of 22 tokens; ln(target / source) has a standard deviation of 0.25. Of the positions of
    random batches of 64 a quarter are real tokens.
    """
    rng = np.random.default_rng(seed)
    src = _BOOK_MEAN_TOKENS * rng.lognormal(-(_BOOK_SPREAD**2) / 2, _BOOK_SPREAD, n_pairs)
    tgt = src * rng.lognormal(-(_BOOK_RATIO_SPREAD**2) / 2, _BOOK_RATIO_SPREAD, n_pairs)
    src_lengths, tgt_lengths = (np.clip(np.rint(x), 2, longest).astype(np.int64) for x in (src, tgt))
    return src_lengths, tgt_lengths


def synthetic_pairs(n_pairs: int, vocab_size: int, config: Config) -> TokenPairs:
    """Pairs of book-like lengths whose ids follow Zipf's law: the r-th most frequent has a share of about 1 / r."""
    # A budget holds max_positions tokens in any case.
    longest = min(config.model.max_positions, 150)
    sides = []
    rng = np.random.default_rng(config.train.seed)
    for lengths in book_like_lengths(n_pairs, longest, config.train.seed):
        offsets = np.concatenate([[0], np.cumsum(lengths - 1)])
        n_words = vocab_size - _N_SPECIAL
        # The inverse of the distribution function of 1 / x on [1, n_words + 1).
        ranks = np.exp(rng.random(offsets[-1]) * np.log(n_words + 1)).astype(np.int32) - 1
        sides.append(Ragged([(np.minimum(ranks, n_words - 1) + np.int32(_N_SPECIAL), offsets)]))
    return TokenPairs(*sides)


def padded_positions(update: Sequence[Indices], pairs: TokenPairs) -> int:
    """Positions of both sides of an update's micro-batches, each padded to its own longest sentences."""
    return sum(
        len(part) * int(pairs.src_lengths[part].max() + pairs.tgt_lengths[part].max()) for part in update if len(part)
    )


def sampling_order(updates: Sequence[Sequence[Indices]], pairs: TokenPairs) -> list[int]:
    """The order in which a bench visits the updates of an epoch: any stretch of it is like the whole epoch.

    The largest comes first, so that its memory counts. The others are ranked by padded positions a pair, and the
    ranks visited by van der Corput's sequence: the middle, the quarters, the eighths, ... So a few updates already
    have the epoch's mix of lengths, and each round of a bench gets about the same mix.
    """
    n = len(updates)
    sizes = np.array([padded_positions(update, pairs) for update in updates])
    ranked = np.argsort(sizes / [sum(map(len, update)) for update in updates], kind="stable")
    ranks = dict.fromkeys(int(_van_der_corput(i) * n) for i in range(1, 4 * n + 1))
    spread = [int(ranked[rank]) for rank in (*ranks, *(set(range(n)) - set(ranks)))]
    largest = int(sizes.argmax())
    return [largest, *(i for i in spread if i != largest)]


def _van_der_corput(i: int) -> float:
    """The binary digits of i mirrored at the binary point, from 0 to below 1."""
    return int(f"{i:b}"[::-1], 2) / (1 << i.bit_length())


class SampledPlan(BatchPlan):
    """A batch plan whose updates are those of its first epoch in `sampling_order`, again and again."""

    def __init__(self, plan: BatchPlan, pairs: TokenPairs) -> None:
        self.__dict__.update(plan.__dict__)
        epoch = list(plan.updates(0, plan.updates_per_epoch))
        self.sampled = [epoch[i] for i in sampling_order(epoch, pairs)]

    def updates(self, first: int, last: int) -> Iterator[list[Indices]]:
        """The micro-batches of updates `first` to `last - 1`."""
        for i in range(first, last):
            yield list(self.sampled[i % len(self.sampled)])


def sampled_batches_of(batches: list[Indices], pairs: TokenPairs) -> list[Indices]:
    """The same order for a system whose update is one batch."""
    return [batches[i] for i in sampling_order([[batch] for batch in batches], pairs)]


class Endless:
    """A batch sampler that repeats its batches for ever."""

    def __init__(self, batches: list[Indices]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from (batch.tolist() for batch in self.batches)
