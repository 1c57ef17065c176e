"""The batch plan: which pairs make which update, a pure function of lengths, limits, seed and epoch.

An update is a list of micro-batches, the same whatever the number of processes; `share` gives a process its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class BatchLimits:
    """How large a micro-batch may be: exactly one of the two is set."""

    max_tokens: int | None
    """Padded tokens on either side."""
    batch_size: int | None
    """Sentence pairs."""


@dataclass(frozen=True)
class EpochPlan:
    """The micro-batches of an epoch in training order: micro-batch i holds `order[starts[i]:starts[i + 1]]`."""

    order: Indices
    starts: Indices
    micro_batches_per_update: int

    @property
    def n_micro_batches(self) -> int:
        """Micro-batches of the epoch."""
        return len(self.starts) - 1

    @property
    def n_updates(self) -> int:
        """Updates of the epoch; the last one may have fewer micro-batches than the others."""
        return -(-self.n_micro_batches // self.micro_batches_per_update)

    def update(self, index: int) -> list[Indices]:
        """Pair indices of each micro-batch of one update."""
        first = index * self.micro_batches_per_update
        last = min(first + self.micro_batches_per_update, self.n_micro_batches)
        return [self.order[self.starts[i] : self.starts[i + 1]] for i in range(first, last)]


def plan_epoch(
    src_lengths: Indices,
    tgt_lengths: Indices,
    limits: BatchLimits,
    micro_batches_per_update: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Cut the pairs of an epoch into micro-batches and shuffle these.

    Lengths are in tokens with EOS. Every pair occurs exactly once. Under `max_tokens` pairs of similar length stand
    together: sorted by target length, and within it by source length, up and down in turn so that neighbours stay
    alike; ties in random order. Under `batch_size` the pairs stand in random order.
    Raises: ValueError if a pair alone is longer than `max_tokens`.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(src_lengths))
    if limits.batch_size is not None:
        starts = np.append(np.arange(0, len(shuffled), limits.batch_size), len(shuffled))
        return EpochPlan(shuffled, starts, micro_batches_per_update)
    assert limits.max_tokens is not None
    src, tgt = src_lengths[shuffled], tgt_lengths[shuffled]
    snake = np.where(tgt % 2 == 0, src, -src)
    by_length = np.lexsort((snake, tgt))
    order, longest = shuffled[by_length], np.maximum(src, tgt)[by_length]
    starts = _cut(longest, limits.max_tokens)
    return _shuffle_micro_batches(order, starts, rng, micro_batches_per_update)


def _cut(longest: Indices, max_tokens: int) -> Indices:
    """Greedy cut of pairs in this order into micro-batches of at most `max_tokens` padded tokens."""
    if len(longest) and longest.max() > max_tokens:
        raise ValueError(f"a pair of {longest.max()} tokens does not fit a micro-batch of {max_tokens}")
    starts = [0]
    while starts[-1] < len(longest):
        start = starts[-1]
        window = np.maximum.accumulate(longest[start : start + max_tokens // int(longest[start])])
        fits = window * np.arange(1, len(window) + 1) <= max_tokens
        starts.append(start + (len(window) if fits.all() else int(fits.argmin())))
    return np.array(starts, dtype=np.int64)


def _shuffle_micro_batches(
    order: Indices, starts: Indices, rng: np.random.Generator, micro_batches_per_update: int
) -> EpochPlan:
    shuffled = rng.permutation(len(starts) - 1)
    sizes = np.diff(starts)[shuffled]
    new_starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    # Position p of the new order lies p - new_starts[b] behind the old start of its micro-batch b.
    offsets = np.repeat(starts[:-1][shuffled] - new_starts[:-1], sizes)
    return EpochPlan(order[np.arange(len(order)) + offsets], new_starts, micro_batches_per_update)


def share(update: list[Indices], lengths: Indices, n_slots: int, rank: int, n_processes: int) -> list[Indices]:
    """The micro-batches of one update that process `rank` of `n_processes` computes, one for each of its slots.

    `n_slots` is the number of micro-batches of a full update. Where the processes divide it, process r takes
    r, r + W, ...; else the largest micro-batches are halved until they do. A slot left over is an empty array.
    `lengths` are the longer side's tokens of every pair: the work of a part is its padded size.
    """
    if n_slots % n_processes:
        n_slots += n_processes - n_slots % n_processes
        update = _halve_largest(update, lengths, n_slots)
    empty: Indices = np.empty(0, dtype=np.int64)
    return [update[i] if i < len(update) else empty for i in range(rank, n_slots, n_processes)]


def _halve_largest(update: list[Indices], lengths: Indices, n_parts: int) -> list[Indices]:
    parts = list(update)
    while len(parts) < n_parts:
        work = [len(part) * int(lengths[part].max()) if len(part) > 1 else 0 for part in parts]
        largest = int(np.argmax(work))
        if work[largest] == 0:
            break
        part = parts[largest]
        middle = (len(part) + 1) // 2
        parts[largest : largest + 1] = [part[:middle], part[middle:]]
    return parts


class BatchPlan:
    """The updates of a whole run: epoch after epoch of `plan_epoch`, addressed by the update's number from 0."""

    def __init__(
        self,
        src_lengths: Indices,
        tgt_lengths: Indices,
        limits: BatchLimits,
        micro_batches_per_update: int,
        seed: int,
    ) -> None:
        self.longest = np.maximum(src_lengths, tgt_lengths)
        self.micro_batches_per_update = micro_batches_per_update
        self._plan = partial(plan_epoch, src_lengths, tgt_lengths, limits, micro_batches_per_update, seed)
        # The same for every epoch: the cut depends on the sorted lengths alone, or on the number of pairs.
        self.updates_per_epoch = self._plan(0).n_updates

    def position(self, update: int) -> tuple[int, int]:
        """Epoch of an update, and its number within that epoch, both from 0."""
        return divmod(update, self.updates_per_epoch)

    def updates(self, first: int, last: int) -> Iterator[list[Indices]]:
        """The micro-batches of updates `first` to `last - 1`."""
        while first < last:
            epoch, index = self.position(first)
            plan = self._plan(epoch)
            n = min(plan.n_updates - index, last - first)
            yield from map(plan.update, range(index, index + n))
            first += n

    def slots_per_process(self, n_processes: int) -> int:
        """Micro-batches that each process computes in an update, empty ones included."""
        return -(-self.micro_batches_per_update // n_processes)


class MicroBatchSampler(Sampler[list[int]]):
    """Batch sampler of one process: the pair indices of its micro-batches in updates `first` to `last - 1`."""

    def __init__(self, plan: BatchPlan, first: int, last: int, rank: int, n_processes: int) -> None:
        self.plan = plan
        self.first, self.last = first, last
        self.rank, self.n_processes = rank, n_processes

    def __iter__(self) -> Iterator[list[int]]:
        n_slots = self.plan.micro_batches_per_update
        for update in self.plan.updates(self.first, self.last):
            for part in share(update, self.plan.longest, n_slots, self.rank, self.n_processes):
                yield part.tolist()

    def __len__(self) -> int:
        return (self.last - self.first) * self.plan.slots_per_process(self.n_processes)
