"""Fields that take each other's place: what an option on the command line puts out of use in the file."""

from __future__ import annotations

from typing import Any

from accel_tx.config.train import USED_BY

_IN_PLACE_OF = {
    "data.valid_size": ("data.valid_fraction",),
    "data.valid_fraction": ("data.valid_size",),
    "train.epochs": ("train.max_updates",),
    "train.max_updates": ("train.epochs",),
    "train.max_tokens": ("train.batch_size",),
    "tokenizer.from_run": ("tokenizer.sentencepiece",),
    "tokenizer.sentencepiece": ("tokenizer.from_run",),
    "train.batch_size": ("train.max_tokens", "train.tokens_per_update"),
}


def out_of_use(key: str, value: Any) -> tuple[str, ...]:
    """The fields, as `section.field`, that mean nothing beside this one with this value."""
    if value in (None, []):
        return ()
    if key == "optim.schedule":
        return tuple(f"optim.{name}" for name, schedules in USED_BY.items() if value not in schedules)
    return _IN_PLACE_OF.get(key, ())
