"""`score` reads pairs in blocks that long lines end early."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_tx.cli import score
from accel_tx.config import UserError


def blocks(tmp_path: Path, src: list[str], tgt: list[str]) -> list[tuple[list[str], list[str]]]:
    names = [str(tmp_path / side) for side in ("src", "tgt")]
    for name, lines in zip(names, (src, tgt)):
        Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = list(score._blocks_of_pairs(*names))
    assert sum(n_bytes for _, _, n_bytes in found) == sum(Path(name).stat().st_size for name in names)
    return [([line.text for line in ours], [line.text for line in theirs]) for ours, theirs, _ in found]


def test_a_block_ends_at_so_many_pairs_or_characters_of_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "LINES_PER_BLOCK", 3)
    monkeypatch.setattr(score, "_CHARS_PER_BLOCK", 20)
    src, tgt = ["a", "b", "c", "d" * 15, "e" * 50, "f", "g"], ["a", "b", "c", "d" * 5, "e", "f", "g"]
    found = blocks(tmp_path, src, tgt)
    assert [len(ours) for ours, _ in found] == [3, 1, 1, 2]
    assert [line for ours, _ in found for line in ours] == src
    assert [line for _, theirs in found for line in theirs] == tgt
    assert blocks(tmp_path, [], []) == []


@pytest.mark.parametrize(("n_src", "n_tgt"), [(4, 7), (7, 4), (0, 1), (3, 4)])
def test_unequal_files_are_told_with_their_lines(
    n_src: int, n_tgt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "LINES_PER_BLOCK", 3)
    with pytest.raises(UserError, match=rf"src has {n_src} lines and .*tgt has {n_tgt}; expected as many"):
        blocks(tmp_path, ["a"] * n_src, ["b"] * n_tgt)
