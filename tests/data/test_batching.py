"""The batch plan covers every pair once, within its limits, the same for any number of processes."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.bench.workload import book_like_lengths
from accel_tx.config import ModelConfig
from accel_tx.data.batching import BatchLimits, BatchPlan, EpochPlan, MicroBatchSampler, plan_epoch, share
from accel_tx.data.collator import DataCollator
from accel_tx.data.dealing import Indices
from accel_tx.data.shapes import Shapes
from accel_tx.model.flops import Work, training_flops
from tests.conftest import REPOSITORY

COST = 16
"""Places of padding that a block is worth, as for a model of 512 channels."""

Lengths = tuple[Indices, Indices]
MAX_TOKENS = 39
LIMITS = [BatchLimits(max_tokens=MAX_TOKENS, batch_size=None), BatchLimits(max_tokens=None, batch_size=5)]
N_PROCESSES = [1, 2, 3, 4, 8]

any_limits = st.sampled_from(LIMITS)
any_lengths = st.lists(st.tuples(st.integers(1, MAX_TOKENS), st.integers(1, MAX_TOKENS)), min_size=1, max_size=80)
quick = settings(max_examples=60, deadline=None)


def as_arrays(pairs: list[tuple[int, int]]) -> Lengths:
    src, tgt = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return src, tgt


def random_lengths(n: int, seed: int) -> Lengths:
    src, tgt = np.random.default_rng(seed).integers(1, 20, (2, n))
    return src, tgt


def micro_batches(plan: EpochPlan) -> list[list[int]]:
    return [part.tolist() for i in range(plan.n_updates) for part in plan.update(i)]


def as_lists(updates: list[list[Indices]]) -> list[list[list[int]]]:
    return [[part.tolist() for part in update] for update in updates]


def fills(plan: EpochPlan, src: Indices, tgt: Indices) -> list[int]:
    """Tokens of each micro-batch, of the longer side of each pair."""
    sizes = np.maximum(src, tgt)
    return [int(sizes[batch].sum()) for batch in micro_batches(plan)]


# An epoch


@quick
@given(any_lengths, any_limits, st.integers(1, 4), st.integers(0, 99), st.integers(0, 9))
@example([(3, 4)], LIMITS[0], 4, 1, 1)  # fewer pairs than an update has micro-batches
@example([(MAX_TOKENS, 1)] + [(1, 1)] * 79, LIMITS[0], 2, 1, 1)  # one giant among tiny ones
@example([(MAX_TOKENS, 1)] * 9, LIMITS[0], 2, 1, 1)
def test_every_pair_occurs_once_within_the_limits(
    pairs: list[tuple[int, int]], limits: BatchLimits, per_update: int, seed: int, epoch: int
) -> None:
    src, tgt = as_arrays(pairs)
    plan = plan_epoch(src, tgt, limits, per_update, seed, epoch)
    batches = micro_batches(plan)
    assert len(batches) == plan.n_micro_batches
    assert sorted(chain.from_iterable(batches)) == list(range(len(pairs)))
    assert [len(plan.update(i)) for i in range(plan.n_updates - 1)] == [per_update] * (plan.n_updates - 1)
    assert 1 <= len(plan.update(plan.n_updates - 1)) <= per_update
    for batch in batches:
        assert batch
        assert (np.diff(np.maximum(src, tgt)[batch]) <= 0).all()  # from long to short
    if limits.max_tokens is not None:
        assert max(fills(plan, src, tgt)) <= limits.max_tokens
        assert plan.n_micro_batches % per_update == 0 or plan.n_micro_batches == len(pairs)
    if limits.batch_size is not None:
        assert [len(batch) for batch in batches[:-1]] == [limits.batch_size] * (len(batches) - 1)
        assert len(batches[-1]) <= limits.batch_size


@quick
@given(any_lengths, st.integers(1, 4))
def test_micro_batches_hold_as_many_tokens_in_every_epoch(pairs: list[tuple[int, int]], per_update: int) -> None:
    src, tgt = as_arrays(pairs)
    found = [sorted(fills(plan_epoch(src, tgt, LIMITS[0], per_update, 1, epoch), src, tgt)) for epoch in range(4)]
    assert all(of_epoch == found[0] for of_epoch in found)


@pytest.mark.parametrize("budget", range(60, 600, 45))
def test_budget_is_kept_to_the_token_and_used(budget: int) -> None:
    src, tgt = random_lengths(1_000, seed=budget)
    found = fills(plan_epoch(src, tgt, BatchLimits(budget, None), 1, seed=budget, epoch=0), src, tgt)
    assert max(found) <= budget
    assert np.median(found) > 0.75 * budget


@pytest.mark.parametrize("limits", LIMITS)
def test_no_pairs_give_no_updates(limits: BatchLimits) -> None:
    empty = np.empty(0, dtype=np.int64)
    assert plan_epoch(empty, empty, limits, 2, seed=0, epoch=0).n_updates == 0


@pytest.mark.parametrize("limits", LIMITS)
def test_order_depends_on_seed_and_epoch_and_on_nothing_else(limits: BatchLimits) -> None:
    src, tgt = random_lengths(200, seed=1)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return micro_batches(plan_epoch(src, tgt, limits, 1, seed, epoch))

    np.random.seed(5)  # has no say
    assert plan(3, 4) == plan(3, 4)
    plans = [plan(seed, epoch) for seed in (3, 4) for epoch in (3, 4, 5)]
    for i, one in enumerate(plans):
        for other in plans[:i]:
            assert one != other
            # Not only another order of the same batches: pairs meet others in each epoch.
            assert {frozenset(batch) for batch in one} != {frozenset(batch) for batch in other}


def test_short_and_long_pairs_come_in_random_order() -> None:
    src, tgt = book_like_lengths(50_000, 150, seed=1)
    sizes = np.maximum(src, tgt)
    plan = plan_epoch(src, tgt, BatchLimits(1_024, None), 4, seed=1, epoch=0)
    batches = micro_batches(plan)
    assert len(batches) > 500
    for measure in (np.max, np.mean, np.min, len):
        found = [measure(sizes[batch]) for batch in batches]
        correlation = np.corrcoef(found, np.arange(len(batches)))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(len(batches))
    of_pairs = np.corrcoef(sizes[plan.order], np.repeat(np.arange(len(batches)), np.diff(plan.starts)))[0, 1]
    assert abs(of_pairs) < 0.03


@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_longer_than_the_budget_is_refused(side: int) -> None:
    lengths = random_lengths(20, seed=1)
    lengths[side][7] = MAX_TOKENS
    assert plan_epoch(*lengths, LIMITS[0], 1, seed=0, epoch=0).n_updates > 0
    lengths[side][7] = MAX_TOKENS + 1
    with pytest.raises(ValueError, match=f"a pair of {MAX_TOKENS + 1} tokens does not fit a micro-batch of"):
        plan_epoch(*lengths, LIMITS[0], 1, seed=0, epoch=0)


# What a plan costs


def test_book_like_lengths_in_random_batches_are_mostly_padding() -> None:
    src, tgt = book_like_lengths(50_000, 150, seed=1)
    assert src.mean() == pytest.approx(22, abs=0.5)
    batches = micro_batches(plan_epoch(src, tgt, BatchLimits(None, 64), 1, seed=1, epoch=0))
    padded = sum(len(batch) * int(src[batch].max() + tgt[batch].max()) for batch in batches)
    assert 1 - (src.sum() + tgt.sum()) / padded > 0.7


@pytest.mark.parametrize(
    ("n_pairs", "max_tokens", "most"), [(50_000, 4_096, 0.03), (50_000, 1_024, 0.02), (1_000_000, 4_096, 0.015)]
)
def test_attention_has_little_padding_on_book_like_lengths(n_pairs: int, max_tokens: int, most: float) -> None:
    src, tgt = book_like_lengths(n_pairs, 150, seed=1)
    plan = plan_epoch(src, tgt, BatchLimits(max_tokens, None), 1, seed=1, epoch=0)
    assert Shapes.of_plan(plan, src, tgt, DataCollator(COST)).padding_share <= most


@pytest.mark.parametrize(("max_tokens", "most"), [(4_096, 0.05), (1_024, 0.025)])
def test_attention_has_little_padding_on_office_help_in_any_epoch(max_tokens: int, most: float) -> None:
    path = REPOSITORY.parent / "shared" / "corpora" / "office_help_en_fr" / "train.tsv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.split("\t") for line in file][1:]
    assert len(rows) == 16_588
    count = Whitespace().pre_tokenize_str
    src, tgt = (np.array([len(count(row[side])) + 1 for row in rows]) for side in (0, 1))
    for epoch in range(3):
        plan = plan_epoch(src, tgt, BatchLimits(max_tokens, None), 1, seed=1, epoch=epoch)
        assert Shapes.of_plan(plan, src, tgt, DataCollator(COST)).padding_share <= most


def idle_share(updates: list[list[Indices]], src: Indices, tgt: Indices) -> float:
    """Of four processes that wait for the slowest one, by the FLOPs of both sides with the squares of attention."""
    works = [[Work.of_real_tokens(src[part], tgt[part]) for part in update] for update in updates]
    flops = np.array([[training_flops(ModelConfig(), 32_000, work) for work in update] for update in works])
    return float(1 - flops.sum() / (flops.max(1) * 4).sum())


@pytest.mark.parametrize(("max_tokens", "most_idle"), [(4_096, 0.03), (1_024, 0.04)])
def test_micro_batches_of_an_update_are_about_equal_work(max_tokens: int, most_idle: float) -> None:
    src, tgt = book_like_lengths(20_000, 150, seed=1)
    plan = plan_epoch(src, tgt, BatchLimits(max_tokens, None), 4, seed=1, epoch=0)
    assert plan.n_micro_batches % 4 == 0
    assert idle_share([plan.update(i) for i in range(plan.n_updates)], src, tgt) < most_idle
    order = np.random.default_rng(1).permutation(len(src))
    at_random = np.array_split(order, plan.n_micro_batches)  # as many pairs in each
    assert idle_share([at_random[i : i + 4] for i in range(0, len(at_random), 4)], src, tgt) > 0.05


def test_a_plan_of_a_million_pairs_takes_seconds() -> None:
    src, tgt = book_like_lengths(1_000_000, 150, seed=1)
    started_s = time.process_time()
    plan_epoch(src, tgt, BatchLimits(4_096, None), 1, seed=1, epoch=0)
    assert time.process_time() - started_s < 6  # 0.3 on a quiet machine


def test_a_plan_takes_little_memory() -> None:
    src, tgt = book_like_lengths(200_000, 150, seed=1)
    tracemalloc.start()
    try:
        plan_epoch(src, tgt, BatchLimits(4_096, None), 1, seed=1, epoch=0)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes / len(src) < 60


# A run


@quick
@given(any_lengths, any_limits, st.integers(1, 4), st.data())
def test_updates_of_a_run_are_slices_of_one_sequence(
    pairs: list[tuple[int, int]], limits: BatchLimits, per_update: int, data: st.DataObject
) -> None:
    src, tgt = as_arrays(pairs)
    plan = BatchPlan(src, tgt, limits, per_update, seed=3)
    n_epochs = 3
    epochs = [plan_epoch(src, tgt, limits, per_update, 3, epoch) for epoch in range(n_epochs)]
    whole = [epoch.update(i) for epoch in epochs for i in range(epoch.n_updates)]
    assert {epoch.n_updates for epoch in epochs} == {plan.updates_per_epoch}
    first, last = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    assert as_lists(list(plan.updates(first, last))) == as_lists(whole[first:last])
    for update in (first, last):
        epoch, index = plan.position(update)
        assert epoch * plan.updates_per_epoch + index == update
        assert 0 <= index < plan.updates_per_epoch


@pytest.mark.parametrize("limits", LIMITS)
def test_updates_begin_and_end_within_an_epoch(limits: BatchLimits) -> None:
    plan = BatchPlan(*random_lengths(100, seed=1), limits, 2, seed=3)
    n = plan.updates_per_epoch
    whole = as_lists(list(plan.updates(0, 3 * n)))
    for first in range(2 * n):
        for last in (first, first + 1, first + n - 1, first + n):
            assert as_lists(list(plan.updates(first, last))) == whole[first:last]


@pytest.mark.parametrize("limits", LIMITS)
def test_every_epoch_has_as_many_updates(limits: BatchLimits) -> None:
    src, tgt = random_lengths(500, seed=1)
    per_epoch = BatchPlan(src, tgt, limits, 3, seed=1).updates_per_epoch
    assert {plan_epoch(src, tgt, limits, 3, 1, epoch).n_updates for epoch in range(20)} == {per_epoch}


# The share of a process

N_SLOTS = [1, 2, 3, 4]


def an_update(n_micro_batches: int, n_pairs: list[int], seed: int) -> tuple[list[Indices], Indices]:
    """Micro-batches of so many pairs over shuffled pair numbers, and the pairs' lengths."""
    rng = np.random.default_rng(seed)
    bounds = np.cumsum([0, *n_pairs[:n_micro_batches]])
    pairs = rng.permutation(bounds[-1])
    return [pairs[a:b] for a, b in pairwise(bounds)], rng.integers(1, 30, bounds[-1])


