"""`--n_processes`: several processes write what one would; they end with the command, and their end is told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch

from accel_tx.cli import main
from accel_tx.config import RunError, UserError
from accel_tx.inference import model_processes
from accel_tx.inference.model_processes import ModelProcesses, What, _fingerprint, _sendable
from accel_tx.inference.translator import Translator
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
        (["translate", "--n_processes", "2", "--weights", "final"], "final: holds no weights; "),
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
    from safetensors.torch import load_file, save_file

    save_file({name: torch.full_like(values, 3e38) for name, values in load_file(weights).items()}, weights)


@contextlib.contextmanager
def translating(run_dir: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A command whose two processes have answered a line, and wait for the next."""
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
def test_a_process_that_was_killed_is_told(run_dir: Path) -> None:
    with translating(run_dir) as (command, workers):
        for worker in workers:
            worker.kill()
        _, error = command.communicate(b"We eat.\n", timeout=_PATIENCE_S)
        assert command.returncode == 1
        assert error.decode() == (
            "accel_tx: one of the processes that hold the model was killed, as where memory runs out: a lower "
            "--n_processes needs less\n"
        )


@pytest.mark.parametrize(
    ("number", "status", "error"),
    [
        (signal.SIGTERM, 143, b"accel_tx: ended by SIGTERM\n"),
        pytest.param(signal.SIGINT, 130, b"accel_tx: interrupted\n", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, b"", marks=pytest.mark.slow),
    ],
)
def test_processes_end_with_the_command(number: int, status: int, error: bytes, run_dir: Path) -> None:
    with translating(run_dir) as (command, workers):
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


@pytest.mark.slow
def test_a_signal_while_processes_start_is_one_line(run_dir: Path) -> None:
    command = [sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir), "--n_processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as process:
        ends_at_s = time.monotonic() + _PATIENCE_S
        while not (starting := [one.pid for one in children_of(process) if "spawn_main" in " ".join(one.cmdline())]):
            assert time.monotonic() < ends_at_s
            time.sleep(0.01)
        if sys.platform == "linux":  # else Ctrl-C would find it among its imports, of which it would tell
            held_back = signals_of(starting[0], "SigBlk") | signals_of(starting[0], "SigIgn")
            assert held_back & 1 << (signal.SIGINT - 1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=_PATIENCE_S)
    assert (process.returncode, error) == (130, b"accel_tx: interrupted\n")


def signals_of(pid: int, field: str) -> int:
    """A set of signals in the status of a process: bit n - 1 stands for signal n."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0], 16)


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [one for one in psutil.Process(process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_taken_for_others(closed: str, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("We read.\nWe eat.\n")
    files = f'--input "{tmp_path / "in"}" --output "{tmp_path / "out"}"'
    command = f'"$0" -m accel_tx translate --run_dir "$1" --n_processes 2 {files} {closed}'
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(run_dir)], capture_output=True, env=environment, timeout=240
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out").read_text().count("\n") == 2


class Pretended:
    """A process that has loaded what `fingerprints` says next."""

    fingerprints: ClassVar[list[str]] = []
    n_alive: ClassVar[int] = 0

    def __init__(self, *_: object) -> None:
        Pretended.n_alive += 1

    def receive(self) -> str:
        return self.fingerprints.pop(0)

    def kill(self) -> None:
        Pretended.n_alive -= 1

    def close(self) -> None:
        pass


def test_processes_that_hold_other_weights_than_each_other_are_refused(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_processes, "_Worker", Pretended)
    what = What(run_dir, "best", {}, ())
    monkeypatch.setattr(Pretended, "fingerprints", ["a", "a"])
    with ModelProcesses(what, 2):
        assert Pretended.n_alive == 2
    monkeypatch.setattr(Pretended, "fingerprints", ["a", "b"])
    with pytest.raises(RunError, match="its weights changed while they were loaded; run the command again"):
        ModelProcesses(what, 2)
    assert Pretended.n_alive == 0


def test_a_fingerprint_tells_weights_apart(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    other = make_run(tmp_path / "run", kind="wordlevel", seed=2)
    found = [
        _fingerprint(Translator.from_run_dir(folder, "best", torch.device("cpu"), {"precision": precision}))
        for folder, precision in ((run_dir, "float32"), (run_dir, "float32"), (run_dir, "bfloat16"), (other, "float32"))
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_refused_start_leaves_no_process(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", start)
    with pytest.raises(SystemExit) as ended:
        main(["translate", "--run_dir", str(run_dir), "--n_processes", "2"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "accel_tx: process 1 of 2 cannot be started (Resource temporarily unavailable); give a lower --n_processes\n"
    )


class TakesTwoError(Exception):
    """One that pickles, and does not come out again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (UserError("expected a word"), UserError("expected a word")),
        (MemoryError("9 GiB"), MemoryError("9 GiB")),
        (TakesTwoError("this", "that"), RuntimeError("TakesTwoError: this and that")),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), RuntimeError("BrokenPipeError: [Errno 32] Broken pipe")),
    ],
)
def test_an_error_comes_out_as_what_it_means(error: Exception, sent: Exception) -> None:
    found = pickle.loads(pickle.dumps(_sendable(error)))
    assert (type(found), str(found)) == (type(sent), str(sent))


@pytest.mark.parametrize(("n_gpus", "expected"), [(0, []), (1, [0, 0, 0]), (2, [0, 1, 0])])
def test_each_process_takes_the_next_gpu(
    n_gpus: int, expected: list[int], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    devices: list[torch.device] = []
    monkeypatch.setattr(model_processes, "uses_gpu", lambda: n_gpus > 0)
    monkeypatch.setattr("accel_tx.inference.translator.uses_gpu", lambda: n_gpus > 0)
    monkeypatch.setattr("accel_tx.inference.translator.check_gpu_build", lambda index: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(Translator, "from_run_dir", lambda run, weights, device, *_: devices.append(device))
    for number in range(3):
        model_processes._load(What(run_dir, "best", {}, ()), number, 3)
    assert taken == expected
    assert devices == ([torch.device("cuda", i) for i in expected] or [torch.device("cpu")] * 3)
