"""Whether a tokenizer made from a SentencePiece file gives the ids of SentencePiece itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accel_tx.data.sentencepiece_file import SentencePieceFile
from accel_tx.data.tokenizer import Tokenizer

_N_SHOWN_PIECES = 4
_LONGEST_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Agreement:
    """Whether a tokenizer gives the ids of SentencePiece."""

    n: int
    """Sentences compared."""
    n_same: int
    differing: str | None
    """The first that differs and how; None where there is none."""

    @classmethod
    def of(cls, file: SentencePieceFile, tokenizer: Tokenizer, batches: Iterable[Sequence[str]]) -> Agreement:
        """Compare in texts, some at a time."""
        processor, our_ids = file.processor(), file.our_ids()
        n = n_same = 0
        differing = None
        for texts in batches:
            theirs = [[our_ids[i] for i in ids] for ids in processor.encode(list(texts))]
            for text, expected, found in zip(texts, theirs, tokenizer.encode(texts), strict=True):
                n += 1
                n_same += expected == found
                if expected != found and differing is None:
                    differing = _difference(text, expected, found, tokenizer)
        return cls(n, n_same, differing)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.n + other.n, self.n_same + other.n_same, self.differing or other.differing)

    @property
    def told(self) -> str:
        """In a line."""
        line = f"{self.n_same:,} of {self.n:,} sentences get the ids of SentencePiece"
        return line if self.differing is None else f"{line}; one that does not: {self.differing}"


def _difference(text: str, expected: Sequence[int], found: Sequence[int], tokenizer: Tokenizer) -> str:
    first = next((i for i, pair in enumerate(zip(expected, found)) if pair[0] != pair[1]), 0)
    theirs, ours = (
        " ".join(tokenizer.piece(i) for i in ids[first : first + _N_SHOWN_PIECES]) for ids in (expected, found)
    )
    shown = text if len(text) <= _LONGEST_SHOWN_CHARS else f"{text[:_LONGEST_SHOWN_CHARS]}…"
    return f"{shown!r} has {theirs!r} there and {ours!r} here"
