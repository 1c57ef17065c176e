"""A run that is told to stop finishes its update, writes a checkpoint, says so, and later goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from accel_tx.config import Config, UserError
from accel_tx.data import prepare
from accel_tx.inference import translator
from accel_tx.train import checkpoint, checkpoint_writer, stopping
from accel_tx.train.checkpoint_content import Parts
from accel_tx.train.checkpoint_writer import CheckpointWriter
from accel_tx.train.loop import Run, train
from accel_tx.train.mirror import Mirror
from accel_tx.train.state import TrainState
from tests.behaviour.test_resume import metrics, weights
from tests.conftest import REPOSITORY, as_options
from tests.ranks import train_on

MakeConfig = Callable[..., Config]
MAIN = str(Path(__file__).with_name("status_main.py"))
CONFIG = "configs/quickstart.yaml"
SMALL: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_valid_pairs": 7},
    "train": {"max_updates": 12, "log_every_updates": 5},
    "validation": {"every_updates": 6},
}
# So many updates that no stop comes too late.
LONG: dict[str, dict[str, Any]] = {
    **SMALL,
    "train": {"max_updates": 20_000, "log_every_updates": 1, "save_every_updates": 20_000},
    "validation": {"every_updates": 20_000},
}


@pytest.fixture(scope="module")
def whole(tiny_config: MakeConfig, intact: Path) -> Path:
    """The run of SMALL that nobody stopped."""
    train(tiny_config(**SMALL), intact)
    return intact


def newest_update(run_dir: Path) -> int:
    found, passed_over = checkpoint.newest_valid(run_dir)
    assert found is not None
    assert passed_over == []
    assert found.name == (run_dir / "checkpoints" / "latest").read_text().strip()
    return int(found.name.removeprefix("update_"))


def assert_stopped_early(run_dir: Path, by: str) -> int:
    """The update at which it stopped, after a look at what it left."""
    update = newest_update(run_dir)
    text = (run_dir / "PREEMPTED").read_text()
    assert f"stopped_by: {by}\n" in text
    assert f"\nupdate: {update} of " in text
    assert f"\ncheckpoint: checkpoints/update_{update:08d}\n" in text
    assert not (run_dir / "final").exists()
    assert not list(run_dir.rglob(".*ing_*"))
    return update


def during_update(monkeypatch: pytest.MonkeyPatch, update: int, action: Callable[[], object]) -> None:
    """Call `action` in the middle of the update with this number from 0, once."""
    whole, done = Run.train_update, []

    def train_update(run: Run, *arguments: Any) -> Any:
        if run.state.update == update and not done:
            done.append(action())
        return whole(run, *arguments)

    monkeypatch.setattr(Run, "train_update", train_update)


@pytest.mark.parametrize(
    ("by", "update"),
    [*((by, 6) for by in ("SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "the file STOP")), ("SIGTERM", 4), ("SIGTERM", 12)],
)
def test_the_running_update_is_finished_and_the_run_goes_on_to_the_same_bytes(
    by: str,
    update: int,
    whole: Path,
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At an update without a validation, with one, and at the last."""
    monkeypatch.setattr(stopping, "_FILE_EVERY_S", 0.0)
    run_dir = tmp_path / "run"

    def ask() -> None:
        if by.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, by))
        else:
            (run_dir / "STOP").touch()

    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    with monkeypatch.context() as patch:
        during_update(patch, update - 1, ask)
        train(tiny_config(**SMALL), run_dir)
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before
    assert assert_stopped_early(run_dir, by) == update
    assert f"stopped by {by} after update {update} of 12; the same command goes on" in capsys.readouterr().out
    assert not (run_dir / "STOP").exists()
    train(tiny_config(**SMALL), run_dir)
    assert not (run_dir / "PREEMPTED").exists()
    assert weights(run_dir) == weights(whole)
    assert metrics(run_dir) == metrics(whole)
    best = [(folder / "best" / "model.safetensors").read_bytes() for folder in (run_dir, whole)]
    assert best[0] == best[1]
    states = [checkpoint.load_state(checkpoint.checkpoint_dir(folder, 12)) for folder in (run_dir, whole)]
    assert states[0].best_update == states[1].best_update
    assert not states[0].validation_is_due


