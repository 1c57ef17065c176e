"""The cross-attention weights of a forward pass, computed beside it: what trains and translates never makes them.

Shape letters: B batch, S source, T target, H heads, K head width, D `d_model`, L executed decoder layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from accel_tx.data.batch import Block
from accel_tx.model.attention import split_heads
from accel_tx.model.layers import CrossAttention
from accel_tx.model.transformer import Transformer


@torch.inference_mode()
def cross_attention_weights(model: Transformer, src_ids: Tensor, src_valid: Tensor | None, tgt_in: Tensor) -> Tensor:
    """Where each target position looks in the source, (L, B, H, T, S), rows summing to 1; 0 at source padding.

    Shapes: src_ids (B, S) with EOS, src_valid (B, S) or None, tgt_in (B, T) from BOS on. Layers come in the order in
    which they are executed, a shared one as often. The model must be in eval mode. Row t is the attention with which
    the token behind tgt_in[:, t] is predicted.
    """
    found: list[Tensor] = []

    def note(module: CrossAttention, arguments: tuple[Any, ...]) -> None:
        found.append(weights_of(module, *arguments))

    with ExitStack() as hooks:
        # By hooks, so that the layer around the attention is the one that was trained, whatever it does.
        for module in model.modules():
            if isinstance(module, CrossAttention):
                handle = module.register_forward_pre_hook(note)
                hooks.callback(handle.remove)
        model.decode(tgt_in, model.encode(src_ids, src_valid), src_valid)
    return torch.stack(found)


def weights_of(
    attention: CrossAttention, x: Tensor, memory: Tensor, blocks: Sequence[Block], memory_blocks: Sequence[Block]
) -> Tensor:
    """The weights (B, H, T, S) that `attention` gives the values, from the arguments of its forward; of one block."""
    ((block,), (memory_block,)) = blocks, memory_blocks
    (query,) = split_heads(block.pad(attention.query(x)), 1, attention.n_heads)  # (B, H, T, K)
    key = attention.project_memory(memory_block.pad(memory)).key
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if memory_block.attendable is not None:
        scores = scores.masked_fill(~memory_block.attendable, -torch.inf)
    return scores.softmax(-1)
