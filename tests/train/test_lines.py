"""Lines of a run's files are there whole or not at all, and one that a crash cut off stops no start."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from accel_tx.train.bad_updates import BAD_UPDATES_FILE, forget_bad_updates
from accel_tx.train.lines import append_whole, keep_lines, update_of_line
from accel_tx.train.state import TrainState


def test_lines_that_are_not_kept_go_and_a_file_that_is_right_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    keep_lines(path, lambda line: False)
    assert not path.exists()
    for update in (1, 2, 3):
        append_whole(path, b'{"update": %d}\n' % update)
    before = path.stat()
    keep_lines(path, lambda line: update_of_line(line) <= 3)
    assert path.stat().st_ino == before.st_ino
    keep_lines(path, lambda line: update_of_line(line) <= 1)
    assert path.read_bytes() == b'{"update": 1}\n'


@pytest.mark.parametrize(
    "last",
    [b'{"update": 2, "src": "caf\xc3', b'{"update": 2}', b"[]\n", b'{"update": 2}{"update": 3}\n', b"\xff\xfe\n"],
)
def test_damaged_lines_of_bad_updates_go_and_odd_line_separators_stay(last: bytes, tmp_path: Path) -> None:
    path = tmp_path / BAD_UPDATES_FILE
    whole = '{"update": 1, "src": "a\u2028b\u0085c"}\n'.encode()
    path.write_bytes(whole + last)
    forget_bad_updates(tmp_path, TrainState("", {}, 9, update=5))
    assert path.read_bytes() == whole


def test_the_line_of_an_update_that_a_rollback_passes_over_stays(tmp_path: Path) -> None:
    path = tmp_path / BAD_UPDATES_FILE
    path.write_bytes(b'{"update": 8}\n{"update": 9}\n')
    state = TrainState("", {}, 20, update=6)
    state.passed_over = [[4, 8]]
    forget_bad_updates(tmp_path, state)
    assert path.read_bytes() == b'{"update": 8}\n'


def test_lines_that_cannot_be_brought_onto_the_disk_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"update": 1}\n{"update": 2}\n')

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        keep_lines(path, lambda line: update_of_line(line) <= 1)
    assert path.read_bytes() == b'{"update": 1}\n{"update": 2}\n'
    assert list(tmp_path.iterdir()) == [path]
