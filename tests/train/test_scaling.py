"""`train.scale_with_processes`: what it multiplies, and what a run keeps that it has begun with."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from accel_tx.config import Config, UserError, dump_yaml
from accel_tx.train.find_lr import find_lr
from accel_tx.train.rate_curve import Ramp
from accel_tx.train.scaling import scaled, settle
from tests.ranks import train_on
from tests.run_folder import metrics

MakeConfig = Callable[..., Config]


def of_run(run_dir: Path) -> tuple[int, float, bool]:
    """Micro-batches of an update, the peak rate and whether to scale, as the run's config.yaml has them."""
    values = yaml.safe_load((run_dir / "config.yaml").read_text())
    train = values["train"]
    return train["micro_batches_per_update"], values["optim"]["max_lr"], train["scale_with_processes"]


def test_updates_grow_with_the_processes_and_rates_with_their_root(tiny_config: MakeConfig) -> None:
    cosine = {"schedule": "cosine", "max_lr": 1e-3, "min_lr": 1e-5}
    config = tiny_config(train={"micro_batches_per_update": 2, "scale_with_processes": True}, optim=cosine)
    found = scaled(config, 4)
    assert found.train.micro_batches_per_update == 8
    assert (found.optim.max_lr, found.optim.min_lr) == (2e-3, 2e-5)
    assert not found.train.scale_with_processes
    assert scaled(config, 1).optim == config.optim
    auto = {"max_tokens": "auto", "tokens_per_update": 1000, "micro_batches_per_update": 1}
    found = scaled(tiny_config(train={**auto, "scale_with_processes": True}), 4)
    assert (found.train.tokens_per_update, found.train.micro_batches_per_update) == (4000, 1)


def test_nothing_is_scaled_unless_asked_for(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    config = tiny_config()
    assert settle(config, tmp_path, is_main=True) is config


@pytest.mark.parametrize(
    ("fields", "recorded"),
    [
        ({"micro_batches_per_update": 3}, {"micro_batches_per_update": 12}),
        # 4,000 tokens in 7 equal micro-batches, rounded up
        ({"max_tokens": "auto", "tokens_per_update": 1000}, {"max_tokens": 572, "micro_batches_per_update": 7}),
        # begun under auto, now by number
        (
            {"max_tokens": 250, "tokens_per_update": 1000, "micro_batches_per_update": 1},
            {"max_tokens": 1000, "micro_batches_per_update": 4},
        ),
    ],
)
def test_a_run_keeps_the_size_and_rate_that_it_began_with(
    fields: dict[str, object],
    recorded: dict[str, object],
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config(train={**fields, "scale_with_processes": True})
    begun = tiny_config(train={"max_tokens": 256, **recorded}, optim={"max_lr": 2 * 5e-3})
    (tmp_path / "config.yaml").write_text(dump_yaml(begun))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert settle(config, tmp_path, is_main=True) == scaled(config, 4)
    assert "4 process(es)" in (line := capsys.readouterr().out)
    assert line.endswith("as this run began; it goes on with them on 2\n")


@pytest.mark.slow
def test_a_scaled_run_goes_on_with_any_number_of_processes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    fields = {"max_updates": 6, "save_every_updates": 6, "log_every_updates": 1, "scale_with_processes": True}
    validation = {"every_updates": 6}
    config = tiny_config(train={**fields, "stop_at_update": 3}, validation=validation)
    printed = train_on(2, config, tmp_path / "run")
    assert "2 process(es), micro_batches_per_update 2 -> 4, max_lr 0.005 -> 0.00707107\n" in printed
    assert of_run(tmp_path / "run") == (4, math.sqrt(2) * 5e-3, False)
    printed = train_on(1, tiny_config(train=fields, validation=validation), tmp_path / "run")
    assert "as this run began; it goes on with them on 1" in printed
    by_hand = {**fields, "scale_with_processes": False, "micro_batches_per_update": 4}
    train_on(
        1, tiny_config(train=by_hand, optim={"max_lr": math.sqrt(2) * 5e-3}, validation=validation), tmp_path / "1"
    )
    lines = [
        [(line["lr"], pytest.approx(line["loss"], rel=1e-4)) for line in metrics(tmp_path / name) if "loss" in line]
        for name in ("run", "1")
    ]
    assert lines[0] == lines[1]
    assert of_run(tmp_path / "run") == of_run(tmp_path / "1")


def test_the_rate_that_a_range_test_finds_is_not_scaled_twice(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accel_tx.train.launched.check_processes", lambda: None)
    config = tiny_config(train={"scale_with_processes": True})
    with pytest.raises(UserError, match=r"train.scale_with_processes is true.*once more; expected a single process"):
        find_lr(config, tmp_path, Ramp(1e-5, 1.0, 20))
    assert list(tmp_path.iterdir()) == []
