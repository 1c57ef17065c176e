"""Search: source ids -> hypothesis ids."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from accel_tx.model.transformer import Transformer

# A hypothesis is made of words: EOS ends it, the other special tokens never stand in one.
_NEVER_PRODUCED = [PAD_ID, UNK_ID, BOS_ID]


@torch.inference_mode()
def greedy_search(
    model: Transformer,
    src_ids: Tensor,
    src_valid: Tensor | None,
    max_len_tokens: list[int],
    poll: Callable[[], None] | None = None,
) -> list[list[int]]:
    """The most probable next token, again and again until EOS, for all sentences of a batch together.

    Shapes: src_ids (B, S) int64; src_valid (B, S) bool or None. Sentence i gets at most `max_len_tokens[i]` tokens.
    Returns ids without BOS and EOS. The model must be in eval mode. Finished sentences leave the batch.
    `poll` is called before every position; it may raise, to abandon the search.
    """
    memory = model.encode(src_ids, src_valid)
    limits = torch.tensor(max_len_tokens, device=src_ids.device).clamp(max=model.config.max_positions)
    n_steps = int(limits.max())
    cache = model.start_cache(memory, src_valid, n_steps)
    hypotheses = torch.full((len(src_ids), n_steps), EOS_ID, device=src_ids.device)
    rows = torch.arange(len(src_ids), device=src_ids.device)  # the sentence that each row of the batch belongs to
    alive = torch.ones_like(rows, dtype=torch.bool)
    tokens = torch.full_like(rows, BOS_ID)
    for position in range(n_steps):
        if poll is not None:
            poll()
        logits = model.step(tokens, cache)  # (B, V)
        logits[:, _NEVER_PRODUCED] = -torch.inf
        tokens = logits.argmax(-1).where(alive, EOS_ID)
        hypotheses[rows, position] = tokens
        alive = alive & (tokens != EOS_ID) & (position + 1 < limits[rows])
        n_alive = int(alive.sum())
        if n_alive == 0:
            break
        # Copying the cache costs about one position's work, so rows leave when a quarter of them can.
        if n_alive <= 0.75 * len(rows):
            kept = alive.nonzero().squeeze(1)
            rows, tokens, alive = rows[kept], tokens[kept], alive[kept]
            cache.keep(kept)
    return [ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids for ids in hypotheses.tolist()]
