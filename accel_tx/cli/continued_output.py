"""An output file that a later command goes on with: written in place, behind the lines that are whole."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from accel_tx.config import UserError
from accel_tx.inference.lines import is_stream
from accel_tx.inference.stream import Block, Line, readable

_TAKEN = {errno.EACCES, errno.EAGAIN}
_BYTES_PER_READ = 1 << 20
_N_CHECKED = 8


class ContinuedOutput:
    """A file that has `n_lines` whole lines, and grows."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self.n_lines, end = _whole_lines(file)
        self.has_rest = end < os.fstat(file.fileno()).st_size
        """Whether a part of a line stands behind them, which the first `append` takes away."""
        self._end = end

    def check(self, now: list[str], text_of: Callable[[str], str | None]) -> None:
        """Raise UserError if most of the first lines are not `now`, which belongs there, by the text in them."""
        self._file.seek(0)
        there = [self._file.readline().decode("utf-8", "replace").removesuffix("\n") for _ in now]
        pairs = [(text_of(line), text_of(line_now)) for line, line_now in zip(there, now, strict=True)]
        differing = [i for i, pair in enumerate(pairs) if pair[0] != pair[1]]
        # In another batch, or with other threads, a model rounds otherwise, so a few may differ.
        if 2 * len(differing) > len(now):
            i = differing[0]
            raise UserError(
                f"{self.path}: {len(differing)} of its first {len(now)} lines are not what this command writes (line "
                f"{i + 1} is {there[i]!r}, expected {now[i]!r}); give the input, model and settings that began it, or "
                "another --output"
            )

    def append(self, lines: list[str]) -> None:
        """Write lines behind the others. Raises: UserError if they cannot be written."""
        try:
            if self.has_rest:
                self._file.truncate(self._end)
                self.has_rest = False
            self._file.seek(0, os.SEEK_END)
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None


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
    try:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        _lock(path, file)
        yield ContinuedOutput(path, file)


def blocks_left(
    blocks: Iterator[Block], output: ContinuedOutput, name: str, check: Callable[[list[Line]], None]
) -> Iterator[tuple[Block, int]]:
    """The blocks of the input `name` whose lines are not all done; and how many of each are.

    So blocks are those of a command that nobody stopped. `check` gets the first lines, where they are done.
    Raises: UserError if the input ends before the lines that are done.
    """
    n_read = 0
    for block in blocks:
        n_done = min(max(0, output.n_lines - n_read), len(block.lines))
        if n_read == 0 and n_done:
            check(block.lines[: min(n_done, _N_CHECKED)])
        n_read += len(block.lines)
        if n_done < len(block.lines):
            yield block, n_done
    n_begun = output.n_lines + output.has_rest
    if n_read < n_begun:
        raise UserError(
            f"{output.path}: has {n_begun:,} lines and {readable(name)} only {n_read:,}; expected the output of the "
            "same input, or another --output"
        )


def _lock(path: Path, file: BinaryIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise UserError(f"{path}: another command is writing it; wait for it, or give another --output") from None
        # A file system without locks: it is written all the same.


def _whole_lines(file: BinaryIO) -> tuple[int, int]:
    """Lines with their ends, and where the last of them ends."""
    n_lines, n_bytes, end = 0, 0, 0
    file.seek(0)
    while data := file.read(_BYTES_PER_READ):
        n_lines += data.count(b"\n")
        if (last := data.rfind(b"\n")) >= 0:
            end = n_bytes + last + 1
        n_bytes += len(data)
    return n_lines, end
