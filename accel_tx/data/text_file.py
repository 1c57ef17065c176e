"""The lines of a text file, plain or gzip: UTF-8 or a UserError that names the line."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

from accel_tx.config import UserError

LONGEST_LINE_BYTES = 1 << 26
"""Far beyond any sentence; a file that is one line, such as a JSON array, is refused before it fills the memory."""
_BYTES_PER_READ = 1 << 20
_LONGEST_REASON_CHARS = 300


@contextmanager
def lines_of(path: Path, keep_cr: bool = False) -> Iterator[Iterator[str]]:
    """The lines of a file, which is closed on leaving, also where an error cuts the reading short."""
    with closing(_line_blocks(path, keep_cr)) as blocks:
        yield chain.from_iterable(blocks)


def _line_blocks(path: Path, keep_cr: bool) -> Generator[list[str], None, None]:
    """The lines of a UTF-8 file, plain or gzip, about a megabyte at a time.

    Only \\n and \\r\\n end a line: str.splitlines and text mode would also cut at U+2028, \\x85 or a lone \\r.
    """
    n_lines = 0
    with _open(path) as file:
        while data := _read_block(file, path, n_lines):
            if n_lines == 0:
                data = data.removeprefix(codecs.BOM_UTF8)
            if (at := data.find(b"\0")) >= 0:
                line = n_lines + data.count(b"\n", 0, at) + 1
                raise UserError(
                    f"{path}, line {line}: holds a NUL byte; expected UTF-8 text: "
                    "convert the file if it is UTF-16 (iconv -f utf-16 -t utf-8), else take the byte out"
                )
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError as error:
                line = n_lines + data.count(b"\n", 0, error.start) + 1
                raise UserError(
                    f"{path}, line {line}: byte 0x{data[error.start]:02x} is not valid UTF-8; "
                    "expected UTF-8 text, convert the file (iconv -t utf-8)"
                ) from None
            lines = (text if keep_cr else text.replace("\r\n", "\n")).split("\n")
            if not lines[-1]:
                lines.pop()
            n_lines += len(lines)
            yield lines


def _open(path: Path) -> io.BufferedIOBase:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a readable file") from None


def _read_block(file: io.BufferedIOBase, path: Path, n_lines: int) -> bytes:
    try:
        data, rest = file.read(_BYTES_PER_READ), file.readline(LONGEST_LINE_BYTES)
        if len(rest) == LONGEST_LINE_BYTES:
            line = n_lines + data.count(b"\n") + 1
            raise UserError(
                f"{path}, line {line}: is longer than {LONGEST_LINE_BYTES >> 20} MiB; expected one pair a line"
            )
        return data + rest
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: damaged .gz file somewhere after line {n_lines} ({one_line(error)}); "
            "expected whole gzip data, fetch or pack it again"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a readable file") from None


def one_line(error: BaseException | str) -> str:
    """An exception's own message, or what was found, shortened to fit into one line of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON_CHARS else text[: _LONGEST_REASON_CHARS - 1] + "…"
