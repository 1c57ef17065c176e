"""The collator against a plain reference written with lists."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.data.collator import Batch, DataCollator, TokenPair, pad_sources
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID

Ids = list[int]

# Any id may occur inside a sentence, PAD_ID too: what is padding is known from the lengths, never from the ids.
sentences = st.lists(st.integers(0, 50), max_size=9)
quick = settings(max_examples=100, deadline=None)


def token_pair(src: Ids, tgt: Ids) -> TokenPair:
    return TokenPair(np.array(src, dtype=np.int32), np.array(tgt, dtype=np.int32))


def padded(rows: list[Ids], multiple: int) -> list[Ids]:
    width = max(len(row) for row in rows)
    while width % multiple:
        width += 1
    return [row + [PAD_ID] * (width - len(row)) for row in rows]


def slow_collate(pairs: list[tuple[Ids, Ids]], multiple: int) -> dict[str, Any]:
    src_ids = padded([[*src, EOS_ID] for src, _ in pairs], multiple)
    tgt_out = padded([[*tgt, EOS_ID] for _, tgt in pairs], multiple)
    src_valid = [[i <= len(src) for i in range(len(row))] for row, (src, _) in zip(src_ids, pairs)]
    return {
        "src_ids": src_ids,
        "src_valid": None if all(map(all, src_valid)) else src_valid,
        "tgt_in": padded([[BOS_ID, *tgt] for _, tgt in pairs], multiple),
        "tgt_out": tgt_out,
        "tgt_positions": [
            row * len(tgt_out[0]) + column for row, (_, tgt) in enumerate(pairs) for column in range(len(tgt) + 1)
        ],
    }


def as_lists(batch: Batch) -> dict[str, Any]:
    return {name: value if value is None else value.tolist() for name, value in vars(batch).items()}


@quick
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6), st.sampled_from([1, 2, 8]))
def test_batch_equals_the_plain_reference(pairs: list[tuple[Ids, Ids]], multiple: int) -> None:
    batch = DataCollator(multiple)([token_pair(*pair) for pair in pairs])
    expected = slow_collate(pairs, multiple)
    assert as_lists(batch) == expected
    for name, value in vars(batch).items():
        if value is not None:
            assert value.dtype == (torch.bool if name == "src_valid" else torch.int64), name
    assert batch.n_tgt_tokens == sum(len(tgt) + 1 for _, tgt in pairs)
    assert batch.n_src_tokens == sum(len(src) + 1 for src, _ in pairs)
    assert batch.n_padded_tokens == sum(map(len, expected["src_ids"])) + sum(map(len, expected["tgt_out"]))


def test_batch_written_by_hand() -> None:
    batch = DataCollator()([token_pair([7, 8], [9]), token_pair([], [5, 6, 4])])
    assert as_lists(batch) == {
        "src_ids": [[7, 8, 3], [3, 0, 0]],
        "src_valid": [[True, True, True], [True, False, False]],
        "tgt_in": [[2, 9, 0, 0], [2, 5, 6, 4]],
        "tgt_out": [[9, 3, 0, 0], [5, 6, 4, 3]],
        "tgt_positions": [0, 1, 4, 5, 6, 7],
    }
    assert (batch.n_src_tokens, batch.n_tgt_tokens, batch.n_padded_tokens) == (4, 6, 14)


@quick
@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6), st.sampled_from([1, 8]))
def test_real_positions_pick_the_targets_with_eos_and_the_inputs_with_bos(
    pairs: list[tuple[Ids, Ids]], multiple: int
) -> None:
    batch = DataCollator(multiple)([token_pair(*pair) for pair in pairs])
    ended, begun = [[*tgt, EOS_ID] for _, tgt in pairs], [[BOS_ID, *tgt] for _, tgt in pairs]
    assert batch.tgt_out.flatten()[batch.tgt_positions].tolist() == list(chain.from_iterable(ended))
    assert batch.tgt_in.flatten()[batch.tgt_positions].tolist() == list(chain.from_iterable(begun))


@pytest.mark.parametrize(("longest", "width"), [(0, 8), (6, 8), (7, 8), (8, 16)])
def test_width_is_the_next_multiple_with_eos_counted(longest: int, width: int) -> None:
    batch = DataCollator(pad_to_multiple_of=8)([token_pair([5] * longest, []), token_pair([], [5] * longest)])
    assert batch.src_ids.shape == batch.tgt_in.shape == batch.tgt_out.shape == (2, width)


def test_each_batch_and_each_side_is_padded_to_its_own_longest() -> None:
    collate = DataCollator()
    assert collate([token_pair([5] * 9, [5])]).src_ids.shape == (1, 10)
    batch = collate([token_pair([5] * 3, [5] * 6)])
    assert batch.src_ids.shape == (1, 4)
    assert batch.tgt_in.shape == (1, 7)


def test_sources_of_equal_length_need_no_mask_unless_rounded_up() -> None:
    pairs = [token_pair([5, 6], [5]), token_pair([0, 0], [5, 6, 7])]
    assert DataCollator()(pairs).src_valid is None
    assert DataCollator(pad_to_multiple_of=8)(pairs).src_valid is not None


@pytest.mark.parametrize("multiple", [1, 8])
def test_no_pairs_give_a_batch_without_targets(multiple: int) -> None:
    batch = DataCollator(multiple)([])
    assert batch.n_tgt_tokens == 0
    assert batch.tgt_positions.dtype == torch.int64
    assert batch.src_ids.tolist() == [[EOS_ID]]  # something to attend to, or attention gives NaN
    assert batch.src_valid is None
    assert batch.tgt_in.shape == batch.tgt_out.shape == (1, 1)


@pytest.mark.parametrize("lengths", [(3, 1), (2, 2)])
def test_moving_a_batch_moves_every_part(lengths: tuple[int, int]) -> None:
    batch = DataCollator()([token_pair([5] * n, [6] * n) for n in lengths])
    moved = batch.to(torch.device("meta"))
    for name, value in vars(batch).items():
        other = getattr(moved, name)
        if value is None:
            assert other is None
        else:
            assert other.device.type == "meta"
            assert other.shape == value.shape


@quick
@given(st.lists(sentences, min_size=1, max_size=6))
def test_sources_for_translation_are_padded_like_those_for_training(sources: list[Ids]) -> None:
    src_ids, src_valid = pad_sources([np.array(source, dtype=np.int32) for source in sources])
    batch = DataCollator()([token_pair(source, [7]) for source in sources])
    assert torch.equal(src_ids, batch.src_ids)
    assert (src_valid is None) == (batch.src_valid is None)
    assert src_valid is None or torch.equal(src_valid, batch.src_valid)


def test_collating_leaves_the_pairs_as_they_were() -> None:
    pair = token_pair([5, 6], [7])
    pair.src.flags.writeable = pair.tgt.flags.writeable = False  # as views on a memory-mapped file are
    DataCollator()([pair, token_pair([5], [7, 8])])
    assert (pair.src.tolist(), pair.tgt.tolist()) == ([5, 6], [7])