@pytest.mark.parametrize("n_processes", N_PROCESSES)
@pytest.mark.parametrize("n_slots", N_SLOTS)
@settings(max_examples=20, deadline=None)
@given(
    n_missing=st.integers(0, 3),
    n_pairs=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_processes_together_compute_exactly_the_update(
    n_slots: int, n_processes: int, n_missing: int, n_pairs: list[int], seed: int
) -> None:
    update, lengths = an_update(max(1, n_slots - n_missing), n_pairs, seed)  # an epoch's last update may be short
    shares = [share(update, lengths, n_slots, rank, n_processes) for rank in range(n_processes)]
    assert {len(slots) for slots in shares} == {-(-n_slots // n_processes)}
    parts = [part for slots in shares for part in slots]
    assert sorted(np.concatenate(parts).tolist()) == sorted(np.concatenate(update).tolist())
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}
    if n_slots % n_processes:
        n_given = sum(len(part) > 0 for part in parts)
        assert n_given == min(len(parts), len(lengths))  # nobody idles while another has two pairs in a part


@pytest.mark.parametrize(("n_slots", "n_processes"), [(g, w) for g in (1, 2, 4, 8) for w in N_PROCESSES if g % w == 0])
def test_whole_micro_batches_are_dealt_in_turn_where_the_processes_divide_them(n_slots: int, n_processes: int) -> None:
    update, lengths = an_update(n_slots, [3, 1, 5, 2, 4, 6, 2, 2], seed=1)
    for rank in range(n_processes):
        slots = share(update, lengths, n_slots, rank, n_processes)
        assert as_lists([slots]) == as_lists([update[rank::n_processes]])


@pytest.mark.parametrize(("n_slots", "n_processes"), [(4, 3), (2, 3), (1, 8), (3, 4)])
def test_an_update_that_processes_do_not_divide_is_dealt_out_to_them_evenly(n_slots: int, n_processes: int) -> None:
    src, tgt = book_like_lengths(20_000, 150, seed=1)
    sizes = np.maximum(src, tgt)
    plan = plan_epoch(src, tgt, BatchLimits(4_096, None), n_slots, seed=1, epoch=0)
    update = plan.update(1)
    parts = [share(update, sizes, n_slots, rank, n_processes) for rank in range(n_processes)]
    held = np.array([[sizes[part].sum() for part in slots] for slots in parts])
    assert held.sum() == sizes[np.concatenate(update)].sum()
    assert held.max() <= max(fills(plan, src, tgt))
    assert 1 - held.mean() / held.max() < 0.07  # of the processes' time is spent waiting


@pytest.mark.parametrize(("n_slots", "n_processes"), [(4, 3), (1, 2), (2, 4), (5, 3)])
@quick
@given(pairs=any_lengths)
def test_no_process_gets_more_than_the_budget(pairs: list[tuple[int, int]], n_slots: int, n_processes: int) -> None:
    src, tgt = as_arrays(pairs)
    sizes = np.maximum(src, tgt)
    plan = plan_epoch(src, tgt, LIMITS[0], n_slots, seed=1, epoch=0)
    for i in range(plan.n_updates):
        for rank in range(n_processes):
            for part in share(plan.update(i), sizes, n_slots, rank, n_processes):
                assert sizes[part].sum() <= MAX_TOKENS


@pytest.mark.parametrize("n_processes", [2, 4, 8])
def test_parts_of_one_micro_batch_are_equal_work(n_processes: int) -> None:
    update, lengths = [np.arange(64)], np.full(64, 7)
    sizes = [len(share(update, lengths, 1, rank, n_processes)[0]) for rank in range(n_processes)]
    assert sizes == [64 // n_processes] * n_processes


def test_a_single_pair_is_one_process_work() -> None:
    update, lengths = [np.array([3])], np.array([0, 0, 0, 9])
    parts = [share(update, lengths, 1, rank, 4)[0].tolist() for rank in range(4)]
    assert sorted(parts) == [[], [], [], [3]]


@pytest.mark.parametrize("n_processes", N_PROCESSES)
@pytest.mark.parametrize("per_update", N_SLOTS)
def test_sampler_yields_as_many_micro_batches_as_it_says_and_the_right_ones(per_update: int, n_processes: int) -> None:
    src, tgt = random_lengths(60, seed=1)
    plan = BatchPlan(src, tgt, LIMITS[0], per_update, seed=1)
    first, last = plan.updates_per_epoch - 2, plan.updates_per_epoch + 3
    samplers = [MicroBatchSampler(plan, first, last, rank, n_processes) for rank in range(n_processes)]
    yielded = [list(sampler) for sampler in samplers]
    n_slots = plan.slots_per_process(n_processes)
    assert {len(sampler) for sampler in samplers} == {len(batches) for batches in yielded} == {(last - first) * n_slots}
    for i, update in enumerate(plan.updates(first, last)):
        of_update = [batch for batches in yielded for batch in batches[i * n_slots : (i + 1) * n_slots]]
        assert sorted(chain.from_iterable(of_update)) == sorted(np.concatenate(update).tolist())
    assert list(samplers[0]) == yielded[0]  # again from the start


def test_sampler_leaves_out_what_is_passed_over() -> None:
    plan = BatchPlan(*random_lengths(200, seed=1), LIMITS[0], 2, seed=1)
    whole = list(MicroBatchSampler(plan, 3, 9, 0, 1))
    sampler = MicroBatchSampler(plan, 3, 9, 0, 1, is_passed_over=lambda update: update in (4, 8))
    assert list(sampler) == whole[:2] + whole[4:10]
    assert len(sampler) == 8
