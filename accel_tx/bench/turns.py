"""A system's side of a bench: it trains when it is its turn, and reports what it did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from accel_tx.bench.phases import PhaseClock
from accel_tx.bench.workload import Workload
from accel_tx.config import ModelConfig
from accel_tx.data.dealing import Indices
from accel_tx.model.flops import NO_WORK, Work, training_flops


def work_of(src_ids: torch.Tensor, tgt_out: torch.Tensor) -> Work:
    """Of a batch that is padded as a whole, (B, S) and (B, T), and whose every target position is predicted."""
    n_pairs, src_width = src_ids.shape
    return Work.of_padded_batch(n_pairs, src_width, tgt_out.shape[1], tgt_out.numel())


@dataclass
class Turn:
    """What a system did in one turn: whole updates, optimizer step included."""

    seconds: float = 0.0
    n_updates: int = 0
    n_src_tokens: int = 0
    """Real ones, EOS included."""
    n_tgt_tokens: int = 0
    model_flops: int = 0
    """Of forward and backward, over real tokens."""
    computed_flops: int = 0
    """The same with the padding that the system computed."""
    phase_s: dict[str, float] = field(default_factory=dict)


class Turns:
    """Blocks between turns; adds up the updates within one.

    The system calls `ready` when it is built, then `goes_on` before and `done` after every update.
    """

    def __init__(
        self, connection: Connection, device: torch.device, model: ModelConfig, workload: Workload, n_passes: int = 1
    ) -> None:
        """`n_passes`: how often the training takes every pair through the model."""
        self.connection, self.device, self.model, self.workload = connection, device, model, workload
        self.n_passes = n_passes
        self.clock = PhaseClock(device)
        self._turn: Turn | None = None
        self._real, self._computed = NO_WORK, NO_WORK
        self._until_s = self._started_at_s = 0.0

    def ready(self, n_parameters: int) -> None:
        """Say that the system is built."""
        self.connection.send({"n_parameters": n_parameters})

    def goes_on(self) -> bool:
        """Whether to do another update; waits here between turns. A turn has at least one update."""
        if self._turn is not None and self._turn.n_updates and time.perf_counter() >= self._until_s:
            self._report(self._turn)
            self._turn = None
        if self._turn is None:
            seconds = self.connection.recv()
            if seconds is None:
                return False
            self._turn, self._real, self._computed = Turn(), NO_WORK, NO_WORK
            self._started_at_s = time.perf_counter()
            self._until_s = self._started_at_s + seconds
        return True

    def done(self, pairs: Sequence[Indices], computed: Sequence[Work]) -> None:
        """Count an update: the pairs that it trained on, and what it computed of each micro-batch."""
        assert self._turn is not None
        self._turn.n_updates += 1
        for indices in pairs:
            lengths = self.workload.pairs.src_lengths[indices], self.workload.pairs.tgt_lengths[indices]
            self._real += Work.of_real_tokens(*lengths)
        for work in computed:
            self._computed += work

    def _report(self, turn: Turn) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        turn.seconds = time.perf_counter() - self._started_at_s
        turn.phase_s = self.clock.take()
        turn.n_src_tokens, turn.n_tgt_tokens = self._real.n_src, self._real.n_tgt
        vocab_size = self.workload.tgt_vocab_size
        turn.model_flops = self.n_passes * training_flops(self.model, vocab_size, self._real)
        turn.computed_flops = self.n_passes * training_flops(self.model, vocab_size, self._computed)
        message: dict[str, Any] = {"turn": turn}
        if self.device.type == "cuda":
            message["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            # Other systems share the device: keep no memory that is not in use.
            torch.cuda.empty_cache()
        self.connection.send(message)
