"""The micro-batches that one process computes, update by update."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from accel_tx.config import RunError
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchPlan, MicroBatchSampler
from accel_tx.data.collator import DataCollator
from accel_tx.data.processes import n_cores
from accel_tx.data.token_pairs import TokenPairs
from accel_tx.train.stopping import shield_worker, signals_wait


def load_updates(
    plan: BatchPlan,
    pairs: TokenPairs,
    first: int,
    last: int,
    accelerator: Accelerator,
    n_workers: int,
    collate: DataCollator,
    is_passed_over: Callable[[int], bool],
) -> Iterator[tuple[int, list[Batch]]]:
    """Updates `first` to `last - 1`: target tokens over all processes, and this process' micro-batches.

    An update that is passed over has neither.
    """
    n_slots = plan.slots_per_process(accelerator.num_processes)
    sampler = MicroBatchSampler(plan, first, last, accelerator.process_index, accelerator.num_processes, is_passed_over)
    with signals_wait(), warnings.catch_warnings():
        # `worker_lines` says it in one line.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            pairs,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=n_workers,
            worker_init_fn=shield_worker,
            pin_memory=accelerator.device.type == "cuda",
            # Without one of its own it would draw from the generator that dropout uses.
            generator=torch.Generator(),
        )
        batches = iter(loader)
    try:
        for number, update in enumerate(plan.updates(first, last), first):
            if is_passed_over(number):
                yield 0, []
                continue
            # Known from the plan, so no process has to ask the others.
            n_tokens = int(pairs.tgt_lengths[np.concatenate(update)].sum())
            yield n_tokens, [_next(batches) for _ in range(n_slots)]
    finally:
        _end_workers(batches)


def worker_lines(n_workers: int) -> list[str]:
    """What to say of more workers than there are cores."""
    n = n_cores()
    if n_workers <= n:
        return []
    return [f"train.loader_workers is {n_workers}, but there are {n} core(s): some will wait for others"]


def _next(batches: Iterator[Batch]) -> Batch:
    try:
        return next(batches)
    except (OSError, EOFError) as error:  # the connection to a worker that died while it handed a batch over
        raise RuntimeError(f"a DataLoader worker is gone ({type(error).__name__}).") from error


@contextlib.contextmanager
def deaths_told() -> Iterator[None]:
    """Inside, the death of a loader worker is a RunError. torch may tell of it anywhere, from a signal handler."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"{' '.join(str(error).split())} Perhaps for want of memory; the newest checkpoint is good, the same "
            "command goes on; train.loader_workers 0 needs none"
        ) from None


def _end_workers(batches: Iterator[Batch]) -> None:
    """End the loader's workers, if it has any, for sure.

    torch asks them to end and then sends SIGTERM, which they are shielded from; one that waits for a lock that a killed
    one held would stay, and Python would wait for it at its end.
    """
    workers = getattr(batches, "_workers", [])
    if workers:
        batches._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        worker.kill()
