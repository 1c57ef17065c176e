"""The batch plan: which pairs make which update, a pure function of lengths, limits, seed and epoch.

An update is a list of micro-batches, the same whatever the number of processes; `share` gives a process its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from accel_tx.config import TrainConfig
from accel_tx.data.packing import Indices, Lengths, Packing, find_cells, pack, steady_count

# Micro-batches of equal work are looked for among those of so many updates, so that their order stays random.
_UPDATES_PER_WINDOW = 16


@dataclass(frozen=True)
class BatchLimits:
    """How large a micro-batch may be: exactly one of the two is set."""

    max_tokens: int | None
    """Padded tokens on either side."""
    batch_size: int | None
    """Sentence pairs."""

    @classmethod
    def of(cls, train: TrainConfig) -> BatchLimits:
        """Those of a config. Raises: ValueError if its budget is still to be found."""
        if isinstance(train.max_tokens, str):
            raise ValueError(f"train.max_tokens is {train.max_tokens}; expected the number that it became")
        return cls(train.max_tokens, train.batch_size)


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
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    limits: BatchLimits,
    micro_batches_per_update: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Cut the pairs of an epoch into micro-batches and shuffle these.

    Lengths are in tokens with EOS. Every pair occurs exactly once. Under `max_tokens` pairs of similar length stand
    together, in other company each epoch, and the micro-batches of an update are about equal work. Under
    `batch_size` the pairs stand in random order.
    Raises: ValueError if a pair alone is longer than `max_tokens`.
    """
    return Planner(src_lengths, tgt_lengths, limits, micro_batches_per_update, seed).plan(epoch)


class Planner:
    """`plan_epoch` for many epochs of the same pairs: what does not depend on the epoch is computed once."""

    def __init__(
        self,
        src_lengths: Lengths,
        tgt_lengths: Lengths,
        limits: BatchLimits,
        micro_batches_per_update: int,
        seed: int,
    ) -> None:
        self.per_update, self.seed = micro_batches_per_update, seed
        self.n_pairs, self.limits = len(src_lengths), limits
        if limits.max_tokens is not None:
            self.cells = find_cells(src_lengths, tgt_lengths, limits.max_tokens)
            self.lengths = src_lengths, tgt_lengths
            n_micro_batches = steady_count(self.cells, limits.max_tokens)
        else:
            assert limits.batch_size is not None
            n_micro_batches = -(-self.n_pairs // limits.batch_size)
        self.n_micro_batches = n_micro_batches

    @cached_property
    def _cell_of_pair(self) -> NDArray[np.int32]:
        return self.cells.of_pairs(*self.lengths)

    def packing(self, epoch: int, rng: np.random.Generator | None = None) -> Packing:
        """The micro-batches of `plan(epoch)` under `max_tokens`, without the pairs that stand in them."""
        assert self.limits.max_tokens is not None
        if rng is None:
            rng = np.random.default_rng([self.seed, epoch])
            # Draws as many numbers as the permutation of the pairs does, with an eighth of its memory.
            rng.shuffle(np.zeros(self.n_pairs, dtype=np.int8))
        return pack(self.cells, self.limits.max_tokens, self.n_micro_batches, rng)

    def plan(self, epoch: int) -> EpochPlan:
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(self.n_pairs)
        if self.limits.max_tokens is None:
            starts = np.append(np.arange(0, self.n_pairs, self.limits.batch_size), self.n_pairs)
            return EpochPlan(shuffled, starts, self.per_update)
        packing = self.packing(epoch, rng)
        order = _fill(packing, self._cell_of_pair, shuffled)
        return _shuffle_micro_batches(order, packing, rng, self.per_update)


def _fill(packing: Packing, cell_of_pair: NDArray[np.int32], shuffled: Indices) -> Indices:
    """The pairs in the order of the packing's pieces; those of a cell as they stand in `shuffled`."""
    by_cell = shuffled[np.argsort(cell_of_pair[shuffled], kind="stable")]
    # A cell's pieces take its pairs in turn: sorted by cell, piece after piece, they begin where the last one ended.
    by_piece = np.argsort(packing.piece_cells, kind="stable")
    begins = np.empty(len(by_piece), dtype=np.int64)
    begins[by_piece] = np.cumsum(packing.piece_sizes[by_piece]) - packing.piece_sizes[by_piece]
    return by_cell[_ranges(begins, packing.piece_sizes)]


def _shuffle_micro_batches(
    order: Indices, packing: Packing, rng: np.random.Generator, micro_batches_per_update: int
) -> EpochPlan:
    """Random order; within windows of it, micro-batches of about equal work make an update."""
    sizes = packing.batch_sizes
    shuffled = rng.permutation(len(sizes))
    n_whole = len(sizes) // micro_batches_per_update * micro_batches_per_update
    whole = shuffled[:n_whole]
    work = (packing.batch_src + packing.batch_tgt)[whole] * sizes[whole]
    window = np.arange(n_whole) // (micro_batches_per_update * _UPDATES_PER_WINDOW)
    updates = whole[np.lexsort((work, window))].reshape(-1, micro_batches_per_update)
    shuffled[:n_whole] = rng.permutation(updates).ravel()
    starts = np.concatenate([[0], np.cumsum(sizes[shuffled])])
    begins = np.cumsum(sizes) - sizes
    return EpochPlan(order[_ranges(begins[shuffled], sizes[shuffled])], starts, micro_batches_per_update)


def _ranges(begins: Indices, sizes: Indices) -> Indices:
    """The places begins[0], begins[0] + 1, ... of each range, end to end."""
    ends = np.cumsum(sizes)
    return np.repeat(begins - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)


def share(update: list[Indices], lengths: Lengths, n_slots: int, rank: int, n_processes: int) -> list[Indices]:
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


def _halve_largest(update: list[Indices], lengths: Lengths, n_parts: int) -> list[Indices]:
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
        src_lengths: Lengths,
        tgt_lengths: Lengths,
        limits: BatchLimits,
        micro_batches_per_update: int,
        seed: int,
    ) -> None:
        self.longest = np.maximum(src_lengths, tgt_lengths)
        self.micro_batches_per_update = micro_batches_per_update
        planner = Planner(src_lengths, tgt_lengths, limits, micro_batches_per_update, seed)
        self._plan = planner.plan
        self.updates_per_epoch = -(-planner.n_micro_batches // micro_batches_per_update)

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
    """Batch sampler of one process: the pair indices of its micro-batches in updates `first` to `last - 1`.

    An update of which `is_passed_over` is True has none.
    """

    def __init__(
        self,
        plan: BatchPlan,
        first: int,
        last: int,
        rank: int,
        n_processes: int,
        is_passed_over: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.plan = plan
        self.is_passed_over = is_passed_over
        self.first, self.last = first, last
        self.rank, self.n_processes = rank, n_processes

    def __iter__(self) -> Iterator[list[int]]:
        n_slots = self.plan.micro_batches_per_update
        for number, update in enumerate(self.plan.updates(self.first, self.last), self.first):
            if self.is_passed_over(number):
                continue
            for part in share(update, self.plan.longest, n_slots, self.rank, self.n_processes):
                yield part.tolist()

    def __len__(self) -> int:
        n_updates = sum(not self.is_passed_over(number) for number in range(self.first, self.last))
        return n_updates * self.plan.slots_per_process(self.n_processes)
