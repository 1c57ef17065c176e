"""Scoring a model on pairs: its loss on the references, and the metrics of its translations."""

from __future__ import annotations

from collections.abc import Callable

import torch

from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator, packs
from accel_tx.data.token_pairs import TokenPairs
from accel_tx.inference.batches import similar_lengths


@torch.inference_mode()
def loss_sum(
    forward: Callable[[Batch, float], torch.Tensor],
    pairs: TokenPairs,
    max_tokens: int,
    device: torch.device,
    rank: int = 0,
    n_processes: int = 1,
) -> tuple[float, int]:
    """Cross-entropy without smoothing, in nats, summed over the target tokens of this process' share; and their number.

    `forward` is the model, perhaps wrapped; the caller puts it in eval mode. Every pair counts once over all processes.
    """
    batches = similar_lengths(pairs.src_lengths, pairs.tgt_lengths, max_tokens)
    collate = DataCollator(is_packed=packs(device.type == "cuda"))
    total, n_tokens = 0.0, 0
    for rows in batches[rank::n_processes]:
        batch = collate(pairs.__getitems__(rows.tolist()))
        total += float(forward(batch.to(device), 0.0))
        n_tokens += batch.n_tgt_tokens
    return total, n_tokens
