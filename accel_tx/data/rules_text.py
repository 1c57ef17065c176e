"""Rules on each side by itself: a pure function a rule, True where it objects to a text.

The defaults of the tools that are named stand in OpusFilter's `filters.py`, OpusCleaner's `filters/`, Moses'
`scripts/training/clean-corpus-n.perl` and Eole's `transforms/clean.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from accel_tx.data.characters import BROKEN, DIGIT, LETTER, SPACE, UNSPACED, Bools, TextBatch, has_repeats
from accel_tx.data.language import scripts_of

_LONGEST_GROUP_WORDS = 4


def is_empty(text: TextBatch) -> Bools:
    """Nothing but white space. Source: every tool named above."""
    trimmed = pc.utf8_trim_whitespace(text.texts)
    is_empty: Bools = pc.equal(pc.binary_length(trimmed), 0).to_numpy(zero_copy_only=False)
    return is_empty


def has_too_few_words(text: TextBatch, limit: int) -> Bools:
    """Fewer word-level tokens than `limit`. Source: Moses (chosen by the user), OpusFilter LengthFilter (1)."""
    return text.n_words < limit


def has_too_many_words(text: TextBatch, limit: int) -> Bools:
    """More word-level tokens than `limit`. Source: OpusFilter LengthFilter (100), OpusCleaner max_length (150)."""
    # A token has at least one character, which settles most texts.
    return np.zeros(len(text), bool) if np.all(text.n_chars <= limit) else text.n_words > limit


def has_too_few_chars(text: TextBatch, limit: int) -> Bools:
    """Fewer characters than `limit`. Source: OpusFilter LengthFilter with `unit: char` (1)."""
    return text.n_chars < limit


def has_too_many_chars(text: TextBatch, limit: int) -> Bools:
    """More characters than `limit`. Source: OpusFilter LengthFilter with `unit: char` (100)."""
    return text.n_chars > limit


def has_too_long_word(text: TextBatch, limit: int) -> Bools:
    """More than `limit` characters without a space; characters of scripts without spaces end a word.

    Source: OpusFilter LongWordFilter (40), OpusCleaner max_word_length (150), Moses (1,000).
    """
    return text.has_run(in_words(text), limit)


def in_words(text: TextBatch) -> Bools:
    """Which characters (N,) make words as `has_too_long_word` sees them."""
    return ~text.is_of(SPACE | UNSPACED)


def has_repeated_chars(text: TextBatch, limit: int) -> Bools:
    """One character, other than digits and spaces, more than `limit` times in a row. Source: Eole same_char (3)."""
    # A character that equals the one before it; the first one of a run is not counted.
    repeats = np.zeros(len(text.codes), bool)
    np.equal(text.codes[1:], text.codes[:-1], out=repeats[1:])
    repeats[text.starts[:-1][text.n_chars > 0]] = False
    repeats &= ~text.is_of(DIGIT | SPACE)
    return text.has_run(repeats, limit - 1)


def has_repeated_words(text: TextBatch, limit: int) -> Bools:
    """A word, or a group of up to four words, more than `limit` times in a row, whatever punctuation stands between.

    Source: OpusFilter RepetitionFilter (2, of 3 to 100 characters), Eole same_word (2, on words).
    """
    words, rows = text.words
    flags = np.zeros(len(text), bool)
    for size in range(1, _LONGEST_GROUP_WORDS + 1):
        flags |= has_repeats(words, rows, size, limit, len(text))
    return flags


def has_few_letters(text: TextBatch, least: float) -> Bools:
    """A smaller share of letters and their marks among the characters other than spaces.

    Source: OpusCleaner alpha_ratio (0.5; 0.4 in its program), OpusFilter AlphabetRatioFilter (0.75).
    """
    return letter_shares(text) < least


def letter_shares(text: TextBatch) -> NDArray[np.float64]:
    """Letters and their marks among the characters other than spaces of each text (n,); 1 where there are none."""
    n_visible = text.count(~text.is_of(SPACE))
    return np.where(n_visible > 0, text.count(text.is_of(LETTER)) / np.maximum(n_visible, 1), 1.0)


def has_other_script(text: TextBatch, least: float, lang: str) -> Bools:
    """A smaller share of the language's script among the letters; never for a language without an entry.

    Source: OpusFilter CharacterScoreFilter (1), Eole scripts_ok (Latin and Common only).
    """
    scripts = scripts_of(lang)
    return text.script_share(scripts) < least if scripts else np.zeros(len(text), bool)


def has_broken_chars(text: TextBatch) -> Bools:
    """Characters that carry no text: the replacement character, C1 controls, private use, noncharacters.

    Source: ftfy's badness, which takes C1 controls and U+FFFD for signs of a wrong encoding.
    """
    return text.count(text.is_of(BROKEN)) > 0
