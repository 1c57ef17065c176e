"""Pairs as padded rectangles: what the model's forward pass without padding is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel_tx.data.collator import TokenPair, pad_sources, pad_targets
from accel_tx.data.tokenizer import EOS_ID, PAD_ID


@dataclass
class Padded:
    """Shapes: src_ids (B, S), src_valid (B, S) or None, tgt_in and tgt_out (B, T)."""

    src_ids: Tensor
    src_valid: Tensor | None
    tgt_in: Tensor
    tgt_out: Tensor


def padded(pairs: list[TokenPair]) -> Padded:
    """The pairs in order."""
    src_ids, src_valid = pad_sources([pair.src for pair in pairs])
    tgt_in = pad_targets([pair.tgt for pair in pairs])
    tgt_out = torch.full_like(tgt_in, PAD_ID)
    for row, pair in zip(tgt_out, pairs, strict=True):
        row[: len(pair.tgt) + 1] = torch.tensor([*pair.tgt.tolist(), EOS_ID])
    return Padded(src_ids, src_valid, tgt_in, tgt_out)
