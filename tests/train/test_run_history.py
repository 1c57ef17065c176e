"""What is read from a run folder, whole or half-written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_tx.config import Config, UserError
from accel_tx.train.run_history import number, read_run, without_overlap
from accel_tx.train.run_lock import locked
from tests.pages.fake_run import fake_run, training_line, validation_line, write_lines


@pytest.fixture
def run_dir(tmp_path: Path, tiny_config: Callable[..., Config]) -> Path:
    lines = [training_line(5), training_line(10), validation_line(10, 1.5), training_line(15)]
    return fake_run(tmp_path / "run", tiny_config(), lines)


def test_lines_of_training_and_of_validation_are_told_apart(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert [line["update"] for line in run.training] == [5, 10, 15]
    assert [line["bleu"] for line in run.validations] == [1.5]
    assert (run.update, run.trained_s, run.n_unreadable) == (15, 45.0, 0)
    assert (run.n_updates, run.is_complete, run.is_running) == (40, False, False)


def test_the_last_line_may_be_half_written_and_damaged_ones_are_counted(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"update": 16, "los\n[1]\n{"loss": 1}\n\xff\n' + json.dumps(training_line(20)).encode()[:-9])
    run = read_run(run_dir)
    assert run.update == 15
    assert run.n_unreadable == 4


def test_a_start_that_went_back_takes_the_place_of_what_was_behind() -> None:
    updates = [5, 10, 15, 20, 10, 15, 16, 16, 30]
    lines = [{"update": update, "at": i} for i, update in enumerate(updates)]
    assert [(line["update"], line["at"]) for line in without_overlap(lines)] == [
        (5, 0),
        (10, 4),
        (15, 5),
        (16, 7),
        (30, 8),
    ]


def test_a_run_that_is_being_written_says_so(run_dir: Path) -> None:
    with locked(run_dir):
        assert read_run(run_dir).is_running


@pytest.mark.parametrize(("update", "is_complete"), [(10, False), (15, True), (16, True)])
def test_a_run_is_complete_with_the_final_weights_of_its_last_update(
    update: int, is_complete: bool, run_dir: Path
) -> None:
    (run_dir / "final").mkdir()
    (run_dir / "final" / "scores.json").write_text(json.dumps({"update": update}))
    assert read_run(run_dir).is_complete is is_complete


@pytest.mark.parametrize(
    ("started_at", "n_updates", "is_complete"),
    [(0, 15, True), (10, 15, True), (15, 15, True), (10, 30, True), (15, 30, False), (17, 30, False)],
)
def test_a_complete_run_that_was_started_again_to_be_longer_is_not_complete(
    started_at: int, n_updates: int, is_complete: bool, run_dir: Path
) -> None:
    (run_dir / "final").mkdir()
    (run_dir / "final" / "scores.json").write_text(json.dumps({"update": 15}))
    write_lines(run_dir / "starts.jsonl", [{"update": started_at, "n_updates": n_updates, "n_parameters": 7}])
    assert read_run(run_dir).is_complete is is_complete


def test_a_run_that_has_just_begun_has_nothing_to_tell(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    run_dir = fake_run(tmp_path / "run", tiny_config(), [])
    (run_dir / "metrics.jsonl").unlink()
    run = read_run(run_dir)
    assert (run.update, run.trained_s, run.best, run.starts, run.evaluations) == (0, 0.0, {}, [], {})
    assert run.best_samples is None


def test_starts_and_evaluations_are_found_and_other_files_are_not(run_dir: Path) -> None:
    starts = [{"update": 0, "n_updates": 90, "n_parameters": 7}, {"update": 10, "n_updates": 90, "n_parameters": 7}]
    write_lines(run_dir / "starts.jsonl", [*starts, {"update": 3}])
    (run_dir / "test.json").write_text(json.dumps({"systems": [{}], "signatures": {}}))
    (run_dir / "clean_report.json").write_text(json.dumps({"n_read": 1}))
    (run_dir / "list.json").write_text("[1]")
    run = read_run(run_dir)
    assert run.starts == starts
    assert run.n_updates == 90
    assert list(run.evaluations) == ["test.json"]


@pytest.mark.parametrize("name", ["nothing", "folder", "file"])
def test_what_is_no_run_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=f"{name}: (holds no run|no such folder)"):
        read_run(tmp_path / name)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1", True, []])
def test_what_is_no_finite_number_is_missing(value: object) -> None:
    assert number({"loss": value}, "loss") is None
    assert number({"loss": 2}, "loss") == 2.0
