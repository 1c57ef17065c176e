"""Trial updates on a throw-away model: whether the largest micro-batch of the plan goes through, and how fast it is."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, field
from heapq import nlargest

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config, RunError
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchPlan, share
from accel_tx.data.collator import training_collator
from accel_tx.data.dataset import PreparedData
from accel_tx.data.dealing import Indices, Lengths
from accel_tx.train.checkpoint_content import Parts
from accel_tx.train.rehearsal import Rehearsal
from accel_tx.train.shortage import is_shortage

# The first ones are slow, because kernels are chosen; the median does not see them.
_MOST_TIMED = 20
_ENOUGH_S = 10.0
_N_DEALT_ANEW = 16
"""Of the largest updates: to deal out all of an epoch would take too long."""
_RATE = 1e-5
"""So low that no update can spoil the loss of the next one."""

_TOO_LARGE = (
    "the model and its optimizer do not fit into the memory with the largest micro-batch; set train.max_tokens lower "
    "(or auto), or take a smaller model"
)


@dataclass
class Trying:
    """What trial updates have shown; the same on all processes but for the memory."""

    shape: tuple[int, int, int]
    """Of the largest micro-batch: pairs, source and target tokens."""
    parts: Parts | None = None
    """Of the throw-away run, with the optimizer's moments; None where there is no memory for as much."""
    problem: str | None = None
    seconds_per_token: list[float] = field(default_factory=list)
    """Of each timed update, for a target token over all processes."""

    def in_words(self, device: torch.device) -> str:
        """The micro-batch, and what became of it."""
        n_pairs, n_src, n_tgt = self.shape
        shape = f"{n_pairs:,} pairs of {n_src:,} + {n_tgt:,} tokens"
        if self.problem is not None:
            return f"{shape}: tried, see below"
        peak = ""
        if device.type == "cuda":
            peak = f", peak {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"
        return f"{shape}: forward, backward and step went through{peak}"

    def seconds_of(self, n_tokens: float) -> float:
        """Of an update of so many target tokens."""
        return statistics.median(self.seconds_per_token) * n_tokens


def try_out(config: Config, data: PreparedData, accelerator: Accelerator, plan: BatchPlan) -> Trying:
    """Make an update of the largest micro-batch, then time the first ones of the plan; all processes call it."""
    pairs = data.train
    largest = largest_micro_batch(plan, pairs.src_lengths, pairs.tgt_lengths, accelerator.num_processes)
    collate = training_collator(config.model, config.train.compile, accelerator.device.type == "cuda")
    batch = collate(pairs.__getitems__(largest.tolist()))
    tried = Trying((batch.n_pairs, batch.n_src_tokens, batch.n_tgt_tokens))
    try:
        rehearsal = Rehearsal(config, data, accelerator, lambda _: _RATE)
        tried.parts = rehearsal.parts
        _try_largest(rehearsal, batch, tried)
        if tried.problem is None:
            _time_updates(rehearsal, tried)
    except RuntimeError as error:
        # Of several processes the others would wait for this one.
        if not (isinstance(error, RunError) or is_shortage(error)) or accelerator.num_processes > 1:
            raise
        tried.problem = str(error) if isinstance(error, RunError) else _TOO_LARGE
    return tried


def _try_largest(rehearsal: Rehearsal, batch: Batch, tried: Trying) -> None:
    n_processes = rehearsal.accelerator.num_processes
    # The second of an update comes while the gradient of the first is there.
    n = min(2, rehearsal.plan.slots_per_process(n_processes))
    _update(rehearsal, [batch] * n, n * batch.n_tgt_tokens * n_processes, tried)
    if rehearsal.updater.gradient.halving.too_large is not None:
        tried.problem = (
            f"the largest micro-batch, {batch.n_pairs:,} pairs, does not fit into the memory; training would "
            "compute it in halves, which is slow: set train.max_tokens lower (or auto), or "
            "train.gradient_checkpointing true"
        )
    # Memory is each process' own, but they go on together or not at all.
    tried.problem = next(filter(None, gather_object([tried.problem])), None)


def largest_micro_batch(plan: BatchPlan, src_lengths: Lengths, tgt_lengths: Lengths, n_processes: int) -> Indices:
    """The pairs of the first epoch's micro-batch with most tokens of both sides, the one with fewest pairs of these.

    Where the processes do not divide the micro-batches of an update its pairs are dealt out anew: the largest of what
    the largest updates become.
    """

    def tokens(pairs: Indices) -> tuple[int, int]:
        return int(src_lengths[pairs].sum()) + int(tgt_lengths[pairs].sum()), -len(pairs)

    updates, n_slots = plan.updates(0, plan.updates_per_epoch), plan.micro_batches_per_update
    if n_slots % n_processes:
        largest = nlargest(_N_DEALT_ANEW, updates, key=lambda update: sum(tokens(pairs)[0] for pairs in update))
        ranks = range(n_processes)
        updates = (share(update, plan.longest, n_slots, rank, n_processes) for update in largest for rank in ranks)
    found: Indices = max((pairs for update in updates for pairs in update), key=tokens)
    return found


def _time_updates(rehearsal: Rehearsal, tried: Trying) -> None:
    a, spent_s = rehearsal.accelerator, 0.0
    for n_tokens, micro_batches in rehearsal.batches(_MOST_TIMED):
        gradient = rehearsal.updater.gradient
        n_recorded = gradient.n_recorded
        began_at_s = time.perf_counter()
        _update(rehearsal, micro_batches, n_tokens, tried)
        took_s = time.perf_counter() - began_at_s
        spent_s += took_s
        if gradient.n_recorded == n_recorded or not tried.seconds_per_token:
            tried.seconds_per_token.append(took_s / n_tokens)
        # The processes agree on the loss, but each has a clock of its own.
        is_enough = a.reduce(torch.tensor(float(spent_s > _ENOUGH_S), device=a.device))
        if tried.problem is not None or is_enough:
            return


def _update(rehearsal: Rehearsal, micro_batches: list[Batch], n_tokens: int, tried: Trying) -> None:
    report = rehearsal.update(micro_batches, n_tokens)
    if not math.isfinite(report.loss):
        tried.problem = f"the loss of a first update is {report.loss}; expected a finite number"
