"""Lines as they arrive: none lost or added, blocks bounded in size and delay, what is no text replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from accel_tx.config import UserError
from accel_tx.inference import stream
from accel_tx.inference.json_lines import dump_line, optional_text, parse_line
from accel_tx.inference.stream import Line, read_blocks

ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"


def read_bytes(data: bytes, tmp_path: Path, n_lines: int = 1_000) -> list[Line]:
    path = tmp_path / "in.txt"
    path.write_bytes(data)
    return [line for block in read_blocks(str(path), n_lines) for line in block.lines]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"one\n\n", ["one", ""]),
        (b"one\r\n\r\ntwo\r", ["one", "", "two"]),
        (f"{ODD}\n\n last ".encode(), [ODD, "", " last "]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n", ["one", "\ufefftwo"]),
    ],
)
def test_only_line_feeds_end_a_line(data: bytes, texts: list[str], tmp_path: Path) -> None:
    lines = read_bytes(data, tmp_path)
    assert [line.text for line in lines] == texts
    assert [line.number for line in lines] == list(range(1, len(texts) + 1))
    assert not any(line.n_replaced for line in lines)


@given(lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=30), n=st.integers(1, 7))
def test_any_bytes_give_as_many_lines_in_blocks_that_are_full(
    lines: list[bytes], n: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assume(not lines or not lines[0].startswith((b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff")))  # no text at all
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    blocks = list(read_blocks(str(path), n))
    assert sum(len(block.lines) for block in blocks) == len(lines)
    assert all(len(block.lines) == n for block in blocks[:-1])
    for block in blocks:
        for line in block.lines:
            line.text.encode("utf-8")
            assert "\0" not in line.text


@pytest.mark.parametrize(
    ("raw", "text", "n_replaced"),
    [
        (b"caf\xe9 au lait", "caf\ufffd au lait", 1),
        (b"a\0b\0", "a\ufffdb\ufffd", 2),
        ("known \ufffd stays".encode(), "known \ufffd stays", 0),
        ("\ufffd".encode() + b"\xff", "\ufffd\ufffd", 1),
        (b"\xe2\x82", "\ufffd", 1),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", 3),
    ],
)
def test_what_is_no_text_is_replaced_and_counted(raw: bytes, text: str, n_replaced: int, tmp_path: Path) -> None:
    assert read_bytes(b"fine\n" + raw + b"\n", tmp_path)[1] == Line(2, text, n_replaced)


def test_a_line_across_many_reads_stays_one(tmp_path: Path) -> None:
    long = b"x" * 300_000
    assert [len(line.text) for line in read_bytes(b"a\n" + long + b"\nb", tmp_path)] == [1, 300_000, 1]


def test_a_block_ends_at_its_size_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BYTES_PER_BLOCK", 10)
    path = tmp_path / "in.txt"
    path.write_bytes(b"1234\n" * 5)
    assert [(len(block.lines), block.n_bytes) for block in read_blocks(str(path))] == [(2, 10), (2, 10), (1, 5)]


def test_a_line_without_end_is_refused_by_its_number_after_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_LONGEST_LINE_BYTES", 100_000)
    path = tmp_path / "in.txt"
    path.write_bytes(b"one\ntwo\n" + b"x" * 200_000)
    blocks = read_blocks(str(path))
    found = [line.text for line in next(blocks).lines]
    with pytest.raises(UserError, match=r"in\.txt: line 3 is longer than"):
        next(blocks)
    assert found == ["one", "two"]


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file"):
        list(read_blocks("none.txt"))


class Typist(threading.Thread):
    """Writes into a named pipe what a generator gives, which sees whether the reader has had a block yet."""

    def __init__(self, path: Path, script: Callable[[threading.Event], Iterator[str]]) -> None:
        super().__init__(daemon=True)
        os.mkfifo(path)
        self.path, self.script = path, script
        self.block_came = threading.Event()

    def run(self) -> None:
        with open(self.path, "wb", buffering=0) as pipe:
            for text in self.script(self.block_came):
                pipe.write(text.encode())


def blocks_of(path: Path, script: Callable[[threading.Event], Iterator[str]], n_lines: int = 1_000) -> list[list[str]]:
    typist = Typist(path, script)
    typist.start()
    found = []
    for block in read_blocks(str(path), n_lines):
        typist.block_came.set()
        found.append([line.text for line in block.lines])
    typist.join()
    return found


_PATIENCE_S = 20.0  # a reader that waits for what never comes fails after so long


def test_a_pause_ends_a_block_and_a_half_line_waits_for_its_end(tmp_path: Path) -> None:
    def script(block_came: threading.Event) -> Iterator[str]:
        yield "a\nb\nhalf"
        assert block_came.wait(_PATIENCE_S)
        yield " a line\n"

    assert blocks_of(tmp_path / "pipe", script) == [["a", "b"], ["half a line"]]


def test_lines_that_keep_coming_do_not_hold_the_first_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSE_S", 60.0)
    n_written = 0

    def script(block_came: threading.Event) -> Iterator[str]:
        nonlocal n_written
        while not block_came.wait(0.02) and n_written < _PATIENCE_S / 0.02:
            n_written += 1
            yield f"{n_written}\n"
        yield "last\n"

    found = blocks_of(tmp_path / "pipe", script)
    assert n_written < _PATIENCE_S / 0.02
    assert [text for texts in found for text in texts] == [*map(str, range(1, n_written + 1)), "last"]


def test_a_full_block_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSE_S", 60.0)
    monkeypatch.setattr(stream, "LONGEST_WAIT_S", 60.0)

    def script(block_came: threading.Event) -> Iterator[str]:
        yield "a\nb\nc\n"
        assert block_came.wait(_PATIENCE_S)

    assert blocks_of(tmp_path / "pipe", script, n_lines=2) == [["a", "b"], ["c"]]


def test_a_terminal_gives_its_lines_one_by_one() -> None:
    master, terminal = os.openpty()
    try:
        os.write(master, b"a\nb\n\x04")  # the last is Ctrl-D, the end of the input
        assert [[line.text for line in block.lines] for block in read_blocks(os.ttyname(terminal))] == [["a"], ["b"]]
    finally:
        os.close(master)
        os.close(terminal)


# JSON Lines


@given(st.text(max_size=20))
def test_any_text_comes_through_json_on_one_line_of_utf8(text: str) -> None:
    line = dump_line({"source": text, "half": "\ud83d", "n": None})
    line.encode("utf-8")
    assert len(line.splitlines()) == 1
    values, parsed = parse_line(Line(1, line), "source", "-")
    assert values == {"source": text, "half": "\ud83d", "n": None}
    assert parsed.text == text.replace("\0", "\ufffd")


def test_half_a_surrogate_pair_in_json_is_replaced_and_counted() -> None:
    _, line = parse_line(Line(1, r'{"source": "a\ud800b\u0000", "id": 7}', n_replaced=1), "source", "-")
    assert line == Line(1, "a\ufffdb\ufffd", 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "source",
        "[1]",
        '{"text": "a"}',
        '{"a\\nb\\u001b[31m": "a"}',
        '{"source": 3}',
        '{"source": NaN}',
        '{"source": "a", "n": 1e999}',
        "[" * 9999,
    ],
)
def test_json_without_the_text_is_one_line_that_says_what_was_expected(text: str) -> None:
    with pytest.raises(
        UserError, match=r'f\.jsonl: line 4 .*expected one JSON object a line with a text "source"'
    ) as e:
        parse_line(Line(4, text), "source", "f.jsonl")
    assert len(str(e.value)) < 500
    assert str(e.value).isprintable()


def test_an_object_that_is_too_deep_to_be_written_is_one_line() -> None:
    """The parser refuses most of them, but takes one or two levels more than the writer."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UserError, match=r"^f: line 4 has an object nested too deeply to be written again; expected "):
        dump_line({"source": "a", "deep": deep}, "f: line 4 has an object")
    with pytest.raises(UserError, match=r"^f: line 4 has .key. nested too deeply to be written again; expected "):
        optional_text({"key": deep}, "key", Line(4, ""), "f")


def test_an_optional_text_may_be_missing_but_not_mended() -> None:
    line = Line(4, "{...}", n_replaced=1)
    assert [optional_text(values, "key", line, "-") for values in ({}, {"key": None}, {"key": "a"})] == ["", "", "a"]
    assert optional_text({"key": "\ufffd"}, "key", Line(4, "{...}"), "-") == "\ufffd"
    for text in ("\ufffd", "a\0", "\udc80"):
        with pytest.raises(UserError, match=r"^f: line 4 has .key. with bytes that are not UTF-8, NUL or half a "):
            optional_text({"key": text}, "key", line, "f")
