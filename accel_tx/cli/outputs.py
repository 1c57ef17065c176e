"""What a command is about to write: possible, not what it reads, and nothing twice; told before any work."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from glob import glob
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from accel_tx.config import UserError
from accel_tx.inference.lines import check_can_write, is_standard_output, is_stream

_OF_RUN = (
    *("config.yaml", "clean_report.json", "init_from.json", "trackers.json"),
    *("metrics.jsonl", "starts.jsonl", "bad_updates.jsonl"),
)
_OF_WEIGHTS = (
    *("model.safetensors", "ema.safetensors", "scores.json", "trainer_state.json", "manifest.json"),
    *("optimizer.bin", "scheduler.bin", "scaler.pt"),
)
_T = TypeVar("_T")
Inputs = Mapping[str, str | Path | Iterable[str | Path] | None]
"""What each option names: None where it is not given, `-` for standard input."""


class ClosedOutput(io.TextIOWrapper):
    """In the place of a standard stream that was closed by whoever started us: what is printed goes nowhere."""

    def __init__(self) -> None:
        super().__init__(io.BufferedWriter(io.FileIO(os.devnull, "w")), encoding="utf-8")


class OutputError(OSError):
    """Standard output cannot be written, as on a full disk."""


class _StandardOutput:
    """A stream whose failures can be told from those of any other file: OutputError, but for a reader that left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Of the stream."""
        return self._told(lambda: self._stream.write(text))

    def flush(self) -> None:
        """Of the stream."""
        self._told(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        """The rest of it."""
        return getattr(self._stream, name)

    @staticmethod
    def _told(do: Callable[[], _T]) -> _T:
        try:
            return do()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


class _StandardError:
    """A stream that nobody has to read: what cannot be written there is lost, and nothing else with it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.has_failed = False

    def write(self, text: str) -> int:
        """Of the stream."""
        try:
            return self._stream.write(text)
        except OSError:
            self.has_failed = True
            return len(text)

    def flush(self) -> None:
        """Of the stream."""
        try:
            self._stream.flush()
        except OSError:
            self.has_failed = True

    def __getattr__(self, name: str) -> Any:
        """The rest of it."""
        return getattr(self._stream, name)


@contextmanager
def remarks_may_be_lost() -> Iterator[None]:
    """Inside, work and its exit status are the same where standard error cannot be written, as after `2>&1 | head`."""
    stream = _StandardError(sys.stderr)
    try:
        with redirect_stderr(cast("TextIO", stream)):
            yield
    finally:
        if stream.has_failed:  # what waits there goes nowhere: Python would flush it at exit, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def own_failures() -> AbstractContextManager[object]:
    """Inside, printing raises OutputError where standard output cannot be written."""
    if isinstance(sys.stdout, ClosedOutput):
        return nullcontext()
    return redirect_stdout(cast("TextIO", _StandardOutput(sys.stdout)))


def check_outputs(outputs: Mapping[str, str | None], inputs: Inputs) -> None:
    """Raise UserError if a file to write, by option, cannot be written, or is also an input or another output.

    Two on standard output, where one would stand behind the other, are refused as well.
    """
    on_standard_output = [option for option, name in outputs.items() if is_standard_output(name)]
    if len(on_standard_output) > 1:
        raise UserError(
            f"{' and '.join(on_standard_output)}: both are standard output; expected a file for one of them"
        )
    for name in filter(None, outputs.values()):
        check_can_write(Path(name))
    check_apart(outputs, inputs)


def check_apart(outputs: Mapping[str, str | Path | None], inputs: Inputs) -> None:
    """Raise UserError if a file or folder to write is also an input, or holds one, or is another output.

    Devices and pipes, such as /dev/null, may be named as often as one likes, but see `check_outputs`.
    """
    taken = [(option, path) for option, given in inputs.items() for path in _paths(given)]
    for option, name in outputs.items():
        if name is None or is_stream(Path(name)):
            continue
        for other, path in taken:
            if _is_in(path, Path(name)):
                raise UserError(f"{option} {name} is also {other}; give another name")
        taken.append((option, Path(name)))


def told_beside(outputs: Mapping[str, str | None]) -> AbstractContextManager[object]:
    """Inside, what is printed for people goes to standard error if standard output is one of `outputs`."""
    return redirect_stdout(sys.stderr) if any(map(is_standard_output, outputs.values())) else nullcontext()


def files_of_run(run_dir: str | Path | None, *weights: str) -> list[Path]:
    """What `train` has written into a run folder, or `export` into a folder of its own, with the folders `weights`."""
    if run_dir is None:
        return []
    # A folder that cannot be read has none; the command that reads it says why.
    tokenizers = [f"tokenizer/{name}" for name in glob("*", root_dir=Path(run_dir) / "tokenizer")]
    names = [*_OF_RUN, *_OF_WEIGHTS, *tokenizers, *(f"{folder}/{name}" for folder in weights for name in _OF_WEIGHTS)]
    return [path for name in names if os.path.exists(path := Path(run_dir) / name)]


def _paths(given: str | Path | Iterable[str | Path] | None) -> list[Path]:
    names = [] if given is None else [given] if isinstance(given, (str, Path)) else given
    return [Path("/dev/stdin" if name == "-" else name) for name in names]


def _is_in(path: Path, place: Path) -> bool:
    with suppress(OSError):  # one of them is not there
        if os.path.samefile(path, place):
            return True
    # Not Path.resolve, which raises for a link to itself in some versions of Python.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(place))
