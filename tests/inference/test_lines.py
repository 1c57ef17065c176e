"""Lines in and out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from accel_tx.config import UserError
from accel_tx.inference.lines import check_can_write, read_lines, write_whole


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("a\u2028b\x0bc\r\n\nlast".encode())
    assert list(read_lines(str(path))) == ["a\u2028b\x0bc", "", "last"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert list(read_lines(str(path))) == ["one", "\ufefftwo"]


def test_a_failure_half_way_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("older")

    def lines():  # type: ignore[no-untyped-def]
        yield "new"
        raise UserError("bad line")

    with pytest.raises(UserError, match="bad line"):
        write_whole(path, lines())
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_link_stays_a_link_and_its_target_gets_the_text(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("older")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", iter(["new"]))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new\n"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, iter(["through"]))
        assert os.read(reader, 100) == b"through\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", [".", "missing/out.txt"])
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder|cannot be written"):
        write_whole(tmp_path / name, iter(["text"]))
    with pytest.raises(UserError, match=r"is a folder|cannot be written"):
        check_can_write(tmp_path / name)


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "older").write_text("older")
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a reader
    for name in ("older", "new", "pipe"):
        check_can_write(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["older", "pipe"]
    assert (tmp_path / "older").read_text() == "older"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        list(read_lines("none.txt"))
