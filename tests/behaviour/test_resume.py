"""A run that was stopped goes on as if it never had been."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, UserError
from accel_tx.data.dataset import prepare_data
from accel_tx.train import checkpoint, file_system
from accel_tx.train.checkpoint_identity import run_identity
from accel_tx.train.fresh import plan_of
from accel_tx.train.loop import train
from tests.run_folder import metrics, weights

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def whole(tiny_config: MakeConfig, intact: Path) -> Path:
    """A run of the tiny config that nobody stopped."""
    train(tiny_config(), intact)
    return intact


@pytest.fixture(scope="module")
def begun(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny config that was stopped after 10 updates."""
    run_dir = tmp_path_factory.mktemp("begun") / "run"
    train(tiny_config(train={"stop_at_update": 10}), run_dir)
    return run_dir


SETUPS: dict[str, dict[str, dict[str, Any]]] = {
    "token budget, accumulation, tied embeddings": {},
    "fixed number of sentences": {"train": {"max_tokens": None, "batch_size": 7}},
    "shared layers, post-norm, attention dropout, R-Drop": {
        "model": {"encoder_sharing": "palindrome", "norm": "post", "attention_dropout": 0.1, "activation": "gelu"},
        "optim": {"r_drop": 5.0},
    },
}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("workers_after", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_stopped_and_gone_on_ends_with_the_same_bytes(
    setup: str, workers_after: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    changes = SETUPS[setup]

    def start(name: str, **fields: Any) -> None:
        fields = {"max_updates": 24, **changes.get("train", {}), **fields}
        train(tiny_config(**{**changes, "train": fields}), tmp_path / name)

    start("whole")
    start("parts", stop_at_update=17, loader_workers=2 - workers_after)
    assert not (tmp_path / "parts" / "final").exists()
    start("parts", loader_workers=workers_after)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_gradient_checkpointing_may_begin_and_end_in_a_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def start(name: str, **fields: Any) -> None:
        train(tiny_config(train={"max_updates": 15, "save_every_updates": 5, **fields}), tmp_path / name)

    start("whole")
    start("parts", gradient_checkpointing=True, stop_at_update=5)
    start("parts", stop_at_update=10)
    start("parts", gradient_checkpointing=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_stop_at_any_update_around_the_end_of_an_epoch_changes_nothing(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    n = plan_of(tiny_config().train, prepare_data(tiny_config())).updates_per_epoch
    train(tiny_config(train={"max_updates": n + 5}), tmp_path / "whole")
    for stop in (n - 1, n, n + 1):
        train(tiny_config(train={"max_updates": n + 5, "stop_at_update": stop}), tmp_path / "parts")
    train(tiny_config(train={"max_updates": n + 5}), tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    whole: Path, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(train={"stop_at_update": 24}), tmp_path / "parts")
    damaged = checkpoint.checkpoint_dir(tmp_path / "parts", 24) / "optimizer.bin"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    train(tiny_config(), tmp_path / "parts")
    printed = capsys.readouterr().out
    assert "update_00000024 passed over: optimizer.bin is damaged" in printed
    assert "going on from" in printed
    assert "update_00000020" in printed
    assert weights(tmp_path / "parts") == weights(whole)
    assert metrics(tmp_path / "parts") == metrics(whole)


def test_a_complete_run_started_again_changes_no_file_that_matters(
    whole: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.suffix in (".safetensors", ".jsonl")}
    train(tiny_config(), tmp_path / "run")
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.suffix in (".safetensors", ".jsonl")}
    assert after == before


@pytest.mark.parametrize(("metric", "kept"), [("val_loss", [30, 40]), ("bleu", [20, 30, 40])])
def test_the_newest_checkpoints_stay_and_that_of_the_best_validation(
    metric: str, kept: list[int], tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # Validation is at 20 and 40: the loss is best at 40, and both BLEU scores are 0, those of single words, so the
    # first of them stands.
    one_word = {"max_len_ratio": 0.0, "max_len_extra": 1}
    config = tiny_config(train={"keep_checkpoints": 2}, validation={"best_metric": metric}, decode=one_word)
    train(config, tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", *(f"update_{update:08d}" for update in kept)]
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text().strip() == "update_00000040"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"optim": {"max_lr": 1e-3}}, "optim.max_lr"),
        ({"train": {"seed": 2}}, "train.seed"),
        ({"train": {"max_updates": 50}}, "train.max_updates"),
        ({"model": {"dropout": 0.1}}, "model.dropout"),
        ({"data": {"phrasebook_seed": 2}}, "training or validation data"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(
    changed: dict[str, dict[str, Any]], named: str, begun: Path, tiny_config: MakeConfig
) -> None:
    before = {p: p.read_bytes() for p in begun.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=named):
        train(tiny_config(**changed), begun)
    assert {p: p.read_bytes() for p in begun.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_under_inverse_sqrt_a_complete_run_made_longer_is_that_run_from_the_start(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(name: str, n_updates: int, **fields: Any) -> None:
        config = tiny_config(
            optim={"schedule": "inverse_sqrt", "warmup_updates": 5, "pct_start": 0.3},
            train={
                "max_updates": n_updates,
                "ema_decay": 0.9,
                "save_every_updates": 10,
                "keep_checkpoints": 5,
                **fields,
            },
            validation={"every_updates": 10, "average_last": 3},
        )
        train(config, tmp_path / name)

    start("whole", 50)
    start("parts", 20)
    start("parts", 40, stop_at_update=30)
    capsys.readouterr()
    start("parts", 50)
    assert "the run gets longer: 50 updates in place of 40\n" in capsys.readouterr().out
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    start("odd", 25)  # where a longer run has no validation
    start("odd", 50)
    assert weights(tmp_path / "odd") == weights(tmp_path / "whole")
    states = [checkpoint.load_state(folder) for folder in checkpoint.checkpoint_dirs(tmp_path / "parts")]
    assert {20, 40, 50} == {state.n_updates for state in states}
    assert len({run_identity(state) for state in states}) == 1  # as `average` wants it
    with pytest.raises(UserError, match="is of a run of 50 updates, this start has 40; give as many or more"):
        start("parts", 40)


def test_resume_never_and_require_say_what_they_found(begun: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        train(tiny_config(), tmp_path / "run", resume="require")
    with pytest.raises(UserError, match="holds checkpoints"):
        train(tiny_config(), begun, resume="never")


def test_max_hours_stops_with_a_checkpoint_and_the_schedule_unchanged(
    whole: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    train(tiny_config(train={"max_hours": 1e-9}), tmp_path / "parts")
    assert checkpoint.newest_valid(tmp_path / "parts")[0] == checkpoint.checkpoint_dir(tmp_path / "parts", 1)
    train(tiny_config(), tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(whole)


def test_a_first_start_cut_off_at_any_file_of_the_run_folder_can_be_given_again(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(data={"phrasebook_valid_pairs": 3}, train={"max_updates": 2, "stop_at_update": 1})
    real = file_system.write_synced
    for n_written in range(4):
        left = [n_written]

        def write(path: Path, text: str, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(file_system, "write_synced", write)
            with pytest.raises(KeyboardInterrupt):
                train(config, tmp_path / str(n_written))
        train(config, tmp_path / str(n_written))
