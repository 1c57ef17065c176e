"""What `check` tries is what a process will compute."""

from __future__ import annotations

import numpy as np
import pytest

from accel_tx.data.batching import BatchLimits, BatchPlan, share
from accel_tx.train.try_out import largest_micro_batch

LENGTHS = np.random.default_rng(0).integers(3, 60, (2, 500), dtype=np.int32)


@pytest.mark.parametrize(("n_micro_batches", "n_processes"), [(4, 1), (4, 2), (1, 2), (3, 2), (2, 3)])
def test_the_largest_micro_batch_is_one_that_a_process_computes(n_micro_batches: int, n_processes: int) -> None:
    plan = BatchPlan(*LENGTHS, BatchLimits(600, None), n_micro_batches, seed=1)
    computed = [
        pairs
        for update in plan.updates(0, plan.updates_per_epoch)
        for rank in range(n_processes)
        for pairs in share(update, plan.longest, n_micro_batches, rank, n_processes)
    ]
    found = largest_micro_batch(plan, *LENGTHS, n_processes)
    assert any(np.array_equal(found, pairs) for pairs in computed)
    sizes = [int(LENGTHS[:, pairs].sum()) for pairs in computed]
    size = int(LENGTHS[:, found].sum())
    assert size >= 0.97 * max(sizes)
    if n_micro_batches % n_processes == 0:
        assert size == max(sizes)
