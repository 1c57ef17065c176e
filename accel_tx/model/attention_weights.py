"""The cross-attention weights of a forward pass, computed beside it: what trains and translates never makes them.

Shape letters: B batch, S source, T target, H heads, K head width, D `d_model`, L executed decoder layers.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from accel_tx.data.collator import Batch
from accel_tx.model.layers import CrossAttention, KeyValue
from accel_tx.model.transformer import Transformer


@torch.inference_mode()
def cross_attention_weights(model: Transformer, batch: Batch) -> Tensor:
    """Where each target position looks in the source, (L, B, H, T, S), rows summing to 1; 0 at source padding.

    Layers come in the order in which they are executed, a shared one as often. The model must be in eval mode. Row t is
    the attention with which token t of `tgt_out` is predicted.
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
        model.decode(batch.tgt_in, model.encode(batch.src_ids, batch.src_valid), batch.src_valid)
    return torch.stack(found)


def weights_of(attention: CrossAttention, x: Tensor, memory: KeyValue, attendable: Tensor | None) -> Tensor:
    """The weights (B, H, T, S) that `attention` gives the values, from the arguments of its forward."""
    query: Tensor = attention.query(x).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)  # (B, H, T, K)
    scores: Tensor = query @ memory.key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if attendable is not None:
        scores = scores.masked_fill(~attendable, -torch.inf)
    return scores.softmax(-1)
