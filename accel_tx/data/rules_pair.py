"""Rules that compare the two sides: a pure function a rule, True where it objects to a pair.

The defaults of the tools that are named stand where `rules_text.py` says.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from accel_tx.data.characters import DIGIT, LETTER, UNSPACED, WIDE, Bools, Counts, TextBatch
from accel_tx.data.language import base_language
from accel_tx.data.numbers_in_text import numbers_disagree

# Two short texts may differ by any factor: "OK" and "Einverstanden".
FREE_WORDS = 5
FREE_CHARS = 20
# The rules on numbers, addresses and markup read text in Python, and have nothing to say of sides longer than this.
MOST_CHARS_COMPARED = 5_000
# What may stand behind the mark at the end: spaces, characters that show nothing, and the quotes and brackets of all
# languages, of which some close in one what they open in another.
_CLOSERS = (
    " \t\r\n\u00a0\u202f\u3000\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\"'“”„‘’‚«»‹›)]}*_「」『』〉》】〕）］｝｣"
)
_ENDS = ".!?…:;。．！？：；؟۔।॥։።៖។။｡\u037e؛"
_NO_TERMINAL_PUNCTUATION = {"th", "lo", "bo", "dz"}
_MAYBE_URL = r"://|www\.|@"
# Scripts that write no space, or none around what is in Latin letters: an address or placeholder ends before them.
_CJK = "\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_WORD = rf"[^\W{_CJK}]"
# The bounds and the look behind keep the time linear in the length of a line without spaces.
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]{0,30}://|www\.)(?:[^\s/@<>\"]{0,200}@)?" + rf"([^\s/?#<>()\[\]\"'«»“”‘’{_CJK}]+)",
    re.IGNORECASE,
)
_EMAIL = re.compile(rf"(?<!{_WORD})(?<![.+-])(?:{_WORD}|[.+-])+@(?:{_WORD}|-)+(?:\.(?:{_WORD}|-)+)+")
_MAYBE_MARKUP = r"<[/!A-Za-z]|&[#A-Za-z]|[{%$]"
_TAG = r"<(?P<tag>/?[A-Za-z][\w:-]*)(?:\s[^<>]*)?/?>|<!--"
_ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"
_PLACEHOLDER = (
    rf"\$?\{{[\w.:-]*\}}|(?<!{_WORD})(?<!%)%(?:\(\w+\))?(?:\d+\$)?"
    rf"(?:[sdifuxq@](?!{_WORD})|\d+(?!{_WORD}|[.,%]))"
)
_MARKUP = re.compile(f"{_TAG}|{_ENTITY}|{_PLACEHOLDER}")


def tgt_too_much_longer(src: TextBatch, tgt: TextBatch, extra_chars: int) -> Bools:
    """The target has as many characters as the source plus `extra_chars`, or more. Source: the original recipe."""
    objects: Bools = np.less_equal(src.n_chars + extra_chars, tgt.n_chars)
    return objects


def word_counts_differ(src: TextBatch, tgt: TextBatch, limit: int) -> Bools:
    """One side has more than `limit` word-level tokens more. Source: as `word_ratio_too_high`, as a difference."""
    objects: Bools = np.greater(np.abs(src.n_words - tgt.n_words), limit)
    return objects


def char_counts_differ(src: TextBatch, tgt: TextBatch, limit: int) -> Bools:
    """One side has more than `limit` characters more. Source: as `char_ratio_too_high`, as a difference."""
    objects: Bools = np.greater(np.abs(src.n_chars - tgt.n_chars), limit)
    return objects


def word_ratio_too_high(src: TextBatch, tgt: TextBatch, limit: float) -> Bools:
    """One side has more than `limit` times the other's word-level tokens; not judged in scripts without spaces.

    Source: Moses (9), OpusFilter LengthRatioFilter (3), Eole src_tgt_ratio (2), OpusCleaner src_trg_ratio (1 / 0.6).
    """
    return excess(*comparable_words(src, tgt), FREE_WORDS) > limit


def char_ratio_too_high(src: TextBatch, tgt: TextBatch, limit: float) -> Bools:
    """One side has more than `limit` times the other's characters; wide ones (Han, kana, Hangul) count twice.

    Source: OpusFilter LengthRatioFilter with `unit: char` (3).
    """
    return excess(*comparable_chars(src, tgt), FREE_CHARS) > limit


def comparable_words(src: TextBatch, tgt: TextBatch) -> tuple[Counts, Counts]:
    """Word-level tokens of both sides, (n,) each; 1 and 1 where a side has a script without spaces."""
    unspaced = (src.count(src.is_of(UNSPACED)) > 0) | (tgt.count(tgt.is_of(UNSPACED)) > 0)
    return np.where(unspaced, 1, src.n_words), np.where(unspaced, 1, tgt.n_words)


def comparable_chars(src: TextBatch, tgt: TextBatch) -> tuple[Counts, Counts]:
    """Characters of both sides, (n,) each, wide ones counted twice."""
    src_width, tgt_width = (side.n_chars + side.count(side.is_of(WIDE)) for side in (src, tgt))
    return src_width, tgt_width


def excess(a: Counts, b: Counts, free: int) -> NDArray[np.float64]:
    """Longer over shorter (n,), an empty side counted as one; 1 where they differ by no more than `free`."""
    longer, shorter = np.maximum(a, b), np.minimum(a, b)
    return np.where(longer - shorter > free, longer / np.maximum(shorter, 1), 1.0)


def sides_are_identical(src: TextBatch, tgt: TextBatch, least_words: int) -> Bools:
    """The same text on both sides but for case, spaces and punctuation, with a letter in it, from so many words on.

    Names, numbers and other short lines are the same in both languages often enough; a copied sentence teaches a model
    to copy (Khayrallah and Koehn 2018). A word is a run of letters; in a script without spaces each letter is one.
    Source: Eole src_eq_tgt, OpusCleaner src_trg_ratio --filter-identical.
    """
    same: Bools = src.keys == tgt.keys
    if not same.any():
        return same
    is_letter = src.is_of(LETTER)
    begins = src.first_of_runs(is_letter)
    n_words = src.count(begins | (is_letter & src.is_of(UNSPACED)))
    objects: Bools = np.logical_and(same, n_words >= max(least_words, 1))
    return objects


def numbers_differ(src: TextBatch, tgt: TextBatch) -> Bools:
    """A number on one side has no counterpart on the other, and a number word cannot be the reason.

    Not judged in sides of more than MOST_CHARS_COMPARED characters.

    Source: OpusCleaner num_mismatch, OpusFilter NonZeroNumeralsFilter (0.5); `numbers_in_text` says what is folded.
    """
    rows = np.flatnonzero((src.count(src.is_of(DIGIT)) > 0) | (tgt.count(tgt.is_of(DIGIT)) > 0))
    return _where(rows, src, tgt, numbers_disagree)


def urls_differ(src: TextBatch, tgt: TextBatch, src_lang: str, tgt_lang: str) -> Bools:
    """Other hosts or e-mail addresses; paths may differ, and so may a language code in a host.

    Not judged in sides of more than MOST_CHARS_COMPARED characters.

    Source: OpusCleaner url_mismatch, which wants whole addresses to be equal and in the same order.
    """
    langs = {base_language(src_lang), base_language(tgt_lang), "www"}

    def addresses(text: str) -> Counter[str]:
        hosts = (match[1].lower().rstrip(".,;:!?…").split(".") for match in _URL.finditer(text))
        emails = (match[0].lower() for match in _EMAIL.finditer(text))
        return Counter([*(".".join(label for label in host if label not in langs) for host in hosts), *emails])

    return _where(_either_has(src, tgt, _MAYBE_URL), src, tgt, lambda s, t: addresses(s) != addresses(t))


def markup_differs(src: TextBatch, tgt: TextBatch) -> Bools:
    """Other tags, entities or placeholders ({0}, ${name}, %s, %1$s, %1); attributes and order may differ.

    Not judged in sides of more than MOST_CHARS_COMPARED characters.

    Source: OpusFilter HtmlTagFilter, which objects to any tag.
    """
    rows = _either_has(src, tgt, _MAYBE_MARKUP)
    return _where(rows, src, tgt, lambda s, t: _markup_of(s) != _markup_of(t))


def _markup_of(text: str) -> Counter[str]:
    return Counter(match["tag"] or match[0] for match in _MARKUP.finditer(text))


def only_one_side_ends(src: TextBatch, tgt: TextBatch, src_lang: str, tgt_lang: str) -> Bools:
    """One side ends with terminal punctuation, a colon or a semicolon, and the other does not.

    Source: OpusFilter TerminalPunctuationFilter (-2), which compares how many marks there are; the last one is the one
    that a truncated side lacks. Not judged where a language does without.
    """
    if {base_language(src_lang), base_language(tgt_lang)} & _NO_TERMINAL_PUNCTUATION:
        return np.zeros(len(src), bool)
    return np.logical_xor(_has_end(src), _has_end(tgt))


def _has_end(text: TextBatch) -> Bools:
    last = pc.utf8_slice_codeunits(pc.utf8_rtrim(text.texts, characters=_CLOSERS), start=-1)
    return np.isin(last.to_numpy(zero_copy_only=False).astype(str), list(_ENDS))


def _either_has(src: TextBatch, tgt: TextBatch, pattern: str) -> Counts:
    found = pc.or_(pc.match_substring_regex(src.texts, pattern), pc.match_substring_regex(tgt.texts, pattern))
    return np.flatnonzero(found.to_numpy(zero_copy_only=False))


def _where(rows: Counts, src: TextBatch, tgt: TextBatch, objects: Callable[[str, str], bool]) -> Bools:
    flags = np.zeros(len(src), bool)
    for row in rows[np.maximum(src.n_chars, tgt.n_chars)[rows] <= MOST_CHARS_COMPARED]:
        flags[row] = objects(src.texts[int(row)].as_py(), tgt.texts[int(row)].as_py())
    return flags
