"""The processes of a bench: all compute alike, on one GPU each, and one that dies is told in one line."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from accel_tx.bench.memory import Peak
from accel_tx.bench.systems import Player, Task
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
