"""The collator against a plain reference written with lists."""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch, Block, Packed
from accel_tx.data.blocks import cut_into_blocks
from accel_tx.data.collator import DataCollator, TokenPair, pad_sources, pad_targets, pairs_of, split, training_collator
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID

Ids = list[int]

# Any id may occur inside a sentence, PAD and EOS too: where one ends is known from the lengths, never from the ids.
sentences = st.lists(st.integers(0, 50), max_size=9)
some_pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6)
block_costs = st.sampled_from([0, 5, 10**6])
quick = settings(max_examples=100, deadline=None)


def token_pair(src: Ids, tgt: Ids) -> TokenPair:
    return TokenPair(np.array(src, dtype=np.int32), np.array(tgt, dtype=np.int32))


def collate(pairs: list[tuple[Ids, Ids]], block_cost: int = 64) -> Batch:
    return DataCollator(block_cost)([token_pair(*pair) for pair in pairs])


def joined(rows: list[Ids]) -> Ids:
    return list(chain.from_iterable(rows))


def slow_block(lengths: list[int]) -> dict[str, Any]:
    width = max(lengths)
    valid = [[column < n for column in range(width)] for n in lengths]
    found: dict[str, Any] = {"n_sentences": len(lengths), "width": width, "positions": None, "valid": None}
    if not all(map(all, valid)):
        places = [row * width + column for row, n in enumerate(lengths) for column in range(n)]
        found.update(positions=places, valid=valid)
    return found


def slow_collate(pairs: list[tuple[Ids, Ids]], edges: list[int]) -> dict[str, Any]:
    src, tgt = [[*src, EOS_ID] for src, _ in pairs], [[*tgt, EOS_ID] for _, tgt in pairs]
    groups = list(pairwise(edges))
    return {
        "src_ids": joined(src),
        "src_places": joined([list(range(len(row))) for row in src]),
        "src_blocks": [slow_block([len(row) for row in src[a:b]]) for a, b in groups],
        "tgt_in": joined([[BOS_ID, *tgt] for _, tgt in pairs]),
        "tgt_out": joined(tgt),
        "tgt_places": joined([list(range(len(row))) for row in tgt]),
        "tgt_blocks": [slow_block([len(row) for row in tgt[a:b]]) for a, b in groups],
    }


