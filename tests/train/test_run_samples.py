"""Sample translations come back from TensorBoard as they were, without those of starts that were lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_tx.train.run_samples import as_markdown, from_markdown, samples_of
from tests.pages.fake_run import write_samples


@pytest.mark.parametrize(
    "sample",
    [
        ("a", "b", "c"),
        ("", "", ""),
        ("", "b", ""),
        ("a | b", "|", "| c |"),
        ("a |", "| b", "\\| c \\"),
        ("<unk> & &lt; &amp;eacute", "*a* b_c `d` [e](f)", "\\* \\\\ \\"),
        ("a || b", " | ", "c\u2028d\u0085e"),
    ],
)
def test_a_table_of_samples_gives_the_samples_back(sample: tuple[str, str, str]) -> None:
    assert from_markdown(as_markdown([sample, ("x", "y", "z")])) == [sample, ("x", "y", "z")]


def test_samples_behind_the_checkpoint_that_a_start_went_on_from_are_gone(tmp_path: Path) -> None:
    write_samples(tmp_path, {10: [("s", "r", "first")], 20: [("s", "r", "lost")], 30: [("s", "r", "lost too")]})
    write_samples(tmp_path, {20: [("s", "r", "again")]}, purge_step=11)
    assert samples_of(tmp_path) == {10: [("s", "r", "first")], 20: [("s", "r", "again")]}


def test_a_file_that_a_crash_cut_off_gives_what_is_whole(tmp_path: Path) -> None:
    write_samples(tmp_path, {10: [("s", "r", "whole")], 20: [("s", "r", "cut")]})
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert samples_of(tmp_path) == {10: [("s", "r", "whole")]}


def test_without_tensorboard_there_are_none(tmp_path: Path) -> None:
    assert samples_of(tmp_path) == {}
