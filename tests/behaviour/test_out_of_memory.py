"""A micro-batch that does not fit is computed in parts, and the update is the same, on every process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from accel_tx.config import Config, RunError
from accel_tx.data.batch import Block
from accel_tx.model.transformer import Transformer
from accel_tx.train import checkpoint, device, gradient, resume
from accel_tx.train.buckets import Buckets
from accel_tx.train.loop import train
from tests.ranks import start_ranks, train_and_record
from tests.run_folder import metrics
from tests.update_gradients import ONE_EPOCH, assert_gradients_are_those_of, mean_loss

MakeConfig = Callable[..., Config]


class RunsOut(torch.autograd.Function):
    """Passes a tensor on; its gradient is more than the memory holds."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, grad: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("planted, backward")


@contextmanager
def memory_of(
    n_pairs: int, place: str, n_spared: int = 0, has_room: Callable[[], bool] = lambda: False
) -> Iterator[list[int]]:
    """Training runs out of memory in batches of more pairs, but for the first few; `place` says where.

    `has_room`: whether it has enough by now.

    Gives the sizes of those batches.
    """
    plain_encoder, failed, spared = Transformer._run_encoder, list[int](), list[int]()

    def encoder(self: Transformer, x: torch.Tensor, blocks: Sequence[Block], *turns: Any) -> torch.Tensor:
        memory, n = plain_encoder(self, x, blocks, *turns), sum(block.n_sentences for block in blocks)
        if not self.training or n <= n_pairs or has_room():
            return memory
        if len(spared) < n_spared:
            spared.append(n)
            return memory
        failed.append(n)
        if place == "forward":
            raise torch.OutOfMemoryError("planted, forward")
        # The decoder's gradients are there by then, and DDP is summing up its buckets.
        return cast(torch.Tensor, RunsOut.apply(memory))

    Transformer._run_encoder = encoder  # type: ignore[method-assign]
    try:
        yield failed
    finally:
        Transformer._run_encoder = plain_encoder  # type: ignore[method-assign]


def train_short_of_memory(short: list[int], place: str, config: Config, *arguments: Any) -> None:
    """`train_and_record` with small buckets, where the processes in `short` have memory for two pairs at a time."""
    plain_finish, shares_begun = Buckets.finish, list[float]()

    def finish(self: Buckets) -> None:
        shares_begun.append(len(self._begun) / len(self._buckets))
        plain_finish(self)

    Buckets.finish = finish  # type: ignore[method-assign]
    kwargs = device.DistributedDataParallelKwargs
    device.DistributedDataParallelKwargs = partial(kwargs, bucket_cap_mb=0.001)  # type: ignore[assignment, misc]
    is_short = int(os.environ.get("RANK", "0")) in short
    with memory_of(2 if is_short else 1000, place, n_spared=1 if place == "last backward" else 0) as failed:
        train_and_record(config, *arguments)
    assert bool(failed) == is_short
    if is_short and "RANK" in os.environ:
        # DDP had begun to sum up some of the buckets, but not all, where the last backward pass ended.
        assert (0 < shares_begun[0] < 1) == (place == "last backward")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", ["forward", "backward", "last backward"])
