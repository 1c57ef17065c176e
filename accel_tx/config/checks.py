"""Checks that several sections share; each raises UserError."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from accel_tx.config.errors import UserError

# Of counts and limits: far beyond any, and sums and products of a few still fit the 64 bits of arrays.
_LARGEST_INT = 1 << 53


def nearest_of(word: str, known: Iterable[str]) -> str:
    """The known word that looks most like `word`."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def exactly_one(section: Any, prefix: str, a: str, b: str) -> None:
    if (getattr(section, a) is None) == (getattr(section, b) is None):
        given = "neither" if getattr(section, a) is None else "both"
        raise UserError(f"{prefix}.{a} and {prefix}.{b}: {given} given; expected exactly one (set the other to null)")


def both_or_none(section: Any, prefix: str, a: str, b: str) -> None:
    if (getattr(section, a) is None) != (getattr(section, b) is None):
        raise UserError(f"{prefix}.{a} and {prefix}.{b}: only one is given; expected both, line beside line")


def at_least(prefix: str, section: Any, low: int, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value < low:
            raise UserError(f"{prefix}.{name} is {value}; expected at least {low}")


def at_most(prefix: str, section: Any, high: int, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value is not None and value > high:
            raise UserError(f"{prefix}.{name} is {value}; expected at most {high}")


def all_usable(prefix: str, section: Any) -> None:
    """Refuse null where a field has to have a value, `.nan`, which no comparison finds, and integers beyond 2^53.

    Infinity is a limit that nothing reaches. Seeds may have any size.
    """
    hints = get_type_hints(type(section))
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if value is None and type(None) not in get_args(hints[f.name]):
            raise UserError(f"{prefix}.{f.name} is null; expected a value, or leave it out")
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and math.isnan(number):
                raise UserError(f"{prefix}.{f.name} is {value}; expected a number")
            if isinstance(number, int) and abs(number) > _LARGEST_INT and not f.name.endswith("seed"):
                raise UserError(f"{prefix}.{f.name} is {value}; expected from {-_LARGEST_INT} to {_LARGEST_INT}")


def in_range(key: str, value: float, low: float, high: float, low_open: bool = False) -> None:
    if not (low < value < high or (value == low and not low_open)):
        raise UserError(f"{key} is {value}; expected from {low} to below {high}")
