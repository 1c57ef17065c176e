"""Lines in and out."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accel_tx.config import UserError
from accel_tx.inference.lines import check_can_write, read_lines, write_whole
from accel_tx.inference.stream import read_blocks
from tests.conftest import REPOSITORY


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("a\u2028b\x0bc\r\n\nlast".encode())
    assert list(read_lines(str(path))) == ["a\u2028b\x0bc", "", "last"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert list(read_lines(str(path))) == ["one", "\ufefftwo"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"one\n", mtime=0), "in.txt: is compressed; expected text: unpack it"),
        ("one\n".encode("utf-16"), "in.txt: is UTF-16; expected UTF-8 text: convert the file"),
    ],
)
@pytest.mark.parametrize("read", [read_lines, read_blocks])
def test_what_is_no_text_from_its_first_bytes_on_is_refused(
    read: Callable[[str], Iterator[object]], content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read(str(tmp_path / "in.txt")))


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


def test_a_failure_in_making_the_lines_is_not_told_as_one_of_writing(tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "new"
        raise BrokenPipeError("of something else")

    with pytest.raises(BrokenPipeError, match="of something else"):
        write_whole(tmp_path / "out", lines())
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_name_goes_where_the_rest_of_it_goes(name: str, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from accel_tx.inference.lines import check_can_write as check, write_whole as write;"
        f"out = Path('{name}'); check(out); print('one', flush=True); write(out, iter(['two'])); print('three')"
    )
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True, cwd=REPOSITORY)
    piped = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, cwd=REPOSITORY)
    assert (tmp_path / "out").read_bytes() == piped.stdout == b"one\ntwo\nthree\n"


def test_of_a_reader_who_goes_away_only_that_of_standard_output_is_expected_to(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from accel_tx.config import UserError\n"
        "from accel_tx.inference.lines import write_whole\n"
        "try: write_whole(Path(sys.argv[1]), iter(['text']))\n"
        "except (BrokenPipeError, UserError) as error: sys.exit(type(error).__name__)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    for name, expected in (("/dev/stdout", "BrokenPipeError"), ("-", "BrokenPipeError"), ("/dev/fd/9", "UserError")):
        command = ["bash", "-c", 'exec "$0" -c "$1" "$2" 9>&1', sys.executable, program, name]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
        assert done.stderr.strip() == expected
    os.close(writer)


def test_two_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path, own = tmp_path / "out", tmp_path / ".out.new"
    own.write_text("the user's")

    def lines() -> Iterator[str]:
        yield "outer"
        check_can_write(path)
        write_whole(path, iter(["inner"]))
        assert path.read_text() == "inner\n"
        yield "outer still"

    write_whole(path, lines())
    assert path.read_text() == "outer\nouter still\n"
    assert own.read_text() == "the user's"
    assert sorted(found.name for found in tmp_path.iterdir()) == [".out.new", "out"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_replaced_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones(mode: int, tmp_path: Path) -> None:
    (tmp_path / "older").write_text("older")
    (tmp_path / "older").chmod(mode)
    (tmp_path / "link").symlink_to("older")
    (tmp_path / "usual").write_text("made by Python itself")
    for name in ("older", "link", "new"):
        write_whole(tmp_path / name, iter([name]))
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("older", "new", "usual")}
    assert modes == {"older": mode, "new": modes["usual"], "usual": modes["usual"]}
    assert (tmp_path / "older").read_text() == "link\n"


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
