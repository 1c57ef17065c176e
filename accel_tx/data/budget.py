"""From the size of an update and a memory to micro-batches: what `train.max_tokens: auto` becomes. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from accel_tx.config import Config
from accel_tx.data.memory import Device, peak_memory
from accel_tx.data.shapes import Shapes

_STEP = 1.25
_TOLERANCE = 0.03


def is_auto(config: Config) -> bool:
    """Whether the token budget is still to be found."""
    return config.train.max_tokens == "auto"


def budget_range(config: Config, n_processes: int) -> tuple[int, int]:
    """The least budget, which holds the longest pair, and the most that a process can use of an update."""
    least, per_update = config.model.max_positions, config.train.tokens_per_update or 0
    return least, max(least, -(-per_update // n_processes))


def with_budget(config: Config, budget: int, n_processes: int) -> Config:
    """The config whose updates have `train.tokens_per_update`, in micro-batches of at most `budget` tokens.

    As few micro-batches as the processes divide, and no larger than needed: the size of an update does not depend on
    the memory. `budget`: at least `model.max_positions`, and so is the outcome.
    """
    per_update, longest = config.train.tokens_per_update or 0, config.model.max_positions
    n = n_processes * -(-per_update // (n_processes * budget))
    if -(-per_update // n) < longest:
        n = max(-(-per_update // budget), per_update // longest)
    return dataclasses.replace(config, train=config.train_in_micro_batches(n))


def with_recorded(config: Config, recorded: Config) -> Config | None:
    """The config with the micro-batches of a run that has begun; None if its updates are of another size."""
    train = config.train_in_micro_batches(recorded.train.micro_batches_per_update)
    return dataclasses.replace(config, train=train) if train.max_tokens == recorded.train.max_tokens else None


def worst_shapes(max_tokens: int, longest_src: int, longest_tgt: int, n_pairs: int) -> Shapes:
    """The largest micro-batch of each width that a plan of `n_pairs` pairs under this budget can hold.

    None needs more memory: what is kept grows with the tokens, and with the square of the width at most.
    """
    width = np.arange(1, min(max(longest_src, longest_tgt), max_tokens) + 1)
    n = np.minimum(max_tokens // width, n_pairs)
    src, tgt = np.minimum(width, longest_src), np.minimum(width, longest_tgt)
    return Shapes.of_rectangles(n, src, tgt)


def forecast_bytes(
    config: Config, max_tokens: int, shapes: Shapes, vocab_sizes: tuple[int, int], device: Device, precision: str
) -> int:
    """Peak of a process that trains on these micro-batches of at most `max_tokens` tokens, several an update."""
    train = dataclasses.replace(config.train, max_tokens=max_tokens, micro_batches_per_update=2, tokens_per_update=None)
    several = dataclasses.replace(config, train=train)
    return peak_memory(several, shapes, *vocab_sizes, device, precision).total


def largest_that_fits(fits: Callable[[int], bool], least: int, most: int, guess: int) -> int | None:
    """The largest budget from `least` to `most` that fits, to within 3 %; None if `least` does not.

    `fits` is asked for `guess` first, and for few larger ones that do not fit: these cost most.
    """
    guess = min(max(guess, least), most)
    low = high = guess  # the largest that fits, the smallest that does not
    if fits(guess):
        while low < most and fits(high := min(most, max(low + 1, round(low * _STEP)))):
            low = high
        if low == most:
            return most
    else:
        while low > least and not fits(low := max(least, min(low - 1, round(low / _STEP)))):
            high = low
        if low == high:
            return None
    while high - low > max(1, _TOLERANCE * low):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
