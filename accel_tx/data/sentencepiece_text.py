"""What SentencePiece does to a text before it is cut into pieces, as normalizers of the `tokenizers` library.

SentencePiece replaces, from left to right, the longest sequence of characters that its table knows. The library's
`Precompiled` normalizer takes the same table, but looks at whole graphemes, and then at their shortest known prefix: a
letter that the table knows loses the accent behind it. So here every character is a grapheme of its own while the table
is applied, and what the table has for sequences is left to NFC, whose compositions these are.
"""

from __future__ import annotations

import re
import struct
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, pairwise

from tokenizers import Regex, normalizers

SPACE = "▁"
# Of no text: code points that are no characters and never will be.
_APART, _HELD = "\ufdd0", "\ufdd1"
# Second characters of graphemes: marks, Thai and Lao am, joiners, half-width voice marks, skin tones, tags. Those of
# graphemes of more than 5 bytes need not be here: `Precompiled` looks at their characters one by one.
_JOINING = r"\p{M}\x{1ab0}-\x{1aff}\x{e33}\x{eb3}\x{200c}\x{200d}\x{ff9e}\x{ff9f}\x{1f3fb}-\x{1f3ff}\x{e0020}-\x{e007f}"
_PREPENDED = r"\x{600}-\x{605}\x{6dd}\x{70f}\x{890}\x{891}\x{8e2}\x{d4e}"


def table_normalizers(table: bytes) -> list[normalizers.Normalizer]:
    """What replaces characters as SentencePiece does with this table (`precompiled_charsmap`); none where it is empty.

    Raises: ValueError, ending a sentence that names the file, for a table that replaces sequences otherwise than NFC.
    """
    if not table:
        return []
    singles = dict(table_entries(table, longest=1))
    composes = _composes(singles)
    sequence = next(_sequences_of_its_own(table, singles, composes), None)
    if sequence is not None:
        raise ValueError(f"replaces {sequence!r} by a rule of its own; expected rules for single characters, or NFKC")
    # Not in front of a text: the library panics later where nothing was replaced by something there.
    apart = Regex(rf"(?!\A)(?=[{_JOINING}])|(?<=[{_PREPENDED}])|(?<=\r)(?=\n)")
    of_table = [
        normalizers.Replace(apart, _APART),
        normalizers.Precompiled(table),
        normalizers.Replace(_APART, ""),
    ]
    if not composes:
        return of_table
    held = Regex(_held_apart(singles))
    return [
        normalizers.Replace(held, _HELD),
        *of_table,
        normalizers.NFC(),
        normalizers.Replace(_HELD, ""),
    ]


def space_normalizers(removes_extra: bool, adds_prefix: bool) -> list[normalizers.Normalizer]:
    """Spaces as SentencePiece has them behind its table: single ones, none at the ends, one in front; shown as ▁."""
    steps: list[normalizers.Normalizer] = []
    if removes_extra:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        steps.append(normalizers.Replace(Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(Regex(rf"(?<![ {SPACE}])[ {SPACE}]++\z"), ""))
    if adds_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]


def table_entries(table: bytes, longest: int | None = None) -> Iterator[tuple[str, str]]:
    """What a table replaces and by what; only sequences of at most so many characters where that is given.

    The table is the size in bytes of a double-array trie of the UTF-8 of what is replaced, its 32-bit units, and what
    replaces it, each ended by a zero byte; the value of a key is where that begins.
    Source: Aoe 1989, "An Efficient Digital Search Algorithm by Using a Double-Array Structure", as Darts-clone has it.
    Raises: ValueError for bytes that are none.
    """
    try:
        (size,) = struct.unpack_from("<I", table)
        units = struct.unpack_from(f"<{size // 4}I", table, 4)
        replacements = table[4 + size :]
        ahead = [(0, b"")]
        while ahead:
            node, key = ahead.pop()
            base = node ^ _offset(units[node])
            if units[node] >> 8 & 1:
                start = units[base] & 0x7FFFFFFF
                yield key.decode(), replacements[start : replacements.index(b"\0", start)].decode()
            if longest is not None and _is_whole(key) and len(key.decode()) >= longest:
                continue
            for byte in range(1, 256):
                child = base ^ byte
                if child < len(units) and units[child] & 0x800000FF == byte:
                    ahead.append((child, key + bytes([byte])))
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"has a damaged table of characters ({error})") from None


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _is_whole(key: bytes) -> bool:
    try:
        return bool(key.decode())
    except UnicodeDecodeError:
        return False


