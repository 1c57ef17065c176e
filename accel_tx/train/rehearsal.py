"""Updates as `train` makes them, on a model that is thrown away: nothing is written, no checkpoint is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.data.dataset import PreparedData
from accel_tx.train.fresh import build_model, plan_of
from accel_tx.train.loading import load_updates
from accel_tx.train.prepared import prepare
from accel_tx.train.report import Report


class Rehearsal:
    """Model, optimizer, precision, batches and processes of a run before its first update, with rates of its own."""

    def __init__(
        self, config: Config, data: PreparedData, accelerator: Accelerator, rate: Callable[[int], float]
    ) -> None:
        """`rate`: learning rate of update 0, 1, ...; all processes call this."""
        # An update that raises the loss is what a rehearsal wants to see, so none is left out for it.
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, spike_factor=None))
        self.config, self.data, self.accelerator = config, data, accelerator
        self.plan = plan_of(config.train, data)
        model, optimizer = build_model(config, data)
        prepared = prepare(config, accelerator, model, optimizer, LambdaLR(optimizer, rate))
        self.model, self.raw_model = prepared.model, prepared.raw_model
        self.parts, self.updater = prepared.parts, prepared.updater
        self.n_updates = 0
        """Made so far."""

    def batches(self, n_updates: int) -> Iterator[tuple[int, list[Batch]]]:
        """The first updates of the plan: target tokens over all processes, and this process' micro-batches."""
        n_workers, collate = self.config.train.loader_workers, self.updater.gradient.collate
        pairs = self.data.train
        return load_updates(self.plan, pairs, 0, n_updates, self.accelerator, n_workers, collate, lambda _: False)

    def update(self, micro_batches: Sequence[Batch], n_tokens: int) -> Report:
        """Make one update of `n_tokens` target tokens over all processes; waits for the device."""
        self.updater.train(self.n_updates, list(micro_batches), n_tokens, is_asked=False)
        self.n_updates += 1
        (report,) = self.updater.reports.take(every=True)
        return report

    @property
    def lr(self) -> float:
        """Of the last update."""
        return self.updater.lr
