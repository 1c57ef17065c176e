"""Lines as they arrive: blocks of a bounded size after a bounded wait, and what is no text replaced and counted."""

from __future__ import annotations

import codecs
import os
import re
import select
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from accel_tx.config import UserError
from accel_tx.inference.lines import refuse_what_is_no_text, standard_input

LINES_PER_BLOCK = 1_000
PAUSE_S = 0.05
"""A block goes when no line has come for so long."""
LONGEST_WAIT_S = 0.5
"""A block goes when its first line has waited for so long, even if others keep coming."""
_BYTES_PER_BLOCK = 1 << 20
_BYTES_PER_READ = 1 << 16
# Far beyond any text that has lines; what has none is refused before it fills the memory.
_LONGEST_LINE_BYTES = 1 << 26
# NUL is no text either: the programs behind a pipe end at it, or take the output for binary.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Line:
    """One line of the input."""

    number: int
    """Its place in the input, from 1."""
    text: str
    """Without its end: a line feed, perhaps behind a carriage return."""
    n_replaced: int = 0
    """Characters U+FFFD in the text that stand for bytes that are no UTF-8, or for NUL."""


@dataclass(frozen=True)
class Block:
    """Lines to work on together."""

    lines: list[Line]
    n_bytes: int
    """Length in the input."""


def input_size(name: str) -> int | None:
    """Bytes of a file, or of one that standard input comes from; None for a pipe or a terminal."""
    try:
        found = os.fstat(standard_input().fileno()) if name == "-" else os.stat(name)
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def read_blocks(name: str, n_lines: int = LINES_PER_BLOCK) -> Iterator[Block]:
    """The lines of a file, `-` being standard input, in blocks of at most `n_lines`; a terminal's one by one.

    A block that is not full goes after `PAUSE_S` without a new line and no later than `LONGEST_WAIT_S` after its first,
    and at about a megabyte, so neither delay nor memory depends on the input.
    Raises: UserError for a file that cannot be read, and for a line of more than 64 MiB.
    """
    with ExitStack() as stack:
        try:
            if name == "-":
                fd = standard_input().fileno()
            else:
                fd = stack.enter_context(open(name, "rb", buffering=0)).fileno()
            first_number = 1
            for raw in _raw_blocks(fd, 1 if os.isatty(fd) else n_lines):
                if first_number == 1:
                    refuse_what_is_no_text(raw[0], readable(name))
                    raw[0] = raw[0].removeprefix(codecs.BOM_UTF8)
                yield Block(
                    [_decode(line, number) for number, line in enumerate(raw, first_number)], sum(map(len, raw))
                )
                first_number += len(raw)
        except _TooLongError as error:
            raise UserError(
                f"{readable(name)}: line {error.number} is longer than {_LONGEST_LINE_BYTES >> 20} MiB; "
                "expected text with line ends"
            ) from None
        except OSError as error:
            raise UserError(f"{readable(name)}: cannot be read ({error.strerror}); expected text") from None


def clean_text(text: str) -> tuple[str, int]:
    """The text with U+FFFD where it holds NUL or half a surrogate pair (JSON can); and how often."""
    return _NO_TEXT.subn(REPLACEMENT, text)


class _TooLongError(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


def _raw_blocks(fd: int, n_lines: int) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    n_bytes, n_given, began_at_s = 0, 0, 0.0
    beginning: list[bytes] = []  # of the line whose end has not come yet
    n_beginning = 0
    while True:
        wait_s = min(PAUSE_S, began_at_s + LONGEST_WAIT_S - time.monotonic()) if block else None
        if not _has_more(fd, wait_s):
            yield block
            n_given += len(block)
            block, n_bytes = [], 0
            continue
        try:
            data = os.read(fd, _BYTES_PER_READ)
        except BlockingIOError:  # another process made our input non-blocking and read what there was
            continue
        if not data:
            break
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = b"".join((*beginning, end, b"\n"))
            beginning, n_beginning = [], 0
            if not block:
                began_at_s = time.monotonic()
            block.append(line)
            n_bytes += len(line)
            if len(block) == n_lines or n_bytes >= _BYTES_PER_BLOCK:
                yield block
                n_given += len(block)
                block, n_bytes = [], 0
        beginning.append(rest)
        n_beginning += len(rest)
        if n_beginning > _LONGEST_LINE_BYTES:
            if block:
                yield block
            raise _TooLongError(n_given + len(block) + 1)
    if last := b"".join(beginning):
        block.append(last)
    if block:
        yield block


def _has_more(fd: int, wait_s: float | None) -> bool:
    # Select, not poll: it takes files, pipes and terminals alike on every Unix.
    return bool(select.select([fd], [], [], None if wait_s is None else max(0.0, wait_s))[0])


def _decode(raw: bytes, number: int) -> Line:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text, n_bad = raw.decode("utf-8"), 0
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        n_bad = text.count(REPLACEMENT) - raw.count(REPLACEMENT.encode())
    text, n_no_text = clean_text(text)
    return Line(number, text, n_bad + n_no_text)


def readable(name: str) -> str:
    """How messages call an input."""
    return "standard input" if name == "-" else name
