"""What a validation scores: the run's weights, their running average, the mean of those at the last validations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast as broadcast_tensors
from torch import Tensor

from accel_tx.config import Config, UserError
from accel_tx.data.dataset import PreparedData
from accel_tx.model.transformer import Transformer
from accel_tx.train import checkpoint, file_system, validated
from accel_tx.train.agreement import broadcast
from accel_tx.train.averaging import RunningAverage, Weights, mean_of_files, weights_in
from accel_tx.train.checkpoint_identity import run_identity
from accel_tx.train.checkpoint_writer import save_weights
from accel_tx.train.progress import say
from accel_tx.train.sharding import as_whole, is_sharded, whole, whole_weights
from accel_tx.train.state import TrainState
from accel_tx.train.validation import Validation, validate

RAW, EMA, AVERAGE = "raw", "ema", "average"


class Candidates:
    """The kinds of weights that a run's config asks for; the run's own, `raw`, are always among them."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: Transformer,
        ema: RunningAverage | None,
        config: Config,
        data: PreparedData,
        run_dir: Path,
    ) -> None:
        """`model`: unwrapped."""
        self.accelerator, self.model, self.ema = accelerator, model, ema
        self.config, self.data, self.run_dir = config, data, run_dir
        self._weights: dict[str, Weights | None] = {}

    def validate(self, state: TrainState, poll: Callable[[], None]) -> dict[str, Validation] | None:
        """Score each as the run stands; all processes call it, the main one gets the results, raw first.

        Raises: StopAsked on all processes, as `validate` does.
        """
        self._weights = {RAW: whole_weights(self.model) if is_sharded(self.model) else None}
        if self.ema is not None:
            self._weights[EMA] = {name: whole(tensor) for name, tensor in self.ema.weights.items()}
        if self.config.validation.average_last is not None:
            average = self._average(state, self.config.validation.average_last)
            if average is not None:
                self._weights[AVERAGE] = average
        found = {}
        for name, weights in self._weights.items():
            with self._with(weights) as model:
                result = validate(self.accelerator, model, self.data, self.config, poll)
            if result is not None:
                found[name] = result
        if self.config.validation.average_last is None:
            # Of what earlier starts kept, the last ones would no longer be those of the last validations.
            self.forget_later(0)
        return found or None

    @contextlib.contextmanager
    def _with(self, weights: Weights | None) -> Iterator[Transformer]:
        """A model that has these weights."""
        if weights is not None and is_sharded(self.model):
            with as_whole(self.accelerator, self.model, weights) as model:
                yield model
            return
        with weights_in(self.model, weights):
            yield self.model

    def weights_of(self, name: str) -> Weights | None:
        """Those scored last under this name, whole; None: the model's own."""
        return self._weights[name]

    def let_go(self) -> None:
        """Give up the memory of what was scored last: of parts the whole, and averages."""
        self._weights = {}

    def forget_later(self, update: int) -> None:
        """Remove what earlier starts kept of validations behind this update."""
        if self.accelerator.is_main_process:
            validated.forget_later(self.run_dir, update)

    def _average(self, state: TrainState, n: int) -> dict[str, Tensor] | None:
        """The mean of the last `n`, the same on every process; None where there is but one, or the disk is full."""
        mean: dict[str, Tensor] = {}
        own = self._weights[RAW] or self.model.state_dict()
        if self.accelerator.is_main_process:
            try:
                mean = self._mean_of_last(own, state, n)
            except (OSError, UserError) as error:
                text = file_system.describe(error, self.run_dir, 0) if isinstance(error, OSError) else str(error)
                say(f"{text}; no average is scored at this validation")
        if not broadcast(self.accelerator, [bool(mean)])[0]:
            return None
        on_device = {}
        for name, live in own.items():
            found = mean[name].to(live.device) if mean else torch.empty_like(live)
            on_device[name] = found if self.accelerator.num_processes == 1 else broadcast_tensors(found)
        return on_device

    def _mean_of_last(self, own: Weights, state: TrainState, n: int) -> dict[str, Tensor]:
        folder = validated.folder_of(self.run_dir, state.update)
        folder.parent.mkdir(exist_ok=True)
        values = {"update": state.update, "data_sha256": state.data_sha256, "run": run_identity(state)}
        failed = save_weights(own, folder, values)
        if failed is not None:
            raise UserError(failed)
        validated.rotate(self.run_dir, n, state.update)
        last = validated.newest(validated.updates_kept(self.run_dir), n, state.update)
        if len(last) < 2:
            return {}
        return mean_of_files([validated.folder_of(self.run_dir, u) / checkpoint.MODEL for u in last])


def winner_of(results: dict[str, Validation], metric: str) -> str:
    """The name of the best by this metric, the first of equal ones."""

    def score(name: str) -> float:
        value = results[name].metric(metric)
        return -math.inf if math.isnan(value) else value

    return max(results, key=score)


def line_of(results: dict[str, Validation], metric: str) -> dict[str, Any]:
    """The numbers of a line of metrics: the raw weights' as they are, the others' as `ema_bleu`, and the winner."""
    values = results[RAW].to_dict()
    for name, result in results.items():
        if name != RAW:
            numbers = {key: value for key, value in result.to_dict().items() if not isinstance(value, str)}
            values["validation_s"] += numbers.pop("validation_s")
            values |= {f"{name}_{key}": value for key, value in numbers.items()}
    return values if len(results) == 1 else {**values, "winner": winner_of(results, metric)}
