"""What a launcher says of the processes it started, in the environment, before they have found each other."""

from __future__ import annotations

import os

from accel_tx.config import UserError


def rank() -> int:
    """The number of this process, from 0. Raises: UserError, as below, if RANK is no number."""
    return _number("RANK", 0)


def n_launched() -> int:
    """Processes on all machines. Raises: UserError if WORLD_SIZE is not the number that a launcher would set."""
    return _number("WORLD_SIZE", 1)


def n_on_machine() -> int:
    """Processes on this machine. Raises: UserError likewise, of LOCAL_WORLD_SIZE."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, smallest: int) -> int:
    value = os.environ.get(name, str(smallest))
    if not (value.isascii() and value.isdecimal()) or int(value) < smallest:
        raise UserError(
            f"the environment has {name}={value!r}; expected a whole number from {smallest} on, as a launcher sets it: "
            f"`unset {name}`, or start with accelerate launch or torchrun"
        )
    return int(value)
