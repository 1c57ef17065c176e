"""How well vocabularies fit the text: unknown tokens, tokens a word, words kept whole, entries that hardly occur."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.data.histogram import Histogram
from accel_tx.data.tokenizer import SPECIAL_TOKENS, UNK_ID, Tokenizer, TokenizerPair

if TYPE_CHECKING:
    import datasets

    from accel_tx.data.token_pairs import Ragged, TokenPairs

N_SAMPLE = 5_000
"""Pairs in which words are looked at one by one; the counts of tokens are of all pairs."""
RARE_BELOW = 10
"""An entry of the vocabulary that occurs less often in the training text is rarely trained."""
_TEXTS_AT_A_TIME = 1_000
_PRE_TOKENIZER = Whitespace()


@dataclass(frozen=True)
class WordCuts:
    """What a tokenizer makes of running words (word-level tokens: words and runs of punctuation)."""

    n_words: int
    n_tokens: int
    n_whole: int
    """Words that are one token, or share one with a neighbour."""

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer) -> WordCuts:
        """Count in texts; where a token begins and ends is known to the character."""
        tokenizer.fast.encode_special_tokens = True
        n_words = n_tokens = n_whole = 0
        for text, encoding in zip(texts, tokenizer.fast.encode_batch(list(texts)), strict=True):
            spans = np.array([span for _, span in _PRE_TOKENIZER.pre_tokenize_str(text)], dtype=np.int64).reshape(-1, 2)
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            # Tokens that begin before the word's end, less those that end before it begins: those that it touches.
            begun = np.searchsorted(offsets[:, 0], spans[:, 1], side="left")
            over = np.searchsorted(offsets[:, 1], spans[:, 0], side="right")
            n_words, n_tokens = n_words + len(spans), n_tokens + len(offsets)
            n_whole += int((begun - over <= 1).sum())
        return cls(n_words, n_tokens, n_whole)

    def __add__(self, other: WordCuts) -> WordCuts:
        return WordCuts(self.n_words + other.n_words, self.n_tokens + other.n_tokens, self.n_whole + other.n_whole)


def count_entries(ids: Ragged, vocab_size: int) -> NDArray[np.int64]:
    """How often each entry of the vocabulary occurs, (V,)."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for values, offsets in ids.chunks:
        counts += np.bincount(values[offsets[0] : offsets[-1]], minlength=vocab_size)
    return counts


def describe_tokens(
    texts: Mapping[str, Sequence[datasets.Dataset]],
    ids: Mapping[str, TokenPairs],
    tokenizers: TokenizerPair,
    kind: str,
) -> dict[str, Any]:
    """Statistics of the token ids of each set (`train`, `valid`): `tokens` and `vocabulary`. Ready for JSON.

    Lengths are in tokens with EOS, as `max_positions` and `max_tokens` count them.
    """
    lengths = {
        name: {
            "src": Histogram.of("count", pairs.src_lengths).to_dict(),
            "tgt": Histogram.of("count", pairs.tgt_lengths).to_dict(),
        }
        for name, pairs in ids.items()
    }
    vocabulary: dict[str, Any] = {
        "kind": kind,
        "joint": tokenizers.src is tokenizers.tgt,
        "n_sample": N_SAMPLE,
        "rare_below": RARE_BELOW,
    }
    train_counts = {}
    for side, tokenizer in (("src", tokenizers.src), ("tgt", tokenizers.tgt)):
        by_set: dict[str, Any] = {}
        for name, pairs in ids.items():
            counts = count_entries(getattr(pairs, side), tokenizer.vocab_size)
            by_set[name] = {**_unknown(counts), **_cuts(texts[name], side, tokenizer)}
            if name == "train":
                train_counts[side] = counts
        vocabulary[side] = {"size": tokenizer.vocab_size, **by_set}
    if vocabulary["joint"]:
        train_counts = dict.fromkeys(train_counts, train_counts["src"] + train_counts["tgt"])
    for side, counts in train_counts.items():
        vocabulary[side].update(_use(counts))
    return {"tokens": lengths, "vocabulary": vocabulary}


def _unknown(counts: NDArray[np.int64]) -> dict[str, float]:
    n_tokens = int(counts.sum())
    return {
        "n_tokens": n_tokens,
        "n_unknown": int(counts[UNK_ID]),
        "unknown_share": int(counts[UNK_ID]) / max(n_tokens, 1),
    }


def _use(counts: NDArray[np.int64]) -> dict[str, int]:
    own = counts[len(SPECIAL_TOKENS) :]
    return {"n_entries": len(own), "n_unused": int((own == 0).sum()), "n_rare": int((own < RARE_BELOW).sum())}


def _cuts(parts: Sequence[datasets.Dataset], side: str, tokenizer: Tokenizer) -> dict[str, float]:
    cuts = WordCuts(0, 0, 0)
    for texts in sampled(parts, side, N_SAMPLE):
        cuts += WordCuts.of(texts, tokenizer)
    n_words = max(cuts.n_words, 1)
    return {"tokens_per_word": cuts.n_tokens / n_words, "whole_word_share": cuts.n_whole / n_words}


def sampled(parts: Sequence[datasets.Dataset], side: str, n_pairs: int) -> Iterator[list[str]]:
    """Texts of one side at even distances from all parts end to end, some at a time; all where they are fewer."""
    n_all = sum(map(len, parts))
    rows = np.unique(np.linspace(0, max(n_all - 1, 0), min(n_pairs, n_all)).astype(np.int64))
    first = 0
    for part in parts:
        own = rows[(rows >= first) & (rows < first + len(part))] - first
        for start in range(0, len(own), _TEXTS_AT_A_TIME):
            # Not `select`, which makes an array of all numbers of an index.
            yield part[own[start : start + _TEXTS_AT_A_TIME].tolist()][side]
        first += len(part)
