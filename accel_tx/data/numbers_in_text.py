"""Numbers of two texts compared, whatever their separators, and with number words allowed for."""

from __future__ import annotations

import re
import unicodedata

# Groups of three digits behind one of the separators of thousands; then, perhaps, decimals.
_THOUSANDS = r"[.,'’\u00a0\u202f\u2009 ]"
_CHAIN = r"\d+(?:[.]\d+){2,}"  # a date, a version, an address: one number a part
_NUMBER = re.compile(rf"\d{{1,3}}(?:{_THOUSANDS}\d{{3}}(?!\d))+(?:[.,]\d+)?|(?P<chain>{_CHAIN})|\d+(?:[.,]\d+)?")
_GROUPED = re.compile(rf"\d{{1,3}}(?:{_THOUSANDS}\d{{3}})+")
_SHORTEST_WITHOUT_WORD = 3
# Among so many numbers that only one side has each is compared with each of the other side; with more they disagree.
_MOST_LEFT = 50


def numbers_disagree(src: str, tgt: str) -> bool:
    """Whether a number on either side has no counterpart on the other.

    The same: 1,234.50 and 1 234,5; 05 and 5; digits of any script; 3 and 15 (hours of the day); 98 and 1998; 1.5 and
    1,500,000 (as 1.5 million); the same digits in the same order, however they are grouped. A number that only one side
    has is let pass where it has up to two digits but for zeros at its end: it may stand there as a word. Texts
    with more than 50 numbers on each side that the other lacks disagree.
    """
    src, tgt = _with_ascii_digits(src), _with_ascii_digits(tgt)
    if _digits(src) == _digits(tgt):
        return False
    src_numbers, tgt_numbers = _numbers(src), _numbers(tgt)
    src_left, tgt_left = src_numbers - tgt_numbers, tgt_numbers - src_numbers
    if min(len(src_left), len(tgt_left)) > _MOST_LEFT:
        return True
    for a in sorted(src_left):
        b = next((b for b in sorted(tgt_left) if _may_be_the_same(a, b)), None)
        if b is not None:
            src_left.remove(a)
            tgt_left.remove(b)
    if src_left and tgt_left:
        return True
    return any(len(number.rstrip("0")) >= _SHORTEST_WITHOUT_WORD for number in src_left | tgt_left)


def _with_ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() and c > "9" else c for c in text)


def _digits(text: str) -> str:
    return "".join(re.findall("[0-9]+", text))


def _numbers(text: str) -> set[str]:
    numbers: set[str] = set()
    for match in _NUMBER.finditer(text):
        numbers.update(map(_normal, match[0].split(".") if match["chain"] else [match[0]]))
    return numbers


def _normal(number: str) -> str:
    """Digits only, without zeros that lead, and without those that end the decimals."""
    grouped = _GROUPED.match(number)
    end = grouped.end() if grouped else len(re.match(r"\d+", number)[0])  # type: ignore[index]
    whole, decimals = number[:end], number[end:].rstrip("0")
    return (_digits(whole) + _digits(decimals)).lstrip("0") or "0"


def _may_be_the_same(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=lambda number: (len(number), number))
    if long.startswith(short) and len(long) - len(short) >= 2 and not long[len(short) :].strip("0"):
        return True
    if len(long) == 4 and len(short) <= 2 and long[:2] in ("17", "18", "19", "20") and long.endswith(short.zfill(2)):
        return True
    return len(long) <= 2 and 13 <= int(long) <= 23 and int(long) - int(short) == 12
