"""What the commands share that read lines and write a line for each: warnings, progress, output block by block."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from accel_tx.cli.outputs import ClosedOutput
from accel_tx.config import UserError
from accel_tx.inference.lines import is_standard_output, write_whole
from accel_tx.inference.stream import Line, input_size, readable

_N_NAMED = 10


class Remarks:
    """Warnings about single lines on standard error: the first ten of a kind name their line, the rest are counted."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, kind: str, where: str, text: str) -> None:
        """One line that deserves a warning; `kind` is the end of "… and 7 more lines ..."."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= _N_NAMED:
            self.say(f"{where}: {text}")

    def say(self, text: str) -> None:
        """A warning at once, above a progress bar."""
        tqdm.write(f"accel_tx: {text}", file=sys.stderr)

    def sum_up(self) -> None:
        """Say how many lines have not been named."""
        for kind, count in self._counts.items():
            if count > _N_NAMED:
                self.say(f"… and {count - _N_NAMED:,} more line(s) {kind}")


class Silent(Remarks):
    """Warnings that have been given before."""

    def say(self, text: str) -> None:
        """Nothing."""


class Progress:
    """A bar on standard error: shown on a terminal, for an input of known size, where no answers go to a terminal."""

    def __init__(self, inputs: list[str], output: str) -> None:
        sizes = [input_size(name) for name in inputs]
        known = [size for size in sizes if size is not None]
        hidden = (
            not sys.stderr.isatty() or len(known) < len(sizes) or (is_standard_output(output) and sys.stdout.isatty())
        )
        self._bar = tqdm(
            total=sum(known), unit="B", unit_scale=True, disable=hidden, file=sys.stderr, dynamic_ncols=True
        )
        self._n_lines = 0

    def add(self, n_lines: int = 0, n_bytes: int = 0) -> None:
        """So much of the input is done."""
        self._n_lines += n_lines
        self._bar.set_postfix_str(f"{self._n_lines:,} lines", refresh=False)
        self._bar.update(n_bytes)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def write_blocks(name: str, blocks: Iterator[list[str]]) -> None:
    """Write lines as UTF-8: to standard output block by block as they come, else to a file that is then whole."""
    if not is_standard_output(name):
        write_whole(Path(name), (line for block in blocks for line in block))
        return
    if isinstance(sys.stdout, ClosedOutput):
        raise UserError("standard output is closed; expected somewhere to write to, such as a file with --output")
    for block in blocks:
        try:
            sys.stdout.buffer.write("".join(f"{line}\n" for line in block).encode("utf-8"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output: cannot be written ({error.strerror})") from None


def warn_of_replaced(remarks: Remarks, name: str, line: Line) -> None:
    """Name a line that held what is no text."""
    if line.n_replaced:
        text = f"{line.n_replaced} byte(s) that are not UTF-8, or NUL, replaced by U+FFFD; convert the text"
        remarks.add("with bytes replaced", f"{readable(name)}: line {line.number}", text)
