"""A metric that another program computes, such as COMET in an environment of its own."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import signal
import string
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from accel_tx.config import UserError
from accel_tx.inference.parts import one_line

# The system waits for milliseconds that fit 32 bits; Python raises OverflowError for more.
LONGEST_TIMEOUT_S = (2**31 - 1) // 1_000


def check_command(command: str) -> None:
    """Raise UserError unless the template names {hyp}, something to compare it with, nothing else, and a program."""
    try:
        words = shlex.split(command)
        parts = [part for word in words for part in string.Formatter().parse(word) if part[1] is not None]
    except ValueError as error:
        raise UserError(f"--comet {command!r}: cannot be taken apart ({error})") from None
    fields = {name for _, name, _, _ in parts if name is not None}
    if any(form or conversion for _, _, form, conversion in parts):
        raise UserError(f"--comet {command!r}: has a field with a format; expected plain {{src}}, {{hyp}} and {{ref}}")
    if "hyp" not in fields or not {"hyp"} < fields <= {"src", "hyp", "ref"}:
        raise UserError(
            f"--comet {command!r}: has {', '.join(f'{{{name}}}' for name in sorted(fields)) or 'no file'}; expected "
            "{hyp} and {src} or {ref} or both, where the paths of the files belong"
        )
    if shutil.which(words[0]) is None:
        raise UserError(f"--comet: {words[0]} is no program that can be started; is its environment made?")


def external_score(
    command: str, src: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], timeout_s: float
) -> float:
    """Run the command on files of these lines; the score is the number that ends the last line which it prints.

    `command` is a template: {src}, {hyp} and {ref} become paths. No shell sees it. A text that holds an end of a line,
    as one from JSON or parquet may, has a space there in the files.
    Raises: UserError if it cannot be started, fails, takes longer than `timeout_s`, or prints something else.
    """
    with TemporaryDirectory(prefix="accel_tx_metric_") as folder:
        paths = {}
        for name, lines in (("src", src), ("hyp", hypotheses), ("ref", references)):
            paths[name] = str(Path(folder) / name)
            Path(paths[name]).write_text("".join(f"{one_line(line)}\n" for line in lines), encoding="utf-8")
        words = [word.format(**paths) for word in shlex.split(command)]
        return _last_number(_printed(words, timeout_s), words[0])


def _printed(words: list[str], timeout_s: float) -> str:
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its own children can be ended with it
        )
    except OSError as error:
        raise UserError(f"--comet: {words[0]} cannot be started ({error.strerror}); is its environment made?") from None
    with process:
        try:
            out, err = (part.decode("utf-8", "replace") for part in process.communicate(timeout=timeout_s))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise UserError(f"--comet: {words[0]} took longer than --comet_timeout_s {timeout_s:g}; ended") from None
    if process.returncode:
        told = (err.strip() or out.strip() or "it printed nothing").splitlines()[-1]
        raise UserError(f"--comet: {words[0]} ended with status {process.returncode}: {told[:300]}")
    return out


def _last_number(printed: str, program: str) -> float:
    lines = printed.strip().splitlines()
    last = lines[-1] if lines else ""
    try:
        score = float(last.split()[-1])
    except (IndexError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"--comet: {program} printed {last[:200]!r} last; expected a line that ends with the score")
    return score
