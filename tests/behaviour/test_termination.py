"""SIGTERM and Ctrl-C end the commands that do not train, and leave nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from accel_tx.cli.termination import Terminated, sigterm_raises
from tests.conftest import REPOSITORY
from tests.export.runs import make_run


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        pytest.param(signal.SIGINT, 130, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_lines_are_translated_leaves_the_older_file_alone(
    number: int, status: int, told: str, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    run_dir, pipe, output = make_run(tmp_path / "run"), tmp_path / "pipe", tmp_path / "out"
    output.write_text("older")
    os.mkfifo(pipe)
    arguments = ["--run_dir", str(run_dir), "--input", str(pipe), "--output", str(output)]
    command = subprocess.Popen(
        [sys.executable, "-m", "accel_tx", "translate", *arguments],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pipe.open("w"):  # waits for the reader, which has opened its output by then
        assert len(list(tmp_path.iterdir())) == 4
        command.send_signal(number)
        _, error = command.communicate(timeout=60)
    assert (command.returncode, error) == (status, f"accel_tx: {told}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pipe", "run"]
    assert output.read_text() == "older"


def test_the_same_signal_twice_does_not_disturb_the_tidying_up() -> None:
    steps = []

    def work() -> None:
        try:
            terminate()
        finally:
            terminate()
            steps.append("tidied up")

    with pytest.raises(Terminated), sigterm_raises():
        work()
    assert steps == ["tidied up"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_handler_that_is_there_stays(handler: object) -> None:
    before = signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
    try:
        with sigterm_raises():
            assert signal.getsignal(signal.SIGTERM) == handler
            terminate()
        assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)
