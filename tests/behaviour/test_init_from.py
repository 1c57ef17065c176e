"""A new schedule from the weights of another run: only the weights come along, and only where they fit."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel_tx.config import Config, UserError
from accel_tx.data.dataset import prepare_data
from accel_tx.inference.weights import load_weights
from accel_tx.train import checkpoint, warm_start
from accel_tx.train.loop import Run, train
from tests.ranks import start_ranks

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "max_tokens": 96, "save_every_updates": 2, "log_every_updates": 1},
    "validation": {"every_updates": 4, "best_metric": "val_loss"},
}
# Another seed, rate, schedule, dropout and rounding: what a new schedule may change.
NEW: dict[str, Any] = {
    **SMALL,
    "model": {"dropout": 0.1, "quantization": "int8"},
    "train": {**SMALL["train"], "seed": 3, "max_updates": 6},
    "optim": {"max_lr": 1e-3},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that gives the weights; made by the first test that asks."""
    return tmp_path_factory.mktemp("source") / "run"


@pytest.fixture
def trained(source: Path, tiny_config: MakeConfig) -> Path:
    if not source.exists():
        train(tiny_config(**SMALL), source)
    return source


def first_weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Filled with the weights that the next training begins with."""
    weights: dict[str, torch.Tensor] = {}
    real = Run.announce

    def announce(run: Run) -> None:
        weights.update({name: tensor.clone() for name, tensor in run.raw_model.state_dict().items()})
        assert run.state.update == run.scheduler.scheduler.last_epoch
        assert run.state.update or not run.optimizer.optimizer.state
        real(run)

    monkeypatch.setattr(Run, "announce", announce)
    return weights


@pytest.mark.parametrize("given", [".", "best", "final", "checkpoints/update_00000008"])
def test_the_weights_and_nothing_else_are_taken(
    given: str, trained: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = first_weights(monkeypatch)
    train(
        tiny_config(**{**NEW, "train": {**NEW["train"], "stop_at_update": 2}}),
        tmp_path / "new",
        init_from=trained / given,
    )
    taken = trained / ("best" if given == "." else given)
    expected = load_file(taken / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    origin = json.loads((tmp_path / "new" / "init_from.json").read_text())
    assert origin["weights"] == str(taken.resolve())
    assert origin["update"] == 8
    assert len(origin["sha256"]) == 64
    assert checkpoint.load_state(checkpoint.checkpoint_dir(tmp_path / "new", 2)).init_from == origin


def test_a_run_that_goes_on_needs_its_source_no_more(trained: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    train(tiny_config(**NEW), tmp_path / "whole", init_from=source / "best")
    parts = tmp_path / "parts"
    train(tiny_config(**{**NEW, "train": {**NEW["train"], "stop_at_update": 3}}), parts, init_from=source / "best")
    shutil.rmtree(source)
    train(tiny_config(**{**NEW, "train": {**NEW["train"], "stop_at_update": 5}}), parts, init_from=source / "best")
    train(tiny_config(**NEW), parts)
    whole, after = ((d / "final" / "model.safetensors").read_bytes() for d in (tmp_path / "whole", parts))
    assert whole == after


def test_another_origin_is_refused(trained: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(**{**NEW, "train": {**NEW["train"], "stop_at_update": 2}})
    train(config, tmp_path / "run", init_from=trained / "best")
    with pytest.raises(UserError, match=r"was begun with --init_from .*/best, this start has .*/final"):
        train(config, tmp_path / "run", init_from=trained / "final")
    with pytest.raises(UserError, match="was begun without --init_from"):
        train(tiny_config(**SMALL), trained, init_from=trained / "best")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"has no checkpoint yet; add --init_from"):
        train(config, tmp_path / "run")


def test_a_run_goes_on_to_other_text_with_the_vocabulary_of_its_source(
    trained: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    def other_text(from_run: Path, **train_fields: int) -> Config:
        data = {**SMALL["data"], "phrasebook_seed": 7, "phrasebook_train_pairs": 60}
        fields = {**NEW["train"], **train_fields}
        return tiny_config(**{**NEW, "data": data, "train": fields, "tokenizer": {"from_run": str(from_run)}})

    source = tmp_path / "source"
    shutil.copytree(trained, source)
    data = prepare_data(other_text(source))
    assert data.sha256 != prepare_data(tiny_config(**SMALL)).sha256
    assert "vocabulary of another run (tokenizer.from_run)" in data.notes
    train(other_text(source), tmp_path / "whole", init_from=source)
    train(other_text(source, stop_at_update=3), tmp_path / "parts", init_from=source)
    for name in ("src.json", "tgt.json"):
        assert (tmp_path / "parts/tokenizer" / name).read_bytes() == (source / "tokenizer" / name).read_bytes()
    shutil.rmtree(source)
    with pytest.raises(UserError, match=r"source: has no folder tokenizer; expected the folder of a run, such as the"):
        train(other_text(source), tmp_path / "parts")
    train(other_text(tmp_path / "parts"), tmp_path / "parts")
    whole, after = ((tmp_path / d / "final" / "model.safetensors").read_bytes() for d in ("whole", "parts"))
    assert whole == after


def test_the_vocabulary_of_another_kind_is_refused(trained: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config(tokenizer={"from_run": str(trained), "kind": "bpe"})
    with pytest.raises(
        UserError, match=r"has tokenizer\.kind wordlevel and joint true, this config tokenizer\.kind bpe"
    ):
        prepare_data(config)


def test_a_vocabulary_of_another_program_is_refused(trained: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    shutil.copytree(trained / "tokenizer", tmp_path / "foreign" / "tokenizer")
    for name in ("src.json", "tgt.json"):
        path = tmp_path / "foreign" / "tokenizer" / name
        path.write_text(path.read_text().replace("<bos>", "<s>"))
    config = tiny_config(tokenizer={"from_run": str(tmp_path / "foreign")})
    with pytest.raises(UserError, match=r"src\.json does not begin with <pad>, <unk>, <bos>, <eos>; expected a vocab"):
        prepare_data(config)


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another width": ({"model": {"d_model": 32}}, "best", "its run has model.d_model = 16, this start has 32"),
    "the same shapes, but other heads": ({"model": {"n_heads": 4}}, "best", "model.n_heads = 2, this start has 4"),
    "another vocabulary": (
        {"tokenizer": {"vocab_size": 400}},
        ".",
        r"is not this start's; its weights would mean other words; add --tokenizer\.from_run /.*/run, or give",
    ),
    "no such folder": ({}, "none", "no such folder"),
    "a folder without weights": ({}, "tokenizer", r"holds no model.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    case: str, trained: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    changes, given, message = REFUSED[case]
    sections = {name: {**NEW.get(name, {}), **changes.get(name, {})} for name in {*NEW, *changes}}
    with pytest.raises(UserError, match=message):
        train(tiny_config(**sections), tmp_path / "new", init_from=trained / given)
    assert not (tmp_path / "new").exists()


def test_a_damaged_source_is_refused_and_weights_alone_are_not_enough(
    trained: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = copy / "checkpoints" / "update_00000008" / "model.safetensors"
    for cut in (weights, copy / "best" / "model.safetensors"):
        cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"is damaged \(model.safetensors is damaged\)"):
        train(tiny_config(**NEW), tmp_path / "new", init_from=weights.parent)
    with pytest.raises(UserError, match=r"best/model\.safetensors: is damaged"):
        train(tiny_config(**NEW), tmp_path / "new", init_from=copy)
    shutil.copytree(trained / "best", tmp_path / "alone")
    with pytest.raises(UserError, match="lies in no run folder"):
        train(tiny_config(**NEW), tmp_path / "new", init_from=tmp_path / "alone")
    assert not (tmp_path / "new").exists()


def train_with_weights_replaced_before_the_second(config: Config, run_dir: Path, source: Path, other: Path) -> None:
    """As where the source run still trains: it finds better weights when the first process has read its best ones."""
    load, has_read = warm_start.load_initial_weights, run_dir.with_suffix(".read")

    def replaced(*arguments: Any) -> Any:
        while os.environ["RANK"] == "1" and not has_read.exists():
            time.sleep(0.05)
        if os.environ["RANK"] == "1":
            shutil.rmtree(source / "best")
            shutil.copytree(other, source / "best")
        found = load(*arguments)
        has_read.touch()
        return found

    warm_start.load_initial_weights = replaced
    try:
        train(config, run_dir, init_from=source)
    except (UserError, SystemExit) as ended:
        print(f"process {os.environ['RANK']} ended: {ended}")


def test_processes_that_read_different_weights_end_together(
    trained: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    arguments = tiny_config(**NEW), tmp_path / "run", source, trained / "checkpoints" / "update_00000006"
    printed = start_ranks(2, tmp_path / "log", train_with_weights_replaced_before_the_second, *arguments).wait()
    assert "process 0 ended: --init_from: process(es) 1 read other weights than process 0; give a folder" in printed
    assert "process 1 ended: 2" in printed
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_weights_that_are_replaced_while_they_are_read_are_refused(
    trained: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)

    def replaced(model: Any, path: Path) -> None:
        load_weights(model, path)
        shutil.copy(trained / "checkpoints" / "update_00000006" / path.name, path)

    monkeypatch.setattr(warm_start, "load_weights", replaced)
    with pytest.raises(UserError, match=r"--init_from .*/best: was replaced while it was read; give the same command"):
        train(tiny_config(**NEW), tmp_path / "run", init_from=source)
    assert not (tmp_path / "run" / "config.yaml").exists()
