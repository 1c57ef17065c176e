"""A turn adds up the work that was asked for and the work that was done."""

from __future__ import annotations

from multiprocessing import Pipe

import numpy as np
import torch

from accel_tx.bench.turns import Turn, Turns, work_of
from accel_tx.bench.workload import Workload
from accel_tx.config import ModelConfig
from accel_tx.data.collator import DataCollator
from accel_tx.data.token_pairs import Ragged, TokenPairs
from accel_tx.model.flops import Work, training_flops

MODEL = ModelConfig(d_model=16, d_ff=24, n_heads=2)
LENGTHS = [(5, 3), (2, 4), (7, 7), (1, 1)]


def workload() -> Workload:
    src, tgt = ([[7] * (pair[side] - 1) for pair in LENGTHS] for side in (0, 1))
    return Workload(TokenPairs(Ragged.from_lists(src), Ragged.from_lists(tgt)), 40, 50, "")


def turn_of(updates: list[tuple[list[list[int]], list[Work]]], n_passes: int = 1) -> Turn:
    """What is reported of these updates: the pairs of each micro-batch, and what was computed of them."""
    ours, theirs = Pipe()
    turns = Turns(theirs, torch.device("cpu"), MODEL, workload(), n_passes)
    ours.send(1000.0)
    for pairs, works in updates:
        assert turns.goes_on()
        turns.done([np.array(part) for part in pairs], works)
    turns._until_s = 0
    ours.send(None)
    assert not turns.goes_on()
    turn = ours.recv()["turn"]
    assert isinstance(turn, Turn)
    return turn


def test_real_and_computed_flops_of_a_padded_batch_by_hand() -> None:
    padded = Work(n_src=10, n_tgt=8, n_predicted=8, n_src_src=50, n_tgt_tgt=32, n_tgt_src=40)
    assert work_of(torch.zeros(2, 5), torch.zeros(2, 4)) == padded
    turn = turn_of([([[0, 1]], [padded])])

    assert (turn.n_updates, turn.n_src_tokens, turn.n_tgt_tokens) == (1, 7, 7)
    real = Work(n_src=7, n_tgt=7, n_predicted=7, n_src_src=29, n_tgt_tgt=25, n_tgt_src=23)
    assert turn.model_flops == training_flops(MODEL, 50, real)
    assert turn.computed_flops == training_flops(MODEL, 50, padded) > turn.model_flops
    twice = turn_of([([[0, 1]], [padded])], n_passes=2)
    assert (twice.model_flops, twice.computed_flops) == (2 * turn.model_flops, 2 * turn.computed_flops)


def test_a_batch_in_blocks_computes_padding_in_attention_alone() -> None:
    pairs = workload().pairs
    batches = [[2, 0], [1, 3]]
    works = [Work.of_batch(DataCollator(block_cost=10**6)(pairs.__getitems__(part))) for part in batches]
    in_blocks = turn_of([(batches, works), ([[3]], [Work.of_batch(DataCollator()([pairs[3]]))])])

    assert (in_blocks.n_updates, in_blocks.n_src_tokens, in_blocks.n_tgt_tokens) == (2, 16, 16)
    whole = [work_of(torch.zeros(2, 7), torch.zeros(2, 7)), work_of(torch.zeros(2, 2), torch.zeros(2, 4))]
    padded = turn_of([(batches, whole), ([[3]], [work_of(torch.zeros(1, 1), torch.zeros(1, 1))])])
    assert in_blocks.model_flops == padded.model_flops
    assert in_blocks.model_flops < in_blocks.computed_flops < padded.computed_flops
    of_attention = training_flops(MODEL, 50, Work(0, 0, 0, 98 + 8 - 79, 98 + 32 - 75, 98 + 16 - 73))
    assert in_blocks.computed_flops - in_blocks.model_flops == of_attention