def test_a_signal_behind_the_removal_of_preempted_leaves_it_again(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, unlink = tmp_path / "run", Path.unlink
    with monkeypatch.context() as patch:
        during_update(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(tiny_config(**SMALL), run_dir)
    assert (run_dir / "PREEMPTED").exists()

    def unlink_and_ask(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name == "PREEMPTED":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Path, "unlink", unlink_and_ask)
    train(tiny_config(**SMALL), run_dir)
    assert "stopped_by: SIGTERM" in (run_dir / "PREEMPTED").read_text()


def test_a_stop_at_an_update_with_a_checkpoint_saves_once(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    start = CheckpointWriter.start

    def noted(writer: CheckpointWriter, parts: Parts, state: TrainState) -> None:
        saved.append(state.update)
        start(writer, parts, state)

    monkeypatch.setattr(CheckpointWriter, "start", noted)
    during_update(monkeypatch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(tiny_config(**SMALL), tmp_path / "run")
    assert saved == [10]


def test_a_limit_shorter_than_the_start_still_makes_an_update(
    whole: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    limited = {**SMALL, "train": {**SMALL["train"], "max_hours": 1e-9}}
    for update in range(1, 12):
        train(tiny_config(**limited), tmp_path / "run")
        assert assert_stopped_early(tmp_path / "run", "train.max_hours = 1e-09") == update
    train(tiny_config(**limited), tmp_path / "run")
    # The last update is made; its validation, which the limit put off, belongs to the start after it.
    assert assert_stopped_early(tmp_path / "run", "train.max_hours = 1e-09") == 12
    train(tiny_config(**limited), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)
    assert metrics(tmp_path / "run") == metrics(whole)


def test_the_limit_counts_from_the_start_and_leaves_time_for_update_and_save(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stop = stopping.Stop()
    clock[0] = 1100.0  # a start of 100 s
    stop.finish_updates_first(tmp_path, max_hours=1.0)
    stop.slowest_update_s, stop.slowest_save_s = 20.0, 30.0
    clock[0] = 1000.0 + 3600 - 51
    assert stop.asked() is None
    clock[0] += 1
    assert stop.asked() == "train.max_hours = 1.0"


def test_the_limit_leaves_time_for_a_write_as_slow_as_the_only_one_before(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, write_s = checkpoint_writer.write_checkpoint, 3.0

    def write_slowly(*arguments: Any) -> str | None:
        time.sleep(write_s)
        return write(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", write_slowly)
    train_update = Run.train_update

    def with_too_little_left(run: Run, *arguments: Any) -> Any:
        if run.state.update == 3:
            run.writer.join()
            left_s = 0.9 * write_s
            run.stop.max_hours = (time.monotonic() - run.stop.started_at_s + left_s) / 3600
            run.stop.slowest_update_s = 0.0
        return train_update(run, *arguments)

    monkeypatch.setattr(Run, "train_update", with_too_little_left)
    train(tiny_config(**{**SMALL, "train": {**SMALL["train"], "save_every_updates": 2}}), tmp_path / "run")
    assert newest_update(tmp_path / "run") == 4
    assert (tmp_path / "run" / "PREEMPTED").read_text().startswith("stopped_by: train.max_hours = ")


def test_the_limit_leaves_time_for_the_mirror(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_update = Run.train_update

    def with_too_little_left(run: Run, *arguments: Any) -> Any:
        if run.state.update == 3:
            run.writer.join()
            assert run.mirror is not None
            run.mirror.join()
            assert run.mirror.slowest_s > 0
            run.mirror.slowest_s = 1_000.0
            run.stop.max_hours = (time.monotonic() - run.stop.started_at_s + 900.0) / 3600
        return train_update(run, *arguments)

    monkeypatch.setattr(Run, "train_update", with_too_little_left)
    fields = {**SMALL["train"], "save_every_updates": 2, "mirror_dir": str(tmp_path / "mirror")}
    train(tiny_config(**{**SMALL, "train": fields}), tmp_path / "run")
    assert newest_update(tmp_path / "run") == newest_update(tmp_path / "mirror") == 4


def test_a_start_that_ends_at_stop_at_update_says_how_to_go_on(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        train(tiny_config(**{**SMALL, "train": {**SMALL["train"], "stop_at_update": 3}}), tmp_path / "run")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == (
            "stopped by train.stop_at_update = 3 after update 3 of 12; to go on, give a higher one or leave it out"
        )


def test_the_file_stop_is_gone_after_an_end_that_fails(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_FILE_EVERY_S", 0.0)
    monkeypatch.setattr(Mirror, "finish", lambda _: "the mirror is behind")
    during_update(monkeypatch, 3, (tmp_path / "run" / "STOP").touch)
    config = tiny_config(**{**SMALL, "train": {**SMALL["train"], "mirror_dir": str(tmp_path / "mirror")}})
    with pytest.raises(UserError, match="the mirror is behind; make room and give the same command again"):
        train(config, tmp_path / "run")
    assert assert_stopped_early(tmp_path / "run", "the file STOP") == 4
    assert not (tmp_path / "run" / "STOP").exists()


@pytest.mark.parametrize("phase", ["loss", "translation"])
def test_a_stop_during_validation_puts_it_off_to_the_next_start(
    phase: str, whole: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"loss": (Run, "_validate"), "translation": (translator.Translator, "_search")}[phase]
    real = getattr(*where)

    def ask_first(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    for _ in range(2):  # the second time in the validation that the first had put off
        with monkeypatch.context() as patch:
            patch.setattr(*where, ask_first)
            if phase == "loss":
                patch.setattr(translator.Translator, "translate", None)  # not even begun
            train(tiny_config(**SMALL), tmp_path / "run")
        assert assert_stopped_early(tmp_path / "run", "SIGTERM") == 6
        assert not (tmp_path / "run" / "best").exists()
    # As if a start had made the validation up and then been killed before its next checkpoint.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 6, "val_loss": 1.0}\n')
    train(tiny_config(**SMALL), tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)
    assert metrics(tmp_path / "run") == metrics(whole)


def test_a_second_ctrl_c_stops_at_once_and_an_echo_of_the_first_does_not(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*numbers: int) -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    config = tiny_config(**SMALL)
    with monkeypatch.context() as patch:
        # One Ctrl-C as a launcher hands it on: twice, and its own end after it.
        during_update(patch, 4, lambda: ask(signal.SIGINT, signal.SIGINT, signal.SIGTERM))
        train(config, tmp_path / "run")
    assert assert_stopped_early(tmp_path / "run", "SIGINT") == 5
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "_ECHO_S", -1.0)
        during_update(patch, 7, lambda: ask(signal.SIGINT, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert newest_update(tmp_path / "run") == 5
    assert not (tmp_path / "run" / "PREEMPTED").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_a_signal_while_data_is_prepared_ends_it_at_once_and_the_next_start_prepares_it(
    number: int, status: int | None, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**{**SMALL, "data": {**SMALL["data"], "cache_dir": str(tmp_path / "cache")}})
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "clean_pairs", lambda *_: os.kill(os.getpid(), number))
        with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
            train(config, tmp_path / "run")
    assert getattr(end.value, "code", None) == status
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "run").exists()
    train(config, tmp_path / "run")
    assert (tmp_path / "run" / "final").exists()


def test_a_signal_ignored_as_under_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.asked() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def started(config: Config, run_dir: Path, n_processes: int | None) -> Iterator[subprocess.Popen[str]]:
    """A training below `accelerate launch`, or alone (None), in a process group of its own."""
    command, env = [sys.executable], {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    env["STATUS_DIR"] = f"{run_dir}.status"
    if n_processes is not None:
        command += ["-m", "accelerate.commands.launch"]
        env["ACCELERATE_USE_CPU"] = "true"
    if n_processes not in (None, 1):
        command += ["--multi_gpu", "--num_processes", str(n_processes), "--main_process_port", "0"]
    command += [MAIN, "train", "--config", CONFIG, "--run_dir", str(run_dir), *as_options(config)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, cwd=REPOSITORY, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], object], timeout_s: float = 120) -> float:
    """Seconds until it holds."""
    began_at_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_at_s < timeout_s, "it takes too long"
        time.sleep(0.01)
    return time.monotonic() - began_at_s


def updates_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def statuses(run_dir: Path) -> list[int]:
    """Exit statuses of the training processes that have ended so far, as each wrote its own."""
    folder = Path(f"{run_dir}.status")
    return [int(path.read_text()) for path in folder.iterdir()] if folder.is_dir() else []


@pytest.mark.parametrize("n_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_to_the_launcher_saves_within_seconds_and_the_training_ends_with_status_0(
    n_processes: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    with started(tiny_config(**LONG), run_dir, n_processes) as launcher:
        wait_for(lambda: updates_done(run_dir) >= 5)
        launcher.send_signal(signal.SIGTERM)
        assert wait_for(lambda: len(statuses(run_dir)) == n_processes) < 10
        printed, _ = launcher.communicate(timeout=30)
    assert f"{n_processes} process(es) on cpu" in printed
    assert statuses(run_dir) == [0] * n_processes
    update = assert_stopped_early(run_dir, "SIGTERM")
    assert update >= 5
    if n_processes == 1:
        assert_goes_on_exactly(run_dir, update, lambda config, folder: train(config, folder), tiny_config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_processes", "by"),
    [
        *((n_processes, by) for n_processes in (1, 2) for by in ("the file STOP", "train.max_hours = 0.005")),
        *((2, by) for by in ("SIGTERM", "SIGINT", "SIGUSR1 to one process")),
    ],
)
def test_launched_processes_stop_at_one_update_and_go_on_exactly(
    n_processes: int, by: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    max_hours = float(by.split()[-1]) if by.startswith("train.max_hours") else None
    config = tiny_config(**{**LONG, "train": {**LONG["train"], "max_hours": max_hours}})
    with started(config, run_dir, n_processes) as launcher, ThreadPoolExecutor(1) as reader:
        # The lines of so many seconds would fill the pipe, and the run would wait for a reader.
        told = reader.submit(launcher.communicate, timeout=200)
        wait_for(lambda: updates_done(run_dir) >= (5 if max_hours is None else 1))
        if by == "SIGUSR1 to one process":
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGUSR1)
        elif by == "the file STOP":
            (run_dir / "STOP").touch()
        elif max_hours is None:
            launcher.send_signal(getattr(signal, by))
        wait_for(lambda: len(statuses(run_dir)) == n_processes)
        printed, _ = told.result(timeout=60)
    assert f"{n_processes} process(es) on cpu" in printed
    assert statuses(run_dir) == [0] * n_processes
    update = assert_stopped_early(run_dir, by.removesuffix(" to one process"))
    # The last line of metrics is that of the last update.
    written_at_s = [(run_dir / name).stat().st_mtime for name in ("metrics.jsonl", "PREEMPTED")]
    assert written_at_s[1] - written_at_s[0] < 10

    assert_goes_on_exactly(run_dir, update, partial(train_on, n_processes), tiny_config)


def assert_goes_on_exactly(
    run_dir: Path, update: int, go_on: Callable[[Config, Path], object], make: MakeConfig
) -> None:
    """Three updates further, everything is as in a run that nobody stopped."""
    config = make(**{**LONG, "train": {**LONG["train"], "stop_at_update": update + 3}})
    whole = run_dir.with_name("whole")
    for folder in (run_dir, whole):
        go_on(config, folder)
    assert not (run_dir / "PREEMPTED").exists()
    found = [checkpoint.checkpoint_dir(folder, update + 3) for folder in (run_dir, whole)]
    assert (found[0] / "model.safetensors").read_bytes() == (found[1] / "model.safetensors").read_bytes()
    assert metrics(run_dir) == metrics(whole)


@pytest.mark.slow
def test_one_ctrl_c_under_the_launcher_is_one_stop_and_loader_workers_do_not_heed_it(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    config = tiny_config(**{**LONG, "train": {**LONG["train"], "loader_workers": 1}})
    with started(config, run_dir, 1) as launcher:
        wait_for(lambda: updates_done(run_dir) >= 3)
        os.killpg(launcher.pid, signal.SIGINT)
        wait_for(lambda: statuses(run_dir))
        _, errors = launcher.communicate(timeout=30)
    assert statuses(run_dir) == [0]
    assert errors.count("stopping after this update") == 1
    assert_stopped_early(run_dir, "SIGINT")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_program_with_status_130_and_one_line(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    # An update of so many micro-batches takes longer than the pause between the two.
    train_fields = {**LONG["train"], "micro_batches_per_update": 500, "loader_workers": 1}
    with started(tiny_config(**{**LONG, "train": train_fields}), run_dir, None) as process:
        wait_for(lambda: updates_done(run_dir) >= 1)
        process.send_signal(signal.SIGINT)
        time.sleep(2 * stopping._ECHO_S)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("accel_tx: interrupted")
    assert not (run_dir / "PREEMPTED").exists()


@pytest.mark.parametrize("whom", ["one", pytest.param("all", marks=pytest.mark.slow)])
def test_a_killed_loader_worker_ends_the_run_with_a_line_and_nobody_waits(
    whom: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(**{**LONG, "train": {**LONG["train"], "loader_workers": 2}})
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "accel_tx", "train", "--config", "configs/quickstart.yaml"]
    with subprocess.Popen(
        [*command, "--run_dir", str(run_dir), *as_options(config)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as training:
        wait_for(lambda: updates_done(run_dir) >= 3)
        workers = psutil.Process(training.pid).children()
        assert len(workers) == 2
        for worker in workers if whom == "all" else workers[:1]:
            worker.kill()
        _, printed = training.communicate(timeout=60)
    assert training.returncode == 1
    assert "DataLoader worker" in printed
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("end", ["terminal", pytest.param("pipe", marks=pytest.mark.slow)])
def test_a_run_whose_reader_is_gone_still_stops_with_a_checkpoint(
    end: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    reader, writer = os.openpty() if end == "terminal" else os.pipe()
    command = [sys.executable, "-m", "accel_tx", "train", "--config", CONFIG, "--run_dir", str(run_dir)]
    process = subprocess.Popen(
        [*command, *as_options(tiny_config(**LONG))],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        start_new_session=True,
    )
    os.close(writer)
    try:
        wait_for(lambda: updates_done(run_dir) >= 3)
        os.close(reader)
        seen = updates_done(run_dir)
        wait_for(lambda: updates_done(run_dir) >= seen + 5)
        process.send_signal(signal.SIGHUP)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert_stopped_early(run_dir, "SIGHUP")
