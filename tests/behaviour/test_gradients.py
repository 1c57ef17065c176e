"""The gradient of an update is that of one big batch, however it is divided among micro-batches and processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from accel_tx.config import Config
from accel_tx.data.batching import share
from accel_tx.data.dataset import prepare_data
from tests.ranks import start_ranks, train_and_record
from tests.update_gradients import ONE_EPOCH, assert_gradients_are_those_of, mean_loss, updates_of

MakeConfig = Callable[..., Config]
# Twelve micro-batches of four pairs and one of a single pair: it is the whole last update where an update has three or
# four, so that most processes have nothing to do there.
N_PAIRS, BATCH_SIZE = 49, 4


@pytest.mark.usefixtures("float64")
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
            **ONE_EPOCH,
            "batch_size": BATCH_SIZE,
            "micro_batches_per_update": n_micro_batches,
        },
    )
    data = prepare_data(config)
    assert len(data.train) == N_PAIRS
    plan, updates = updates_of(config)
    assert any(
        len({int(data.train.tgt_lengths[part].sum()) for part in update}) == n_micro_batches for update in updates
    )
    parts = [share(updates[-1], plan.longest, n_micro_batches, rank, n_processes) for rank in range(n_processes)]
    n_empty = sum(not len(part) for own in parts for part in own)
    assert n_empty == n_processes * len(parts[0]) - 1

    arguments = config, tmp_path / "run", tmp_path / "records", True
    start_ranks(n_processes, tmp_path / "log", train_and_record, *arguments, float64=True).wait()
    loss_of = partial(mean_loss, smoothing=config.optim.label_smoothing)
    assert_gradients_are_those_of(loss_of, config, tmp_path / "records", n_processes, atol=1e-12)
