"""Lines of text in and out: strict about encodings, never half a file."""

from __future__ import annotations

import codecs
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from accel_tx.config import UserError

_STANDARD = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2} | {
    f"{folder}/{number}": number for folder in ("/dev/fd", "/proc/self/fd") for number in (1, 2)
}


def read_lines(name: str) -> Iterator[str]:
    """The lines of a file, `-` being standard input, without their ends and without a byte order mark.

    Raises: UserError for a file that cannot be read or a line that is not UTF-8.
    """
    if name == "-":
        yield from _decode(standard_input(), "standard input")
        return
    try:
        with open(name, "rb") as file:
            yield from _decode(file, name)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); expected one sentence a line") from None


def write_whole(path: Path, lines: Iterator[str]) -> None:
    """Write a file beside and rename it, so that a failure half-way leaves an older one as it was; its mode stays.

    Raises: UserError if it cannot be written; BrokenPipeError if it is standard output and its reader went away.
    """
    write_bytes_whole(path, (f"{line}\n".encode() for line in lines))


def write_bytes_whole(path: Path, parts: Iterable[bytes]) -> None:
    """The same for content that is no text, in parts. An OSError in making them stays what it is."""
    try:
        with _open_beside(path) as (file, target):
            file.writelines(_marked(parts))
            file.close()
            if target is not None:
                Path(file.name).replace(target)
    except _NotOfWritingError as error:
        raise error.cause from None


def check_can_write(path: Path) -> None:
    """Raise the UserError of `write_whole` now, before the work on what is to be written."""
    # A reader of a pipe would take the opening for the whole.
    if not is_stream(path):
        with _open_beside(path):
            pass


def is_standard_output(name: str | None) -> bool:
    """Whether an output of this name goes where the program prints."""
    return _STANDARD.get(name or "") == 1


def is_stream(path: Path) -> bool:
    """Whether what is written there replaces nothing: a device such as /dev/null or /dev/stdout (`-`), or a pipe."""
    is_other = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    return is_other or str(path) in _STANDARD


class _NotOfWritingError(Exception):
    def __init__(self, cause: OSError) -> None:
        self.cause = cause


def _marked(parts: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from parts
    except OSError as error:
        raise _NotOfWritingError(error) from None


@contextmanager
def _open_beside(path: Path) -> Iterator[tuple[BinaryIO, Path | None]]:
    """A file to write, which is gone afterwards unless it was renamed to the place that is given with it.

    A device or a pipe, such as /dev/null, is written to and not replaced: None.
    """
    try:
        if is_stream(path):
            # Standard output may be a file: opened by its name, it would be written from its start once more.
            number = _STANDARD.get(str(path))
            with open(path if number is None else os.dup(number), "wb") as file:
                yield file, None
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():  # nothing that is resolved is one otherwise
            raise UserError(f"{path}: cannot be written (a symbolic link that leads back to itself)")
        if target.is_dir() or not target.name:
            raise UserError(f"{path}: is a folder; expected a file to write")
        with _new_file_beside(target) as file:
            yield file, target
    except OSError as error:
        if isinstance(error, BrokenPipeError) and is_standard_output(str(path)):
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def _new_file_beside(target: Path) -> Iterator[BinaryIO]:
    # A name of its own: another program may be writing the same file, and no file of the user's is in the way.
    beside = target.with_name(f".accel_tx_{secrets.token_hex(8)}.new")
    try:
        with beside.open("xb") as file:
            if target.exists():
                shutil.copymode(target, beside)
            yield file
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _decode(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if number == 1:
            refuse_what_is_no_text(line, name)
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: line {number} is not valid UTF-8 ({error.reason}); convert the file") from None


def standard_input() -> BinaryIO:
    """Raises: UserError if it was closed."""
    if sys.stdin is None:
        raise UserError("standard input is closed; expected text, or the name of a file")
    return sys.stdin.buffer


def refuse_what_is_no_text(beginning: bytes, name: str) -> None:
    """Raise UserError for the first bytes of a compressed file or of UTF-16: every line would come out damaged."""
    if beginning.startswith(b"\x1f\x8b\x08"):
        raise UserError(f"{name}: is compressed; expected text: unpack it (gunzip)")
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in beginning:
        raise UserError(f"{name}: is UTF-16; expected UTF-8 text: convert the file (iconv -f utf-16 -t utf-8)")
