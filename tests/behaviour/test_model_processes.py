"""`--n_processes`: several processes write what one would; they end with the command, and their end is told."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from accel_tx.cli import main
from tests.conftest import REPOSITORY
from tests.export.runs import make_run, pairs, sentences

_PATIENCE_S = 120


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), kind="wordlevel")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """What a command that succeeds prints, on standard output and on standard error."""
    main(list(arguments))
    found = capsys.readouterr()
    return found.out, found.err


def test_translations_are_those_of_one_process_in_the_order_asked(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*sentences(60), "", "The Zyx man.", "Zyx \0", "The man. " * 90]
    rows = [{"id": i, "source": line, "begin": "Le" if i % 7 == 0 else ""} for i, line in enumerate(lines)]
    (tmp_path / "in").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search = ["--max_tokens", "200", "--beam_size", "2", "--n_best", "2", "--block_lines", "9"]
    formats = ["--format", "jsonl", "--input_format", "jsonl", "--prefix_key", "begin"]
    written = []
    for n in ("1", "2"):
        output = tmp_path / f"out{n}"
        files = ["--input", str(tmp_path / "in"), "--output", str(output), "--n_processes", n]
        written.append((output, told(capsys, "translate", "--run_dir", str(run_dir), *files, *formats, *search)))
    (one, said_by_one), (two, said_by_two) = written
    found = one.read_text()
    assert two.read_text() == found
    assert [json.loads(line)["id"] for line in found.splitlines()] == list(range(len(lines)))
    assert said_by_two == said_by_one
    assert "line 63: 1 byte(s)" in said_by_one[1]
    assert "word(s) that the vocabulary lacks" in said_by_one[1]
    assert "1 line(s) longer than the model's 128 positions" in said_by_one[1]


@pytest.mark.slow
def test_scores_are_those_of_one_process(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, tgt = zip(*pairs()[:80], strict=True)
    (tmp_path / "src").write_text("\n".join(src))
    (tmp_path / "tgt").write_text("\n".join(tgt))
    names = str(tmp_path / "src"), str(tmp_path / "tgt")
    model = ["--run_dir", str(run_dir), "--n_processes"]
    one, two = (told(capsys, "score", *model, n, "--src", names[0], "--tgt", names[1]) for n in ("1", "2"))
    assert one == two
    assert one[0].count("\n") == 80
    search = ["--src", names[0], "--ref", names[1], "--n_resamples", "0", "--beam_size", "1", "--max_tokens", "200"]
    one, two = (told(capsys, "evaluate", *model, n, *search) for n in ("1", "2"))
    assert one == two
    assert "80 sentences" in one[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "--n_processes", "0"], "--n_processes is 0; expected from 1 to 1,000"),
        (["score", "--src", "a", "--tgt", "b", "--n_processes", "-1"], "--n_processes is -1; expected from 1 to"),
        (["translate", "--n_processes", "2", "--weights", "final"], "final"),
        pytest.param(
            *(["translate", "--n_processes", "2", "--input", "nothing"], "nothing: cannot be read (No such file"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--run_dir", str(run_dir)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow
def test_weights_that_no_process_can_load_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    run_dir = make_run(tmp_path / "run")
    weights = run_dir / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SystemExit) as ended:
        main(["translate", "--run_dir", str(run_dir), "--n_processes", "2"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(weights) in line


@pytest.mark.slow
def test_a_model_without_a_finite_score_ends_as_in_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    run_dir = make_run(tmp_path / "run")
    spoil(run_dir / "best" / "model.safetensors")
    (tmp_path / "in").write_text("We read.\n")
    said = []
    for n in ("1", "2"):
        with pytest.raises(SystemExit) as ended:
            main(["translate", "--run_dir", str(run_dir), "--input", str(tmp_path / "in"), "--n_processes", n])
        assert ended.value.code == 1
        said.append(capsys.readouterr())
    assert said[0] == said[1]
    assert said[0].err.count("\n") == 1


def spoil(weights: Path) -> None:
    """Make every weight as large as a float can be."""
    import torch
    from safetensors.torch import load_file, save_file

    save_file({name: torch.full_like(values, 3e38) for name, values in load_file(weights).items()}, weights)


@contextlib.contextmanager
def translating(run_dir: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A command whose two processes have answered a line, and wait for the next; with an older file in its place."""
    (tmp_path / "out").write_text("older")
    command = [sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir), "--n_processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"We read.\n")
            assert select.select([process.stdout], [], [], _PATIENCE_S)[0], "no answer came while the input stayed open"
            assert os.read(process.stdout.fileno(), 1 << 16).count(b"\n") == 1
            workers = [one for one in psutil.Process(process.pid).children() if "spawn_main" in " ".join(one.cmdline())]
            assert len(workers) == 2
            yield process, workers
        finally:
            process.kill()


@pytest.mark.slow
def test_a_process_that_was_killed_is_told(run_dir: Path, tmp_path: Path) -> None:
    with translating(run_dir, tmp_path) as (command, workers):
        for worker in workers:
            worker.kill()
        _, error = command.communicate(b"We eat.\n", timeout=_PATIENCE_S)
        assert command.returncode == 1
        assert error.decode() == (
            "accel_tx: one of the processes that hold the model ended with status -9 (-9: out of memory?); where the "
            "memory is short give a lower --n_processes\n"
        )


@pytest.mark.parametrize(
    ("number", "status", "error"),
    [
        (signal.SIGTERM, 143, b"accel_tx: ended by SIGTERM\n"),
        pytest.param(signal.SIGINT, 130, b"accel_tx: interrupted\n", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, b"", marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_the_command(number: int, status: int, error: bytes, run_dir: Path, tmp_path: Path) -> None:
    with translating(run_dir, tmp_path) as (command, workers):
        for process in (
            (*workers, command) if number != signal.SIGKILL else (command,)
        ):  # as a terminal and `timeout` do
            process.send_signal(number)
        assert command.wait(_PATIENCE_S) == status
        ends_at_s = time.monotonic() + 20
        while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
            assert time.monotonic() < ends_at_s, "a process outlives the command"
            time.sleep(0.05)
        assert command.stderr is not None
        assert command.stderr.read() == error
