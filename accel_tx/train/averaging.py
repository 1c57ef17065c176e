"""Averages of weights: the running one over the updates, the mean of several files, and trying weights on a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from accel_tx.config import UserError
from accel_tx.inference.weights import read_weights
from accel_tx.train.sharding import laid_out_as

Weights = Mapping[str, Tensor]


def decay_of(update: int, decay: float) -> float:
    """Share of the running average that stays at `update`, numbered from 0.

    It grows to `decay`: the weights behind the first update are taken whole in place of the random ones before it, and
    early on the average covers about the last tenth of the updates.
    Source: TensorFlow's ExponentialMovingAverage with num_updates, (1 + n) / (10 + n); here n = update - 1.
    """
    return min(decay, update / (9 + update))


class RunningAverage:
    """Exponential moving average of a model's weights, on the model's device; the host never waits for it.

    Every process keeps its own: the weights are the same everywhere, and so is what is made of them. Under FSDP it is
    in parts, as they are.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """`model`: unwrapped, and on its device already. `decay`: see `decay_of`."""
        self.decay = decay
        self._live = list(model.state_dict().values())
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def add(self, update: int) -> None:
        """Take in the weights behind `update`, numbered from 0; a skipped one has changed nothing, and counts."""
        take_in = get_ema_multi_avg_fn(decay_of(update, self.decay))  # type: ignore[no-untyped-call]
        take_in(list(self.weights.values()), self._live, None)

    @torch.no_grad()
    def put_back(self, saved: Weights) -> None:
        """Go on from a checkpoint."""
        for name, tensor in self.weights.items():
            tensor.copy_(laid_out_as(saved[name], tensor))


@contextlib.contextmanager
def weights_in(model: nn.Module, weights: Weights | None) -> Iterator[None]:
    """Inside, the model has these weights (None: its own); behind, its own to the bit."""
    live = model.state_dict()
    if weights is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in live.items()}
    try:
        _copy(weights, live)
        yield
    finally:
        _copy(own, live)


@torch.no_grad()
def _copy(source: Weights, target: Weights) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def mean_of_files(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights in these safetensors files, summed in float64, in the type of the first; on the host.

    Raises: UserError that names the file that cannot be read, is damaged or holds other tensors than the first.
    """
    first = read_weights(paths[0])
    sums = {name: tensor.double() for name, tensor in first.items()}
    for path in paths[1:]:
        weights = read_weights(path)
        for name in sorted(sums.keys() | weights.keys()):
            found = [list(w[name].shape) if name in w else "no such tensor" for w in (weights, sums)]
            if found[0] != found[1]:
                raise UserError(
                    f"{path}: {name} is {found[0]}, in {paths[0]} {found[1]}; expected the weights of one model"
                )
            sums[name] += weights[name]
    return {name: (total / len(paths)).to(first[name].dtype) for name, total in sums.items()}
