"""Numbers of processes that are no numbers end a command with one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from accel_tx.cli import main
from accel_tx.config import UserError
from accel_tx.train import processes

READERS = [("RANK", processes.rank, 0), ("WORLD_SIZE", processes.n_launched, 1)]
READERS.append(("LOCAL_WORLD_SIZE", processes.n_on_machine, 1))


@pytest.mark.parametrize(("name", "read", "without"), READERS, ids=[name for name, *_ in READERS])
def test_what_a_launcher_sets_is_read(
    name: str, read: Callable[[], int], without: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    assert read() == without
    monkeypatch.setenv(name, "12")
    assert read() == 12
    for value in ("", "two", "-1", "1.5", "²", str(without - 1)):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"has {name}='{value}'; expected a whole number from {without} on"):
            read()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("command", ["train", "check", "find-lr"])
def test_a_command_says_so_in_one_line(
    command: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(SystemExit) as ended:
        main([command, "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / "run")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"accel_tx: the environment has {name}=''; expected a whole number")