def as_lists(value: Any) -> Any:
    if isinstance(value, Batch | Block):
        return {name: as_lists(part) for name, part in vars(value).items()}
    if isinstance(value, list):
        return [as_lists(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def as_pairs(pairs: list[TokenPair]) -> list[tuple[Ids, Ids]]:
    return [(pair.src.tolist(), pair.tgt.tolist()) for pair in pairs]


@quick
@given(some_pairs, block_costs)
def test_batch_equals_the_plain_reference(pairs: list[tuple[Ids, Ids]], block_cost: int) -> None:
    batch = collate(pairs, block_cost)
    lengths = [np.array([len(pair[side]) + 1 for pair in pairs]) for side in (0, 1)]
    assert as_lists(batch) == slow_collate(pairs, cut_into_blocks(*lengths, block_cost))
    for name in ("src_ids", "src_places", "tgt_in", "tgt_out", "tgt_places"):
        assert getattr(batch, name).dtype == torch.int64, name
    for block in (*batch.src_blocks, *batch.tgt_blocks):
        assert block.positions is None or block.positions.dtype == torch.int64
        assert block.valid is None or block.valid.dtype == torch.bool
    assert batch.n_tgt_tokens == sum(len(tgt) + 1 for _, tgt in pairs)
    assert batch.n_src_tokens == sum(len(src) + 1 for src, _ in pairs)
    assert batch.n_pairs == len(pairs)


def test_batch_written_by_hand() -> None:
    pairs = [([7, 8], [9]), ([], [5, 6, 4])]
    ids = {
        "src_ids": [7, 8, 3, 3],
        "src_places": [0, 1, 2, 0],
        "tgt_in": [2, 9, 2, 5, 6, 4],
        "tgt_out": [9, 3, 5, 6, 4, 3],
        "tgt_places": [0, 1, 0, 1, 2, 3],
    }
    src = {"positions": [0, 1, 2, 3], "valid": [[True, True, True], [True, False, False]]}
    tgt = {"positions": [0, 1, 4, 5, 6, 7], "valid": [[True, True, False, False], [True, True, True, True]]}
    assert as_lists(collate(pairs)) == {
        **ids,
        "src_blocks": [{"n_sentences": 2, "width": 3, **src}],
        "tgt_blocks": [{"n_sentences": 2, "width": 4, **tgt}],
    }
    full = {"positions": None, "valid": None}
    assert as_lists(collate(pairs, block_cost=0)) == {
        **ids,
        "src_blocks": [{"n_sentences": 1, "width": 3, **full}, {"n_sentences": 1, "width": 1, **full}],
        "tgt_blocks": [{"n_sentences": 1, "width": 2, **full}, {"n_sentences": 1, "width": 4, **full}],
    }
    assert collate(pairs).n_positions == 6 + 8
    assert collate(pairs, block_cost=0).n_positions == 4 + 6


@quick
@given(some_pairs)
def test_a_packed_batch_has_the_same_tokens_and_says_where_sentences_begin(pairs: list[tuple[Ids, Ids]]) -> None:
    batch = DataCollator(is_packed=True)([token_pair(*pair) for pair in pairs])
    blocks = batch.src_blocks[0], batch.tgt_blocks[0]
    for block, sentences_of_side in zip(blocks, zip(*pairs, strict=True), strict=True):
        assert isinstance(block, Packed)
        lengths = [len(sentence) + 1 for sentence in sentences_of_side]
        assert (block.starts.dtype, block.starts.tolist()) == (torch.int32, [0, *np.cumsum(lengths).tolist()])
        assert (block.n_sentences, block.width, block.n_tokens) == (len(pairs), max(lengths), sum(lengths))
        assert (block.positions, block.valid, block.attendable) == (None, None, None)
    assert batch.n_positions == batch.n_src_tokens + batch.n_tgt_tokens
    same = ("src_ids", "src_places", "tgt_in", "tgt_out", "tgt_places")
    found, expected = as_lists(batch), as_lists(collate(pairs))
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}
    assert [tuple(map(list, pair)) for pair in pairs_of(batch)] == [tuple(pair) for pair in pairs]


def test_on_gpus_of_nvidia_batches_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, with_dropout = ModelConfig(), ModelConfig(attention_dropout=0.1)
    for is_compiled in (False, True):
        assert training_collator(plain, is_compiled, on_gpu=True).is_packed
        assert not training_collator(plain, is_compiled, on_gpu=False).is_packed
        assert not training_collator(with_dropout, is_compiled, on_gpu=True).is_packed
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not training_collator(plain, is_compiled=False, on_gpu=True).is_packed


@quick
@given(some_pairs, block_costs)
def test_blocks_lay_out_the_sentences(pairs: list[tuple[Ids, Ids]], block_cost: int) -> None:
    """Row after row of the padded blocks, what is valid is the sentence."""
    batch = collate(pairs, block_cost)
    for ids, blocks, side in ((batch.src_ids, batch.src_blocks, 0), (batch.tgt_out, batch.tgt_blocks, 1)):
        rows = []
        for tokens, block in zip(ids.split([block.n_tokens for block in blocks]), blocks, strict=True):
            padded = block.pad(tokens.double()[:, None])[..., 0]
            valid = torch.ones_like(padded, dtype=torch.bool) if block.valid is None else block.valid
            rows += [row[is_real].long().tolist() for row, is_real in zip(padded, valid, strict=True)]
        assert rows == [[*pair[side], EOS_ID] for pair in pairs]


@pytest.mark.parametrize("lengths", [[(3, 2)] * 4, [(1, 1)]])
def test_sentences_of_equal_length_need_no_mask(lengths: list[tuple[int, int]]) -> None:
    batch = collate([([0] * src, [5] * tgt) for src, tgt in lengths])
    for block in (*batch.src_blocks, *batch.tgt_blocks):
        assert block.valid is block.positions is None


def test_similar_sentences_share_a_block_and_others_have_their_own() -> None:
    batch = collate([([5] * n, [6] * n) for n in (40, 39, 40, 5, 5, 4)])
    assert [(block.n_sentences, block.width) for block in batch.src_blocks] == [(3, 41), (3, 6)]
    assert [(block.n_sentences, block.width) for block in batch.tgt_blocks] == [(3, 41), (3, 6)]


def test_no_pairs_give_a_batch_without_targets() -> None:
    batch = collate([])
    assert as_lists(batch) == {
        "src_ids": [EOS_ID],  # something to attend to, or attention gives NaN
        "src_places": [0],
        "src_blocks": [{"n_sentences": 1, "width": 1, "positions": None, "valid": None}],
        "tgt_in": [BOS_ID],
        "tgt_out": [],
        "tgt_places": [0],
        "tgt_blocks": [{"n_sentences": 1, "width": 1, "positions": None, "valid": None}],
    }
    assert (batch.n_src_tokens, batch.n_tgt_tokens) == (1, 0)
    assert batch.tgt_out.dtype == batch.src_ids.dtype == batch.tgt_in.dtype == torch.int64


# Back to pairs, and parts


@quick
@given(st.lists(st.tuples(sentences, sentences), max_size=6), block_costs)
def test_a_batch_gives_its_pairs_back(pairs: list[tuple[Ids, Ids]], block_cost: int) -> None:
    found = pairs_of(collate(pairs, block_cost))
    assert as_pairs(found) == pairs
    assert {side.dtype for pair in found for side in pair} <= {np.dtype(np.int32)}


@quick
@given(st.lists(st.tuples(sentences, sentences), max_size=9), st.integers(1, 10))
def test_parts_of_a_batch_hold_every_pair_once(pairs: list[tuple[Ids, Ids]], n_parts: int) -> None:
    parts = split(collate(pairs), n_parts, DataCollator())
    assert [as_pairs(pairs_of(part)) for part in parts] == [pairs[i::n_parts] for i in range(n_parts)]
    assert sum(part.n_tgt_tokens for part in parts) == sum(len(tgt) + 1 for _, tgt in pairs)


@pytest.mark.parametrize("n_parts", [2, 4])
def test_parts_of_a_batch_from_long_to_short_are_about_equal(n_parts: int) -> None:
    lengths = np.sort(np.random.default_rng(1).integers(1, 60, 64))[::-1]
    parts = split(collate([([5] * n, [6] * n) for n in lengths.tolist()]), n_parts, DataCollator())
    sizes = [part.n_tgt_tokens for part in parts]
    assert max(sizes) - min(sizes) <= lengths[0]


def test_collating_leaves_the_pairs_as_they_were() -> None:
    pair = token_pair([5, 6], [7])
    pair.src.flags.writeable = pair.tgt.flags.writeable = False  # as views on a memory-mapped file are
    DataCollator()([pair, token_pair([5], [7, 8])])
    assert (pair.src.tolist(), pair.tgt.tolist()) == ([5, 6], [7])


# Padded as a whole, for translation and scoring


@quick
@given(st.lists(sentences, min_size=1, max_size=6))
def test_sources_for_translation_are_padded_behind_their_eos(sources: list[Ids]) -> None:
    src_ids, src_valid = pad_sources([np.array(source, dtype=np.int32) for source in sources])
    width = max(map(len, sources)) + 1
    assert src_ids.dtype == torch.int64
    assert src_ids.tolist() == [[*source, EOS_ID] + [PAD_ID] * (width - len(source) - 1) for source in sources]
    if len({len(source) for source in sources}) == 1:
        assert src_valid is None
    else:
        assert src_valid is not None
        assert src_valid.tolist() == [[i <= len(source) for i in range(width)] for source in sources]


@quick
@given(st.lists(sentences, min_size=1, max_size=6))
def test_targets_to_be_scored_are_padded_behind_their_bos(targets: list[Ids]) -> None:
    tgt_in = pad_targets([np.array(target, dtype=np.int32) for target in targets])
    width = max(map(len, targets)) + 1
    assert tgt_in.dtype == torch.int64
    assert tgt_in.tolist() == [[BOS_ID, *target] + [PAD_ID] * (width - len(target) - 1) for target in targets]
