"""The recorded gradients of an epoch's updates, against those that plain autograd takes of one big batch each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchPlan
from accel_tx.data.dataset import prepare_data
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.loss import token_loss
from accel_tx.model.transformer import Transformer
from accel_tx.train.fresh import plan_of
from tests.padded import padded
from tests.ranks import read_records

# Fields of `train` for an epoch whose micro-batches are as many pairs each, `batch_size`.
ONE_EPOCH = {"epochs": 1, "max_updates": None, "max_tokens": None, "save_every_updates": 1000}


def updates_of(config: Config) -> tuple[BatchPlan, list[list[np.ndarray]]]:
    """The plan, and the pairs of each micro-batch of each update of an epoch."""
    plan = plan_of(config.train, prepare_data(config))
    return plan, list(plan.updates(0, plan.updates_per_epoch))


def mean_loss(model: Transformer, batch: Batch, smoothing: float) -> torch.Tensor:
    """Over all real target tokens; neither Accelerate nor the loop."""
    hidden = model.decode(batch.tgt_in, model.encode(batch.src_ids, batch.src_valid), batch.src_valid)
    real = batch.tgt_out != PAD_ID
    logits = hidden[real] @ model.projection.T + model.output_bias
    return token_loss(logits, batch.tgt_out[real], smoothing) / real.sum()


def assert_gradients_are_those_of(
    loss_of: Callable[[Transformer, Batch], torch.Tensor], config: Config, records: Path, n_processes: int, atol: float
) -> None:
    """What every process recorded of each update is the gradient of `loss_of` of its pairs, padded to one batch."""
    data, (_, updates) = prepare_data(config), updates_of(config)
    vocab_sizes = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
    ranks = read_records(records)
    assert len(ranks) == n_processes
    for rank in ranks:
        assert len(rank) == len(updates)
        for update, found in zip(updates, rank, strict=True):
            model = Transformer(config.model, *vocab_sizes).train()
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), found["weights"], strict=True):
                    parameter.copy_(value)
            loss_of(model, padded([data.train[int(i)] for i in np.concatenate(update)])).backward()
            expected = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            for ours, theirs in zip(found["gradients"], expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
