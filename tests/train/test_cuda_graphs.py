"""`train.cuda_graphs` as far as it shows without a GPU: what is refused, and how micro-batches are filled up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from accel_tx.config import Config, UserError
from accel_tx.data.batch import Batch, Packed
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.train import cuda_graphs, update
from accel_tx.train.cuda_graphs import Replays, check_graphs, check_processes
from accel_tx.train.gradient import Gradient
from accel_tx.train.loop import train
from tests.run_folder import weights

MakeConfig = Callable[..., Config]
FILLER = 32


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    monkeypatch.setattr(cuda_graphs, "_pool_and_stream", lambda: (None, None))
    return Replays(None, [torch.zeros(2, requires_grad=True)], 4096, 64, 0.1)


@pytest.fixture
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything can be had, as far as it is asked."""
    monkeypatch.setattr(cuda_graphs, "has_kernels", lambda: True)


def batch_of(*lengths: tuple[int, int]) -> Batch:
    """Of pairs of so many tokens, EOS included."""
    sides = [[np.full(n - 1, 7 + i, dtype=np.int32) for n in pair] for i, pair in enumerate(lengths)]
    return DataCollator(is_packed=True)([TokenPair(*pair) for pair in sides])


def starts_of(batch: Batch) -> list[list[int]]:
    sides = batch.src_blocks[0], batch.tgt_blocks[0]
    return [side.starts.tolist() for side in sides if isinstance(side, Packed)]


class Scarce:
    """Replays that take some micro-batches, and then have no memory left."""

    n_recorded = 0

    def __init__(self, gradient: Gradient, n: int) -> None:
        self.gradient, self.n = gradient, n

    def begin_update(self) -> None:
        self.gradient.model.zero_grad()

    def takes(self, _: Batch) -> bool:
        return True

    def take(self, batch: Batch, scale: float, seed: Callable[[], None]) -> torch.Tensor:
        if self.n == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.n -= 1
        seed()
        loss: torch.Tensor = self.gradient.model(batch, self.gradient.label_smoothing)
        (loss * scale).backward()
        return loss.detach()


def test_where_graphs_do_not_fit_the_run_goes_on_without(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(*arguments: Any) -> Gradient:
        gradient = Gradient(*arguments)
        gradient.replays = cast(Replays, Scarce(gradient, 5))
        return gradient

    config = tiny_config(train={"micro_batches_per_update": 2})
    train(config, tmp_path / "without")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(update, "Gradient", made)
        train(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert told.count("the memory does not hold this update as CUDA graphs: without them from here on") == 1
    assert "second try" not in told
    assert weights(tmp_path / "run") == weights(tmp_path / "without")


def test_a_machine_without_such_a_gpu_gets_one_line_and_an_empty_folder(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^train.cuda_graphs is true but there is no GPU of compute capability 8.0"):
        train(tiny_config(train={"cuda_graphs": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_able")
@pytest.mark.parametrize(
    ("fields", "precision", "told"),
    [
        ({}, "fp16", "train.precision is fp16; expected bf16, or train.cuda_graphs false"),
        ({"model": {"attention_dropout": 0.1}}, "bf16", "model.attention_dropout is 0.1; expected 0"),
        ({"model": {"d_model": 516, "n_heads": 4}}, "bf16", "heads are wider than 128; expected more model.n_heads"),
        (
            {"train": {"max_tokens": "auto", "tokens_per_update": 2048, "micro_batches_per_update": 1}},
            "bf16",
            "train.max_tokens is auto; expected a number",
        ),
        ({"optim": {"r_drop": 2.0}}, "bf16", "optim.r_drop is 2; expected 0"),
        ({"train": {"gradient_checkpointing": True}}, "bf16", "train.gradient_checkpointing is true; expected false"),
        ({"train": {"max_tokens": None, "batch_size": 4}}, "bf16", "train.batch_size is given; expected train.max_t"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    fields: dict[str, dict[str, Any]], precision: str, told: str, tiny_config: MakeConfig
) -> None:
    asked = {**fields, "train": {**fields.get("train", {}), "cuda_graphs": True}}
    with pytest.raises(UserError, match=f"^train.cuda_graphs is true but {told}"):
        check_graphs(tiny_config(**asked), precision)
    check_graphs(tiny_config(**fields), precision)  # nobody asked


@pytest.mark.usefixtures("_able")
def test_a_single_process_in_bf16_is_fine_and_two_are_not(tiny_config: MakeConfig) -> None:
    config = tiny_config(train={"cuda_graphs": True})
    check_graphs(config, "bf16")
    check_processes(config, 1)
    with pytest.raises(UserError, match=r"^train.cuda_graphs is true with 2 processes; expected one"):
        check_processes(config, 2)
    check_processes(tiny_config(), 2)


def test_a_micro_batch_is_filled_up_with_short_sentences_without_targets(replays: Replays) -> None:
    given = batch_of((100, 150), (90, 50))
    inputs = replays._inputs(replays._shape_of(given))
    for batch in (batch_of((250, 3)), given):  # what an earlier one left does not count
        replays._fill(inputs, batch)
        n_src, n_tgt = batch.n_src_tokens, batch.n_tgt_tokens
        assert inputs.src_ids.shape == inputs.tgt_in.shape == (256,)
        assert inputs.src_ids[:n_src].equal(batch.src_ids)
        assert inputs.src_places[:n_src].equal(batch.src_places)
        for name in ("tgt_in", "tgt_out", "tgt_places"):
            assert getattr(inputs, name)[:n_tgt].equal(getattr(batch, name))
        assert set(inputs.tgt_out[n_tgt:].tolist()) == {-1}
        for filled, own in zip(starts_of(inputs), starts_of(batch), strict=True):
            assert filled[: len(own)] == own
            lengths = np.diff(filled[len(own) - 1 :])
            assert filled[-1] == 256
            assert lengths.min() == 0
            assert lengths.max() <= FILLER


def test_shapes_are_few(replays: Replays) -> None:
    generator = np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        lengths = generator.integers(2, 60, (generator.integers(60, 70), 2))
        shapes.add(replays._shape_of(batch_of(*map(tuple, lengths))))
    assert 1 < len(shapes) < 20
    assert all(shape.n_src % 256 == shape.n_tgt % 256 == shape.n_sentences % 64 == 0 for shape in shapes)


def test_short_sentences_have_a_shape_of_their_own(replays: Replays) -> None:
    assert replays._shape_of(batch_of((32, 32))).width == FILLER
    assert replays._shape_of(batch_of((32, 33))).width == 64


def test_what_our_kernels_do_not_take_is_not_replayed(replays: Replays) -> None:
    assert replays.takes(batch_of((512, 3)))
    assert not replays.takes(batch_of((3, 513)))
    assert not replays.takes(DataCollator(is_packed=True)([]))
