"""A block pads and unpads without a trace, and a batch moves as a whole."""

from __future__ import annotations

import os
import pickle
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from accel_tx.data.batch import Batch, Block
from accel_tx.data.collator import DataCollator, TokenPair

block_lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)
quick = settings(max_examples=50, deadline=None)


def block_of(lengths: list[int]) -> Block:
    """One block of sentences of these lengths."""
    pairs = [TokenPair(*(np.full(n - 1, 7, dtype=np.int32),) * 2) for n in lengths]
    (block,) = DataCollator(block_cost=10**6)(pairs).src_blocks
    return block


def rows(n: int, n_channels: int = 3) -> Tensor:
    """Numbers other than 0, all of them different."""
    return torch.arange(1, n * n_channels + 1, dtype=torch.float64).view(n, n_channels)


@quick
@given(block_lengths)
def test_padding_puts_each_sentence_in_a_row_of_its_own(lengths: list[int]) -> None:
    block, tokens = block_of(lengths), rows(sum(lengths))
    padded = block.pad(tokens)
    assert padded.shape == (len(lengths), max(lengths), 3)
    for row, sentence in zip(padded, tokens.split(lengths), strict=True):
        assert torch.equal(row[: len(sentence)], sentence)
        assert not row[len(sentence) :].any()
    assert torch.equal(block.unpad(padded), tokens)
    assert block.n_tokens == sum(lengths)
    assert block.n_positions == len(lengths) * max(lengths)


@quick
@given(block_lengths)
def test_what_may_be_attended_to_is_what_is_real(lengths: list[int]) -> None:
    block = block_of(lengths)
    real = block.pad(rows(sum(lengths)))[..., 0] != 0
    if real.all():
        assert block.valid is block.positions is block.attendable is None
    else:
        assert block.valid is not None
        assert block.attendable is not None
        assert torch.equal(block.valid, real)
        assert block.attendable.shape == (len(lengths), 1, 1, max(lengths))
        assert torch.equal(block.attendable.flatten(), real.flatten())


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2], [1], [4, 1]])
def test_gradients_of_padding_and_unpadding(lengths: list[int]) -> None:
    block = block_of(lengths)
    tokens = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    padded = torch.randn(len(lengths), max(lengths), 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(lengths), 1, max(lengths), dtype=torch.float64)
    assert torch.autograd.gradcheck(block.pad, tokens)
    assert torch.autograd.gradcheck(block.unpad, padded)
    assert torch.autograd.gradcheck(lambda x: block.unpad(weights.transpose(1, 2) * block.pad(x).cumsum(1)), tokens)


def test_padding_takes_no_gradient_and_gives_none() -> None:
    block = block_of([3, 1])
    padded = torch.ones(2, 3, 1, requires_grad=True)
    block.unpad(padded).sum().backward()
    assert padded.grad is not None
    assert padded.grad.flatten().tolist() == [1, 1, 1, 1, 0, 0]
    tokens = torch.ones(4, 1, requires_grad=True)
    (block.pad(tokens) * torch.arange(6).view(2, 3, 1)).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.flatten().tolist() == [0, 1, 2, 3]


# A batch

SOME = [(5, 2), (4, 4), (1, 3)]


PACKED = -1


def batch_of(lengths: list[tuple[int, int]], block_cost: int = 0) -> Batch:
    pairs = [TokenPair(*(np.full(n, 7, dtype=np.int32) for n in pair)) for pair in lengths]
    return DataCollator(block_cost, is_packed=block_cost == PACKED)(pairs)


def tensors_of(batch: Batch) -> dict[str, Tensor | None]:
    """Every tensor of a batch under a name."""
    found: dict[str, Tensor | None] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
            continue
        for i, block in enumerate(value):
            assert isinstance(block, Block)
            names = ("positions", "valid", "starts")
            found.update({f"{field.name}.{i}.{name}": getattr(block, name, None) for name in names})
    return found


@pytest.mark.parametrize("block_cost", [0, 10**6])
def test_counts_are_those_of_the_pairs(block_cost: int) -> None:
    batch = batch_of(SOME, block_cost)
    assert len(batch.src_blocks) == (3 if block_cost == 0 else 1)
    assert (batch.n_pairs, batch.n_src_tokens, batch.n_tgt_tokens) == (3, 13, 12)
    assert batch.n_positions == (13 + 12 if block_cost == 0 else 3 * 6 + 3 * 5)


@pytest.mark.parametrize("lengths", [SOME, [(2, 2), (2, 2)], []])
@pytest.mark.parametrize("block_cost", [0, 10**6, PACKED])
def test_moving_a_batch_moves_every_part(lengths: list[tuple[int, int]], block_cost: int) -> None:
    batch = batch_of(lengths, block_cost)
    before, after = tensors_of(batch), tensors_of(batch.to(torch.device("meta")))
    assert before.keys() == after.keys()
    for name, value in before.items():
        moved = after[name]
        if value is None:
            assert moved is None
        else:
            assert moved is not None
            assert moved.device.type == "meta"
            assert (moved.shape, moved.dtype) == (value.shape, value.dtype)
    sizes = [
        [(b.n_sentences, b.width, b.n_tokens) for b in (*x.src_blocks, *x.tgt_blocks)]
        for x in (batch, batch.to("meta"))
    ]  # type: ignore[arg-type]
    assert sizes[0] == sizes[1]


def test_moving_does_not_wait_for_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    plain = Tensor.to

    def watched(tensor: Tensor, *args: object, non_blocking: bool = False) -> Tensor:
        asked.append(non_blocking)
        return plain(tensor, *args, non_blocking=non_blocking)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(Tensor, "to", watched)
    batch = batch_of(SOME, 10**6)
    batch.to(torch.device("cpu"))
    assert asked == [True] * sum(value is not None for value in tensors_of(batch).values())


def test_pinning_pins_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning itself needs a GPU: a copy stands in for it."""
    batch = batch_of(SOME, 10**6)
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    pinned = tensors_of(batch.pin_memory())
    for name, value in tensors_of(batch).items():
        copy = pinned[name]
        if value is None:
            assert copy is None
        else:
            assert copy is not None
            assert torch.equal(copy, value)
            assert copy.data_ptr() != value.data_ptr(), name


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("lengths", [SOME, [(2, 2), (2, 2)], []])
@pytest.mark.parametrize("block_cost", [10**6, PACKED])
def test_a_worker_hands_a_batch_over_without_a_file_descriptor(lengths: list[tuple[int, int]], block_cost: int) -> None:
    batch = batch_of(lengths, block_cost)
    n_open = len(os.listdir("/proc/self/fd"))
    sent = ForkingPickler.dumps(batch)
    assert len(os.listdir("/proc/self/fd")) == n_open
    received = pickle.loads(sent)
    torch.testing.assert_close(tensors_of(received), tensors_of(batch), rtol=0, atol=0)
    sizes = [[(b.n_sentences, b.width, b.n_tokens) for b in (*x.src_blocks, *x.tgt_blocks)] for x in (batch, received)]
    assert sizes[0] == sizes[1]
