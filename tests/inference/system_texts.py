"""Made-up outputs of three systems, and their references."""

from __future__ import annotations

import random
from collections.abc import Callable

from accel_tx.data.phrasebook import iter_pairs


def references(n: int) -> list[str]:
    """French sentences of the embedded grammar."""
    return [fr for _, fr in iter_pairs("train", n, 1)]


def damaged(lines: list[str], share: float, seed: int) -> list[str]:
    """Each word replaced by another one with probability `share`; now and then a line turned around at a word."""
    draw = random.Random(seed)
    words = [word for line in lines for word in line.split()]
    swap: Callable[[str], str] = lambda word: draw.choice(words) if draw.random() < share else word  # noqa: E731
    found = []
    for line in lines:
        own = [swap(word) for word in line.split()]
        at = draw.randrange(len(own)) if draw.random() < share else 0
        found.append(" ".join(own[at:] + own[:at]))
    return found
