"""The gradient of an update: forward and backward of its micro-batches, also where one does not fit into the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from accel_tx.config import RunError
from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator, split
from accel_tx.train.buckets import Buckets
from accel_tx.train.cuda_graphs import Replays
from accel_tx.train.progress import say
from accel_tx.train.sharding import is_sharded
from accel_tx.train.shortage import Halving, free_memory, in_words, is_shortage, only_at_second_try, quoted, single_pair

# Of a start: where memory is in fragments again and again, halves cost less than passes that fail.
_MOST_SECOND_TRIES = 8


@dataclass
class _Slot:
    """A micro-batch of this process, and into how many parts it is split."""

    batch: Batch
    n_parts: int
    losses: list[Tensor]
    is_second_try: bool = False
    """After the memory did not hold it in as many parts, and what was unused has been given back."""
    error: str = ""
    """Of the try that failed last."""


class Gradient:
    """Takes the gradient of one update after the other, into the `grad` of the parameters."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        seed: int,
        label_smoothing: float,
        collate: DataCollator,
        r_drop: float = 0.0,
        replays: Replays | None = None,
    ) -> None:
        """`model`: as accelerate prepared it; `collate` makes its batches. All processes call this.

        With `replays` whole micro-batches go through these, of a single process.
        """
        self.accelerator, self.model = accelerator, model
        self.seed, self.label_smoothing, self.r_drop = seed, label_smoothing, r_drop
        self.collate, self.replays = collate, replays
        self.halving = Halving()
        self.n_second_tries = 0
        self.buckets: Buckets | None = None
        self.own_model = model
        """Its backward pass sums up nothing over the processes."""
        self.is_sharded = is_sharded(model)
        if isinstance(model, DistributedDataParallel):
            self.buckets, self.own_model = Buckets(model, accelerator.device), model.module

    @property
    def n_recorded(self) -> int:
        """Shapes of micro-batches recorded as graphs so far; their updates take longer."""
        return 0 if self.replays is None else self.replays.n_recorded

    def take(self, update: int, micro_batches: Sequence[Batch], n_tokens: int) -> Tensor:
        """Loss sums of this process' micro-batches, (n,); the gradient is averaged over processes.

        `n_tokens`: target tokens of the update over all processes. The loss is a sum over tokens; DDP averages over
        processes, so it is scaled by their number to become the mean over the tokens of all of them.
        A micro-batch that does not fit, also not when unused memory has been given back, is split, and the update made
        from its first one again: some parameters had the gradient of the failed one already. Raises: RunError if a
        single pair does not fit, or under FSDP a micro-batch.
        """
        slots = [_Slot(batch, self.halving.n_parts(batch), []) for batch in micro_batches]
        if self.buckets is not None:
            self.buckets.begin_update()
        if self.replays is not None:
            self.replays.begin_update()
        failed = self._pass(update, slots, n_tokens, by_hand=False)
        if failed is not None and self.is_sharded:
            raise _cannot_split(failed.batch, update, failed.error)
        if failed is not None:
            if self.replays is not None:
                self._give_up_replays()
                failed = self._pass(update, slots, n_tokens, by_hand=True)
            while failed is not None:
                self._make_room(failed, update)
                failed = self._pass(update, slots, n_tokens, by_hand=True)
            if self.buckets is not None:
                self.buckets.finish()
            self._tell_second_tries(slots, update)
        return torch.stack([torch.stack(slot.losses).sum() if slot.n_parts > 1 else slot.losses[0] for slot in slots])

    def _pass(self, update: int, slots: list[_Slot], n_tokens: int, by_hand: bool) -> _Slot | None:
        """Forward and backward of every micro-batch; the one that did not fit, if any."""
        a = self.accelerator
        model = self.own_model if by_hand else self.model
        if by_hand:
            self._begin_again()
        for number, slot in enumerate(slots):
            slot.losses = []
            parts = [slot.batch] if slot.n_parts == 1 else split(slot.batch, slot.n_parts, self.collate)
            for i, part in enumerate(parts):
                path = (slot.n_parts, i) if slot.n_parts > 1 else ()
                draw = update, number * a.num_processes + a.process_index, *path
                seed, scale = partial(_seed_dropout, a.device, self.seed, *draw), a.num_processes / n_tokens
                is_last = slot is slots[-1] and i + 1 == len(parts)
                try:
                    if self.replays is not None and self.replays.takes(part):
                        slot.losses.append(self.replays.take(part, scale, seed))
                        continue
                    seed()
                    with contextlib.nullcontext() if is_last or by_hand or self.is_sharded else a.no_sync(self.model):
                        summed = model(part.to(a.device), self.label_smoothing, self.r_drop)
                        a.backward(summed * scale)
                except RuntimeError as error:
                    if not is_shortage(error):
                        raise
                    slot.error = quoted(error)
                    return slot
                slot.losses.append(summed.detach())
        return None

    def _give_up_replays(self) -> None:
        """Their memory is for what did not fit: from here on nothing is replayed in this start."""
        self.replays = None
        free_memory(self.accelerator.device)
        say("the memory does not hold this update as CUDA graphs: without them from here on")

    def _begin_again(self) -> None:
        if self.buckets is not None:
            self.buckets.begin_again()
        else:
            self.model.zero_grad()

    def _make_room(self, slot: _Slot, update: int) -> None:
        """Memory in fragments, as micro-batches of ever new shapes leave it, is no reason to split all that follow."""
        slot.is_second_try = not slot.is_second_try and self.n_second_tries < _MOST_SECOND_TRIES
        if slot.is_second_try:
            self.n_second_tries += 1
        else:
            self._split(slot, update)
        free_memory(self.accelerator.device)

    def _tell_second_tries(self, slots: list[_Slot], update: int) -> None:
        a = self.accelerator
        for slot in slots:
            if slot.is_second_try:
                say(only_at_second_try(slot.batch, slot.n_parts, update, a.process_index, a.num_processes))

    def _split(self, slot: _Slot, update: int) -> None:
        a, n_pairs = self.accelerator, slot.batch.n_pairs
        if slot.n_parts >= n_pairs:
            raise single_pair(slot.batch, update, slot.error)
        if self.halving.too_large is None:
            say(in_words(slot.batch, update, a.process_index, a.num_processes))
        self.halving.learn(slot.batch, slot.n_parts)
        slot.n_parts = min(2 * slot.n_parts, n_pairs)


def _cannot_split(batch: Batch, update: int, error: str) -> RunError:
    """Of weights in parts no process makes a pass on its own: the others wait in the middle of the one that failed."""
    return RunError(
        f"update {update + 1:,}: a micro-batch of {batch.n_src_tokens:,} + {batch.n_tgt_tokens:,} tokens does not fit "
        f"into the memory ({error}), and under FSDP it cannot be split; the newest checkpoint is good; go on with "
        "train.gradient_checkpointing true, or begin a new run with a lower train.max_tokens"
    )


def _seed_dropout(device: torch.device, seed: int, update: int, micro_batch: int, *part: int) -> None:
    """`part`: number of parts of the micro-batch and which one it is, where it is split."""
    sequence = np.random.SeedSequence([seed, update, micro_batch, *part])
    # Without a GPU `torch.manual_seed` takes milliseconds: it notes its callers for every device that may still come.
    seed_with = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
    seed_with(int(sequence.generate_state(1, np.uint64)[0]))
