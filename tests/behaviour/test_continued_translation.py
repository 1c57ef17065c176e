"""`translate --resume`: a stopped command's file becomes that of one which nobody stopped."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel_tx.cli import main
from tests.conftest import REPOSITORY
from tests.export.runs import make_run, sentences

_N_LINES = 40
_SEARCH = ("--beam_size", "2", "--max_tokens", "120", "--block_lines", "7")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs"), kind="wordlevel")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_text("".join(f"{line}\n" for line in sentences(_N_LINES)))
    return path


def translate(run_dir: Path, source: Path, output: Path, *more: str) -> bytes:
    main(["translate", "--run_dir", str(run_dir), "--input", str(source), "--output", str(output), *_SEARCH, *more])
    return output.read_bytes()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on standard error of a command that is refused."""
    with pytest.raises(SystemExit) as ended:
        main(["translate", *arguments])
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    return line


def stop_within(whole: bytes, n_lines: int, more: bytes) -> bytes:
    """So many lines, and a piece of the next."""
    return b"".join(whole.splitlines(keepends=True)[:n_lines]) + more


@pytest.mark.parametrize("written_as", ["text", "jsonl"])
def test_the_file_is_that_of_a_command_that_nobody_stopped(
    written_as: str, run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, given = tmp_path / "out", ("--format", written_as)
    whole = translate(run_dir, source, output, *given)
    assert whole.count(b"\n") == _N_LINES
    for n_lines, piece in ((0, b""), (0, whole[:2]), (3, b"l'\xc3"), (7, b""), (30, b"x"), (_N_LINES, b"")):
        output.write_bytes(stop_within(whole, n_lines, piece))
        capsys.readouterr()
        assert translate(run_dir, source, output, *given, "--resume") == whole, n_lines
        rest = " and a part of one, which is written anew" if piece else ""
        told = f"out has {n_lines} line(s){rest}; going on behind them"
        assert (told in capsys.readouterr().err) == (n_lines > 0 or bool(piece))
    output.unlink()
    assert translate(run_dir, source, output, *given, "--resume") == whole


def test_what_this_command_would_not_have_written_is_refused_and_stays(
    run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    whole = translate(run_dir, source, output)
    (tmp_path / "other").mkdir()
    other = make_run(tmp_path / "other", kind="wordlevel", seed=2)
    begun = stop_within(whole, 20, b"Le")
    output.write_bytes(begun)
    files = "--input", str(source), "--output", str(output), "--resume", *_SEARCH
    line = refused(capsys, "--run_dir", str(other), *files)
    assert f"{output}: " in line
    assert " of 7 lines that were looked at are not what this command writes (line 1 is " in line
    assert "not what" in refused(capsys, "--run_dir", str(run_dir), *files, "--format", "jsonl")
    lines = whole.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:14] + lines[14:20][::-1]))
    assert "(line 15 is" in refused(capsys, "--run_dir", str(run_dir), *files)
    output.write_bytes(b"Do not take this away")
    assert f"{output}: does not begin with what this command writes; give" in refused(
        capsys, "--run_dir", str(run_dir), *files
    )
    assert output.read_bytes() == b"Do not take this away"
    output.write_bytes(begun)
    source.write_text("".join(f"{sentence}\n" for sentence in sentences(12)))
    line = refused(capsys, "--run_dir", str(run_dir), *files)
    assert f"out: has 21 lines and {source} only 12; expected the output of the same input" in line
    source.write_text("".join(f"{sentence}\n" for sentence in sentences(20)))
    assert f"out: has 21 lines and {source} only 20; " in refused(capsys, "--run_dir", str(run_dir), *files)
    assert output.read_bytes() == begun


def test_lines_with_another_number_of_translations_are_refused(
    run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, given = tmp_path / "out", ("--format", "jsonl", "--n_best", "2")
    begun = stop_within(translate(run_dir, source, output, "--format", "jsonl"), 20, b"")
    output.write_bytes(begun)
    files = "--input", str(source), "--output", str(output), "--resume", *_SEARCH
    assert "7 of 7 lines" in refused(capsys, "--run_dir", str(run_dir), *files, *given)
    output.write_text("[" * 100_000 + "\n")
    assert "1 of 1 lines" in refused(capsys, "--run_dir", str(run_dir), *files, *given)


def test_a_few_lines_may_be_rounded_otherwise_and_empty_ones_say_nothing(
    run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("\n" * 8 + source.read_text())
    output = tmp_path / "out"
    lines = translate(run_dir, source, output).splitlines(keepends=True)
    for other, is_refused in (({9}, False), (set(range(9, 14)), True)):
        output.write_bytes(b"".join(b"other\n" if i in other else line for i, line in enumerate(lines[:14])))
        files = "--input", str(source), "--output", str(output), "--resume", *_SEARCH
        if is_refused:
            assert "5 of 6 lines" in refused(capsys, "--run_dir", str(run_dir), *files, "--block_lines", "14")
        else:
            main(["translate", "--run_dir", str(run_dir), *files, "--block_lines", "14"])
            assert output.read_bytes().splitlines(keepends=True)[14:] == lines[14:]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_refused_input_leaves_no_new_file(
    is_there: bool, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    if is_there:
        output.touch()
    files = "--input", str(tmp_path / "none"), "--output", str(output), "--resume"
    assert "none: cannot be read" in refused(capsys, "--run_dir", str(run_dir), *files)
    assert output.exists() == is_there


def test_a_full_disk_is_one_line_and_what_is_written_stays(
    run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    whole = translate(run_dir, source, output)
    output.unlink()
    files = "--run_dir", str(run_dir), "--input", str(source), "--output", str(output), "--resume", *_SEARCH
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))
        assert f"{output}: cannot be written (File too large)" in refused(capsys, *files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert whole.startswith(output.read_bytes())
    assert output.read_bytes() != b""
    assert translate(run_dir, source, output, "--resume") == whole


def test_one_command_writes_at_a_time(
    run_dir: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    files = "--run_dir", str(run_dir), "--input", str(source), "--output", str(output), "--resume"
    with output.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert f"{output}: another command is writing it; wait for it" in refused(capsys, *files)


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "/dev/null"])
def test_an_output_that_keeps_nothing_is_refused(
    output: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--run_dir", str(run_dir), "--resume", "--output", output)
    assert line == f"accel_tx: --resume: --output {output} keeps no lines; expected a file"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_at_work_is_gone_on_with(number: int, run_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(f"{line}\n" for line in sentences(_N_LINES) * 8))
    whole = translate(run_dir, source, tmp_path / "whole", "--format", "jsonl")
    command = [
        *(sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir), "--format", "jsonl", "--resume"),
        *("--input", str(source), "--output", str(output), *_SEARCH),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        ends_at_s = time.monotonic() + 120
        while not output.exists() or output.stat().st_size == 0:
            assert time.monotonic() < ends_at_s
            time.sleep(0.01)
        process.send_signal(number)
    begun = output.read_bytes()
    assert 0 < len(begun) < len(whole)
    assert translate(run_dir, source, output, "--format", "jsonl", "--resume") == whole
    assert all(json.loads(line) for line in whole.splitlines())
