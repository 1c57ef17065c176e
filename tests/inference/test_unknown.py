"""Words that the vocabulary lacks find their places by attention, each once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from accel_tx.config import TokenizerConfig
from accel_tx.data.tokenizer import EOS_ID, UNK_ID, train_tokenizer
from accel_tx.inference import unknown as unknown_module
from accel_tx.inference.unknown import Answered, copied_words, one_to_one, words_for
from tests.inference.models import MAX_POSITIONS, make_model


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        ([[0.1, 0.9], [0.8, 0.7]], [1, 0]),
        ([[0.6, 0.9], [0.1, 0.8]], [1, 0]),  # both want the second column
        ([[0.2], [0.3], [0.1]], [None, 0, None]),
        ([[0.1, 0.2, 0.3]], [2]),
        ([[], []], [None, None]),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1]),
    ],
)
def test_the_largest_weights_choose_first_and_no_word_stands_twice(
    weights: list[list[float]], chosen: list[int | None]
) -> None:
    assert one_to_one(np.array(weights, dtype=np.float64).reshape(len(weights), -1)) == chosen


@pytest.fixture
def pointing(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], tuple[Any, list[int]]]:
    """A function: a model that attends from target position t to `of_target[t]`; and the batches that it is asked."""

    def make(of_target: list[int]) -> tuple[Any, list[int]]:
        asked: list[int] = []

        def weights(model: object, src_ids: Tensor, src_valid: Tensor | None, tgt_in: Tensor) -> Tensor:
            asked.append(len(tgt_in))
            found = torch.full((*tgt_in.shape, src_ids.shape[1]), 0.01)
            for position, at in enumerate(of_target):
                found[:, position : position + 1, at] = 0.9
            return found[None, :, None].expand(2, -1, 3, -1, -1)

        monkeypatch.setattr(unknown_module, "cross_attention_weights", weights)
        return SimpleNamespace(positions=torch.zeros(1)), asked

    return make


@pytest.mark.parametrize("group_size", [1, 1 << 18])
def test_each_unknown_word_goes_where_attention_points_at_it(
    group_size: int, pointing: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_module, "_WEIGHTS_PER_GROUP", group_size)
    model, asked = pointing([2, 0, 1, 4])
    source = [7, UNK_ID, UNK_ID, 8, UNK_ID]
    unknown = [(1, "Kim"), (2, "Lee"), (4, "🎉")]
    hypotheses = [[UNK_ID, 9, UNK_ID, UNK_ID], [UNK_ID, 9, 9], [9, 9], [9, 9, 9, UNK_ID]]
    assert copied_words(model, [Answered(source, unknown, hypothesis) for hypothesis in hypotheses]) == [
        ["Lee", "Kim", "🎉"],
        ["Lee"],
        [],
        ["🎉"],
    ]
    assert asked == ([1, 1, 1] if group_size == 1 else [3])


def test_one_word_for_one_place_needs_no_attention(pointing: Callable[..., Any]) -> None:
    model, asked = pointing([])
    assert copied_words(model, [Answered([UNK_ID, 7], [(0, "Kim")], [8, UNK_ID])]) == [["Kim"]]
    assert asked == []


def test_a_place_too_many_stays_empty(pointing: Callable[..., Any]) -> None:
    model, _ = pointing([0, 0])
    assert copied_words(model, [Answered([UNK_ID, 7], [(0, "Kim")], [UNK_ID, UNK_ID])]) == [["Kim", ""]]
    assert copied_words(model, [Answered([7], [], [UNK_ID])]) == [[""]]


def test_words_of_a_prefix_stand_for_themselves_and_the_modes_fill_the_rest(pointing: Callable[..., Any]) -> None:
    model, _ = pointing([])
    answered = [Answered([UNK_ID, 7], [(0, "Kim")], [UNK_ID, 8, UNK_ID], given=["Monsieur"])]
    for mode, word in (("copy", "Kim"), ("drop", ""), ("mark", "<unk>")):
        assert words_for(mode, model, answered) == [["Monsieur", word]]


def test_unknown_words_are_found_as_the_text_has_them_and_put_back() -> None:
    words = ["the", "cat", "sees", "the", "sea", ",", ".", "(", ")"]
    tokenizer = train_tokenizer(iter([" ".join(words)] * 3), TokenizerConfig("wordlevel", 50, 1, joint=False))
    text = "the Émile, sees 🎉🎉 e\u0301."
    assert tokenizer.unknown_words(text) == [(1, "Émile"), (4, "🎉🎉"), (5, "\u00e9")]
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode_with(ids, ["Émile", "🎉🎉", ""]) == "the Émile, sees 🎉🎉."
    assert tokenizer.decode_with([*ids, EOS_ID], ["<unk>"] * 3) == tokenizer.decode([ids])[0]
    assert tokenizer.unknown_words("the <unk> cat")[:2] == [(1, "<"), (2, "unk")]


def test_unigram_pieces_join_to_an_unknown_character_as_in_the_text() -> None:
    lines = ["the cat sees the sea", "the sea sees the cat", "a cat is a cat at sea"] * 5
    tokenizer = train_tokenizer(iter(lines), TokenizerConfig("unigram", 40, 1, joint=False))
    text = "the cat🎉 sees"
    (ids,) = tokenizer.encode([text])
    assert [word for _, word in tokenizer.unknown_words(text)] == ["🎉"]
    assert tokenizer.decode_with(ids, ["🎉"]) == text
    assert tokenizer.decode_with(ids, [""]) == "the cat sees"
    (ids,) = tokenizer.encode(["the 🎉 🎉 cat 🎉 sees 🎉"])
    assert tokenizer.decode_with(ids, ["", "Kim", "", ""]) == "the Kim cat sees"


@torch.no_grad()
def test_a_hypothesis_that_fills_the_model_s_positions_has_its_words_copied() -> None:
    model = make_model(4)
    source, words = [5, UNK_ID, 6, UNK_ID], [(1, "Kim"), (3, "Lee")]
    hypothesis = [7, UNK_ID, *[8] * (MAX_POSITIONS - 3), UNK_ID]
    (found,) = copied_words(model, [Answered(source, words, hypothesis)])
    assert sorted(found) == ["Kim", "Lee"]
