"""The DataCollator: token ids of some pairs -> one batch of tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch, Block, Packed
from accel_tx.data.blocks import block_cost_of, cut_evenly, cut_into_blocks
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID

_N_COMPILED = 4


class TokenPair(NamedTuple):
    """Token ids of one pair, without BOS and EOS."""

    src: NDArray[np.int32]
    tgt: NDArray[np.int32]


class DataCollator:
    """Joins pairs to a batch, in the order given; for attention cut into blocks of similar length, or packed."""

    def __init__(self, block_cost: int = 64, n_blocks: int | None = None, is_packed: bool = False) -> None:
        """`block_cost`: how many places of padding are cheaper than a block more.

        `is_packed`: no blocks and no padding, for kernels that take sentences of any lengths.

        `n_blocks`: always as many, each with a mask, for code that is compiled for one number of them; of fewer pairs,
        a block for each.
        """
        self.block_cost, self.n_blocks, self.is_packed = block_cost, n_blocks, is_packed

    def __call__(self, pairs: list[TokenPair]) -> Batch:
        """Shapes: see Batch. An empty list gives the batch without target tokens."""
        if not pairs:
            return _batch_without_targets()
        src_lengths, src_ends, src_is_word = _layout([pair.src for pair in pairs])
        tgt_lengths, tgt_ends, tgt_is_word = _layout([pair.tgt for pair in pairs])
        src_ids = _joined([pair.src for pair in pairs], src_is_word, EOS_ID)
        tgt_out = _joined([pair.tgt for pair in pairs], tgt_is_word, EOS_ID)
        tgt_in = np.roll(tgt_out, 1)
        tgt_in[tgt_ends - tgt_lengths] = BOS_ID
        if self.is_packed:
            src_blocks, tgt_blocks = _packed(src_lengths, src_ends), _packed(tgt_lengths, tgt_ends)
        else:
            edges = self.block_edges(src_lengths, tgt_lengths)
            is_masked = self.n_blocks is not None
            src_blocks, tgt_blocks = (_blocks(lengths, edges, is_masked) for lengths in (src_lengths, tgt_lengths))
        return Batch(
            src_ids=torch.from_numpy(src_ids),
            src_places=_places(src_lengths, src_ends),
            src_blocks=src_blocks,
            tgt_in=torch.from_numpy(tgt_in),
            tgt_out=torch.from_numpy(tgt_out),
            tgt_places=_places(tgt_lengths, tgt_ends),
            tgt_blocks=tgt_blocks,
        )

    def block_edges(self, src_lengths: NDArray[np.int64], tgt_lengths: NDArray[np.int64]) -> list[int]:
        """Edges 0, ..., B of the blocks of pairs of these lengths (B,) in tokens, B > 0."""
        if self.n_blocks is None:
            return cut_into_blocks(src_lengths, tgt_lengths, self.block_cost)
        return cut_evenly(src_lengths + tgt_lengths, self.n_blocks)


def packs(on_gpu: bool, attention_dropout: float = 0.0) -> bool:
    """Whether attention there takes sentences unpadded.

    Not with dropout of its weights: the memory-efficient kernel draws other numbers for unpadded sentences in its
    backward pass than in its forward pass (by torch 2.13's sources). On GPUs of AMD it was not tried.
    """
    return on_gpu and not torch.version.hip and not attention_dropout


def training_collator(model: ModelConfig, is_compiled: bool, on_gpu: bool) -> DataCollator:
    """The collator whose batches suit the model and the device."""
    if packs(on_gpu, model.attention_dropout):
        return DataCollator(is_packed=True)
    if is_compiled:
        return DataCollator(n_blocks=_N_COMPILED)
    return DataCollator(block_cost_of(model.d_model, on_gpu))


def split(batch: Batch, n_parts: int, collate: DataCollator) -> list[Batch]:
    """The pairs in `n_parts` of about as many, each of all lengths; for tensors on the CPU."""
    pairs = pairs_of(batch)
    return [collate(pairs[first::n_parts]) for first in range(n_parts)]


def pairs_of(batch: Batch) -> list[TokenPair]:
    """The pairs that a batch on the CPU was made of."""
    if not batch.n_tgt_tokens:
        return []
    src, tgt = _sentences(batch.src_ids, batch.src_places), _sentences(batch.tgt_out, batch.tgt_places)
    return [TokenPair(*pair) for pair in zip(src, tgt, strict=True)]


def _sentences(ids: Tensor, places: Tensor) -> list[NDArray[np.int32]]:
    starts = np.flatnonzero(places.numpy() == 0)
    return [sentence[:-1] for sentence in np.split(ids.numpy().astype(np.int32), starts[1:])]


def pad_sources(sources: list[NDArray[np.int32]]) -> tuple[Tensor, Tensor | None]:
    """Sources with EOS, padded for translation: src_ids (B, S) int64 and src_valid (B, S) bool or None."""
    lengths, _, is_word = _layout(sources)
    valid = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(valid.shape, PAD_ID, dtype=np.int64)
    ids[valid] = _joined(sources, is_word, EOS_ID)
    return torch.from_numpy(ids), None if valid.all() else torch.from_numpy(valid)


def pad_targets(targets: list[NDArray[np.int32]]) -> Tensor:
    """Targets behind BOS, padded for a decoder that is told what to write: tgt_in (B, T) int64."""
    return pad_sequence([torch.tensor([BOS_ID, *ids.tolist()]) for ids in targets], True, PAD_ID)


def _layout(sentences: list[NDArray[np.int32]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Lengths (B,) with EOS, where each sentence ends, and (N,) True where a token is none of ours."""
    lengths = np.array([len(sentence) + 1 for sentence in sentences], dtype=np.int64)
    ends = np.cumsum(lengths)
    is_word = np.ones(ends[-1], dtype=np.bool_)
    is_word[ends - 1] = False
    return lengths, ends, is_word


def _joined(sentences: list[NDArray[np.int32]], is_word: NDArray[np.bool_], last: int) -> NDArray[np.int64]:
    ids = np.full(len(is_word), last, dtype=np.int64)
    ids[is_word] = np.concatenate(sentences)
    return ids


def _places(lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))


def _blocks(lengths: NDArray[np.int64], edges: list[int], is_masked: bool) -> list[Block]:
    blocks = []
    for first, last in pairwise(edges):
        width = int(lengths[first:last].max())
        valid = np.arange(width) < lengths[first:last, None]
        if is_masked or not valid.all():
            positions = torch.from_numpy(np.flatnonzero(valid))
            blocks.append(Block(last - first, width, positions, torch.from_numpy(valid)))
        else:
            blocks.append(Block(last - first, width))
    return blocks


def _packed(lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> list[Block]:
    starts = torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))
    return [Packed(len(lengths), int(lengths.max()), starts=starts, n_rows=int(ends[-1]))]


def _batch_without_targets() -> Batch:
    nothing = torch.empty(0, dtype=torch.int64)
    first = torch.zeros(1, dtype=torch.int64)
    return Batch(
        src_ids=torch.tensor([EOS_ID]),
        src_places=first,
        src_blocks=[Block(1, 1)],
        tgt_in=torch.tensor([BOS_ID]),
        tgt_out=nothing,
        tgt_places=first,
        tgt_blocks=[Block(1, 1)],
    )
