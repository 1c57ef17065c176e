"""Averaged weights: exact through stops, the same on every process, and the best of all is what best/ holds."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel_tx.config import Config, UserError
from accel_tx.train import averaging, checkpoint, validated
from accel_tx.train.checkpoint_identity import check_belongs
from accel_tx.train.loop import train
from tests.behaviour.test_stopping import during_update
from tests.ranks import train_on
from tests.run_folder import assert_same_run, metrics, scores

MakeConfig = Callable[..., Config]
SMALL: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_train_pairs": 90, "phrasebook_valid_pairs": 7},
    "train": {
        "max_updates": 12,
        "log_every_updates": 4,
        "save_every_updates": 5,
        "keep_checkpoints": 4,
        "ema_decay": 0.8,
    },
    "validation": {"every_updates": 2, "average_last": 3, "best_metric": "val_loss", "n_samples": 0},
    "decode": {"max_len_ratio": 0.0, "max_len_extra": 1},
}


def config_of(make: MakeConfig, **sections: dict[str, Any]) -> Config:
    return make(**{name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}})


def model_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_stopped_between_checkpoints_and_killed_behind_one_it_ends_with_the_same_bytes(
    optimizer: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    optim = {"name": optimizer, "schedule": "cosine", "warmup_updates": 3, "weight_decay": 0.01}
    train(config_of(tiny_config, optim=optim), tmp_path / "whole")
    train(config_of(tiny_config, optim=optim, train={"stop_at_update": 7}), tmp_path / "parts")
    # As after a kill at update 11: what came behind the checkpoint of update 7 is there, the checkpoint of 10 is not.
    train(config_of(tiny_config, optim=optim, train={"stop_at_update": 11}), tmp_path / "parts")
    for update in (10, 11):
        shutil.rmtree(checkpoint.checkpoint_dir(tmp_path / "parts", update))
    assert validated.updates_kept(tmp_path / "parts")[-3:] == [6, 8, 10]
    train(config_of(tiny_config, optim=optim), tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    newest = [checkpoint.checkpoint_dir(tmp_path / name, 12) for name in ("parts", "whole")]
    assert len({(folder / checkpoint.EMA).read_bytes() for folder in newest}) == 1


def test_a_stop_during_the_validation_of_any_kind_of_weights_changes_nothing(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_config, train={"max_updates": 6})
    train(config, tmp_path / "whole")
    for nth in (1, 3):
        entered = []
        real = averaging.weights_in

        def interrupted(*arguments: Any, nth: int = nth, entered: list[int] = entered, real: Any = real) -> Any:
            entered.append(1)
            # update 2 has two kinds of weights, update 4 all three
            if len(entered) == 2 + nth:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("accel_tx.train.candidates.weights_in", interrupted)
            train(config, tmp_path / str(nth))
        state = checkpoint.load_state(checkpoint.checkpoint_dir(tmp_path / str(nth), 4))
        assert state.validation_is_due
        train(config, tmp_path / str(nth))
        assert_same_run(tmp_path / str(nth), tmp_path / "whole")


def test_the_average_is_of_the_last_validations_and_the_winner_is_what_best_holds(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_config, validation={"best_metric": "bleu"})
    seen: list[dict[str, Any]] = []
    real = averaging.weights_in

    def noted(model: Any, weights: Any) -> Any:
        if weights is not None:
            seen.append({name: tensor.clone() for name, tensor in weights.items()})
        return real(model, weights)

    def favour_the_average(results: dict[str, Any], _: str) -> str:
        return list(results)[-1]

    monkeypatch.setattr("accel_tx.train.candidates.weights_in", noted)
    monkeypatch.setattr("accel_tx.train.loop.winner_of", favour_the_average)
    monkeypatch.setattr("accel_tx.train.results.is_better", lambda *_: True)
    train(config, tmp_path / "run")
    last = [model_weights(validated.folder_of(tmp_path / "run", update)) for update in (8, 10, 12)]
    for name, tensor in model_weights(tmp_path / "run" / "best").items():
        mean = torch.stack([weights[name].double() for weights in last]).mean(0)
        assert torch.equal(tensor, mean.to(tensor.dtype)), name
        assert torch.equal(tensor, seen[-1][name])
    own = model_weights(tmp_path / "run" / "final")
    assert all(torch.equal(own[name], last[-1][name]) for name in own)  # the run's own weights came back
    ema = load_file(checkpoint.checkpoint_dir(tmp_path / "run", 12) / checkpoint.EMA)
    assert all(torch.equal(ema[name], seen[-2][name]) for name in ema)
    assert any(not torch.equal(ema[name], own[name]) for name in ema)
    line = next(line for line in reversed(metrics(tmp_path / "run")) if "val_loss" in line)
    kept = scores(tmp_path / "run", "best")
    assert (kept["weights"], kept["val_loss"]) == ("average", line["average_val_loss"])
    assert len({line["val_loss"], line["ema_val_loss"], line["average_val_loss"]}) == 3


def averaged_at(run_dir: Path) -> list[int]:
    """The updates at which an average was scored."""
    return [line["update"] for line in metrics(run_dir) if "average_val_loss" in line]


def test_a_validation_that_keeps_no_weights_ends_what_was_kept_before(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for stop, average_last in ((5, 3), (8, None), (None, 3)):
        validation = {"average_last": average_last}
        train(config_of(tiny_config, train={"stop_at_update": stop}, validation=validation), run_dir)
    assert averaged_at(run_dir) == [4, 12]
    last = [model_weights(validated.folder_of(run_dir, update)) for update in (10, 12)]
    assert validated.updates_kept(run_dir) == [10, 12]
    assert any(not torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_a_run_begun_again_does_not_average_what_a_lost_start_kept(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run_dir, plain = tmp_path / "run", {"train": {"stop_at_update": 3}}
    train(config_of(tiny_config, **plain, validation={"every_updates": 1}), run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    (run_dir / "checkpoints").mkdir()  # as after a kill before the first checkpoint
    train(config_of(tiny_config, **plain), run_dir)
    assert averaged_at(run_dir) == []


def test_two_processes_keep_the_same_average_as_one(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = config_of(tiny_config, train={"max_updates": 6}, model={"dropout": 0.0}, validation={"every_updates": 3})
    for n_processes in (1, 2):
        train_on(n_processes, config, tmp_path / str(n_processes), float64=True)
    files = [checkpoint.checkpoint_dir(tmp_path / n, 6) / checkpoint.EMA for n in ("1", "2")]
    first, second = load_file(files[0]), load_file(files[1])
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-10
    lines = [[line for line in metrics(tmp_path / n) if "val_loss" in line][-1] for n in ("1", "2")]
    for name in ("val_loss", "ema_val_loss", "average_val_loss"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-9)


def test_two_processes_with_muon_go_on_to_the_same_bytes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    setup = {"optim": {"name": "muon"}, "validation": {"every_updates": 4}}
    train_on(2, config_of(tiny_config, **setup, train={"max_updates": 6}), tmp_path / "whole")
    for stop in (3, None):
        train_on(
            2, config_of(tiny_config, **setup, train={"max_updates": 6, "stop_at_update": stop}), tmp_path / "parts"
        )
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_checkpoint_without_the_average_or_of_another_decay_is_refused(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = config_of(tiny_config, train={"stop_at_update": 5})
    train(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"train\.ema_decay = 0\.8, this start has 0\.9"):
        train(config_of(tiny_config, train={"ema_decay": 0.9}), tmp_path / "run")
    file = checkpoint.checkpoint_dir(tmp_path / "run", 5) / checkpoint.EMA
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="no checkpoint in it is valid"):
        train(config, tmp_path / "run")


def test_where_the_weights_cannot_be_kept_the_run_goes_on_without_their_average(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    during_update(monkeypatch, 2, lambda: shutil.rmtree(tmp_path / "run" / "validated"))
    during_update(monkeypatch, 3, (tmp_path / "run" / "validated").touch)
    train(config_of(tiny_config, train={"max_updates": 4}), tmp_path / "run")
    assert "no average is scored at this validation" in capsys.readouterr().out
    line = next(line for line in reversed(metrics(tmp_path / "run")) if "val_loss" in line)
    assert "ema_val_loss" in line
    assert "average_val_loss" not in line


def test_a_run_of_a_version_without_these_fields_goes_on(tiny_config: MakeConfig, tmp_path: Path) -> None:
    plain = {"train": {"ema_decay": None, "stop_at_update": 5}, "validation": {"average_last": None}}
    train(config_of(tiny_config, **plain), tmp_path / "run")
    folder = checkpoint.checkpoint_dir(tmp_path / "run", 5)
    state = checkpoint.load_state(folder)
    for name in ("train.ema_decay", "optim.schedule"):
        del state.settings[name]
    fresh = checkpoint.load_state(folder)
    check_belongs(state, fresh, folder)
    fresh.settings["optim.schedule"] = "linear"
    with pytest.raises(UserError, match=r"optim\.schedule = one_cycle, this start has linear"):
        check_belongs(state, fresh, folder)


def test_scores_json_of_best_says_which_weights_and_which_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train(config_of(tiny_config, train={"max_updates": 2}), tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "best" / "scores.json").read_text())
    assert kept["weights"] in ("raw", "ema")
    assert kept["run"] == json.loads((tmp_path / "run" / "final" / "scores.json").read_text())["run"]
