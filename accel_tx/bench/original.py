"""Baseline: the way in which the original trained, on the model of `original_model`.

Batches of 64 at random, padded to their longest sentence (`original`) or all to the corpus' longest
(`original-before`); Adam one tensor at a time; the loss fetched and a log flushed at every step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TextIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from accel_tx.bench.original_model import OriginalBatch, OriginalTransformer
from accel_tx.bench.ours import N_UPDATES
from accel_tx.bench.phases import PhaseClock
from accel_tx.bench.turns import Turns, work_of
from accel_tx.bench.workload import Endless, Workload, sampled_batches_of
from accel_tx.config import Config, OptimConfig
from accel_tx.data.collator import TokenPair
from accel_tx.data.dealing import Indices
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from accel_tx.model.precision import autocast
from accel_tx.model.transformer import count_parameters

BATCH_SIZE = 64


def train_original(config: Config, workload: Workload, turns: Turns, precision: str, fixed_padding: bool) -> None:
    """Train until the bench is over."""
    pairs, device = workload.pairs, turns.device
    torch.manual_seed(config.train.seed)
    model = OriginalTransformer(config.model, workload.src_vocab_size, workload.tgt_vocab_size).to(device)
    shuffled = np.random.default_rng(config.train.seed).permutation(len(pairs))
    batches = sampled_batches_of(np.split(shuffled, range(BATCH_SIZE, len(shuffled), BATCH_SIZE)), pairs)
    width = int(max(pairs.src_lengths.max(), pairs.tgt_lengths.max())) if fixed_padding else None
    loader: DataLoader[OriginalBatch] = DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_sampler=Endless(batches),
        collate_fn=original_collator(width),
        generator=torch.Generator(),
    )
    with tempfile.TemporaryFile("w") as log:
        step = OriginalStep(model, config.optim, precision, device, turns.clock, log)
        turns.ready(count_parameters(model))
        loaded = iter(loader)
        n_updates = 0
        while turns.goes_on():
            with turns.clock.phase("loading"):
                batch = next(loaded)
            step(batch)
            turns.done([batches[n_updates % len(batches)]], [work_of(batch.src_ids, batch.tgt_out)])
            n_updates += 1


class OriginalStep:
    """One update: forward, backward, optimizer, learning rate, and the log that waits for the loss."""

    def __init__(
        self,
        model: OriginalTransformer,
        optim: OptimConfig,
        precision: str,
        device: torch.device,
        clock: PhaseClock,
        log: TextIO,
    ) -> None:
        self.model, self.device, self.clock, self.log = model, device, clock, log
        self.criterion = nn.CrossEntropyLoss(ignore_index=PAD_ID, label_smoothing=optim.label_smoothing)
        cls = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
        self.optimizer = cls(model.parameters(), betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            optim.max_lr,
            total_steps=N_UPDATES,
            pct_start=optim.pct_start,
            anneal_strategy=optim.anneal,
            cycle_momentum=False,
            div_factor=optim.div_factor,
            final_div_factor=optim.final_div_factor,
            three_phase=optim.three_phase,
        )
        self.precision = precision
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, batch: OriginalBatch) -> float:
        """The batch's loss a real target token, in nats."""
        self.model.train()
        batch = batch.to(self.device)
        with self.clock.phase("forward"), autocast(self.device, self.precision):
            loss: Tensor = self.criterion(self.model(batch).flatten(0, 1), batch.tgt_out.flatten())
        with self.clock.phase("backward"):
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        with self.clock.phase("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.optimizer.zero_grad()
        value = loss.item()
        self.log.write(f"{value}\n")
        self.log.flush()
        return value


def original_collator(width: int | None) -> Callable[[list[TokenPair]], OriginalBatch]:
    """Pads both sides to `width` positions, or each to its own longest (None)."""

    def collate(pairs: list[TokenPair]) -> OriginalBatch:
        src = [np.append(pair.src, EOS_ID) for pair in pairs]
        tgt_in = [np.append(BOS_ID, pair.tgt) for pair in pairs]
        tgt_out = [np.append(pair.tgt, EOS_ID) for pair in pairs]
        return OriginalBatch.from_ids(*(_pad(side, width) for side in (src, tgt_in, tgt_out)))

    return collate


def _pad(sequences: list[Indices], width: int | None) -> Tensor:
    padded = np.full((len(sequences), width or max(map(len, sequences))), PAD_ID, dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded)
