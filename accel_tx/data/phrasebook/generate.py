"""Pairs for each split: patterns drawn at random, distinct, with the held-out combinations kept apart."""

import hashlib
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from typing import Literal, NamedTuple

from accel_tx.data.phrasebook import clauses as clauses
from accel_tx.data.phrasebook import descriptions as descriptions
from accel_tx.data.phrasebook import facts as facts
from accel_tx.data.phrasebook import questions as questions
from accel_tx.data.phrasebook import sequences as sequences
from accel_tx.data.phrasebook import statements as statements
from accel_tx.data.phrasebook.english import finish_english
from accel_tx.data.phrasebook.french import finish_french
from accel_tx.data.phrasebook.grammar import Pair
from accel_tx.data.phrasebook.phrases import Writer

HELD_OUT_SHARE = 0.06
TYPICAL_COMBINATIONS = 3  # of one sentence
MAX_FRUITLESS_DRAWS = 10_000  # far beyond chance while the grammar still has new sentences

Pattern = Callable[[Writer], Pair]
PATTERNS: dict[Pattern, int] = {  # with their weights
    statements.action: 80,
    statements.intransitive: 40,
    statements.motion: 40,
    statements.routine: 30,
    statements.state: 40,
    descriptions.description: 60,
    descriptions.comparison: 30,
    descriptions.superlative: 25,
    descriptions.existence: 40,
    descriptions.whereabouts: 25,
    statements.modal: 60,
    statements.control: 35,
    statements.generic: 30,
    statements.judgement: 25,
    statements.before: 30,
    statements.purpose: 30,
    statements.without: 15,
    facts.age: 20,
    facts.price: 30,
    facts.schedule: 30,
    facts.clock: 2,
    facts.date: 25,
    facts.duration: 20,
    facts.journey: 25,
    facts.weather: 25,
    questions.yes_no: 60,
    questions.wh_question: 35,
    questions.who: 15,
    questions.what: 30,
    questions.asking_facts: 20,
    questions.order: 30,
    questions.exclamation: 12,
    questions.fixed: 2,
    clauses.relative_subject: 40,
    clauses.relative_object: 40,
    clauses.excuse: 25,
    clauses.reason: 30,
    clauses.when_future: 40,
    clauses.condition: 40,
    clauses.reported: 40,
    clauses.said: 30,
    sequences.coordination: 40,
    sequences.simultaneous: 30,
    sequences.narrative: 85,
    sequences.taken_up: 35,
    sequences.people_taken_up: 20,
    sequences.giving: 45,
}
_PATTERNS = tuple(PATTERNS)
_CUMULATIVE_WEIGHTS = tuple(accumulate(PATTERNS.values()))


class Draft(NamedTuple):
    """One drawn sentence before elision and capitals, the lexical combinations in it, and the name of its pattern."""

    text: Pair
    combinations: tuple[tuple[str, str], ...]
    pattern: str


@cache
def is_held_out(combination: tuple[str, str]) -> bool:
    """Whether a lexical combination is reserved for validation."""
    digest = hashlib.blake2b("|".join(combination).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32


def draw(rng: random.Random) -> Draft:
    """One sentence of the grammar, with held-out combinations or without."""
    writer = Writer(rng)
    pattern = _PATTERNS[bisect(_CUMULATIVE_WEIGHTS, rng.random() * _CUMULATIVE_WEIGHTS[-1])]
    text = pattern(writer)
    return Draft(text, tuple(writer.combinations), pattern.__name__)


def finish(text: Pair) -> Pair:
    """The pair as it is read: elisions, a or an, capitals."""
    return finish_english(text[0]), finish_french(text[1])


def iter_pairs(split: Literal["train", "validation"], n_pairs: int, seed: int) -> Iterator[Pair]:
    """The first `n_pairs` distinct (English, French) pairs of a split; a longer request begins with the same pairs.

    Raises: ValueError if `split` is unknown, if `n_pairs` is negative, or if the grammar has no more new sentences.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"phrasebook: split is {split!r}; expected 'train' or 'validation'")
    if n_pairs < 0:
        raise ValueError(f"phrasebook: n_pairs is {n_pairs}; expected 0 or more")
    return _distinct_pairs(split == "validation", n_pairs, random.Random(f"phrasebook {split} {seed}"))


def _is_wanted(draft: Draft, held_out: bool, rng: random.Random) -> bool:
    """Whether a sentence belongs to the split.

    The more combinations, the likelier one of them is held out: without thinning, every fifth validation sentence would
    be a chain of five clauses.
    """
    if any(map(is_held_out, draft.combinations)) is not held_out:
        return False
    return not held_out or rng.random() * len(draft.combinations) < TYPICAL_COMBINATIONS


def _distinct_pairs(held_out: bool, n_pairs: int, rng: random.Random) -> Iterator[Pair]:
    seen: set[str] = set()
    n_fruitless = 0
    while len(seen) < n_pairs:
        draft = draw(rng)
        if _is_wanted(draft, held_out, rng) and draft.text[0] not in seen:
            seen.add(draft.text[0])
            n_fruitless = 0
            yield finish(draft.text)
            continue
        n_fruitless += 1
        if n_fruitless > MAX_FRUITLESS_DRAWS:
            raise ValueError(
                f"phrasebook: no new sentence in {n_fruitless} draws after {len(seen)} of {n_pairs} pairs; "
                "ask for fewer pairs"
            )
