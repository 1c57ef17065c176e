"""Other trackers are told every number once, under Accelerate's own classes, and never end a training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from accel_tx.config import Config, UserError
from accel_tx.train.loop import train
from accel_tx.train.update import Updater
from tests.behaviour.test_bad_numbers import plant
from tests.run_folder import read_lines
from tests.train.test_tensorboard import Killed, kill_at

MakeConfig = Callable[..., Config]


class Fake(tracking.GeneralTracker):  # type: ignore[misc]
    """In place of wandb's."""

    name = "wandb"
    requires_logging_directory = False
    calls: list[tuple[str, Any]] = []  # noqa: RUF012 - of all starts together
    fails_at: str | None = None

    def __init__(self, run_name: str, **arguments: Any) -> None:
        super().__init__()
        self.note("made", (run_name, arguments))

    def note(self, what: str, value: Any) -> None:
        if what == self.fails_at:
            raise ConnectionError("no route\nto host")
        self.calls.append((what, value))

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self.note("start", None)
        self.started = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.note("config", values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.note("log", (step, values))

    def finish(self) -> None:
        self.note("finish", self.started)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    monkeypatch.setattr(Fake, "calls", [])
    return Fake


def small(make: MakeConfig, *trackers: str) -> Config:
    train_fields = {"max_updates": 20, "save_every_updates": 5, "log_every_updates": 2, "trackers": [*trackers]}
    return make(train=train_fields, validation={"every_updates": 6}, data={"phrasebook_valid_pairs": 3})


def test_a_tracker_is_told_each_number_once_over_a_kill_and_goes_on_with_its_run(
    fake: type[Fake], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tiny_config, "tensorboard", "wandb")
    with monkeypatch.context() as patch:
        kill_at(13, patch)
        with pytest.raises(Killed):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    told = [value for what, value in fake.calls if what == "log"]
    lines = read_lines(tmp_path / "run")
    for name, tag in {"loss": "train/loss", "bleu": "validation/bleu", "padding_share": "speed/padding_share"}.items():
        expected = [(line["update"], line[name]) for line in lines if name in line]
        assert [(step, values[tag]) for step, values in told if tag in values] == expected
    (_, first), (_, second) = (value for what, value in fake.calls if what == "made")
    assert first == second
    assert (first["name"], first["resume"]) == ("run", "allow")
    (known, _) = (value for what, value in fake.calls if what == "config")
    assert known["optim.max_lr"] == 5e-3
    assert all(isinstance(value, (int, float, str)) for value in known.values())
    assert [what for what, _ in fake.calls].count("finish") == 2


def test_a_tracker_is_told_no_number_again_by_a_run_that_went_back_not_even_after_a_kill(
    fake: type[Fake], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Updater) -> None:
        raise Killed

    config = small(tiny_config, "wandb")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, on_bad_update="rollback"))
    plant(monkeypatch, {(14, 0): math.nan})
    with monkeypatch.context() as patch:
        patch.setattr(Updater, "pass_over", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "run")
    assert max(line["update"] for line in read_lines(tmp_path / "run")) == 10
    train(config, tmp_path / "run")
    told = [(value[0], "train/loss" in value[1]) for what, value in fake.calls if what == "log"]
    assert [step for step, is_train in told if is_train] == [*range(2, 21, 2)]
    assert [step for step, is_train in told if not is_train] == [6, 12, 18, 20]


@pytest.mark.parametrize("fails_at", ["log", "finish"])
def test_a_tracker_that_fails_is_dropped_and_the_training_goes_on(
    fails_at: str,
    fake: type[Fake],
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fake, "fails_at", fails_at)
    train(small(tiny_config, "wandb"), tmp_path / "run")
    assert capsys.readouterr().out.count("wandb is told no more: ConnectionError: no route to host\n") == 1
    assert (tmp_path / "run" / "final").is_dir()
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_that_is_missing_or_cannot_begin_is_told_in_a_line_before_the_training(
    fake: type[Fake], tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="trackers has comet_ml, which is not installed; pip install comet-ml"):
        train(small(tiny_config, "comet_ml"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(fake, "fails_at", "start")
    with pytest.raises(UserError, match="trackers wandb: cannot begin: ConnectionError: no route to host"):
        train(small(tiny_config, "wandb"), tmp_path / "run")
    monkeypatch.setattr(fake, "fails_at", None)
    train(small(tiny_config, "wandb"), tmp_path / "run")
