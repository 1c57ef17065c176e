"""A batch of texts as NumPy arrays of code points and their kinds, from which the rules count without a Python loop."""

from __future__ import annotations

from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.data.keys import content_keys

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]

LETTER, WORD, SPACE, DIGIT, UNSPACED, WIDE, BROKEN, UNKNOWN = (np.uint8(1 << i) for i in range(8))
# RE2's classes of a character. WORD and SPACE are \w and \s of the regular expressions of `tokenizers`, which are those
# of Unicode's technical standard 18; UNSPACED scripts write words without spaces; WIDE characters fill two columns.
_KINDS = {
    LETTER: r"\pL\pM",
    WORD: r"\pL\pM\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}"
    r"\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}",
    SPACE: r"\t-\r\x{85}\pZ",
    DIGIT: r"\p{Nd}",
    UNSPACED: r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}",
    WIDE: r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}",
    BROKEN: r"\x{80}-\x{9f}\x{fffd}\p{Co}\x{fdd0}-\x{fdef}\x{fffe}\x{ffff}",
    UNKNOWN: r"^\pL\pM\pN\pP\pS\pZ\pC",
}
_N_CODES = 0x110000
_PRE_TOKENIZER = Whitespace()


class TextBatch:
    """The texts (n,) of one side, their characters end to end (N,), and where each text begins (n + 1,)."""

    def __init__(self, texts: pa.Array) -> None:
        self.texts = texts
        self.starts: Counts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(pc.utf8_length(texts).to_numpy(zero_copy_only=False), out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def n_chars(self) -> Counts:
        """Characters of each text (n,)."""
        return np.diff(self.starts)

    @cached_property
    def codes(self) -> NDArray[np.uint32]:
        """Code points (N,)."""
        return np.frombuffer(_text_bytes(self.texts).decode("utf-8").encode("utf-32-le"), np.uint32)

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """The kinds of each character (N,), as bits."""
        return _kinds_of_all_codes()[self.codes]

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """`content_keys` of the texts (n,)."""
        return content_keys(self.texts)

    def is_of(self, kind: np.uint8) -> Bools:
        """Whether each character (N,) is of one of the kinds."""
        found: Bools = (self.kinds & kind) != 0
        return found

    def count(self, at: Bools) -> Counts:
        """How many characters of each text (n,) are marked in `at` (N,)."""
        return np.diff(np.searchsorted(np.flatnonzero(at), self.starts))

    def rows(self, positions: NDArray[Any]) -> Counts:
        """The text to which each position among the characters belongs."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def first_of_runs(self, at: NDArray[Any]) -> Bools:
        """Where `at` (N,) is set, or holds another value, for the first time since the text began or it changed."""
        begins = np.ones(len(at), bool)
        np.not_equal(at[1:], at[:-1], out=begins[1:])
        begins[self.starts[:-1][self.n_chars > 0]] = True
        first: Bools = np.logical_and(begins, at != 0)
        return first

    def has_run(self, at: Bools, n_more_than: int) -> Bools:
        """Whether a text (n,) has more than so many characters in a row that are marked in `at` (N,)."""
        positions = np.flatnonzero(at)
        first = positions[: max(len(positions) - n_more_than, 0)]
        last = positions[n_more_than:]
        first = first[last - first == n_more_than]
        rows = self.rows(first)
        return self._flagged(rows[self.rows(first + n_more_than) == rows])

    @cached_property
    def n_words(self) -> Counts:
        """Word-level tokens of each text (n,): runs of \\w and of other visible characters, as `Whitespace` cuts."""
        n_words = self.count(self._token_starts != 0)
        # RE2's tables may be older than those of `tokenizers`: a character they lack is left to `tokenizers` itself.
        for row in np.flatnonzero(self.count(self.is_of(UNKNOWN))):
            n_words[row] = len(_PRE_TOKENIZER.pre_tokenize_str(self.texts[int(row)].as_py()))
        return n_words

    @cached_property
    def _token_starts(self) -> NDArray[np.uint8]:
        """At each character (N,): 1 where a word begins, 2 where a run of punctuation does, else 0."""
        tokens = _TOKEN_CLASS[self.kinds & (WORD | SPACE)]
        starts: NDArray[np.uint8] = tokens * self.first_of_runs(tokens)
        return starts

    @cached_property
    def words(self) -> tuple[NDArray[np.uint64], Counts]:
        """A hash of each word of letters and digits, in order over all texts, and the text it stands in.

        Words that begin with a digit all differ: numbers in a row, as in 1.1, 1.2, are no repetition.
        """
        begins = np.flatnonzero(self._token_starts == 1)
        inside = self.is_of(WORD)
        mixed = self.codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        powers = _powers(len(mixed))
        sums = np.zeros(len(mixed) + 1, np.uint64)
        np.cumsum(np.where(inside, mixed * powers[0], np.uint64(0)), out=sums[1:])
        # Up to the next word there is nothing but characters that count as zero.
        ends = np.append(begins[1:], len(mixed))
        hashes = (sums[ends] - sums[begins]) * powers[1][begins]
        is_number = ~self.is_of(LETTER)[begins]
        hashes[is_number] = begins[is_number].astype(np.uint64)
        return hashes, self.rows(begins)

    def script_share(self, scripts: tuple[str, ...]) -> NDArray[np.float64]:
        """Share of each text's letters (n,) that belong to the scripts or to all scripts; 1 where there is none."""
        n_letters = self.count(self.is_of(LETTER))
        n_own = self.count(self.is_of(LETTER) & _is_in_scripts(scripts)[self.codes])
        return np.where(n_letters > 0, n_own / np.maximum(n_letters, 1), 1.0)

    def _flagged(self, rows: Counts) -> Bools:
        flags = np.zeros(len(self), bool)
        flags[rows] = True
        return flags


def has_repeats(words: NDArray[np.uint64], rows: Counts, size: int, n_more_than: int, n_texts: int) -> Bools:
    """Whether a text (n_texts,) has a group of `size` words more than `n_more_than` times in a row."""
    flags = np.zeros(n_texts, bool)
    same = np.flatnonzero((words[size:] == words[:-size]) & (rows[size:] == rows[:-size]))
    length = size * n_more_than
    if len(same) >= length:
        first, last = same[: len(same) - length + 1], same[length - 1 :]
        first, last = first[last - first == length - 1], last[last - first == length - 1]
        flags[rows[first][rows[first] == rows[last]]] = True
    return flags


_TOKEN_CLASS = np.array([0 if kind & SPACE else 1 if kind & WORD else 2 for kind in range(8)], np.uint8)


def _text_bytes(texts: pa.Array) -> bytes:
    """The bytes of all texts end to end."""
    _, offsets, data = texts.buffers()
    if data is None:
        return b""
    at = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[int(at[0]) : int(at[-1])].tobytes()


@cache
def _all_characters() -> tuple[NDArray[np.int64], pa.Array]:
    """The code points that any class can hold, without surrogates, and as texts of one character."""
    codes = np.r_[0:0xD800, 0xE000:0x40000, 0xE0000:0xE0200]
    return codes, pa.array([chr(code) for code in codes])


def _matching(characters: str) -> Bools:
    """Whether each code point (0x110000,) is in a class of RE2's."""
    codes, texts = _all_characters()
    table = np.zeros(_N_CODES, bool)
    table[codes] = pc.match_substring_regex(texts, f"^[{characters}]").to_numpy(zero_copy_only=False)
    return table


@cache
def _kinds_of_all_codes() -> NDArray[np.uint8]:
    table = np.zeros(_N_CODES, np.uint8)
    for kind, characters in _KINDS.items():
        table |= _matching(characters) * kind
    return table


@cache
def _is_in_scripts(scripts: tuple[str, ...]) -> Bools:
    return _matching("".join(rf"\p{{{script}}}" for script in (*scripts, "Common", "Inherited")))


_BASE = 0x5851F42D4C957F2D
_INVERSE = pow(_BASE, -1, 1 << 64)


def _powers(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first n powers of the hash's base and of its inverse, modulo 2^64."""
    size = 1 << max(n - 1, 0).bit_length()
    powers, inverse = _powers_up_to(size)
    return powers[:n], inverse[:n]


@lru_cache(maxsize=4)
def _powers_up_to(n: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    bases = (_BASE, _INVERSE)
    powers = [
        np.concatenate([[np.uint64(1)], np.full(n - 1, base, np.uint64)]).cumprod(dtype=np.uint64) for base in bases
    ]
    return powers[0], powers[1]
