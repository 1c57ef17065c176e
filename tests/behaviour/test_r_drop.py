"""R-Drop: an update has the gradient of one big batch under two draws of dropout, however it is divided."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.layers import Dropout
from accel_tx.model.transformer import Transformer
from accel_tx.train import gradient
from tests.behaviour.test_out_of_memory import memory_of
from tests.ranks import start_ranks, train_and_record
from tests.update_gradients import ONE_EPOCH, assert_gradients_are_those_of

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


def loss_of_two_passes(model: Transformer, batch: Batch) -> torch.Tensor:
    """As Liang et al. 2021 write it, halved."""
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
    return (nll + ALPHA * divergences / 2) / 2 / real.sum()


@pytest.mark.usefixtures("float64")
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
            **ONE_EPOCH,
            "batch_size": 5,
            "micro_batches_per_update": 2,
        },
        validation={"every_updates": 1000},
    )
    arguments = n_pairs_that_fit, config, tmp_path / "run", tmp_path / "records", True
    start_ranks(n_processes, tmp_path / "log", train_dropping_channels, *arguments, float64=True).wait()
    assert_gradients_are_those_of(loss_of_two_passes, config, tmp_path / "records", n_processes, atol=1e-10)
