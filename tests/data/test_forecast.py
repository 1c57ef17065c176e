from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.config import Config, build_config
from accel_tx.data.batching import BatchLimits, BatchPlan, plan_epoch
from accel_tx.data.collator import training_collator
from accel_tx.data.dataset import prepare_data
from accel_tx.data.forecast import forecast, forecast_training, shown_epochs
from tests.data.test_shapes import SIZES, token_pairs


def config(**train: Any) -> Config:
    values = {"max_updates": 10, "max_tokens": 64, "micro_batches_per_update": 3, **train}
    return build_config({"train": values, "model": {"max_positions": 32, "d_model": 16, "n_heads": 2, "d_ff": 24}})


@settings(max_examples=60, deadline=None)
@given(SIZES, st.booleans(), st.booleans())
def test_padding_and_tokens_are_those_of_the_collated_batches(
    sizes: list[tuple[int, int]], by_tokens: bool, is_compiled: bool
) -> None:
    pairs = token_pairs(sizes)
    asked = config(compile=is_compiled, **({} if by_tokens else {"max_tokens": None, "batch_size": 7}))
    found = forecast(asked, pairs.src_lengths, pairs.tgt_lengths, 50, 60)
    limits = BatchLimits(asked.train.max_tokens, asked.train.batch_size)
    plan = plan_epoch(pairs.src_lengths, pairs.tgt_lengths, limits, 3, asked.train.seed, 0)
    updates = [plan.update(i) for i in range(plan.n_updates)]
    for device, share in found.padding_share.items():
        collate = training_collator(asked.model, is_compiled, on_gpu=device == "gpu")
        batches = [collate([pairs[int(i)] for i in part]) for update in updates for part in update]
        n_padded = sum(batch.n_positions for batch in batches)
        n_real = sum(batch.n_src_tokens + batch.n_tgt_tokens for batch in batches)
        assert share == pytest.approx(1 - n_real / n_padded)
    n_tgt = [batch.n_tgt_tokens for batch in batches]
    assert found.n_micro_batches == len(batches)
    assert found.updates_per_epoch == len(updates)
    assert found.tgt_tokens_per_micro_batch.mean == pytest.approx(np.mean(n_tgt))
    assert found.tgt_tokens_per_micro_batch.std == pytest.approx(np.std(n_tgt))
    assert (found.tgt_tokens_per_micro_batch.least, found.tgt_tokens_per_micro_batch.most) == (min(n_tgt), max(n_tgt))
    assert found.pairs_per_micro_batch.mean == pytest.approx(len(sizes) / len(batches))
    assert found.tgt_tokens_per_update == pytest.approx(sum(n_tgt) / len(updates))


def test_updates_are_those_that_training_makes(tiny_config: Callable[..., Config]) -> None:
    asked = tiny_config(train={"max_updates": None, "epochs": 7})
    data = prepare_data(asked)
    limits = BatchLimits(asked.train.max_tokens, None)
    plan = BatchPlan(data.train.src_lengths, data.train.tgt_lengths, limits, 2, asked.train.seed)
    found = forecast_training(asked, data)
    assert (found.updates_per_epoch, found.n_updates) == (plan.updates_per_epoch, 7 * plan.updates_per_epoch)
    assert found.epochs == 7
    assert found.n_pairs == len(data.train)


@pytest.mark.parametrize(
    ("n_epochs", "shown"), [(0.0412, "0.0412"), (15.0, "15"), (99.96, "100"), (999.6, "1,000"), (5555.6, "5,556")]
)
def test_epochs_are_shown_as_people_write_them(n_epochs: float, shown: str) -> None:
    assert shown_epochs(n_epochs) == shown


def test_the_largest_micro_batch_decides_and_the_parts_add_up() -> None:
    lengths = np.array([30] * 20 + [2] * 20)
    memory = forecast(config(), lengths, lengths, 50, 60).memory_mib
    less = forecast(config(), lengths[20:], lengths[20:], 50, 60).memory_mib
    for setting, parts in memory.items():
        assert parts["total"] == pytest.approx(sum(mib for name, mib in parts.items() if name != "total"))
        assert parts["parameters"] == pytest.approx(less[setting]["parameters"])
