"""What holds of cleaning whatever the corpus: nothing is lost uncounted, and neither order nor processes matter."""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel_tx.config import PRESETS, CleanConfig, UserError
from accel_tx.data.clean import HeldOut, Part, clean_pairs
from accel_tx.data.clean_report import CleanReport

Pairs = list[tuple[str, str]]
# Pieces that rules look for, so that few draws meet many of them.
PIECES = st.sampled_from(
    "a the dog , . ! … « » le chien Dog DOG 12 1,200 1.200 3 15 <b> </b> &amp; %s {0} http://a.example/x a@b.example "
    "é Ã© â€™ Ã\u00a0 \x00 \x1b[31m \ufeff \ufffd \x85 \u2028 ααα собака 狗 การ １２ no no no no aaaaaaaaaaaaaa".split(
        " "
    )
)
TEXT = st.one_of(
    st.lists(PIECES, max_size=14).map(" ".join),
    st.lists(PIECES, max_size=8).map("".join),
    st.text(max_size=30),
    st.sampled_from(["The old man walks his dog.", "the old man walks his dog", "Le vieil homme promène son chien."]),
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=12)
GOOD = ("The children are playing in the garden.", "Les enfants jouent dans le jardin.")
HELD_OUT: Pairs = [("The old man walks his dog.", "Le vieil homme promène son chien.")]
CHEAP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def as_dataset(pairs: Pairs) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"src": [s for s, _ in pairs], "tgt": [t for _, t in pairs]})


def cleaned(pairs: Pairs, n_procs: int = 1, **fields: Any) -> tuple[Pairs, CleanReport]:
    part = Part("corpus", as_dataset(pairs), CleanConfig(**fields), "en", "fr")
    held_out = [HeldOut.from_dataset("validation", as_dataset(HELD_OUT))]
    (kept,), report = clean_pairs([part], held_out, n_procs)
    return list(zip(kept["src"], kept["tgt"], strict=True)), report


def counts(report: CleanReport) -> tuple[Any, ...]:
    return report.n_read, report.n_kept, report.dropped, report.alone, report.repaired


@CHEAP
@given(pairs=PAIRS, preset=st.sampled_from(sorted(PRESETS)))
def test_every_pair_is_kept_or_counted_under_one_rule_and_cleaning_again_changes_nothing(
    pairs: Pairs, preset: str
) -> None:
    pairs = [*pairs, GOOD]
    kept, report = cleaned(pairs, preset=preset)
    assert report.n_read == len(pairs) == len(kept) + sum(report.dropped.values())
    assert report.n_kept == len(kept)
    assert all(report.alone[rule] >= n for rule, n in report.dropped.items() if rule not in ("near_duplicates",))
    again, second = cleaned(kept, preset=preset)
    assert again == kept
    assert sum(second.dropped.values()) == sum(second.alone.values()) == sum(second.repaired.values()) == 0


@CHEAP
@given(data=st.data(), pairs=PAIRS, preset=st.sampled_from(["light", "standard", "strict"]))
def test_the_order_of_the_rows_does_not_matter(data: st.DataObject, pairs: Pairs, preset: str) -> None:
    pairs = [*pairs, GOOD]
    kept, report = cleaned(pairs, preset=preset)
    other, other_report = cleaned(data.draw(st.permutations(pairs)), preset=preset)
    assert Counter(kept) == Counter(other)
    assert counts(report) == counts(other_report)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=3, max_size=30))
def test_the_number_of_processes_does_not_matter(pairs: Pairs) -> None:
    pairs = [*pairs, GOOD, *pairs]
    kept, report = cleaned(pairs, preset="standard")
    other, other_report = cleaned(pairs, n_procs=2, preset="standard")
    assert kept == other
    assert report == other_report


@CHEAP
@given(pairs=PAIRS, rule=st.sampled_from(sorted(PRESETS["strict"])))
def test_a_rule_by_itself_takes_what_the_report_of_all_says_it_would_take_alone(pairs: Pairs, rule: str) -> None:
    # Repairs come before all rules, so they are the same in both.
    repairs = {"mojibake": True, "control_characters": True}
    pairs = [*pairs, GOOD]
    _, report = cleaned(pairs, preset="strict")
    _, alone = cleaned(pairs, preset="none", **{**repairs, rule: PRESETS["strict"][rule]}, without="")
    assert alone.alone.get(rule) == report.alone.get(rule)


def test_nothing_kept_is_an_error_and_not_an_empty_corpus() -> None:
    with pytest.raises(UserError, match="0 of 1 pairs left after cleaning"):
        cleaned([("", "")])
