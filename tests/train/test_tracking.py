"""metrics.jsonl holds whole lines, each once, whatever the disk does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import Accelerator

from accel_tx.config import Config
from accel_tx.train import tracking
from accel_tx.train.loop import train
from accel_tx.train.tracking import MetricsLog
from tests.conftest import SmallDisk
from tests.run_folder import read_lines


def updates_in(path: Path) -> list[int]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line)["update"] for line in text.splitlines()]


def test_lines_wait_while_the_disk_is_full(
    small_disk: SmallDisk | None, tiny_config: Callable[..., Config], capfd: pytest.CaptureFixture[str]
) -> None:
    if small_disk is None:
        pytest.skip("a tmpfs cannot be mounted here")
    said: list[str] = []
    log = MetricsLog(Accelerator(cpu=True), small_disk.path, tiny_config(), 0, said.append)
    path = small_disk.path / "metrics.jsonl"

    def write(first: int, last: int) -> None:
        for update in range(first, last + 1):
            # More scalars than the last block of TensorBoard's file has room for, whatever stands in it.
            scalars = {f"loss_{i}": 1.0 for i in range(20)}
            log.write({"update": update, **scalars, "note": "x" * 200}, "train")

    write(1, 3)
    small_disk.fill()
    write(4, 20)  # the file's last block has room for some of them
    written = updates_in(path)
    assert 3 <= len(written) < 20
    assert written == list(range(1, len(written) + 1))
    small_disk.make_room()
    write(21, 21)
    assert updates_in(path) == list(range(1, 22))
    small_disk.fill()
    write(22, 40)
    assert "could not be written" in (log.close() or "")
    assert updates_in(path) == list(range(1, len(updates_in(path)) + 1))
    assert sum("metrics.jsonl: cannot be written (No space left on device)" in line for line in said) == 2
    assert sum("tensorboard: cannot be written (No space left on device)" in line for line in said) == 1
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ("import numpy_of_old", "cannot draw (ModuleNotFoundError: No module named 'numpy_of_old')"),
        (None, "is not installed"),
    ],
)
def test_a_matplotlib_that_cannot_draw_costs_a_line_and_no_training(
    planted: str | None,
    told: str,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if planted is None:
        monkeypatch.setattr(tracking, "can_draw", lambda: False)
    else:
        monkeypatch.setattr(tracking, "draw", lambda attention: exec(planted))
    config = tiny_config(train={"max_updates": 4}, validation={"draw_attention": True, "every_updates": 2})
    train(config, tmp_path / "run")
    said = capsys.readouterr()
    assert (said.out + said.err).count(f"matplotlib {told}, so TensorBoard gets no picture of attention") == 1
    assert {line["update"] for line in read_lines(tmp_path / "run") if "val_loss" in line} == {2, 4}
    assert (tmp_path / "run" / "final").is_dir()


@pytest.mark.parametrize("torn", [b'{"update": 3, "lo', b'{"update": 2}', b"\xff\x00\n", b"[]\n", b'{"loss": 1}\n'])
def test_what_a_crash_left_at_the_end_is_not_glued_to_the_next_line(
    torn: bytes, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"update": 1}\n{"update": 2}\n{"update": 3}\n' + torn)
    log = MetricsLog(Accelerator(cpu=True), tmp_path, tiny_config(), 2, lambda _: None)
    log.write({"update": 3}, "train")
    assert log.close() is None
    assert updates_in(tmp_path / "metrics.jsonl") == [1, 2, 3]
