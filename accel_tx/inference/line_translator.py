"""Lines -> batches to search for, and what is found -> translated lines; whoever searches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from accel_tx.config import DecodeConfig, UserError
from accel_tx.data.collator import TokenPair
from accel_tx.data.tokenizer import TokenizerPair
from accel_tx.inference.batches import similar_lengths
from accel_tx.inference.parts import Part, TranslatedLine, Translation, joined, one_line, parts_of


class LongPrefixError(UserError):
    """A prefix leaves no room within the model's positions."""

    def __init__(self, index: int, n_tokens: int, max_positions: int) -> None:
        self.index = index
        """Of the line among those given."""
        self.size = f"{n_tokens} tokens; expected fewer than model.max_positions = {max_positions}"
        super().__init__(f"the prefix of line {index + 1} has {self.size}")


class Prefix(NamedTuple):
    """What a translation begins with."""

    ids: list[int]
    unknown: list[str]
    """Words for the UNKs among them."""


_NO_PREFIX = Prefix([], [])


class PartBatch(NamedTuple):
    """Parts of similar length, to be searched for together."""

    parts: list[Part]
    prefixes: list[Prefix]
    """One a part."""
    allow_unknown: bool
    """Whether their translations may have UNK."""


Answer = list[list[Translation]]
"""The translations of each part of a batch, best first."""


class LineTranslator(ABC):
    """What translates lines by batches of their parts, and scores pairs; it counts what lines are split and cut."""

    def __init__(self, tokenizers: TokenizerPair, decode: DecodeConfig, max_positions: int) -> None:
        self.tokenizers = tokenizers
        self.decode = decode
        self.max_positions = max_positions
        """Of the model; of an ensemble the fewest."""
        self.n_split = 0
        """Lines so far that were longer than the model's positions and so were translated in parts."""
        self.n_cut = 0
        """Lines so far whose best translation reached its length limit."""

    @abstractmethod
    def answer_later(self, batch: PartBatch) -> Callable[[], Answer]:
        """Take a batch to translate; what is returned gives its translations, or raises what went wrong."""

    @abstractmethod
    def log_probs_later(self, pairs: list[TokenPair]) -> Callable[[], list[float]]:
        """Take pairs to score; what is returned gives each target's log-probability, see `pair_scores`."""

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The best translation of each line, in the order asked; a line without words gives an empty one."""
        return [found[0].text for found in self.n_best(lines)]

    def n_best(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[Translation]]:
        """The `decode.n_best` translations of each line, see `translate_lines`."""
        return [line.translations for line in self.translate_lines(lines, prefixes)]

    def translate_lines(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[TranslatedLine]:
        """The `decode.n_best` translations of each line, best first, in the order asked.

        A line without words gives one empty translation, with nothing to its score. A line that is longer than the
        model's positions is translated in parts. No translation holds a character that ends a line anywhere.
        `prefixes` are texts that the translations begin with, one a line; empty: with anything.
        Raises: LongPrefixError.
        """
        return self.begin(lines, prefixes)()

    def begin(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> Callable[[], list[TranslatedLine]]:
        """The same in two steps: what is returned gives `translate_lines`' answer, once.

        Raises: LongPrefixError at once; what goes wrong in the search when the answer is asked for.
        """
        parts = parts_of(lines, self.tokenizers.src, self.max_positions)
        self.n_split += sum(len(of_line) > 1 for of_line in parts)
        forced = self._encode_prefixes(prefixes, len(lines))
        begins = [
            [prefix if i == 0 else _NO_PREFIX for i in range(len(of_line))]
            for prefix, of_line in zip(forced, parts, strict=True)
        ]
        asked = _Asked(parts, begins, copies=self.decode.unknown == "copy")
        rows_of_batches = self._batches(asked)
        answers = [self.answer_later(batch) for _, batch in rows_of_batches]

        def finish() -> list[TranslatedLine]:
            found = asked.copied()
            for (rows, _), answer in zip(rows_of_batches, answers, strict=True):
                for row, translations in zip(rows, answer(), strict=True):
                    found[row] = translations
            return self._lines_of(asked, found)

        return finish

    def _encode_prefixes(self, prefixes: Sequence[str] | None, n_lines: int) -> list[Prefix]:
        if prefixes is None:
            return [_NO_PREFIX] * n_lines
        if len(prefixes) != n_lines:
            raise ValueError(f"{len(prefixes)} prefixes for {n_lines} lines; expected as many")
        texts = [prefix.strip() for prefix in prefixes]
        encoded = self.tokenizers.tgt.encode(texts)
        for index, ids in enumerate(encoded):
            if len(ids) >= self.max_positions:
                raise LongPrefixError(index, len(ids), self.max_positions)
        unknown = (self.tokenizers.tgt.unknown_words(text) for text in texts)
        return [Prefix(ids, [word for _, word in words]) for ids, words in zip(encoded, unknown, strict=True)]

    def _batches(self, asked: _Asked) -> list[tuple[list[int], PartBatch]]:
        """Batches, each with the places of its parts."""
        batches = []
        # Apart, because only those with unknown words may have such in their translations.
        for has_unknown in (False, True):
            allow_unknown = has_unknown and self.decode.unknown != "guess"
            wanted = [
                i for i, part in enumerate(asked.parts) if not asked.is_copied[i] and bool(part.unknown) == has_unknown
            ]
            for chosen in self._similar([asked.parts[i] for i in wanted], [asked.prefixes[i] for i in wanted]):
                rows = [wanted[j] for j in chosen]
                batch = PartBatch([asked.parts[i] for i in rows], [asked.prefixes[i] for i in rows], allow_unknown)
                batches.append((rows, batch))
        return batches

    def _similar(self, parts: list[Part], prefixes: list[Prefix]) -> Iterator[list[int]]:
        if not parts:
            return
        lengths = np.array([len(part.ids) + 1 for part in parts], dtype=np.int64)
        # A translation takes at least the positions of its prefix, and the cache is as long as its longest row.
        least = np.array([len(prefix.ids) + 1 for prefix in prefixes], dtype=np.int64)
        for batch in similar_lengths(lengths, least, self.decode.max_tokens // self.decode.n_places):
            yield batch.tolist()

    def _lines_of(self, asked: _Asked, translations: list[list[Translation]]) -> list[TranslatedLine]:
        found, copied = iter(translations), iter(asked.is_copied)
        translated = [
            TranslatedLine(
                joined([next(found) for _ in parts], self.decode.n_best, ranked=not self.decode.sampling),
                n_parts=len(parts),
                unknown=[word for part in parts for _, word in part.unknown],
                n_searched=sum(not next(copied) for _ in parts),
            )
            for parts in asked.of_lines
        ]
        self.n_cut += sum(of_line.translations[0].is_cut for of_line in translated)
        return translated


class _Asked:
    """The parts of some lines, one behind the other."""

    def __init__(self, of_lines: list[list[Part]], prefixes: list[list[Prefix]], copies: bool) -> None:
        self.of_lines = of_lines
        self.parts = [part for of_line in of_lines for part in of_line]
        self.prefixes = [prefix for of_line in prefixes for prefix in of_line]
        self.is_copied = [
            copies and part.is_all_unknown and not prefix.ids
            for part, prefix in zip(self.parts, self.prefixes, strict=True)
        ]
        """Whether a part is its own translation, which no model has to be asked for."""

    def copied(self) -> list[list[Translation]]:
        """Each part as its own translation."""
        return [
            [Translation(one_line(part.text), 0.0, 0.0, copied=tuple(word for _, word in part.unknown))]
            for part in self.parts
        ]
