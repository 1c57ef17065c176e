"""Whether an exported model translates as ours does: the same sentences by both, text to text, greedily."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from accel_tx.config import UserError
from accel_tx.export.formats import Runtime
from accel_tx.inference.parts import one_line
from accel_tx.inference.translator import Translator

N_SENTENCES = 200
LEAST_EXACT, LEAST_ROUNDED = 1.0, 0.99
"""Shares that have to be identical: where weights are rounded, the most probable token may be another one."""
_N_ROUNDS = 3
_N_WARM_UP = 16
_LONGEST_SHOWN_CHARS = 120


@dataclass(frozen=True)
class Sentences:
    """What is translated."""

    origin: str
    """Where they come from, for people."""
    src: list[str]
    references: list[str] | None = None
    """Where they are known."""

    def fitting(self, translator: Translator) -> Sentences:
        """The first 200 that are translated in one go: not empty, and no longer than the model's positions."""
        longest = translator.max_positions - 1
        texts = [line.strip() for line in self.src]
        kept: list[int] = []
        for start in range(0, len(texts), N_SENTENCES):
            encoded = translator.tokenizers.src.encode(texts[start : start + N_SENTENCES])
            kept += [i for i, ids in enumerate(encoded, start) if 0 < len(ids) <= longest]
            if len(kept) >= N_SENTENCES:
                break
        kept = kept[:N_SENTENCES]
        references = None if self.references is None else [self.references[i] for i in kept]
        return Sentences(self.origin, [texts[i] for i in kept], references)


@dataclass(frozen=True)
class Proof:
    """What the comparison found; seconds are medians over rounds in turns."""

    sentences: Sentences
    ours: list[str]
    theirs: list[str]
    ours_s: float
    theirs_s: float
    runtime: str

    @property
    def n_sentences(self) -> int:
        """Sentences compared."""
        return len(self.ours)

    @property
    def n_identical(self) -> int:
        """Those whose translations are the same to the last character."""
        return sum(map(str.__eq__, self.ours, self.theirs))

    @property
    def ratio(self) -> float:
        """How many times as fast as ours."""
        return self.ours_s / self.theirs_s

    def check(self, least: float, remedy: str) -> None:
        """Raise UserError, which has the remedy in it, unless this share of the translations is identical."""
        if self.n_identical >= least * self.n_sentences:
            return
        differing = next(three for three in zip(self.sentences.src, self.ours, self.theirs) if three[1] != three[2])
        src, ours, theirs = (repr(text[:_LONGEST_SHOWN_CHARS]) for text in differing)
        raise UserError(
            f"{self.runtime} translates {self.n_identical} of {self.n_sentences} sentences as this program does; "
            f"expected at least {least:.1%} (--least_identical{remedy}), so nothing is written; the first that differs "
            f"is {src}: it becomes {theirs}, not {ours}"
        )


def prove(ours: Translator, theirs: Runtime, sentences: Sentences, n_rounds: int = _N_ROUNDS) -> Proof:
    """Translate what fits by both, in turns, so many times each."""
    decode, limit = ours.decode, ours.max_positions
    lines = sentences.src
    lengths = map(len, ours.tokenizers.src.encode(lines))
    limits = [min(int(decode.max_len_ratio * length) + decode.max_len_extra, limit) for length in lengths]

    def by_ours() -> list[str]:
        return ours.translate(lines)

    def by_theirs() -> list[str]:
        # As in ours, a character that ends a line somewhere is a space.
        return [one_line(text) for text in theirs.translate(lines, limits)]

    ours.translate(lines[:_N_WARM_UP])
    theirs.translate(lines[:_N_WARM_UP], limits[:_N_WARM_UP])
    rounds = [(_timed(by_ours), _timed(by_theirs)) for _ in range(n_rounds)]
    return Proof(
        sentences,
        ours=rounds[0][0][0],
        theirs=rounds[0][1][0],
        ours_s=statistics.median(seconds for (_, seconds), _ in rounds),
        theirs_s=statistics.median(seconds for _, (_, seconds) in rounds),
        runtime=theirs.name,
    )


def _timed(translate: Callable[[], list[str]]) -> tuple[list[str], float]:
    started_at_s = time.perf_counter()
    translations = translate()
    return translations, time.perf_counter() - started_at_s
