"""Of many processes one prepares; a dead one is replaced, a failed one ends those who wait for it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel_tx.config import UserError
from accel_tx.data import once
from accel_tx.data.once import make_once
from tests.conftest import REPOSITORY

# Makes the folder slowly, noting each maker; `how` decides what the maker does at the end.
SCRIPT = """
import sys, time
from pathlib import Path
from accel_tx.config import UserError
from accel_tx.data import once

folder, how = Path(sys.argv[1]), sys.argv[2]
once._TELL_AFTER_S = 0.3

def make(empty):
    (folder.parent.parent / f"maker.{time.time_ns()}").touch()
    (empty / "half").touch()
    time.sleep(600 if how == "hang" else 1.5)
    if how == "fail":
        raise UserError("corpus x: line 3 is wrong")
    (empty / "whole").touch()

try:
    once.make_once(folder, make)
except UserError as error:
    sys.exit(f"UserError {error}")
"""


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), how],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def n_makers(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("maker.*")))


def wait_for_a_maker(tmp_path: Path) -> None:
    for _ in range(600):
        if n_makers(tmp_path):
            return
        time.sleep(0.05)
    raise AssertionError("nobody began")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "prepared"


def test_of_several_independent_starts_one_makes_it_and_the_others_say_that_they_wait(
    tmp_path: Path, folder: Path
) -> None:
    started = [start(folder, "finish") for _ in range(4)]
    told = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, told
    assert n_makers(tmp_path) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["prepared"], "something is left behind"
    assert sum("waiting for process" in text for text in told) >= 1
    assert not any("waiting" in text and str(folder) not in text for text in told)


def test_an_error_of_the_input_ends_all_who_wait_and_is_not_run_into_again(tmp_path: Path, folder: Path) -> None:
    maker = start(folder, "fail")
    wait_for_a_maker(tmp_path)
    waiting = [start(folder, "fail") for _ in range(2)]
    told = [process.communicate(timeout=60)[1] for process in (maker, *waiting)]
    assert all("UserError corpus x: line 3 is wrong" in text for text in told)
    assert n_makers(tmp_path) == 1
    assert list(folder.parent.iterdir()) == []
    make_once(folder, lambda empty: (empty / "mended").touch())
    assert (folder / "mended").exists()


def test_one_takes_over_from_a_maker_that_was_killed(tmp_path: Path, folder: Path) -> None:
    maker = start(folder, "hang")
    wait_for_a_maker(tmp_path)
    waiting = [start(folder, "finish") for _ in range(3)]
    time.sleep(1)
    maker.send_signal(signal.SIGKILL)
    # Not reaped yet: a zombie must count as dead.
    told = [process.communicate(timeout=60)[1] for process in waiting]
    assert [process.returncode for process in waiting] == [0] * 3, told
    maker.communicate()
    assert n_makers(tmp_path) == 2
    assert (folder / "whole").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["prepared"], "the dead maker's half work is left"


def lock_of_another_host(folder: Path) -> Path:
    folder.parent.mkdir()
    lock = folder.with_name(".prepared.lock")
    lock.write_text(json.dumps({"host": "elsewhere", "name": "far", "pid": 1, "token": "t", "started": "1"}) + "\n")
    return lock


def test_a_silent_maker_on_another_host_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_SILENCE_S", 0.5)
    lock = lock_of_another_host(folder)
    folder.with_name(".prepared.t").mkdir()
    make_once(folder, lambda empty: (empty / "whole").touch())
    assert (folder / "whole").exists()
    assert not lock.exists()
    assert [path.name for path in folder.parent.iterdir()] == ["prepared"]


def test_a_beating_heart_on_another_host_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Thread

    monkeypatch.setattr(once, "_SILENCE_S", 1.0)
    lock = lock_of_another_host(folder)
    waiting = Thread(target=make_once, args=(folder, lambda empty: (empty / "mine").touch()), daemon=True)
    waiting.start()
    for _ in range(8):
        time.sleep(0.3)
        os.utime(lock)
    folder.mkdir()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert list(folder.iterdir()) == []


def test_the_heart_beats_while_it_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_HEARTBEAT_S", 0.05)
    beats = []

    def make(empty: Path) -> None:
        for _ in range(5):
            beats.append(folder.with_name(".prepared.lock").stat().st_mtime_ns)
            time.sleep(0.2)

    make_once(folder, make)
    assert len(set(beats)) >= 4


def test_other_errors_leave_nothing_behind_either(folder: Path) -> None:
    def make(empty: Path) -> None:
        (empty / "half").touch()
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        make_once(folder, make)
    assert list(folder.parent.iterdir()) == []


def test_a_maker_that_was_taken_for_dead_waits_or_makes_it_again(folder: Path) -> None:
    calls: list[Path] = []

    def make(empty: Path) -> None:
        calls.append(empty)
        if len(calls) == 1:
            empty.rmdir()  # by the process that took over
        (empty / "made").touch()

    make_once(folder, make)
    assert len(calls) == 2
    assert (folder / "made").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data.cache_dir .*/file: cannot be written"):
        make_once(tmp_path / "file" / "prepared", lambda _: None)


def test_a_full_disk_leaves_no_lock_without_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    n_open = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(UserError, match="its disk, or your quota there, is full"):
            make_once(tmp_path / "made", lambda _: None)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == n_open
    make_once(tmp_path / "made", lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
