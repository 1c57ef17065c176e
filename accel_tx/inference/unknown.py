"""Words that the vocabulary lacks: which of the source's stands where in the translation, by cross-attention.

A model whose training text had such words too has learned to write UNK where one belongs. The search lets it only where
the source has one; each of the source's is copied once at most, and an UNK that is left over is left out.
Source: Luong et al. 2015 ("rare word problem") and Jean et al. 2015 replace UNK by the source word that alignment or
attention points at; that it must be an unknown one, and each only once, is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from accel_tx.data.collator import TokenPair, pad_sources, pad_targets
from accel_tx.data.tokenizer import SPECIAL_TOKENS, UNK_ID
from accel_tx.inference.ensemble import Model, device_of, members_of
from accel_tx.model.attention_weights import cross_attention_weights

# Of one layer and head; 2^18 of 6 layers with 8 heads take 50 MiB.
_WEIGHTS_PER_GROUP = 1 << 18


@dataclass(frozen=True)
class Answered:
    """A source and one hypothesis for it, both as ids without BOS and EOS."""

    source: Sequence[int]
    unknown: Sequence[tuple[int, str]]
    """As `Tokenizer.unknown_words` gives them for the source."""
    hypothesis: Sequence[int]
    given: Sequence[str] = ()
    """What the first UNKs stand for: words of a prefix that was asked for."""

    @property
    def places(self) -> list[int]:
        """Where the hypothesis has an UNK that is not given."""
        return [at for at, token in enumerate(self.hypothesis) if token == UNK_ID][len(self.given) :]


def words_for(mode: str, model: Model, answered: Sequence[Answered]) -> list[list[str]]:
    """For each UNK of each hypothesis what to put there; see `decode.unknown` for the modes."""
    if mode == "copy":
        found = copied_words(model, answered)
    else:
        found = [["" if mode == "drop" else SPECIAL_TOKENS[UNK_ID]] * len(one.places) for one in answered]
    return [[*one.given, *words] for one, words in zip(answered, found, strict=True)]


def copied_words(model: Model, answered: Sequence[Answered]) -> list[list[str]]:
    """For each UNK that is not given the word of the source; an empty one where none is left.

    The model must be in eval mode.
    """
    # Attention has nothing to say where there is one word for one place, or none.
    torn = [
        i for i, one in enumerate(answered) if one.places and one.unknown and len(one.places) + len(one.unknown) > 2
    ]
    weights = dict(zip(torn, _mean_attention(model, [answered[i] for i in torn]), strict=True))
    words = []
    for i, one in enumerate(answered):
        positions = [position for position, _ in one.unknown]
        shape = (len(one.places), len(positions))
        of_places = weights[i][np.ix_(one.places, positions)] if i in weights else np.ones(shape)
        words.append(["" if k is None else one.unknown[k][1] for k in one_to_one(of_places)])
    return words


def one_to_one(weights: NDArray[np.float64]) -> list[int | None]:
    """A column for each row, none twice, the largest weights first; None where there are fewer columns than rows."""
    chosen: list[int | None] = [None] * weights.shape[0]
    taken: set[int] = set()
    for flat in np.argsort(-weights, axis=None, kind="stable"):
        row, column = divmod(int(flat), weights.shape[1])
        if chosen[row] is None and column not in taken:
            chosen[row] = column
            taken.add(column)
    return chosen


def _mean_attention(model: Model, answered: Sequence[Answered]) -> list[NDArray[np.float64]]:
    """The cross-attention (T, S) of each, with which a token is predicted, over all layers and heads.

    Of an ensemble the mean of its members'.
    """
    pairs = [TokenPair(np.array(one.source, np.int32), np.array(one.hypothesis, np.int32)) for one in answered]
    found: list[NDArray[np.float64]] = []
    device = device_of(model)
    for group in _small_groups(pairs):
        src_ids, src_valid = pad_sources([pair.src for pair in group])
        if src_valid is not None:
            src_valid = src_valid.to(device)
        # The last token is predicted, and no input: a hypothesis that was cut may fill the model's positions.
        tgt_in = pad_targets([pair.tgt[:-1] for pair in group])
        given = src_ids.to(device), src_valid, tgt_in.to(device)
        of_members = [cross_attention_weights(member, *given).mean((0, 2)).double() for member in members_of(model)]
        mean = torch.stack(of_members).mean(0).cpu().numpy()  # (B, T, S)
        found += [of_pair[: len(pair.tgt), : len(pair.src)] for of_pair, pair in zip(mean, group, strict=True)]
    return found


def _small_groups(pairs: list[TokenPair]) -> Iterator[list[TokenPair]]:
    group: list[TokenPair] = []
    for pair in pairs:
        longer = [*group, pair]
        n_weights = len(longer) * (max(len(p.src) for p in longer) + 1) * max(len(p.tgt) for p in longer)
        if group and n_weights > _WEIGHTS_PER_GROUP:
            yield group
            longer = [pair]
        group = longer
    if group:
        yield group
