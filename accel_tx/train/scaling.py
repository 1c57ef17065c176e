"""`train.scale_with_processes`: larger updates on more processes, at a rate that suits them.

An update takes n times as many micro-batches on n processes, and the rate is sqrt(n) times as high: the noise of its
gradient is 1 / sqrt(n) of what it was, and the optimizers here (Adam, AdamW, Muon) divide by the size of the gradient.
Where noise prevails, the same path then takes steps of that length. (Under SGD, which does not divide, it would be n.)
Source: Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"; of its rule for Adam only
the rate is taken. The rest of it, 1 - beta times n and eps over sqrt(n), would leave beta1 = 0.9 below 0 from 11
processes on, and change what the config says of the optimizer.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from accel_tx.config import Config
from accel_tx.data.budget import is_auto
from accel_tx.inference.translator import load_run_config
from accel_tx.train.processes import n_launched
from accel_tx.train.progress import say


def scaled(config: Config, n: int) -> Config:
    """The config with updates of `n` times the size at sqrt(n) times the rate; scaled, it asks for no more of it."""
    size: dict[str, Any] = {_size_field(config): n * _size(config)}
    train = dataclasses.replace(config.train, scale_with_processes=False, **size)
    rate, optim = math.sqrt(n), config.optim
    optim = dataclasses.replace(optim, max_lr=rate * optim.max_lr, min_lr=rate * optim.min_lr)
    return dataclasses.replace(config, train=train, optim=optim)


def settle(config: Config, run_dir: Path, is_main: bool) -> Config:
    """The config for as many processes as were launched, or began the run in `run_dir`; the main one says so."""
    if not config.train.scale_with_processes:
        return config
    launched = n_launched()
    begun_with = _processes_of_run(config, run_dir)
    n = begun_with or launched
    settled = scaled(config, n)
    if is_main:
        size = f"{_size_field(config)} {_size(config)} -> {_size(settled)}"
        text = f"train.scale_with_processes: {n} process(es), {size}, max_lr {config.optim.max_lr:g} -> "
        text += f"{settled.optim.max_lr:g}"
        if begun_with not in (None, launched):
            text += f", as this run began; it goes on with them on {launched}"
        say(text)
    return settled


def _processes_of_run(config: Config, run_dir: Path) -> int | None:
    """How many processes the run in `run_dir` was scaled for, as its size of an update tells; None if there is none."""
    if not (run_dir / "config.yaml").exists():
        return None
    # Of equal micro-batches an update may hold a little more than `tokens_per_update`.
    return _update_size(load_run_config(run_dir)) // _update_size(config) or None


def _update_size(config: Config) -> int:
    """Of an update in tokens, or in micro-batches of so many sentence pairs."""
    train = config.train
    if isinstance(train.max_tokens, int):
        return train.micro_batches_per_update * train.max_tokens
    return train.tokens_per_update or train.micro_batches_per_update


def _size_field(config: Config) -> str:
    return "tokens_per_update" if is_auto(config) else "micro_batches_per_update"


def _size(config: Config) -> int:
    return getattr(config.train, _size_field(config)) or 0
