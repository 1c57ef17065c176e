"""Whole updates of a throw-away model on the device, to see which micro-batches its memory holds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator, TokenPair, packs
from accel_tx.data.shapes import Shapes
from accel_tx.model.precision import autocast
from accel_tx.model.transformer import Transformer
from accel_tx.train.optimizer import build_optimizer
from accel_tx.train.shortage import free_memory, is_shortage

MARGIN = 0.1
"""Share of the memory that trials leave free."""


class Trial:
    """The config's model with gradients and optimizer, made to be thrown away: the run's own are never touched."""

    def __init__(
        self, config: Config, vocab_sizes: tuple[int, int], device: torch.device, precision: str, is_shared: bool
    ) -> None:
        """`is_shared`: DDP will have its buckets besides. Raises: RuntimeError where not even this much fits."""
        self.device, self.precision, self.optim = device, precision, config.optim
        self.model = Transformer(config.model, *vocab_sizes).to(device).train()
        self.model.gradient_checkpointing = config.train.gradient_checkpointing
        self.optimizer = build_optimizer(self.model, config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        n_parameters = sum(p.numel() for p in self.model.parameters())
        n_copies = int(is_shared) + int(config.train.ema_decay is not None)
        self.copies = torch.empty(n_copies * n_parameters, device=device)  # DDP's buckets, the running average
        self.is_packed = packs(device.type == "cuda", config.model.attention_dropout)
        self._update(_batch(1, 2, 2, self.is_packed))  # from now on the optimizer has its moments

    def holds(self, shapes: Shapes) -> bool:
        """Whether updates on micro-batches of these shapes, of pairs of one length, go through."""
        try:
            for n_pairs, n_src, n_tgt in zip(shapes.n_pairs, shapes.n_src_tokens, shapes.n_tgt_tokens, strict=True):
                self._update(_batch(int(n_pairs), int(n_src // n_pairs), int(n_tgt // n_pairs), self.is_packed))
            fits = True
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            fits = False
        self.optimizer.zero_grad()
        free_memory(self.device)
        return fits

    def _update(self, batch: Batch) -> None:
        for _ in range(2):  # the second time there are gradients already, as there are in most micro-batches
            with autocast(self.device, self.precision):
                loss = self.model(batch.to(self.device), self.optim.label_smoothing, self.optim.r_drop)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _batch(n_pairs: int, src_width: int, tgt_width: int, is_packed: bool) -> Batch:
    """As many tokens in pairs of this length and one less: where attention pads, its padding takes memory."""
    longer = max(src_width, tgt_width)
    n_tokens, shorter = n_pairs * longer, max(longer - 1, 1)
    widths = [(max(src_width - i, 1), max(tgt_width - i, 1)) for i in (0, 1)]
    pairs = [TokenPair(_ids(src), _ids(tgt)) for src, tgt in widths * (n_tokens // (longer + shorter) + 1)]
    collate = DataCollator(block_cost=n_tokens, is_packed=is_packed)
    return collate(pairs[: max(1, 2 * n_tokens // (longer + shorter))])


def _ids(n_tokens: int) -> NDArray[np.int32]:
    return np.zeros(n_tokens - 1, dtype=np.int32)


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[float]:
    """For the trials inside: the bytes that they may take; behind them generators and memory are as they were.

    A tenth of the memory is left free: for fragments, as the shapes of micro-batches vary, and for validation.
    """
    if device.type != "cuda":
        with torch.random.fork_rng([]):
            yield math.inf
        return
    if device.index is None:  # the only process' device has none, and not all of torch.cuda takes it so
        device = torch.device(device.type, torch.cuda.current_device())
    free_memory(device)
    free, total = torch.cuda.mem_get_info(device)
    usable = (1 - MARGIN) * (free + torch.cuda.memory_reserved(device))
    torch.cuda.set_per_process_memory_fraction(usable / total, device)
    try:
        with torch.random.fork_rng([device]):
            yield usable
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        free_memory(device)
        torch.cuda.reset_peak_memory_stats(device)  # the trials' own is none of the run's
