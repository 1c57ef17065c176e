"""Splitting at sentence ends, and of what is still too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.inference.sentences import sentences, split_to_fit

SENTENCES = [
    ["Mr. Smith went.", "He said “Hello!”", "Then he left.", "(It was late.)", "And then?"],
    ["« Quoi ? »", "Non !", "M. Dupont arrive avec Mme. Durand.", "Il a 3.5 m. de corde."],
    ["J. K. Rowling wrote it.", "So am I.", "He wrote no. 5 and p. 3 on it.", "I said no.", "She left."],
    ["Wait... what?!", "Visit www.example.com now.", "It costs $3.50.", "¿Qué?", "¡No!"],
    ["你好。", "再见！", "「好。」", "完"],
    ["1. Open the file.", "2. Close it."],
    ["यह अच्छा है।", "वह आया।"],
    ["Bring bread, e.g. rye.", "Dr. No vs. Prof. Yes was on at 8 p. m. yesterday."],
]


@pytest.mark.parametrize("expected", SENTENCES)
def test_sentences_end_where_people_end_them(expected: list[str]) -> None:
    joint = "" if "。" in expected[0] else " "
    assert sentences(joint.join(expected)) == expected


@pytest.mark.parametrize("text", ["", "word", "...", "a.b.c", "1. 2", "etc."])
def test_text_without_a_sentence_end_inside_is_one_sentence(text: str) -> None:
    assert sentences(text) == ([text] if text else [])


def words_fit(n_words: int):  # type: ignore[no-untyped-def]
    return lambda text: len(text.split()) <= n_words


def test_what_fits_is_not_split() -> None:
    assert split_to_fit(" One. Two. Three. ", words_fit(3)) == ["One. Two. Three."]


def test_sentences_go_alone_and_only_the_long_one_is_cut_at_its_commas() -> None:
    text = "It is late. The cat, which was old, sat on the mat, and saw a dog. Yes."
    assert split_to_fit(text, words_fit(8)) == [
        "It is late.",
        "The cat, which was old,",
        "sat on the mat, and saw a dog.",
        "Yes.",
    ]


def test_without_commas_the_space_nearest_to_the_middle_is_taken() -> None:
    assert split_to_fit("a b c d e f g", words_fit(4)) == ["a b c", "d e f g"]
    assert split_to_fit("a, b c d e f g h i j", words_fit(6)) == ["a, b c d", "e f g h i j"]


def test_without_spaces_characters_stay_whole() -> None:
    text = "e\u0301" * 10 + "👩‍👧" * 5 + "👍🏽" * 5
    parts = split_to_fit(text, lambda part: len(part) <= 6)
    assert "".join(parts) == text
    assert not any(part[0] in "\u0301\u200d🏽" or part[-1] == "\u200d" for part in parts)


def test_a_character_that_never_fits_is_given_as_it_is() -> None:
    assert split_to_fit("abc", lambda text: False) == ["a", "b", "c"]


@given(st.text(alphabet="ab. ,!?\u2028\x85。é\u0301🎉\u200d", max_size=60), st.integers(1, 12))
def test_no_character_but_space_is_lost_and_every_part_fits(text: str, limit: int) -> None:
    parts = split_to_fit(text, lambda part: len(part) <= limit)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part) <= limit for part in parts)


def test_a_line_of_megabytes_is_split_in_time() -> None:
    n_words = 20_000

    def fits(text: str) -> bool:
        return len(text) < 1_000

    began_at_s = time.process_time()
    one_sentence, many = split_to_fit("so it is. " * n_words, fits), split_to_fit("So it is. " * n_words, fits)
    assert (max(map(len, one_sentence)) > 500, len(many)) == (True, n_words)
    assert time.process_time() - began_at_s < 5  # a quadratic rule takes minutes


@pytest.mark.parametrize(
    "text", ["Hello." + "»" * 100_000 + "x", "." * 100_000 + "x", ". »" * 50_000 + "x", "a. " * 50_000, "。" * 100_000]
)
def test_runs_of_marks_and_quotes_take_linear_time(text: str) -> None:
    began_at_s = time.process_time()
    assert "".join(sentences(text)).replace(" ", "") == text.replace(" ", "")
    assert time.process_time() - began_at_s < 5
