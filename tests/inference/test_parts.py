"""Lines in parts, and the best translations of a line from those of its parts."""

from __future__ import annotations

import itertools
import random

import pytest

from accel_tx.config import TokenizerConfig
from accel_tx.data.tokenizer import Tokenizer, train_tokenizer
from accel_tx.inference.parts import Translation, joined, parts_of


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(iter(["the cat sees the sea . ,"]), TokenizerConfig("wordlevel", 50, min_frequency=1))


def test_a_part_is_a_line_that_fits_and_a_sentence_of_one_that_does_not(words: Tokenizer) -> None:
    lines = ["the cat sees", "", "  ", "The cat. The sea, the cat. Kim.", "the cat sees the sea"]
    found = parts_of(lines, words, max_positions=6)
    assert [[part.text for part in of_line] for of_line in found] == [
        ["the cat sees"],
        [],
        [],
        ["The cat.", "The sea,", "the cat.", "Kim."],
        ["the cat sees the sea"],
    ]
    assert all(0 < len(part.ids) <= 5 for of_line in found for part in of_line)
    assert [part.unknown for part in found[3]] == [[(0, "The")], [(0, "The")], [], [(0, "Kim")]]


def test_a_line_of_megabytes_is_never_tokenized_whole(words: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    encode = Tokenizer.encode

    def watched(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        nonlocal longest
        longest = max([longest, *map(len, texts)])
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    (found,) = parts_of(["the cat " * 20_000 + "x" * 20_000], words, max_positions=32)
    assert longest <= 64 * 31
    assert "".join(part.text for part in found).replace(" ", "") == "thecat" * 20_000 + "x" * 20_000


def choices(rng: random.Random, name: str, n: int) -> list[Translation]:
    found = [Translation(f"{name}{i}", rng.uniform(-9, 0), rng.uniform(-2, 0), rng.random() < 0.4) for i in range(n)]
    return sorted(found, key=lambda one: (one.is_cut, -one.score))


@pytest.mark.parametrize("seed", range(20))
def test_the_best_combinations_are_those_of_trying_all(seed: int) -> None:
    rng = random.Random(seed)
    parts = [choices(rng, name, rng.randint(1, 4)) for name in "abcd"]

    def rank(row: tuple[Translation, ...]) -> tuple[int, float]:
        return sum(one.is_cut for one in row), -sum(one.score for one in row)

    expected = sorted(itertools.product(*parts), key=rank)[:4]
    found = joined(parts, 4, ranked=True)
    assert [one.text for one in found] == [" ".join(one.text for one in row) for row in expected]
    for one, row in zip(found, expected):
        assert one.log_prob == pytest.approx(sum(part.log_prob for part in row))
        assert one.score == pytest.approx(sum(part.score for part in row))
        assert one.is_cut == any(part.is_cut for part in row)


def test_samples_are_joined_in_their_order_and_ranked_as_whole_lines() -> None:
    first = [Translation("a", -9, -9), Translation("b", -1, -1), Translation("c", -5, -5, is_cut=True)]
    second = [Translation("d", -1, -1), Translation("e", -2, -2), Translation("f", 0, 0)]
    assert [one.text for one in joined([first, second], 3, ranked=False)] == ["b e", "a d", "c f"]
    assert [one.text for one in joined([first], 2, ranked=False)] == ["b", "a"]
    assert [one.text for one in joined([first, second[:1]], 2, ranked=False)] == ["b d", "a d"]


def test_thousands_of_parts_are_joined_in_time() -> None:
    found = joined([[Translation("a", -1, -1), Translation("", -2, -2)]] * 5_000, 5, ranked=True)
    assert [len(one.text.split()) for one in found] == [5_000, *[4_999] * 4]
    assert found[0].log_prob == -5_000


def test_a_line_without_parts_is_an_empty_one() -> None:
    assert joined([], 3, ranked=True) == [Translation("", 0.0, 0.0)]


@pytest.mark.parametrize("kind", ["wordlevel", "unigram"])
def test_a_line_of_unknown_words_alone_is_known_to_be_one(kind: str) -> None:
    text = ["the cat sees the sea . ,", "a cat and the sea ,", "see the sea and the cat ."]
    tokenizer = train_tokenizer(iter(text * 9), TokenizerConfig(kind, 50, min_frequency=1))
    lines = ["😀", "😀 日本", "the 😀", "the cat"]
    assert [[part.is_all_unknown for part in of_line] for of_line in parts_of(lines, tokenizer, 30)] == [
        [True],
        [True],
        [False],
        [False],
    ]
