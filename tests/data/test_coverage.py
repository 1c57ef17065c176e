from __future__ import annotations

import datasets
import numpy as np
import pytest
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.config import TokenizerConfig
from accel_tx.data.coverage import WordCuts, describe_tokens, sampled
from accel_tx.data.token_pairs import Ragged, TokenPairs
from accel_tx.data.tokenizer import UNK_ID, Tokenizer, TokenizerPair, train_tokenizer

SRC = ["the cat sat", "the dog sat", "the cat ran, quickly"] * 4
TGT = ["le chat", "le chien", "le chat, vite"] * 4


def learned(texts: list[str], kind: str, size: int) -> Tokenizer:
    return train_tokenizer(iter([texts]), TokenizerConfig(kind=kind, vocab_size=size, min_frequency=1))  # type: ignore[arg-type]


def pairs(src: list[str], tgt: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"src": src, "tgt": tgt})


def test_a_word_is_whole_unless_a_token_begins_or_ends_inside_it() -> None:
    tokenizer = learned(["the cat's mat"] * 9, "bpe", 300)
    text = "the cat's hat, the"
    pieces = tokenizer.fast.encode(text).tokens
    assert pieces == ["Ġthe", "Ġcat", "'s", "Ġ", "h", "at", ",", "Ġthe"]
    cuts = WordCuts.of([text, ""], tokenizer)
    # the | cat | ' | s | hat | , | the: the apostrophe and s share a token, and only hat is cut.
    assert (cuts.n_words, cuts.n_tokens, cuts.n_whole) == (7, 8, 6)


def test_characters_of_several_bytes_do_not_hide_a_cut() -> None:
    cuts = WordCuts.of(["ß 漢"], learned(["a"] * 9, "bpe", 300))
    assert (cuts.n_words, cuts.n_tokens, cuts.n_whole) == (2, 7, 0)


@pytest.mark.parametrize("kind", ["wordlevel", "bpe", "unigram"])
def test_tokens_are_counted_as_they_stand_in_the_ids(kind: str) -> None:
    size = {"bpe": 300, "wordlevel": 12, "unigram": 40}[kind]
    both = TokenizerPair(learned(SRC, kind, size), learned(TGT, kind, size))
    texts = {"train": [pairs(SRC[:5], TGT[:5]), pairs(SRC[5:], TGT[5:])], "valid": [pairs(["a cat"], ["un chat"])]}
    ids = {
        name: TokenPairs(
            Ragged.from_lists(both.src.encode([t for part in parts for t in part["src"]])),
            Ragged.from_lists(both.tgt.encode([t for part in parts for t in part["tgt"]])),
        )
        for name, parts in texts.items()
    }
    found = describe_tokens(texts, ids, both, kind)
    for side, lines in (("src", SRC), ("tgt", TGT)):
        tokenizer = getattr(both, side)
        encoded = tokenizer.encode(lines)
        flat = np.concatenate(encoded)
        values = found["vocabulary"][side]
        assert values["train"]["n_tokens"] == len(flat)
        assert values["train"]["n_unknown"] == (flat == UNK_ID).sum()
        assert values["n_unused"] == tokenizer.vocab_size - 4 - len(set(flat[flat >= 4]))
        n_words = sum(len(Whitespace().pre_tokenize_str(line)) for line in lines)
        assert values["train"]["tokens_per_word"] == pytest.approx(len(flat) / n_words)
        assert found["tokens"]["train"][side]["mean"] == pytest.approx(np.mean([len(e) + 1 for e in encoded]))
    if kind == "wordlevel":
        assert found["vocabulary"]["src"]["valid"] == {
            "n_tokens": 2,
            "n_unknown": 1,
            "unknown_share": 0.5,
            "tokens_per_word": 1.0,
            "whole_word_share": 1.0,
        }


def test_a_joint_vocabulary_is_used_by_both_sides() -> None:
    tokenizer = learned(SRC + TGT, "wordlevel", 50)
    ids = TokenPairs(Ragged.from_lists(tokenizer.encode(SRC)), Ragged.from_lists(tokenizer.encode(TGT)))
    data = pairs(SRC, TGT)
    joint = TokenizerPair(tokenizer, tokenizer)
    found = describe_tokens({"train": [data], "valid": [data]}, {"train": ids, "valid": ids}, joint, "wordlevel")
    assert found["vocabulary"]["src"]["n_unused"] == found["vocabulary"]["tgt"]["n_unused"] == 0
    assert found["vocabulary"]["joint"]


def test_a_sample_is_spread_over_all_parts() -> None:
    parts = [pairs([f"{p} {i}" for i in range(n)], ["x"] * n) for p, n in (("a", 10), ("b", 0), ("c", 30))]
    drawn = [text for texts in sampled(parts, "src", 8) for text in texts]
    assert len(drawn) == 8
    assert (drawn[0], drawn[-1]) == ("a 0", "c 29")
    assert sum(text.startswith("a") for text in drawn) == 2
    assert [text for texts in sampled(parts, "src", 100) for text in texts] == [t for p in parts for t in p["src"]]
