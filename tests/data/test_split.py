"""What is held out follows from the content alone, and nothing of it is left to train on."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from accel_tx.config import DataConfig, UserError
from accel_tx.data import split
from accel_tx.data.split import Split, hold_out, smallest, source_keys, split_off_validation

Row = tuple[str, ...]


def dataset(rows: list[Row]) -> Dataset:
    names = ["src", "tgt", "group"][: len(rows[0])]
    return Dataset.from_dict(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def pairs_of(data: Dataset) -> set[tuple[str, str]]:
    return set(zip(data["src"], data["tgt"], strict=True))


def keys_of(*corpora: Dataset) -> set[int]:
    return set(source_keys(corpora).tolist())


def parted(rows: list[Row], **fields: Any) -> tuple[Dataset, Dataset]:
    done = split_off_validation([dataset(rows)], DataConfig(**fields))
    return done.train[0], done.valid


def distinct(n: int) -> list[Row]:
    return [(f"sentence number {i} is here", f"la phrase numéro {i} est ici") for i in range(n)]


def test_the_split_is_exact_and_does_not_depend_on_the_order() -> None:
    found = []
    for seed in (1, 2):
        shuffled = random.Random(seed).sample(distinct(1000), 1000)
        train, valid = parted(shuffled, valid_fraction=0.1)
        assert (len(train), len(valid)) == (900, 100)
        assert pairs_of(train).isdisjoint(pairs_of(valid))
        found.append((pairs_of(train), pairs_of(valid)))
    assert found[0] == found[1]


def test_the_opus_books_sizes_are_those_of_the_design() -> None:
    train, valid = parted([(str(i), str(i)) for i in range(81_559)], valid_fraction=0.1)
    assert (len(train), len(valid)) == (73_403, 8_156)


@pytest.mark.parametrize("n_valid", [1, 37, 500, 999])
def test_a_size_is_met_exactly_and_goes_before_the_fraction(n_valid: int) -> None:
    train, valid = parted(distinct(1000), valid_size=n_valid)
    assert (len(train), len(valid)) == (1000 - n_valid, n_valid)


SPELLINGS = ("source {}", "Source  {}", "SOURCE {}!", "“source” {}", "source {} .")


@pytest.mark.parametrize(("n_valid", "nearest"), [(1, 10), (4, 10), (40, 40), (133, 130), (137, 140), (160, 160)])
def test_a_source_never_stands_on_both_sides_in_any_spelling(n_valid: int, nearest: int) -> None:
    rows = [(SPELLINGS[i // 40 % 5].format(f"x{i % 40}"), f"cible {i}") for i in range(400)]
    train, valid = parted(rows, valid_size=n_valid)
    keys = [keys_of(side) for side in (train, valid)]
    assert keys[0].isdisjoint(keys[1])
    assert len(keys[0] | keys[1]) == 40
    assert len(valid) == nearest
    assert len(train) + len(valid) == 400


def test_frequent_sources_do_not_spoil_the_size_where_others_can_fill_it() -> None:
    rows = [("the same again", f"cible {i}") for i in range(5_000)] + distinct(5_000)
    for n_valid in (100, 1_000, 4_999):
        train, valid = parted(rows, valid_size=n_valid)
        assert len(valid) == n_valid
        assert "the same again" not in set(valid["src"])
        assert len(train) + len(valid) == 10_000


@pytest.mark.parametrize("seed", range(20))
def test_whole_groups_come_as_near_as_any_choice_of_them(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.randint(1, 12) * draw.choice([1, 3, 7]) for _ in range(7)]
    rows = [
        (f"s {group} {i}", f"t {group} {i}", f"book {group}") for group, size in enumerate(sizes) for i in range(size)
    ]
    n_valid = draw.randint(1, len(rows) - 1)
    totals = [sum(chosen) for n in range(1, 7) for chosen in itertools.combinations(sizes, n)]
    done = split_off_validation([dataset(rows)], DataConfig(valid_size=n_valid, group_column="book"))
    assert abs(len(done.valid) - n_valid) == min(abs(total - n_valid) for total in totals)
    assert set(done.train[0]["group"]).isdisjoint(done.valid["group"])
    n_groups = len(set(done.valid["group"]))
    assert done.note == f"held out {len(done.valid)} pairs ({n_valid} asked for): {n_groups} of 7 groups"


@pytest.mark.parametrize("n_valid", [1, 3_000, 20_001])
def test_many_classes_are_filled_up_in_order_with_no_room_for_another(n_valid: int) -> None:
    sizes = np.random.default_rng(3).integers(2, 9, size=10_000)
    keys = np.repeat(np.random.default_rng(4).integers(0, 2**63, size=10_000).astype(np.uint64), sizes)
    held_out = hold_out(np.random.default_rng(5).permutation(keys), n_valid)
    assert held_out is not None
    assert held_out.any()
    assert n_valid - held_out.sum() < 2
    assert held_out.sum() <= max(2, n_valid)


def by_book(rows: list[Row]) -> Split:
    return split_off_validation([dataset(rows)], DataConfig(valid_size=20, group_column="book"))


def test_a_source_of_a_held_out_group_is_not_trained_on_elsewhere() -> None:
    rows = [(f"s {i}", f"t {i}", f"book {i // 20}") for i in range(100)]
    rows += [("Yes.", f"oui {book}", f"book {book}") for book in range(5)]
    done = by_book(rows)
    assert len(set(done.valid["group"])) == 1
    assert "Yes." in done.valid["src"]
    assert "Yes." not in done.train[0]["src"]
    assert sum(map(len, done.shared)) == 4
    assert len(done.train[0]) + len(done.valid) + 4 == len(rows)
    assert pairs_of(by_book(rows[::-1]).valid) == pairs_of(done.valid)


@pytest.mark.parametrize(("n", "expected"), [(30, 3), (19_999, 2_000), (50_000, 2_000)])
def test_a_tenth_is_held_out_but_no_more_than_two_thousand(n: int, expected: int) -> None:
    rows = [(str(i), str(i)) for i in range(n)]
    assert len(parted(rows)[1]) == expected
    assert len(parted(rows, valid_fraction=0.2)[1]) == n - int(0.8 * n)


def test_several_corpora_are_split_as_one() -> None:
    rows = distinct(300)
    corpora = [dataset(rows[:200]), dataset([*rows[150:300], ("Sentence number 7 is here!", "autre")])]
    done = split_off_validation(corpora, DataConfig(valid_size=40))
    assert keys_of(*done.train).isdisjoint(keys_of(done.valid))
    assert [len(c) for c in done.train] < [200, 151]
    assert sum(map(len, done.train)) + len(done.valid) == 351


@pytest.mark.parametrize(
    ("rows", "fields", "expected"),
    [
        ([("one", "un")], {}, "valid_fraction 0.1 of 1 pairs with 1 different sources leaves an empty side"),
        ([("one", "un"), ("One!", "une")], {}, "of 2 pairs with 1 different sources"),
        (distinct(5), {"valid_size": 5}, "valid_size 5 of 5 pairs"),
        ([("a", "b", "x"), ("c", "d", "x")], {"group_column": "book"}, "1 different groups in column book"),
        ([("a", "b", "x"), ("a", "d", "y")], {"group_column": "book"}, "nothing is left to train on"),
    ],
)
def test_what_cannot_be_split_is_refused(rows: list[Row], fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parted(rows, **fields)


def test_the_smallest_are_exactly_as_many_as_asked_for_and_independent_of_the_split() -> None:
    keys = np.random.default_rng(1).integers(0, 2**63, size=10_000).astype(np.uint64)
    keys[:5_000] = keys[0]
    for n in (0, 1, 2_500, 9_999, 10_000, 20_000):
        assert smallest(keys, n).sum() == min(n, 10_000)
    others = keys[5_000:]
    held_out = hold_out(others, 500)
    assert held_out is not None
    assert 150 < (smallest(others, 2_500) & held_out).sum() < 350


def test_batches_do_not_change_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pairs_of(parted(distinct(200), valid_size=30)[1])
    monkeypatch.setattr(split, "_ROWS_PER_BATCH", 7)
    assert pairs_of(parted(distinct(200), valid_size=30)[1]) == whole
