from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.data.characters import TextBatch
from accel_tx.data.histogram import Histogram
from accel_tx.data.statistics import count_distinct, describe_text, measure

Pairs = list[tuple[str, str]]
# Scripts with spaces, a combining accent, punctuation, digits, spaces of several kinds.
ALPHABET = "aébZ\u0301и٣09.,'-?_ \t\u00a0\u2009"
TEXTS = st.text(ALPHABET, max_size=40)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12)


def dataset(pairs: Pairs) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"src": [s for s, _ in pairs], "tgt": [t for _, t in pairs]})


def words(text: str) -> int:
    return len(Whitespace().pre_tokenize_str(text))


def longest(text: str) -> int:
    return max([len(word) for word in re.split(r"\s+", text)])


def letters(text: str) -> float:
    seen = [c for c in text if not c.isspace()]
    return sum(unicodedata.category(c)[0] in "LM" for c in seen) / len(seen) if seen else 1.0


def excess(a: int, b: int, free: int) -> float:
    return max(a, b) / max(min(a, b), 1) if abs(a - b) > free else 1.0


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_measures_equal_those_counted_one_text_at_a_time(pairs: Pairs) -> None:
    src, tgt = (TextBatch(pa.array(side, pa.string())) for side in zip(*pairs, strict=True))
    measured = measure(src, tgt)
    for i, (s, t) in enumerate(pairs):
        expected = {
            "src_chars": len(s),
            "tgt_chars": len(t),
            "src_words": words(s),
            "tgt_words": words(t),
            "char_ratio": max(len(t), 1) / max(len(s), 1),
            "word_ratio": max(words(t), 1) / max(words(s), 1),
            "longer_chars": max(len(s), len(t)),
            "longer_words": max(words(s), words(t)),
            "longest_word": max(longest(s), longest(t)),
            "letter_share": min(letters(s), letters(t)),
            "char_excess": excess(len(s), len(t), 20),
            "word_excess": excess(words(s), words(t), 5),
        }
        assert {name: float(column[i]) for name, column in measured.items()} == pytest.approx(expected)


@settings(max_examples=15, deadline=None)
@given(PAIRS, PAIRS)
def test_the_statistics_of_two_corpora_are_those_of_both_as_one(one: Pairs, other: Pairs) -> None:
    apart, whole = [dataset(one), dataset(other)], [dataset(one + other)]
    parts, both = describe_text(["one", "other"], apart, apart, 1), describe_text(["both"], whole, whole, 1)
    assert parts["duplicates"] == both["duplicates"]
    for stage in ("before", "after"):
        for name, histogram in both["text"][stage].items():
            assert parts["text"][stage][name]["bins"] == histogram["bins"]
            assert parts["text"][stage][name]["mean"] == pytest.approx(histogram["mean"])
    assert [corpus["before"]["n_pairs"] for corpus in parts["corpora"]] == [len(one), len(other)]


def test_repeated_pairs_are_counted_beyond_the_first_of_their_kind() -> None:
    pairs = [("A cat.", "Un chat."), ("A cat.", "Un chat."), ("a  CAT", "un chat"), ("A cat.", "Chat."), ("x", "y")]
    found = describe_text(["c"], [dataset(pairs)], [dataset(pairs[:1])], 1)
    assert found["duplicates"] == {"n_pairs": 5, "n_exact": 1, "n_near": 2, "n_repeated_src": 3}
    assert found["text"]["after"]["src_chars"]["bins"] == {"6.0": 1}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=20), max_size=4))
def test_distinct_keys_are_counted_across_chunks(chunks: list[list[int]]) -> None:
    columns = [[np.array(chunk, dtype=np.uint64)] for chunk in chunks]
    assert count_distinct(columns) == len({key for chunk in chunks for key in chunk})


def test_the_number_of_processes_and_the_files_make_no_difference(tmp_path: Path) -> None:
    pairs = [(f"the cat number {i % 700}", f"le chat {i}, numéro {i % 13}") for i in range(5_000)]
    path = tmp_path / "pairs.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, dataset(pairs).data.schema) as writer:
        writer.write_table(dataset(pairs).data.table)
    mapped = datasets.Dataset.from_file(str(path))
    assert mapped.cache_files
    one = describe_text(["c"], [dataset(pairs)], [dataset(pairs)], 1)
    assert describe_text(["c"], [mapped], [mapped], 2) == one
    assert Histogram.from_dict(one["text"]["before"]["tgt_words"]).mean == np.mean([words(t) for _, t in pairs])
