"""`train.max_tokens: auto` becomes what the memory holds, once, and updates keep their size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from accel_tx.cli import main
from accel_tx.config import Config, UserError
from accel_tx.data.batch import Block
from accel_tx.data.dataset import prepare_data
from accel_tx.model.transformer import Transformer
from accel_tx.train import auto_tokens, host_memory
from accel_tx.train.loop import train
from tests.conftest import as_options, run_cli
from tests.ranks import start_ranks
from tests.run_folder import assert_same_run

MakeConfig = Callable[..., Config]
AUTO = {"max_tokens": "auto", "tokens_per_update": 500, "micro_batches_per_update": 1, "max_updates": 12}


def recorded(run_dir: Path) -> tuple[Any, Any, Any]:
    fields = yaml.safe_load((run_dir / "config.yaml").read_text())["train"]
    return fields["max_tokens"], fields["micro_batches_per_update"], fields["tokens_per_update"]


def memory_for(config: Config, n_tokens: int, n_processes: int = 1) -> int:
    """Bytes of free memory in which a budget of so many tokens is the largest."""
    needed = auto_tokens._forecast_at(config, prepare_data(config), n_tokens, "cpu", "no", n_processes)
    return round(needed / auto_tokens._SHARE_OF_HOST) + 1


def test_a_run_is_that_of_the_numbers_found_and_goes_on_with_them_elsewhere(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(train=AUTO)
    memory = memory_for(config, 180)
    monkeypatch.setattr(host_memory, "available_bytes", lambda: memory)
    train(tiny_config(train={**AUTO, "stop_at_update": 7}), tmp_path / "auto")
    assert recorded(tmp_path / "auto") == (167, 3, None)
    printed = capsys.readouterr().out
    assert "train.max_tokens auto: 3 x 167 tokens an update of 500; the memory holds no more (forecast 3" in printed

    monkeypatch.setattr(host_memory, "available_bytes", lambda: 100 * memory)
    train(config, tmp_path / "auto")
    assert "train.max_tokens auto: 3 x 167 tokens an update, as this run began" in capsys.readouterr().out
    train(
        tiny_config(train={"max_tokens": 167, "micro_batches_per_update": 3, "max_updates": 12}), tmp_path / "numbers"
    )
    assert_same_run(tmp_path / "auto", tmp_path / "numbers")

    with pytest.raises(UserError, match=r"updates of 3 x 167 tokens, this start has train.tokens_per_update = 600"):
        train(tiny_config(train={**AUTO, "tokens_per_update": 600}), tmp_path / "auto")


def test_on_a_cpu_larger_micro_batches_than_pay_are_not_made(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auto_tokens, "_MOST_ON_CPU", 260)
    train(tiny_config(train={**AUTO, "max_updates": 1}), tmp_path / "run")
    assert recorded(tmp_path / "run") == (250, 2, None)
    assert "larger micro-batches gain little on a CPU" in capsys.readouterr().out


def test_a_longest_pair_that_does_not_fit_is_one_line_and_nothing_is_written(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 1 << 20)
    with pytest.raises(UserError, match=r"not even the longest pair, model.max_positions = 96, fits into the memory"):
        train(tiny_config(train=AUTO), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def train_with_memory(of_ranks: list[int], config: Config, run_dir: Path) -> None:
    host_memory.available_bytes = lambda: 2 * of_ranks[int(os.environ["RANK"])]  # type: ignore[assignment]
    train(config, run_dir)


@pytest.mark.slow
def test_the_process_with_the_least_memory_decides(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(train={**AUTO, "tokens_per_update": 520, "max_updates": 2})
    memory = [memory_for(config, 520, 2), memory_for(config, 135, 2)]
    arguments = memory, config, tmp_path / "run"
    printed = start_ranks(2, tmp_path / "log", train_with_memory, *arguments).wait()
    assert recorded(tmp_path / "run") == (130, 4, None)
    assert printed.count("train.max_tokens auto") == 1


@pytest.mark.parametrize("memory_tokens", [97, 230, 10_000])
def test_trials_find_what_the_device_holds_and_disturb_nothing(
    memory_tokens: int, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_encoder, n_tokens = Transformer._run_encoder, list[int]()

    def encoder(self: Transformer, x: torch.Tensor, blocks: Sequence[Block], *turns: Any) -> torch.Tensor:
        n_tokens.append(len(x))
        if len(x) > memory_tokens:
            raise torch.OutOfMemoryError("planted")
        return plain_encoder(self, x, blocks, *turns)

    monkeypatch.setattr(Transformer, "_run_encoder", encoder)
    config = tiny_config(train=AUTO)
    before = torch.get_rng_state()
    found = auto_tokens.by_trial(config, prepare_data(config), 1, torch.device("cpu"), "no")
    assert torch.equal(torch.get_rng_state(), before)
    best = min(memory_tokens, 500)
    assert found.budget is not None
    # The widest batches that it tried may hold a little less than their budget.
    assert 0.97 * best - 1 <= found.budget <= best * 1.1
    assert max(n for n in n_tokens if n <= memory_tokens) <= found.budget


def test_trials_without_room_for_the_model_say_so(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    config = tiny_config(train=AUTO)
    found = auto_tokens.by_trial(config, prepare_data(config), 1, torch.device("cpu"), "no")
    assert found.budget is None
    assert "not even the longest pair" in found.why


def test_data_reports_also_where_the_memory_holds_no_pair(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 1)
    main(["data", "--config", "configs/quickstart.yaml", *as_options(tiny_config(train=AUTO))])
    printed = capsys.readouterr().out
    assert "Cleaning:" in printed
    assert "not even the longest pair, model.max_positions = 96, fits into the memory" in printed
    assert "the forecast above is of micro-batches of 96 tokens" in printed


def test_data_says_what_it_assumes(tiny_config: MakeConfig) -> None:
    done = run_cli("data", "--config", "configs/quickstart.yaml", *as_options(tiny_config(train=AUTO)))
    assert done.returncode == 0, done.stderr
    assert "train.max_tokens auto: 1 x 500 tokens an update of 500; a process' share" in done.stdout


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": "auto"}, "train.tokens_per_update is not given"),
        (
            {"batch_size": 8, "max_tokens": None, "tokens_per_update": 512},
            "train.tokens_per_update is 512, but train.max_tokens is not given",
        ),
        (
            {"max_tokens": 256, "tokens_per_update": 512, "micro_batches_per_update": 2},
            "train.tokens_per_update is 512 and train.micro_batches_per_update 2; expected null for the first",
        ),
        ({"max_tokens": "auto", "tokens_per_update": 50}, "train.tokens_per_update is 50; expected at least model.max"),
    ],
)
def test_fields_that_do_not_go_together(fields: dict[str, Any], message: str, tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=message):
        tiny_config(train=fields)
