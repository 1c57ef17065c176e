"""The processes of a bench: all compute alike, on one GPU each, and one that dies is told in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from accel_tx.bench import systems
from accel_tx.bench.memory import Peak
from accel_tx.bench.systems import MATMUL, PEERS, SYSTEMS, Player, Task
from accel_tx.config import Config, UserError


def task(config: Config, system: str = "original") -> Task:
    return Task(system, "no", config, 100, 50, 1)


def player_of(process: Any, config: Config) -> tuple[Player, Any]:
    """A handle on a pretended process, and that one's end of the connection."""
    player = Player.__new__(Player)
    player.task, player.turns, player.peak = task(config), [], Peak()
    player._connection, theirs = Pipe()
    player._process = process
    return player, theirs


@pytest.mark.parametrize("n_unread", [0, 1])
def test_a_process_that_dies_between_its_turns_is_told_in_one_line(
    n_unread: int, tiny_config: Callable[..., Config]
) -> None:
    killed = SimpleNamespace(pid=0, exitcode=-9, join=lambda: None)
    player, theirs = player_of(killed, tiny_config())
    for _ in range(n_unread):
        player._connection.send(1.0)
    theirs.close()
    for act in (player._answer, lambda: player.turn(1.0)):
        with pytest.raises(UserError, match=r"^original \(no\): its process ended with status -9 \(-9: out of memory"):
            act()


@pytest.mark.parametrize("system", [MATMUL, *SYSTEMS, *PEERS])
@pytest.mark.parametrize("tf32", [False, True])
def test_every_process_computes_float32_products_as_the_config_says(
    system: str, tf32: bool, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    class _BuiltError(Exception):
        pass

    def built(*_: object) -> None:
        raise _BuiltError

    told: list[bool] = []
    monkeypatch.setattr("accel_tx.train.device.use_tf32", told.append)
    monkeypatch.setattr("accel_tx.train.device.set_cpu_threads", lambda n_threads: n_threads)
    monkeypatch.setattr(systems, "load_workload", built)
    monkeypatch.setattr(systems, "_play_matmul", built)
    with pytest.raises(_BuiltError):
        systems._play(task(tiny_config(train={"tf32": tf32}), system), Pipe()[0])
    assert told == [tf32]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ({}, {"CUDA_VISIBLE_DEVICES": "0"}),
        ({"CUDA_VISIBLE_DEVICES": "2,5"}, {"CUDA_VISIBLE_DEVICES": "2"}),
        ({"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": ""}),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, {"HIP_VISIBLE_DEVICES": "1"}),
    ],
)
def test_every_process_sees_the_first_gpu_alone(
    visible: dict[str, str],
    expected: dict[str, str],
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Seq2SeqTrainer would spread its batches over all that it sees."""
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is restored, also where it is not set
        monkeypatch.delenv(name)
    for name, value in visible.items():
        monkeypatch.setenv(name, value)
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(systems, "_play", lambda *_: seen.append({n: os.environ[n] for n in names if n in os.environ}))
    monkeypatch.setattr("os.dup2", lambda *_: None)
    systems._serve(task(tiny_config()), Pipe()[0])
    assert seen == [expected]
