"""Rows and keys are chosen in blocks as they would be all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel_tx.data import selection
from accel_tx.data.duplicates import KeyFile, PairKeys, exact_duplicates, near_duplicates
from accel_tx.data.selection import classes, first_rows, gathered, is_among, kth_smallest, select
from accel_tx.data.split import hold_out, smallest

Keys = NDArray[np.uint64]
# Few different ones, so that keys repeat; near both ends of the range, so that pieces are uneven.
KEYS = st.lists(st.sampled_from([0, 1, 2, 3, 1 << 47, 1 << 48, 1 << 60, (1 << 63) + 5, (1 << 64) - 1]), min_size=1)
ANY_KEYS = st.one_of(KEYS, st.lists(st.integers(0, (1 << 64) - 1), min_size=1)).map(lambda k: np.array(k, np.uint64))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(selection, "KEYS_PER_PIECE", 2)


def mapped(folder: Path, n: int) -> Dataset:
    path = folder / "text.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.schema({"src": pa.string()})) as writer:
        for start in range(0, n, 4):
            writer.write_batch(pa.record_batch({"src": [str(i) for i in range(start, min(start + 4, n))]}))
    return Dataset.from_file(str(path))


def test_rows_selected_again_and_again_are_those_marked(tmp_path: Path) -> None:
    pairs, rng = mapped(tmp_path, 50), np.random.default_rng(1)
    expected = [str(i) for i in range(50)]
    for n_left in (50, 33, 20, 5):
        rows = np.zeros(len(pairs), bool)
        rows[rng.permutation(len(pairs))[:n_left]] = True
        pairs = select(pairs, rows)
        expected = [text for text, chosen in zip(expected, rows, strict=True) if chosen]
        assert list(pairs["src"]) == expected
        assert pairs.to_dict() == {"src": expected}
        for n_rows in (1, 4, len(pairs)):
            tables = [gathered(pairs, at, min(at + n_rows, len(pairs))) for at in range(0, len(pairs), n_rows)]
            assert [text for table in tables for text in table["src"].to_pylist()] == expected
            assert all(table["src"].num_chunks == 1 for table in tables)
    assert len(list(tmp_path.glob("text.rows_*.arrow"))) == 3
    assert list(select(pairs, np.zeros(5, bool))["src"]) == []


def test_two_selections_of_one_dataset_do_not_meet(tmp_path: Path) -> None:
    pairs = mapped(tmp_path, 20)
    is_even = np.arange(20) % 2 == 0
    even, odd = select(pairs, is_even), select(pairs, ~is_even)
    assert list(even["src"]) == [str(i) for i in range(0, 20, 2)]
    assert list(odd["src"]) == [str(i) for i in range(1, 20, 2)]


@given(ANY_KEYS, st.data())
def test_the_kth_smallest_is_that_of_the_sorted_keys(keys: Keys, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(keys) - 1))
    assert kth_smallest(lambda: iter(np.array_split(keys, 3)), k) == np.sort(keys)[k]


@given(ANY_KEYS)
def test_classes_are_all_keys_and_their_numbers(keys: Keys) -> None:
    distinct, sizes = (np.concatenate(arrays) for arrays in zip(*classes(keys), strict=True))
    expected = np.unique(keys, return_counts=True)
    assert distinct.tolist() == expected[0].tolist()
    assert sizes.tolist() == expected[1].tolist()


@given(ANY_KEYS, ANY_KEYS)
def test_keys_are_among_those_chosen(keys: Keys, chosen: Keys) -> None:
    assert is_among(keys, np.unique(chosen)).tolist() == np.isin(keys, chosen).tolist()


@given(st.lists(st.booleans()), st.integers(0, 6))
def test_the_first_rows_are_those(marks: list[bool], n_most: int) -> None:
    rows = np.array(marks, dtype=bool)
    assert first_rows(rows, n_most).tolist() == np.flatnonzero(rows)[:n_most].tolist()


@given(ANY_KEYS, st.integers(1, 12))
def test_held_out_keys_are_taken_first_fit_in_ascending_order(keys: Keys, n_wanted: int) -> None:
    rows = hold_out(keys, n_wanted)
    if rows is None:
        assert n_wanted >= len(keys) or len(np.unique(keys)) == 1
        return
    assert set(keys[rows].tolist()).isdisjoint(keys[~rows].tolist())
    left, first_fit = n_wanted, []
    for key, size in zip(*np.unique(keys, return_counts=True), strict=True):
        if size <= left:
            first_fit.append(key)
            left -= size
    if left == 0:
        assert sorted(set(keys[rows].tolist())) == first_fit
    else:
        assert abs(int(rows.sum()) - n_wanted) <= left or not first_fit


@given(ANY_KEYS, st.integers(0, 12))
def test_the_smallest_are_so_many_and_follow_from_the_keys(keys: Keys, n_wanted: int) -> None:
    rows = smallest(keys, n_wanted)
    assert rows.sum() == min(n_wanted, len(keys))
    again = smallest(keys[::-1].copy(), n_wanted)
    assert sorted(keys[rows].tolist()) == sorted(keys[::-1][again].tolist())


@given(st.lists(st.tuples(st.integers(0, 2), KEYS), min_size=1, max_size=3))
def test_duplicates_are_those_found_pair_by_pair(parts: list[tuple[int, list[int]]]) -> None:
    keys = [np.array(own, np.uint64) for _, own in parts]
    files = [KeyFile([PairKeys(block, block, block, block) for block in np.array_split(own, 2)]) for own in keys]
    rows = [np.arange(len(own)) % 3 != skipped for own, (skipped, _) in zip(keys, parts, strict=True)]
    seen: set[int] = set()
    expected = []
    for own, marked in zip(keys, rows, strict=True):
        expected.append([bool(m) and (int(k) in seen or bool(seen.add(int(k)))) for k, m in zip(own, marked)])  # type: ignore[func-returns-value]
    assert [flags.tolist() for flags in exact_duplicates(files, rows)] == expected
    assert [flags.tolist() for flags in near_duplicates(files, rows)] == expected
