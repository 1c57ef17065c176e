"""Any number of processes trains on the same updates and goes on where any other number stopped."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx import cli
from accel_tx.cli import main
from accel_tx.config import Config, UserError
from accel_tx.data.dataset import prepare_data
from accel_tx.train import device
from accel_tx.train.check import check
from accel_tx.train.find_lr import find_lr
from accel_tx.train.fresh import plan_of
from accel_tx.train.loop import train
from accel_tx.train.outlook import Outlook
from accel_tx.train.rate_curve import Ramp
from tests.conftest import as_options, launch, run_cli
from tests.ranks import start_ranks, train_on
from tests.run_folder import assert_same_run, largest_difference, metrics

MakeConfig = Callable[..., Config]
CONFIG = "configs/quickstart.yaml"


def train_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(run_dir) if "loss" in line]


def validation_lines(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(run_dir) if "val_loss" in line]


def updates_per_epoch(config: Config) -> int:
    return plan_of(config.train, prepare_data(config)).updates_per_epoch


@pytest.mark.slow
def test_accelerate_launch_gives_the_bytes_of_the_processes_that_these_tests_fork(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(train={"max_updates": 12, "save_every_updates": 12}, validation={"every_updates": 12})
    arguments = ["--config", CONFIG, "--run_dir", str(tmp_path / "launched"), *as_options(config)]
    done = launch(2, "-m", "accel_tx", "train", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 process(es) on cpu" in done.stdout
    assert "FutureWarning" not in done.stderr
    train_on(2, config, tmp_path / "forked")
    assert_same_run(tmp_path / "launched", tmp_path / "forked")


def test_two_processes_end_with_the_weights_of_one(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(
        train={"max_updates": 20, "log_every_updates": 1, "save_every_updates": 20}, validation={"every_updates": 10}
    )
    train_on(1, config, tmp_path / "one", float64=True)
    train_on(2, config, tmp_path / "two", float64=True)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10
    one, two = train_lines(tmp_path / "one"), train_lines(tmp_path / "two")
    assert [line["update"] for line in two] == list(range(1, 21))
    assert [line["lr"] for line in one] == [line["lr"] for line in two]
    assert [line["padding_share"] for line in one] == pytest.approx([line["padding_share"] for line in two])
    assert [line["loss"] for line in one] == pytest.approx([line["loss"] for line in two], rel=1e-12)
    scores_one, scores_two = validation_lines(tmp_path / "one"), validation_lines(tmp_path / "two")
    assert len(scores_two) == 2
    for name in ("val_loss", "bleu", "chrf", "cer", "wer"):
        assert [s[name] for s in scores_one] == pytest.approx([s[name] for s in scores_two], rel=1e-9)


def test_gradient_checkpointing_changes_no_byte_on_two_processes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    for name, checkpointing in (("plain", False), ("again", True)):
        config = tiny_config(
            model={"encoder_sharing": "palindrome"},
            train={"max_updates": 8, "save_every_updates": 8, "gradient_checkpointing": checkpointing},
            validation={"every_updates": 8},
        )
        train_on(2, config, tmp_path / name)
    assert_same_run(tmp_path / "plain", tmp_path / "again")


def test_four_processes_go_on_to_the_same_bytes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    # The order in which they sum up depends on DDP's buckets, which must be the same from the first update on.
    def start(name: str, **fields: Any) -> None:
        train = {"max_updates": 12, "micro_batches_per_update": 4, "save_every_updates": 12, **fields}
        train_on(4, tiny_config(train=train, validation={"every_updates": 12}), tmp_path / name)

    start("whole")
    start("parts", stop_at_update=5)
    start("parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize(
    ("before", "after"), [(1, 2), (2, 1), *(pytest.param(*n, marks=pytest.mark.slow) for n in ((2, 4), (4, 1)))]
)
def test_a_run_goes_on_with_another_number_of_processes(
    before: int, after: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    fields = {"max_updates": 30, "micro_batches_per_update": 4, "log_every_updates": 4, "save_every_updates": 30}

    def config(**train: Any) -> Config:
        return tiny_config(train={**fields, **train}, validation={"every_updates": 30})

    assert updates_per_epoch(config()) < 13
    train_on(1, config(), tmp_path / "whole", float64=True)
    train_on(before, config(stop_at_update=13), tmp_path / "parts", float64=True)
    assert "going on from" in train_on(after, config(), tmp_path / "parts", float64=True)
    assert largest_difference(tmp_path / "parts", tmp_path / "whole") < 1e-10
    # Update 13 lies inside a window of metrics: what one number of processes has summed, the other goes on with.
    for name in ("loss", "lr", "grad_norm", "padding_share"):
        parts, whole = ([line[name] for line in train_lines(tmp_path / d)] for d in ("parts", "whole"))
        assert parts == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("limit", ["token budget", pytest.param("fixed number of sentences", marks=pytest.mark.slow)])
def test_two_processes_stopped_anywhere_end_with_the_same_bytes(
    limit: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    def config(**train: Any) -> Config:
        fields = {"max_tokens": None, "batch_size": 19} if limit == "fixed number of sentences" else {}
        return tiny_config(
            train={"max_updates": 30, "log_every_updates": 5, **fields, **train}, validation={"every_updates": 12}
        )

    n = updates_per_epoch(config())
    assert 5 < n < 28
    train_on(2, config(), tmp_path / "whole")
    # First update of all, middle of an epoch, its last update, the first of the next one.
    for stop, workers in ((1, 0), (n // 2, 2), (n, 0), (n + 1, 2)):
        train_on(2, config(stop_at_update=stop, loader_workers=workers), tmp_path / "parts")
    printed = train_on(2, config(), tmp_path / "parts")
    assert printed.count("going on from") == 4
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_an_odd_number_of_micro_batches_is_split_and_a_line_says_so(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(
        train={"max_updates": 10, "micro_batches_per_update": 1, "log_every_updates": 1},
        model={"dropout": 0.0},
        validation={"every_updates": 10},
    )
    train_on(1, config, tmp_path / "one", float64=True)
    assert "its pairs are dealt out to more" in train_on(2, config, tmp_path / "two", float64=True)
    # Without dropout the split changes nothing but the order of sums.
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-10


def test_processes_that_did_not_find_each_other_are_an_error(tiny_config: MakeConfig, tmp_path: Path) -> None:
    options = as_options(tiny_config())
    done = run_cli("train", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *options, env={"WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert "2 processes were launched" in done.stderr
    assert not (tmp_path / "run").exists()


def test_bad_input_ends_every_process_of_a_launch_with_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("english\tfrench\na\tb\n")
    options = ["--data.corpus", str(tmp_path / "x.tsv"), "--data.cache_dir", str(tmp_path / "cache")]
    command = ["train", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *options]
    ranks = start_ranks(2, tmp_path / "log", main, command)
    for process in ranks.processes:
        process.join(120)
    assert [process.exitcode for process in ranks.processes] == [2, 2]
    printed = ranks.log.read_text(encoding="utf-8")
    assert printed.count("x.tsv, line 1: found english, french") == 2
    assert "accel_tx/data" not in printed, "a traceback"
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def train_and_tell(config: Config, run_dir: Path, **arguments: Any) -> None:
    """Train; where that ends early, print how."""
    try:
        train(config, run_dir, **arguments)
    except (UserError, SystemExit) as ended:
        print(f"process {os.environ['RANK']} ended: {ended}")


def train_with_other_fields_on_the_second(
    config: Config, run_dir: Path, section: str, fields: dict[str, Any], precision: str | None = None
) -> None:
    if os.environ["RANK"] == "1":
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})
        if precision is not None:
            device.resolve_precision = lambda _: precision
    train_and_tell(config, run_dir)


def test_processes_with_other_data_end_together(tiny_config: MakeConfig, tmp_path: Path) -> None:
    arguments = tiny_config(), tmp_path / "run", "data", {"phrasebook_seed": 2}
    printed = start_ranks(2, tmp_path / "log", train_with_other_fields_on_the_second, *arguments).wait()
    assert "process 0 ended: process(es) 1 prepared other data than process 0; expected the same corpora" in printed
    assert "process 1 ended: 2" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("section", "fields", "precision", "told"),
    [
        ("train", {"seed": 7}, None, "process 1 has train.seed = 7, process 0 has 1; expected the same config"),
        ("validation", {"every_updates": 3}, None, "process 1 has validation.every_updates = 3, process 0 has 20;"),
        (
            "train",
            {},
            "bf16",
            "process 1 has precision in effect = bf16, process 0 has no; give train.precision a value",
        ),
    ],
    ids=["seed", "validation", "precision"],
)
def test_processes_with_another_config_or_precision_end_together(
    section: str, fields: dict[str, Any], precision: str | None, told: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    arguments = tiny_config(train={"max_updates": 4}), tmp_path / "run", section, fields, precision
    printed = start_ranks(2, tmp_path / "log", train_with_other_fields_on_the_second, *arguments).wait()
    assert f"process 0 ended: {told}" in printed
    assert "process 1 ended: 2" in printed
    assert not (tmp_path / "run").exists()


def try_with_another_seed_on_the_second(command: str, config: Config, run_dir: Path) -> None:
    if os.environ["RANK"] == "1":
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=7))
    try:
        found = check(config, run_dir) if command == "check" else find_lr(config, run_dir, Ramp(1e-5, 0.1, 20))
        assert isinstance(found, Outlook), "a curve, or another process"
        print(f"process 0 found: {found.problems}")
    except (UserError, SystemExit) as ended:
        print(f"process {os.environ['RANK']} ended: {ended}")


@pytest.mark.parametrize("command", ["check", "find-lr"])
def test_what_tries_a_run_out_refuses_processes_with_another_config(
    command: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    arguments = command, tiny_config(), tmp_path / "run"
    printed = start_ranks(2, tmp_path / "log", try_with_another_seed_on_the_second, *arguments).wait()
    told = "process 1 has train.seed = 7, process 0 has 1; expected the same config"
    assert (f"process 0 found: ['{told}" if command == "check" else f"process 0 ended: {told}") in printed
    assert "process 1 ended: 2" in printed
    assert not (tmp_path / "run").exists()


def test_what_suits_a_machine_may_differ_among_processes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(train={"max_updates": 4}, validation={"every_updates": 4})
    fields = {"cpu_threads": None, "loader_workers": 1, "precision": "auto"}
    arguments = config, tmp_path / "run", "train", fields, "no"
    printed = start_ranks(2, tmp_path / "log", train_with_other_fields_on_the_second, *arguments).wait()
    assert "complete after update 4" in printed


def test_what_is_the_work_of_one_process_is_refused_to_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = []
    for command in cli._COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--run_dir", str(tmp_path / "none"), "--output", str(tmp_path / "out")])
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        if f"{command} was launched as 2 processes (WORLD_SIZE); expected one: run python -m accel_tx" in line:
            refused.append(command)
    assert [command for command in cli._COMMANDS if command not in refused] == ["data", "check", "find-lr", "train"]
    assert "(may be launched as several processes: data, check, find-lr and train)" in cli.USAGE
    with pytest.raises(SystemExit) as ended:
        main(["translate", "--help"])
    assert ended.value.code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_starts_two_translators_is_told_and_no_line_is_lost(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    options = ["--run_dir", str(tmp_path), "--output", str(output)]
    done = run_cli("translate", *options, stdin="A line.\n" * 1_200, env={"WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert "translate was launched as 2 processes (WORLD_SIZE); expected one: run python -m accel_tx" in done.stderr
    assert not output.exists()
