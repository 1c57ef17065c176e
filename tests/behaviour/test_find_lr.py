"""`find-lr` trains as `train` would, at rates of its own, and touches nothing of a run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.cli import main
from accel_tx.config import Config, UserError, build_config, load_yaml
from accel_tx.train import find_lr as finding
from accel_tx.train.find_lr import find_lr
from accel_tx.train.loop import train
from accel_tx.train.rate_curve import Ramp
from tests.conftest import REPOSITORY, as_options
from tests.ranks import start_ranks
from tests.run_folder import assert_same_run, bytes_of, metrics

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "save_every_updates": 2},
    "validation": {"every_updates": 40, "best_metric": "val_loss"},
}


def losses_of(run_dir: Path) -> list[float]:
    found: list[float] = json.loads((run_dir / "find_lr" / "curve.json").read_text())["loss"]
    return found


def test_the_command_writes_picture_and_numbers_and_prints_the_option(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "runs" / "new"
    call = ["find-lr", "--config", "configs/quickstart.yaml", "--run_dir", str(run_dir), *as_options(tiny_config())]
    main([*call, "--lr_from", "1e-5", "--updates", "60"])
    assert {path.name for path in (run_dir / "find_lr").iterdir()} == {"curve.json", "curve.png"}
    assert [path.name for path in run_dir.iterdir()] == ["find_lr"]
    assert (run_dir / "find_lr" / "curve.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((run_dir / "find_lr" / "curve.json").read_text())
    assert len(values["lr"]) == len(values["loss"]) == len(values["smoothed"]) <= 60
    assert values["lr"][0] == 1e-5
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"    --optim.max_lr {values['proposal']:.1e}"
    # The loss of an untrained model is that of guessing, nearly.
    assert 5 < values["loss"][0] < 8


@pytest.mark.slow
def test_a_run_ends_with_the_same_bytes_whether_or_not_its_rate_was_looked_for(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    whole = tiny_config(**SMALL)
    half = dataclasses.replace(whole, train=dataclasses.replace(whole.train, stop_at_update=4))
    run_dir = tmp_path / "looked"
    find_lr(half, run_dir, Ramp(1e-5, 1.0, 30))
    train(half, run_dir)
    before = bytes_of(run_dir)
    find_lr(half, run_dir, Ramp(1e-6, 1.0, 40))
    after = bytes_of(run_dir)
    assert after.pop("find_lr/curve.json") != before.pop("find_lr/curve.json")
    assert after.pop("find_lr/curve.png") != before.pop("find_lr/curve.png")
    assert after == before
    train(whole, run_dir)
    train(half, tmp_path / "not")
    train(whole, tmp_path / "not")
    assert_same_run(run_dir, tmp_path / "not")


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_its_updates_are_those_of_a_training_at_the_same_rates(
    name: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 2e-3
    sections = {
        **SMALL,
        "train": {"max_updates": 20, "log_every_updates": 1, "ema_decay": 0.9},
        "optim": {"name": name, "schedule": "linear", "max_lr": rate, "min_lr": rate * (1 - 1e-9)},
    }
    train(tiny_config(**sections), tmp_path / "trained")
    monkeypatch.setattr(Ramp, "rate", lambda *_: rate)
    monkeypatch.setattr(finding, "can_draw", lambda: False)
    find_lr(tiny_config(**sections), tmp_path / "found", Ramp(1e-3, 1e-2, 20))
    expected = [line["loss"] for line in metrics(tmp_path / "trained") if "loss" in line]
    assert losses_of(tmp_path / "found") == pytest.approx(expected, rel=1e-5)


def test_it_begins_with_the_weights_that_are_given(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train(tiny_config(**{**SMALL, "train": {"max_updates": 25}}), tmp_path / "source")
    find_lr(tiny_config(), tmp_path / "cold", Ramp(1e-6, 1.0, 20))
    find_lr(tiny_config(), tmp_path / "warm", Ramp(1e-6, 1.0, 20), init_from=tmp_path / "source")
    assert losses_of(tmp_path / "warm")[0] < losses_of(tmp_path / "cold")[0] - 0.5


@pytest.mark.slow
def test_the_proposal_is_within_a_factor_of_three_of_the_best_of_a_sweep(cache_dir: Path, tmp_path: Path) -> None:
    values = load_yaml(REPOSITORY / "configs" / "quickstart.yaml")
    values["data"] |= {"phrasebook_train_pairs": 20_000, "phrasebook_valid_pairs": 50, "cache_dir": str(cache_dir)}
    values["train"] |= {"max_updates": 120, "save_every_updates": 120, "cpu_threads": 1, "precision": "no"}
    values["validation"] |= {"best_metric": "val_loss", "n_samples": 0}
    found = find_lr(build_config(values), tmp_path / "found", Ramp(1e-6, 1.0, 100))
    assert found is not None
    val_loss = {}
    for rate in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
        train(build_config({**values, "optim": {**values["optim"], "max_lr": rate}}), tmp_path / f"{rate}")
        val_loss[rate] = metrics(tmp_path / f"{rate}")[-1]["val_loss"]
    best = min(val_loss, key=val_loss.__getitem__)
    assert found.curve.proposal is not None
    assert best / 3 <= found.curve.proposal <= best * 3, val_loss


def find_and_tell(config: Config, run_dir: Path) -> None:
    assert (find_lr(config, run_dir, Ramp(1e-5, 0.1, 20)) is None) == (os.environ.get("RANK", "0") != "0")


def test_beside_a_run_that_more_processes_have_scaled_it_tries_the_update_of_one(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    auto = {"max_tokens": "auto", "max_updates": 2}
    train(tiny_config(train={**auto, "tokens_per_update": 1000}), tmp_path / "run")  # as 2 processes make of 500
    scaled = tiny_config(train={**auto, "tokens_per_update": 500, "scale_with_processes": True})
    find_lr(scaled, tmp_path / "run", Ramp(1e-5, 0.1, 20))
    assert len(losses_of(tmp_path / "run")) > 1


def test_two_processes_find_the_curve_of_one(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for n in (1, 2):
        run_dir = tmp_path / str(n)
        start_ranks(n, tmp_path / "log", find_and_tell, tiny_config(), run_dir, float64=True).wait()
    assert losses_of(tmp_path / "1") == pytest.approx(losses_of(tmp_path / "2"), rel=1e-9)


def test_without_matplotlib_a_line_says_what_to_install(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finding, "can_draw", lambda: False)
    call = ["find-lr", "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path), *as_options(tiny_config())]
    main([*call, "--updates", "20"])
    assert [path.name for path in (tmp_path / "find_lr").iterdir()] == ["curve.json"]
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lr_from", "1"], "--lr_from 1 --lr_to 1: expected 0 < lr_from < lr_to"),
        (["--lr_from", "0"], "expected 0 < lr_from < lr_to"),
        (["--updates", "5"], "--updates 5: expected at least 20"),
    ],
)
def test_options_that_make_no_curve_are_one_line(
    options: list[str], words: str, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["find-lr", "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / "run"), *options])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_a_file_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file; expected a run folder"):
        find_lr(tiny_config(), tmp_path / "file" / "run", Ramp(1e-6, 1.0, 20))
