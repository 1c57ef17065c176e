"""Splitting text that is too long for the model: at sentence ends, else where a pause is nearest to the middle."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

# A full stop behind one of these, in English, French and German, ends no sentence.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr rev gen col capt lt sgt hon messrs vs etc cf eg ie approx dept inc ltd corp "
    "jan feb apr jun jul aug sept oct nov dec mm mme mmes mlle mlles mgr env av bd tél éd "
    "hr bzw usw vgl ggf evtl inkl".split()
)
# The same before a number.
_BEFORE_NUMBERS = frozenset("no nos nr fig figs p pp vol ch chap sec art ed bd s".split())
_LONGEST_ABBREVIATION = 24  # characters looked at, quotes before it included
_MARKS = ".!?…؟۔।॥"
_WIDE_MARKS = "。！？｡"  # of scripts that write no space between sentences
_CLOSING = "\"'”’»›)\\]}"
_OPENING = "\"'“‘«‹([{¿¡—–-"
# Marks, perhaps closing quotes (in French behind a space), then space: the text before and behind it decides. No
# character can be matched in two ways and a run of marks is tried from its start alone, so that the time is linear.
_SENTENCE_END = re.compile(
    rf"(?:(?<![{_MARKS}])[{_MARKS}]+(?:\s[»›]|[{_CLOSING}])*\s+|[{_WIDE_MARKS}]+[{_CLOSING}」』]*\s*)"
)
_PAUSE = re.compile(r"[,;:،、，；：]\s*|\s[—–-]\s+")
_SPACE = re.compile(r"\s+")
_JOINER = "\u200d"


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them.

    A rule of thumb: a full stop ends no sentence behind an initial or a known abbreviation, nor before a small letter.
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        before = text[max(start, end.start() - _LONGEST_ABBREVIATION) : end.start()]
        if end.end() < len(text) and _ends_sentence(before, end.group(), text[end.end() : end.end() + 8]):
            found.append(text[start : end.end()].strip())
            start = end.end()
    return [part for part in (*found, text[start:].strip()) if part]


def split_to_fit(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in parts that fit, in order: whole if it fits, else its sentences, and their pieces where one does not.

    A sentence is cut in two, and again until it fits: at a comma or the like in the middle half, else at the space
    nearest to the middle, else (no spaces) between characters. A single character is given as it is.
    """
    text = text.strip()
    if fits(text):
        return [text]
    return [piece for sentence in sentences(text) for piece in _halves(sentence, fits)]


def _ends_sentence(before: str, mark: str, behind: str) -> bool:
    following = behind.lstrip(_OPENING + " \u00a0\u202f")[:1]
    if following.islower():
        return False
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    words = before.split()
    word = words[-1].lstrip(_OPENING) if words else ""
    # "J. Smith", but "So am I. He"; "1. Open the file"
    if (len(word) == 1 and word.isalpha() and word != "I") or before.strip().isdigit():
        return False
    name = word.replace(".", "").lower()  # "e.g"
    return name not in _ABBREVIATIONS and not (name in _BEFORE_NUMBERS and following.isdigit())


def _halves(text: str, fits: Callable[[str], bool]) -> Iterator[str]:
    waiting = [text]
    while waiting:
        part = waiting.pop()
        if len(part) < 2 or fits(part):
            yield part
            continue
        at = _cut(part)
        waiting += [half for half in (part[at:].strip(), part[:at].strip()) if half]


def _cut(text: str) -> int:
    """Where to cut a text of two or more characters; both sides are shorter than it."""
    middle = len(text) // 2
    pauses = (end.end() for end in _PAUSE.finditer(text))
    in_middle_half = [at for at in pauses if len(text) <= 4 * at <= 3 * len(text)]
    spaces = in_middle_half or [space.end() for space in _SPACE.finditer(text)]
    if spaces:
        return min(spaces, key=lambda at: abs(at - middle))
    return next((at for at in range(middle, len(text)) if not _belongs_together(text, at)), middle)


def _belongs_together(text: str, at: int) -> bool:
    # An accent belongs to the letter before it; so do the parts of an emoji.
    return bool(
        unicodedata.combining(text[at])
        or "\ufe00" <= text[at] <= "\ufe0f"
        or "\U0001f3fb" <= text[at] <= "\U0001f3ff"
        or _JOINER in text[at - 1 : at + 1]
    )
