"""One process and two train on the same updates and score every validation sentence once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel_tx.config import Config
from tests.conftest import as_options, launch

MAIN = str(Path(__file__).with_name("float64_main.py"))
CONFIG = "configs/quickstart.yaml"


def train_lines(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def validation_lines(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "val_loss" in line]


def run(config: Config, run_dir: Path, n_processes: int) -> str:
    done = launch(n_processes, MAIN, "train", "--config", CONFIG, "--run_dir", str(run_dir), *as_options(config))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{n_processes} process(es) on cpu" in done.stdout
    return done.stdout


def largest_difference(a: Path, b: Path) -> float:
    first, second = load_file(a / "final" / "model.safetensors"), load_file(b / "final" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(tensor.dtype == torch.float64 for tensor in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_two_processes_end_with_the_weights_of_one(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(
        train={"max_updates": 20, "log_every_updates": 1, "save_every_updates": 20}, validation={"every_updates": 10}
    )
    run(config, tmp_path / "one", 1)
    run(config, tmp_path / "two", 2)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10
    one, two = train_lines(tmp_path / "one"), train_lines(tmp_path / "two")
    assert [line["update"] for line in two] == list(range(1, 21))
    assert [line["lr"] for line in one] == [line["lr"] for line in two]
    assert [line["padding_share"] for line in one] == pytest.approx([line["padding_share"] for line in two])
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-5)
    scores_one, scores_two = validation_lines(tmp_path / "one"), validation_lines(tmp_path / "two")
    assert len(scores_two) == 2
    for name in ("val_loss", "bleu", "chrf", "cer", "wer"):
        assert [s[name] for s in scores_one] == pytest.approx([s[name] for s in scores_two], rel=1e-9)


def test_a_run_goes_on_with_another_number_of_processes(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    def config(**train: Any) -> Config:
        return tiny_config(train={"max_updates": 20, **train}, validation={"every_updates": 20})

    run(config(), tmp_path / "one", 1)
    run(config(stop_at_update=7), tmp_path / "both", 2)
    assert "going on from" in run(config(), tmp_path / "both", 1)
    assert largest_difference(tmp_path / "one", tmp_path / "both") < 1e-10
    # 7 updates of two processes in a window of metrics that one process closes
    shares = [[line["padding_share"] for line in train_lines(tmp_path / d)] for d in ("one", "both")]
    assert shares[0] == pytest.approx(shares[1])


def test_an_odd_number_of_micro_batches_is_split_and_a_line_says_so(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        train={"max_updates": 10, "micro_batches_per_update": 1, "log_every_updates": 1},
        model={"dropout": 0.0},
        validation={"every_updates": 10},
    )
    run(config, tmp_path / "one", 1)
    assert "the largest are halved" in run(config, tmp_path / "two", 2)
    # Without dropout the split changes nothing but the order of sums.
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10


def test_processes_that_did_not_find_each_other_are_an_error(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    from tests.conftest import run_cli

    options = as_options(tiny_config())
    done = run_cli("train", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *options, env={"WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert "2 processes were launched" in done.stderr
    assert not (tmp_path / "run").exists()
