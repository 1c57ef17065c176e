"""All rules that judge a pair by itself, in the order of their fields in `CleanConfig`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from accel_tx.data import rules_pair as pair
from accel_tx.data import rules_text as one
from accel_tx.data.characters import Bools, TextBatch
from accel_tx.data.language import is_in_other_language, scripts_of
from accel_tx.data.repair import looks_like_mojibake

EMPTY_SIDE = "empty side"


@dataclass(frozen=True)
class PairBatch:
    """Texts (n,) of both sides, and the languages that they should be in."""

    src: TextBatch
    tgt: TextBatch
    src_lang: str
    tgt_lang: str

    @classmethod
    def from_arrow(cls, src: pa.Array, tgt: pa.Array, src_lang: str, tgt_lang: str) -> PairBatch:
        """Wrap two Arrow string arrays of the same length."""
        return cls(TextBatch(src), TextBatch(tgt), src_lang, tgt_lang)


@dataclass(frozen=True)
class Rule:
    """One reason to drop a pair."""

    meaning: str
    """What a kept pair is like; {} stands for the threshold, {src} and {tgt} for the languages."""
    objects: Callable[[PairBatch, Any], Bools]
    """Whether it objects to each pair (n,), given the threshold."""


def _either(objects: Callable[[TextBatch, Any], Bools]) -> Callable[[PairBatch, Any], Bools]:
    return lambda pairs, limit: objects(pairs.src, limit) | objects(pairs.tgt, limit)


def _both(objects: Callable[[TextBatch, TextBatch, Any], Bools]) -> Callable[[PairBatch, Any], Bools]:
    return lambda pairs, limit: objects(pairs.src, pairs.tgt, limit)


def _in_its_language(objects: Callable[[TextBatch, Any, str], Bools]) -> Callable[[PairBatch, Any], Bools]:
    return lambda pairs, limit: objects(pairs.src, limit, pairs.src_lang) | objects(pairs.tgt, limit, pairs.tgt_lang)


RULES: dict[str, Rule] = {
    EMPTY_SIDE: Rule("text on both sides", lambda p, _: one.is_empty(p.src) | one.is_empty(p.tgt)),
    "mojibake": Rule(
        "no wrongly decoded text that ftfy could not mend",
        lambda p, _: looks_like_mojibake(p.src.texts) | looks_like_mojibake(p.tgt.texts),
    ),
    # The originals' limits are open on both ends: "fewer than", "more than".
    "max_src_words": Rule("source under {:,} words", lambda p, n: one.has_too_many_words(p.src, n - 1)),
    "max_tgt_extra_chars": Rule("target under {:,} characters longer than source", _both(pair.tgt_too_much_longer)),
    "min_src_chars": Rule("source over {:,} characters", lambda p, n: one.has_too_few_chars(p.src, n + 1)),
    "min_tgt_chars": Rule("target over {:,} characters", lambda p, n: one.has_too_few_chars(p.tgt, n + 1)),
    "min_words": Rule("at least {:,} words a side", _either(one.has_too_few_words)),
    "max_words": Rule("at most {:,} words a side", _either(one.has_too_many_words)),
    "min_chars": Rule("at least {:,} characters a side", _either(one.has_too_few_chars)),
    "max_chars": Rule("at most {:,} characters a side", _either(one.has_too_many_chars)),
    "max_word_difference": Rule("sides at most {:,} words apart", _both(pair.word_counts_differ)),
    "max_char_difference": Rule("sides at most {:,} characters apart", _both(pair.char_counts_differ)),
    "max_word_ratio": Rule("at most {:g} times the other side's words", _both(pair.word_ratio_too_high)),
    "max_char_ratio": Rule("at most {:g} times the other side's characters", _both(pair.char_ratio_too_high)),
    "max_word_chars": Rule("at most {:,} characters without a space", _either(one.has_too_long_word)),
    "max_char_repeats": Rule("a character at most {:,} times in a row", _either(one.has_repeated_chars)),
    "max_word_repeats": Rule("words at most {:,} times in a row", _either(one.has_repeated_words)),
    "min_letter_share": Rule("letters are at least {:.0%}", _either(one.has_few_letters)),
    "min_script_share": Rule("letters at least {:.0%} {src}, {tgt}", _in_its_language(one.has_other_script)),
    "broken_characters": Rule(
        "no U+FFFD, C1 control or private use",
        lambda p, _: one.has_broken_chars(p.src) | one.has_broken_chars(p.tgt),
    ),
    "identical": Rule("sides differ, from {} words on", _both(pair.sides_are_identical)),
    "numbers": Rule("the same numbers", lambda p, _: pair.numbers_differ(p.src, p.tgt)),
    "urls": Rule(
        "the same hosts and e-mail addresses",
        lambda p, _: pair.urls_differ(p.src, p.tgt, p.src_lang, p.tgt_lang),
    ),
    "markup": Rule("the same tags, entities, placeholders", lambda p, _: pair.markup_differs(p.src, p.tgt)),
    "terminal_punctuation": Rule(
        "both sides end like a sentence, or neither",
        lambda p, _: pair.only_one_side_ends(p.src, p.tgt, p.src_lang, p.tgt_lang),
    ),
    "language": Rule("no other language likelier by {}", _in_its_language(is_in_other_language)),
}
GLOBAL_RULES: dict[str, str] = {
    "exact_duplicates": "one of equal pairs",
    "near_duplicates": "one of pairs equal but for case and punctuation",
    "overlap": "not in {names}, nor is a side of {} bytes or more",
}
REPAIRS: dict[str, tuple[str, str]] = {
    "mojibake": ("fix_mojibake", "mended: a wrong encoding undone"),
    "control_characters": ("fix_control_characters", "mended: control characters taken out"),
}
"""Rule -> name of its repair, and what was done."""


def pair_rules(thresholds: dict[str, Any]) -> dict[str, Any]:
    """Of the rules in force those that judge a pair by itself, the empty side first."""
    return {EMPTY_SIDE: True, **{name: value for name, value in thresholds.items() if name in RULES}}


def meaning_of(name: str, threshold: Any, src_lang: str, tgt_lang: str) -> str:
    """What a kept pair is like, in words, for a rule of `RULES`."""
    src, tgt = ("/".join(scripts_of(lang)) or f"any script ({lang})" for lang in (src_lang, tgt_lang))
    return RULES[name].meaning.format(threshold, src=src, tgt=tgt)


def objections(pairs: PairBatch, thresholds: dict[str, Any]) -> NDArray[np.uint32]:
    """For each pair (n,) a mask whose bit i is set where rule i of `pair_rules(thresholds)` objects."""
    bits = np.zeros(len(pairs.src), np.uint32)
    for i, (name, threshold) in enumerate(pair_rules(thresholds).items()):
        bits |= RULES[name].objects(pairs, threshold).astype(np.uint32) << np.uint32(i)
    return bits
