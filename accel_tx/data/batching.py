"""The batch plan: which pairs make which update, a pure function of lengths, limits, seed and epoch.

An update is a list of micro-batches, the same whatever the number of processes; `share` gives a process its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from accel_tx.config import TrainConfig
from accel_tx.data.dealing import Indices, Lengths, deal, n_hands

PLAN = "random samples of all lengths"
"""What makes the updates; checkpoints of a version that made others are refused by it."""


@dataclass(frozen=True)
class BatchLimits:
    """How large a micro-batch may be: exactly one of the two is set."""

    max_tokens: int | None
    """Tokens, of the longer side of each pair: either side has no more."""
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

    def micro_batch(self, index: int) -> Indices:
        """Pair indices of one micro-batch of the epoch."""
        return self.order[self.starts[index] : self.starts[index + 1]]

    def update(self, index: int) -> list[Indices]:
        """Pair indices of each micro-batch of one update."""
        first = index * self.micro_batches_per_update
        last = min(first + self.micro_batches_per_update, self.n_micro_batches)
        return [self.micro_batch(i) for i in range(first, last)]


def plan_epoch(
    src_lengths: Lengths,
    tgt_lengths: Lengths,
    limits: BatchLimits,
    micro_batches_per_update: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Deal the pairs of an epoch out to micro-batches. Every pair occurs exactly once.

    Lengths are in tokens with EOS. Under `max_tokens` each micro-batch is a random sample of all lengths, of about as
    many tokens as every other; under `batch_size` it is a random sample of as many pairs. Within it, pairs stand from
    long to short. Raises: ValueError if a pair alone is longer than `max_tokens`.
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
        self.per_update, self.seed, self.limits = micro_batches_per_update, seed, limits
        self.lengths = src_lengths, tgt_lengths
        self.sizes = np.maximum(src_lengths, tgt_lengths)
        if limits.max_tokens is not None:
            self.n_micro_batches = n_hands(self.sizes, limits.max_tokens, micro_batches_per_update)
        elif limits.batch_size is not None:
            self.n_micro_batches = -(-len(self.sizes) // limits.batch_size)

    def plan(self, epoch: int) -> EpochPlan:
        rng = np.random.default_rng([self.seed, epoch])
        batch_size = self.limits.batch_size
        if batch_size is None:
            return EpochPlan(*deal(*self.lengths, self.n_micro_batches, rng, self.sizes), self.per_update)
        order = rng.permutation(len(self.sizes))
        starts = np.append(np.arange(0, len(order), batch_size), len(order))
        number = np.arange(len(order)) // batch_size
        return EpochPlan(order[np.lexsort((-self.sizes[order].astype(np.int64), number))], starts, self.per_update)


def share(update: list[Indices], lengths: Lengths, n_slots: int, rank: int, n_processes: int) -> list[Indices]:
    """The micro-batches of one update that process `rank` of `n_processes` computes, one for each of its slots.

    `n_slots` is the number of micro-batches of a full update. Where the processes divide it, process r takes
    r, r + W, ...; else the pairs of the update are dealt out anew to as many more. A slot left over is an empty array.
    `lengths` are the longer side's tokens of every pair.
    """
    if n_slots % n_processes:
        n_slots += n_processes - n_slots % n_processes
        pairs = np.concatenate(update)
        order, starts = deal(lengths[pairs], lengths[pairs], n_slots, np.random.default_rng(0))
        update = [pairs[order[start:end]] for start, end in pairwise(starts)]
    empty: Indices = np.empty(0, dtype=np.int64)
    return [update[i] if i < len(update) else empty for i in range(rank, n_slots, n_processes)]


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
        self.micro_batches_per_update = micro_batches_per_update
        planner = Planner(src_lengths, tgt_lengths, limits, micro_batches_per_update, seed)
        self.longest = planner.sizes
        # Kept for the epoch that is in use: the training and its loader ask for the same ones.
        self._plan = lru_cache(maxsize=1)(planner.plan)
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
