"""An output file that a later command goes on with: written in place, behind the lines that are whole."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path

from accel_tx.config import UserError
from accel_tx.inference.lines import is_stream
from accel_tx.inference.stream import Block, Line, readable

_TAKEN = {errno.EACCES, errno.EAGAIN}
_BYTES_PER_READ = 1 << 20
_N_CHECKED = 8
_LONGEST_SHOWN_CHARS = 200


class ContinuedOutput:
    """A file that has `n_lines` whole lines, and grows."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path, self._file = path, file
        self.n_lines, self._end = _whole_lines(file)
        self.has_rest = self._end < os.fstat(file.fileno()).st_size
        """Whether a part of a line stands behind them, which the first `append` takes away."""

    @property
    def told(self) -> str | None:
        """What there is to say of it; None of an empty file."""
        rest = " and a part of one, which is written anew" if self.has_rest else ""
        return f"{self.path} has {self.n_lines:,} line(s){rest}; going on behind them" if self._end or rest else None

    def check(self, now: Mapping[int, str], content_of: Callable[[str], object]) -> None:
        """Raise UserError if most of these lines, by their numbers from 1, are not there, by `content_of` them."""
        with self.path.open("rb") as file:
            lines = enumerate(islice(file, max(now, default=0)), 1)
            there = {
                number: line.decode("utf-8", "replace").removesuffix("\n") for number, line in lines if number in now
            }
        differing = [number for number, line in there.items() if content_of(line) != content_of(now[number])]
        # In another batch, or with other threads, a model rounds otherwise, so a few may differ.
        if 2 * len(differing) > len(now):
            number = differing[0]
            raise self._refusal(
                f"{len(differing)} of {len(now)} lines that were looked at are not what this command writes (line "
                f"{number:,} is {_shown(there[number])}, expected {_shown(now[number])})"
            )

    def append(self, lines: list[str]) -> None:
        """Write lines behind the others. Raises: UserError if they cannot be written, or do not belong there."""
        data = memoryview("".join(f"{line}\n" for line in lines).encode())
        try:
            if self.has_rest:
                self._take_rest_away(data)
            self._file.seek(0, os.SEEK_END)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _take_rest_away(self, coming: memoryview) -> None:
        if self._end == 0:  # nothing else has shown whose file it is
            self._file.seek(0)
            rest = self._file.read(len(coming) + 1)
            if coming[: len(rest)] != rest:
                raise self._refusal("does not begin with what this command writes")
        self._file.truncate(self._end)
        self.has_rest = False

    def _refusal(self, what: str) -> UserError:
        remedy = "give the input, model and settings that began it, or another --output"
        return UserError(f"{self.path}: {what}; {remedy}")


def _shown(line: str) -> str:
    return repr(line if len(line) <= _LONGEST_SHOWN_CHARS else f"{line[:_LONGEST_SHOWN_CHARS]}…")


def check_is_file(name: str) -> None:
    """Raise UserError for an output that nothing can be read back from."""
    if is_stream(Path(name)):
        raise UserError(f"--resume: --output {name} keeps no lines; expected a file")


@contextmanager
def opened_to_go_on(name: str) -> Iterator[ContinuedOutput]:
    """The file, made where there is none; no other command writes it meanwhile.

    Raises: UserError if it cannot be opened, or another command holds it.
    """
    path = Path(name)
    is_new = not path.exists()
    try:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        _lock(path, file)
        try:
            yield ContinuedOutput(path, file)
        except BaseException:
            if is_new and os.fstat(file.fileno()).st_size == 0:
                path.unlink()
            raise


def blocks_left(
    blocks: Iterator[Block],
    output: ContinuedOutput,
    name: str,
    check: Callable[[list[Line]], None],
    pass_over: Callable[[Block], None],
) -> Iterator[tuple[Block, int]]:
    """The blocks of the input `name` whose lines are not all done; and how many of each are.

    So blocks are those of a command that nobody stopped. `check` gets some of the first lines that are done,
    `pass_over` each block that is.
    Raises: UserError if the input ends before the lines that are done.
    """
    n_read = 0
    for block in blocks:
        n_done = min(max(0, output.n_lines - n_read), len(block.lines))
        if n_read == 0 and n_done:
            check([line for line in block.lines[:n_done] if line.text.strip()][:_N_CHECKED])
        n_read += len(block.lines)
        if n_done < len(block.lines):
            yield block, n_done
        else:
            pass_over(block)
    n_begun = output.n_lines + output.has_rest
    if n_read < n_begun:
        raise UserError(
            f"{output.path}: has {n_begun:,} lines and {readable(name)} only {n_read:,}; expected the output of the "
            "same input, or another --output"
        )


def _lock(path: Path, file: FileIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise UserError(f"{path}: another command is writing it; wait for it, or give another --output") from None
        # A file system without locks: it is written all the same.


def _whole_lines(file: FileIO) -> tuple[int, int]:
    """Lines with their ends, and where the last of them ends."""
    n_lines, n_bytes, end = 0, 0, 0
    file.seek(0)
    while data := file.read(_BYTES_PER_READ):
        n_lines += data.count(b"\n")
        if (last := data.rfind(b"\n")) >= 0:
            end = n_bytes + last + 1
        n_bytes += len(data)
    return n_lines, end
