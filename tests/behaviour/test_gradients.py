"""The gradient of an update is that of one big batch, however it is divided among micro-batches and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from accel_tx.config import Config
from accel_tx.data.batching import share
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.loss import token_loss
from accel_tx.model.transformer import Transformer
from accel_tx.train.fresh import plan_of
from tests.padded import padded
from tests.ranks import read_records, start_ranks, train_and_record

MakeConfig = Callable[..., Config]
# Twelve micro-batches of four pairs and one of a single pair: it is the whole last update where an update has three or
# four, so that most processes have nothing to do there.
N_PAIRS, BATCH_SIZE = 49, 4


def gradients_of_one_big_batch(
    config: Config, data: PreparedData, pairs: np.ndarray, weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    """By the plain forward and backward of the mean over all real target tokens; neither Accelerate nor the loop."""
    model = Transformer(config.model, data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(value)
    batch = padded([data.train[int(i)] for i in pairs])
    hidden = model.decode(batch.tgt_in, model.encode(batch.src_ids, batch.src_valid), batch.src_valid)
    real = batch.tgt_out != PAD_ID
    logits = hidden[real] @ model.projection.T + model.output_bias
    summed = token_loss(logits, batch.tgt_out[real], config.optim.label_smoothing)
    (summed / real.sum()).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("n_processes", [1, 2, 4])
@pytest.mark.parametrize("n_micro_batches", [1, 3, 4])
def test_every_update_has_the_gradient_of_one_big_batch(
    n_processes: int, n_micro_batches: int, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(
        data={"phrasebook_train_pairs": N_PAIRS, "phrasebook_valid_pairs": 3},
        model={"dropout": 0.0},
        optim={"label_smoothing": 0.1, "clip_norm": None},
        train={
            "epochs": 1,
            "max_updates": None,
            "max_tokens": None,
            "batch_size": BATCH_SIZE,
            "micro_batches_per_update": n_micro_batches,
            "save_every_updates": 1000,
        },
    )
    data = prepare_data(config)
    assert len(data.train) == N_PAIRS
    plan = plan_of(config.train, data)
    updates = list(plan.updates(0, plan.updates_per_epoch))
    assert any(
        len({int(data.train.tgt_lengths[part].sum()) for part in update}) == n_micro_batches for update in updates
    )
    parts = [share(updates[-1], plan.longest, n_micro_batches, rank, n_processes) for rank in range(n_processes)]
    n_empty = sum(not len(part) for own in parts for part in own)
    assert n_empty == n_processes * len(parts[0]) - 1

    arguments = config, tmp_path / "run", tmp_path / "records", True
    start_ranks(n_processes, tmp_path / "log", train_and_record, *arguments, float64=True).wait()
    ranks = read_records(tmp_path / "records")
    assert len(ranks) == n_processes
    for rank in ranks:
        assert len(rank) == len(updates)
        for update, found in zip(updates, rank, strict=True):
            expected = gradients_of_one_big_batch(config, data, np.concatenate(update), found["weights"])
            for ours, theirs in zip(found["gradients"], expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