@pytest.mark.parametrize(("n_processes", "short"), [(1, [0]), (2, [1]), (2, [0, 1])])
def test_every_update_has_the_gradient_of_one_big_batch(
    n_processes: int, short: list[int], place: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(
        data={"phrasebook_train_pairs": 61, "phrasebook_valid_pairs": 3},
        model={"dropout": 0.0},
        optim={"label_smoothing": 0.1, "clip_norm": None},
        train={
            **ONE_EPOCH,
            "batch_size": 5,
            "micro_batches_per_update": 2 * n_processes,
            "log_every_updates": 1,
        },
        validation={"every_updates": 1000},
    )
    arguments = short, place, config, tmp_path / "run", tmp_path / "records", True
    ranks = start_ranks(n_processes, tmp_path / "log", train_short_of_memory, *arguments, float64=True)
    printed = ranks.wait(timeout_s=120)
    assert printed.count("is more than the memory holds") == len(short)
    loss_of = partial(mean_loss, smoothing=config.optim.label_smoothing)
    assert_gradients_are_those_of(loss_of, config, tmp_path / "records", n_processes, atol=1e-12)


def numbers(run_dir: Path) -> list[dict[str, float]]:
    return [{name: v for name, v in line.items() if isinstance(v, int | float)} for line in metrics(run_dir)]


def test_the_metrics_are_those_of_a_run_that_fits(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(
        model={"dropout": 0.0}, train={"max_updates": 8, "log_every_updates": 1, "save_every_updates": 8}
    )
    train(config, tmp_path / "fits")
    with memory_of(7, "backward") as failed:
        train(config, tmp_path / "short")
    # What does not fit, twice, teaches: nothing as large is tried again.
    assert 0 < len(failed) <= 16
    assert failed[0::2] == failed[1::2]
    assert capsys.readouterr().out.count("is more than the memory holds") == 1
    for fits, short in zip(numbers(tmp_path / "fits"), numbers(tmp_path / "short"), strict=True):
        assert short == pytest.approx(fits, rel=1e-4)


@pytest.mark.parametrize("place", ["forward", "backward"])
def test_what_fits_once_memory_is_given_back_is_not_split(
    place: str,
    tiny_config: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(train={"max_updates": 8, "log_every_updates": 1, "save_every_updates": 8})
    train(config, tmp_path / "fits")
    given_back = list[torch.device]()
    monkeypatch.setattr(gradient, "free_memory", given_back.append)
    with memory_of(7, place, has_room=lambda: bool(given_back)) as failed:
        train(config, tmp_path / "fragments")
    assert len(failed) == len(given_back) == 1
    printed = capsys.readouterr().out
    assert printed.count("fitted into the memory only at the second try") == 1
    assert "is more than the memory holds" not in printed
    for name in ("loss", "grad_norm"):
        assert [line.get(name) for line in metrics(tmp_path / "fragments")] == [
            line.get(name) for line in metrics(tmp_path / "fits")
        ]


def test_memory_in_fragments_again_and_again_is_answered_by_halves(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(train={"max_updates": 12, "micro_batches_per_update": 1, "save_every_updates": 12})
    passes = list[bool]()

    def has_room() -> bool:  # every second pass finds it
        passes.append(True)
        return len(passes) % 2 == 0

    with memory_of(7, "forward", has_room=has_room) as failed:
        train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.count("only at the second try") == 8
    assert printed.count("is more than the memory holds") == 1
    assert 8 < len(failed) < 12


def test_a_single_pair_that_does_not_fit_ends_the_run_in_one_line(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with (
        memory_of(0, "forward"),
        pytest.raises(
            RunError, match=r"^update 1: a single pair of up to .* tokens is more.* \(planted, forward\); the newest"
        ),
    ):
        train(tiny_config(train={"max_updates": 4}), tmp_path / "run")


def test_the_lack_of_memory_outside_of_the_micro_batches_is_told_in_one_line(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("planted, Adam")

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(RunError, match="out of memory in the optimizer or in validation"):
        train(tiny_config(train={"max_updates": 4}), tmp_path / "run")


def test_the_lack_of_memory_before_the_first_update_is_told_in_one_line(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("planted, at the start")

    told = r"^out of memory before the first update of this start \(planted, at the start\); "
    with monkeypatch.context() as patch:
        patch.setattr(device, "prepare", fail)
        with pytest.raises(RunError, match=told):
            train(tiny_config(train={"max_updates": 4}), tmp_path / "run")
    train(tiny_config(train={"max_updates": 4, "stop_at_update": 2}), tmp_path / "run")
    monkeypatch.setattr(resume, "put_back", fail)
    with pytest.raises(RunError, match=told):
        train(tiny_config(train={"max_updates": 4}), tmp_path / "run")


@pytest.mark.parametrize("reader", ["accel_tx.train.checkpoint_content.safe_open", "torch.load"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: planted, reading"),
        RuntimeError("unable to mmap 16 bytes (planted, reading): Cannot allocate memory (12)"),
        MemoryError("planted, reading"),
    ],
)
def test_a_checkpoint_that_the_memory_cannot_take_is_not_called_damaged(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, error: Exception
) -> None:
    run_dir = tmp_path / "run"
    train(tiny_config(train={"max_updates": 4, "save_every_updates": 1, "stop_at_update": 2}), run_dir)
    before = checkpoint.checkpoint_dirs(run_dir)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(reader, fail)
        with pytest.raises(RunError, match=r"^out of memory before the first update .*planted, reading"):
            train(tiny_config(train={"max_updates": 4, "save_every_updates": 1}), run_dir)
    assert checkpoint.checkpoint_dirs(run_dir) == before
    train(tiny_config(train={"max_updates": 4, "save_every_updates": 1}), run_dir)
    assert checkpoint.update_of(checkpoint.checkpoint_dirs(run_dir)[0]) == 4
