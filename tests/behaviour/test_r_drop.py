"""R-Drop: an update has the gradient of one big batch under two draws of dropout, however it is divided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from accel_tx.config import Config
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.layers import Dropout
from accel_tx.model.transformer import Transformer
from accel_tx.train import gradient
from accel_tx.train.fresh import plan_of
from tests.behaviour.test_out_of_memory import memory_of
from tests.padded import padded
from tests.ranks import read_records, start_ranks, train_and_record

MakeConfig = Callable[..., Config]
ALPHA, SMOOTHING = 3.0, 0.1


def drop_channels(self: Dropout, x: torch.Tensor) -> torch.Tensor:
    """Dropout of whole channels: the draws are the same however many tokens there are, but other ones at each call."""
    return x * (torch.rand(x.shape[-1]) > self.p) / (1 - self.p) if self.training else x


def train_dropping_channels(n_pairs_that_fit: int, *arguments: Any) -> None:
    """`train_and_record` with the same draws in every micro-batch, or part of one that does not fit."""
    with (
        patch.object(Dropout, "forward", drop_channels),
        patch.object(gradient, "_seed_dropout", lambda *_: torch.manual_seed(0)),
        memory_of(n_pairs_that_fit, "backward") as failed,
    ):
        train_and_record(*arguments)
    assert bool(failed) == (n_pairs_that_fit < 5)


def gradients_of_two_passes(
    config: Config, data: PreparedData, pairs: np.ndarray, weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Of the loss as Liang et al. 2021 write it, halved, by plain autograd."""
    model = Transformer(config.model, data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size).train()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
    batch = padded([data.train[int(i)] for i in pairs])
    real = batch.tgt_out != PAD_ID
    torch.manual_seed(0)
    passes = []
    with patch.object(Dropout, "forward", drop_channels):
        for _ in range(2):
            hidden = model.decode(batch.tgt_in, model.encode(batch.src_ids, batch.src_valid), batch.src_valid)
            passes.append(hidden[real] @ model.projection.T + model.output_bias)
    assert not torch.allclose(*passes)
    targets = batch.tgt_out[real]
    nll = sum(F.cross_entropy(x, targets, reduction="sum", label_smoothing=SMOOTHING) for x in passes)
    log_p, log_q = (x.log_softmax(-1) for x in passes)
    divergences = sum(F.kl_div(x, y, reduction="sum", log_target=True) for x, y in ((log_p, log_q), (log_q, log_p)))
    ((nll + ALPHA * divergences / 2) / 2 / real.sum()).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("n_pairs_that_fit", [1000, 2])
@pytest.mark.parametrize("n_processes", [1, 2])
def test_every_update_has_the_gradient_of_one_big_batch(
    n_processes: int, n_pairs_that_fit: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    # The last update has a single micro-batch: one process has nothing to do there.
    config = tiny_config(
        data={"phrasebook_train_pairs": 45, "phrasebook_valid_pairs": 3},
        model={"dropout": 0.2},
        optim={"label_smoothing": SMOOTHING, "r_drop": ALPHA, "clip_norm": None},
        train={
            "epochs": 1,
            "max_updates": None,
            "max_tokens": None,
            "batch_size": 5,
            "micro_batches_per_update": 2,
            "save_every_updates": 1000,
        },
        validation={"every_updates": 1000},
    )
    data = prepare_data(config)
    plan = plan_of(config.train, data)
    updates = list(plan.updates(0, plan.updates_per_epoch))
    arguments = n_pairs_that_fit, config, tmp_path / "run", tmp_path / "records", True
    start_ranks(n_processes, tmp_path / "log", train_dropping_channels, *arguments, float64=True).wait()
    for rank in read_records(tmp_path / "records"):
        assert len(rank) == len(updates)
        for update, found in zip(updates, rank, strict=True):
            expected = gradients_of_two_passes(config, data, np.concatenate(update), found["weights"])
            for ours, theirs in zip(found["gradients"], expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