def _composes(singles: Mapping[str, str]) -> bool:
    """Whether the table does to a character at least what NFC does, as those for NFKC do.

    It may not know of some that Unicode has had for less long.
    """
    n_kept = sum(
        singles.get(char, char) == "".join(singles.get(c, c) for c in composed) for char, composed in _changed_by_nfc()
    )
    return n_kept > 0.99 * len(_changed_by_nfc())


@cache
def _changed_by_nfc() -> list[tuple[str, str]]:
    chars = (chr(code) for code in range(0xA0, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    return [(char, unicodedata.normalize("NFC", char)) for char in chars if not unicodedata.is_normalized("NFC", char)]


def _sequences_of_its_own(table: bytes, singles: Mapping[str, str], composes: bool) -> Iterator[str]:
    """Sequences of characters that the table replaces otherwise than NFC would; looked for where these can be all.

    The tables for NFKC have 220,000 sequences, and are known to be of its compositions.
    """
    if composes and len(table) > _LARGE_TABLE:
        return
    for sequence, replacement in table_entries(table):
        if len(sequence) > 1:
            by_one = "".join(singles.get(c, c) for c in sequence)
            if not composes or unicodedata.normalize("NFC", by_one) != replacement:
                yield sequence


_LARGE_TABLE = 1 << 17


def _held_apart(singles: Mapping[str, str]) -> str:
    """A regular expression for the places over which NFC might work and SentencePiece does not.

    The table has sequences only of what a character decomposes into as far as it goes, each as it is or as a character
    that becomes it: neither an accent behind a letter that has one already, nor one that stands in unusual order.
    """
    becoming: dict[str, list[int]] = {}
    for char in {*singles, *chain.from_iterable(_decompositions())}:
        becoming.setdefault(singles.get(char, char), []).append(ord(char))
    before: dict[str, set[int]] = {}
    for parts in _decompositions():
        for first, second in pairwise(parts):
            before.setdefault(second, set()).update(becoming.get(first, []))
    # Many have the same in front of them, such as all vowels of Hangul.
    together: dict[tuple[int, ...], list[int]] = {}
    for second, firsts in before.items():
        if firsts and second in becoming:
            together.setdefault(tuple(sorted(firsts)), []).extend(becoming[second])
    known = sorted(chain.from_iterable(together.values()))
    beginning = [ord(char) for char, text in singles.items() if text and (text[0] in before or _is_mark(text[0]))]
    others = rf"\p{{M}}{_ranges(sorted({*known, *beginning}))}"
    rules = [f"(?<![{_ranges(list(firsts))}])(?=[{_ranges(sorted(own))}])" for firsts, own in together.items()]
    return rf"(?!\A)(?=[{others}])(?:(?![{_ranges(known)}])|{'|'.join(rules)})"


def _is_mark(char: str) -> bool:
    return unicodedata.combining(char) > 0


@cache
def _decompositions() -> list[str]:
    """What NFC composes, decomposed as far as it goes."""
    found = []
    for char in map(chr, chain(range(0xA0, 0xD800), range(0xE000, 0x20000))):
        parts = unicodedata.normalize("NFD", char)
        if len(parts) > 1 and unicodedata.is_normalized("NFC", char):
            found.append(parts)
    return found


def _ranges(codes: list[int]) -> str:
    """Members of a character class, in order."""
    first = last = codes[0]
    parts = []
    for code in [*codes[1:], -1]:
        if code == last + 1:
            last = code
            continue
        parts.append(rf"\x{{{first:x}}}" if first == last else rf"\x{{{first:x}}}-\x{{{last:x}}}")
        first = last = code
    return "".join(parts)


def cut_inside(names: Iterable[str], pieces: Iterable[str]) -> str:
    """A regular expression for the characters behind which texts that spell the names of tokens are to be cut.

    Where a vocabulary has the name of a token among its pieces, such as `<pad>`, the text would become that token. No
    piece spans the cut, if there is such a place, so all other pieces are found as they were.
    """
    n_with = Counter(first + second for piece in pieces for first, second in pairwise(piece))
    return "|".join(dict.fromkeys(_cut(name, n_with) for name in names))


def _cut(name: str, n_with: Mapping[str, int]) -> str:
    at = min(range(1, len(name)), key=lambda place: (n_with.get(name[place - 1 : place + 1], 0), place))
    before, char, behind = (re.escape(part) for part in (name[: at - 1], name[at - 1], name[at:]))
    return f"{f'(?<={before})' if before else ''}{char}(?={behind})"
