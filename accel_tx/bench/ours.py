"""This project's training step, the very one of `train`, on the updates that a bench samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from accel_tx.bench.turns import Turns
from accel_tx.bench.workload import SampledPlan, Workload
from accel_tx.config import Config
from accel_tx.data.batch import Batch, Packed
from accel_tx.data.dealing import Indices
from accel_tx.model.flops import Work
from accel_tx.train.device import start_accelerator
from accel_tx.train.gradient import Gradient
from accel_tx.train.loop import Run

# Longer than any bench, so that the schedule never ends.
N_UPDATES = 10_000_000


def train_ours(config: Config, workload: Workload, turns: Turns) -> None:
    """Train with `Run` until the bench is over. Nothing is written: no metrics, no checkpoints, no validation.

    The loss takes the gradients of the vocabulary projection during the forward pass, so their time counts there.
    """
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, max_updates=N_UPDATES, epochs=None, stop_at_update=None)
    )
    accelerator = start_accelerator(config.train)
    run = Run(config, Path(), workload.as_prepared_data(), accelerator)
    run.plan = plan = SampledPlan(run.plan, workload.pairs)
    _watch(run, turns)
    turns.ready(run.n_parameters)
    updates = run.updates()
    while turns.goes_on():
        with turns.clock.phase("loading"):
            n_tokens, micro_batches = next(updates)
        run.train_update(micro_batches, n_tokens)
        run.reports.take(every=False)
        turns.clock.stop("optimizer")
        (pairs,) = plan.updates(run.state.update, run.state.update + 1)
        run.state.update += 1
        turns.done(pairs, [_work_of(batch, part, workload) for batch, part in zip(micro_batches, pairs, strict=True)])
    accelerator.end_training()


def _work_of(batch: Batch, pairs: Indices, workload: Workload) -> Work:
    """What the batch computes; of a packed one that is known without waiting for the GPU."""
    if isinstance(batch.src_blocks[0], Packed):
        return Work.of_real_tokens(workload.pairs.src_lengths[pairs], workload.pairs.tgt_lengths[pairs])
    return Work.of_batch(batch)


def _watch(run: Run, turns: Turns) -> None:
    """Clock the forward and backward passes; what follows the last backward pass is the optimizer's part.

    Replayed as one they count as forward.
    """
    clock, plain_backward = turns.clock, run.accelerator.backward
    if run.config.train.cuda_graphs:
        _watch_as_one(run.updater.gradient, turns)
        return
    run.model.register_forward_pre_hook(lambda *_: clock.start("forward"))
    run.model.register_forward_hook(lambda *_: clock.stop("forward"))

    def backward(*args: Any, **kwargs: Any) -> None:
        with clock.phase("backward"):
            plain_backward(*args, **kwargs)
        clock.start("optimizer")

    run.accelerator.backward = backward


def _watch_as_one(gradient: Gradient, turns: Turns) -> None:
    plain_take = gradient.take

    def take(*args: Any) -> Any:
        with turns.clock.phase("forward"):
            losses = plain_take(*args)
        turns.clock.start("optimizer")
        return losses

    gradient.take = take  # type: ignore[method-assign,assignment]
