"""Exported tokenizer files give the ids and the texts of our own tokenizers, without our code around them."""

from __future__ import annotations

import unicodedata
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from accel_tx.config import TokenizerConfig
from accel_tx.data.tokenizer import EOS_ID, Tokenizer, train_tokenizer
from accel_tx.export.text import stand_alone, tokens_by_id
from tests.export.runs import tokenizer_pair

KINDS = ["wordlevel", "bpe", "unigram"]
WORDS = ["l", "eau", "(", ")", "[", "'", "’", "-", ".", ",", "…", ").", "5", "%", "«", "»", "?", "n", "est"]


# Spaces of every kind, marks that join what stands before them, what is nothing to see, and some that the texts have.
AWKWARD = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2003\u2028\u202f\u3000"
    "\0\x1b\x7f\xad\u200b\u2060\ufeff\u0301\u0327eEaé☃🎉.,'’-(<>"
)


def reloaded(tokenizer: Tokenizer) -> FastTokenizer:
    """As a user of the file has it."""
    fast = FastTokenizer.from_str(stand_alone(tokenizer).to_str())
    fast.encode_special_tokens = True
    return fast


@cache
def of_kind(kind: str) -> tuple[Tokenizer, FastTokenizer]:
    tokenizer = tokenizer_pair(kind, joint=True).src
    return tokenizer, reloaded(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["The old man reads.", "  My   sister, e\u0301te\u0301 ", "He wrote <eos> and <pad>.", "", "Zażółć ☃ (x)"]
)
def test_a_text_has_our_ids_and_an_end(kind: str, text: str) -> None:
    tokenizer = tokenizer_pair(kind, joint=True).src
    (ours,) = tokenizer.encode([text.strip()])
    assert reloaded(tokenizer).encode(text).ids == [*ours, EOS_ID]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["<2de> The old man", "The <2de> man", " <2de>  <2de> man <2de> ", "old<2de>man", "<2de> \x1cold"]
)
def test_a_symbol_stays_one(kind: str, text: str) -> None:
    config = TokenizerConfig(kind, 320, 1, symbols=["<2de>"])  # type: ignore[arg-type]
    tokenizer = train_tokenizer(iter(["The old man reads.", "<2de> My old sister (ten)."]), config)
    (ours,) = tokenizer.encode([text.strip()])
    assert ours.count(tokenizer.fast.token_to_id("<2de>")) == text.count("<2de>")
    fast = reloaded(tokenizer)
    assert fast.encode(text).ids == [*ours, EOS_ID]
    assert [fast.decode(ours)] == tokenizer.decode([ours])


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from(AWKWARD), max_size=12))
@example("\x1c\x1d a \x1e b \x1f")
@settings(max_examples=200, deadline=None)
def test_an_awkward_text_has_our_ids(kind: str, text: str) -> None:
    tokenizer, fast = of_kind(kind)
    (ours,) = tokenizer.encode([text.strip()])
    assert fast.encode(text).ids == [*ours, EOS_ID]
    assert fast.decode(ours, skip_special_tokens=False) == tokenizer.decode([ours])[0]


def test_every_character_that_is_space_to_us_and_no_other_is_taken_off() -> None:
    fast = of_kind("bpe")[1]
    for code in (*range(0xD800), *range(0xE000, 0x11000)):
        text = f"{chr(code)}a{chr(code)}"
        assert fast.normalizer.normalize_str(text) == unicodedata.normalize("NFC", text.strip())


def test_a_long_space_inside_a_text_takes_no_time() -> None:
    text = f"a{' ' * 200_000}b"  # minutes, if every space of it were tried as a beginning of the last one
    assert of_kind("bpe")[1].normalizer.normalize_str(text) == text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_ids_become_our_text(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_pair(kind, joint=True).tgt
    ids = data.draw(st.lists(st.integers(4, tokenizer.vocab_size - 1), max_size=12))
    assert [reloaded(tokenizer).decode(ids)] == tokenizer.decode([ids])


def test_what_is_space_to_us_is_taken_off_the_ends() -> None:
    tokenizer = tokenizer_pair("bpe", joint=True).tgt
    fast = reloaded(tokenizer)
    spaces = [tokenizer.fast.token_to_id(byte) for byte in "ĉĊĉ"]  # tab, line feed, tab
    for i in range(4, 260):  # the bytes among them
        for ids in ([i], [300, i], [i, 300], [300, i, 300], [300, *spaces, 300], [*spaces, 300, *spaces]):
            assert [fast.decode(ids)] == tokenizer.decode([ids])


@given(st.lists(st.sampled_from(WORDS), max_size=9))
@example(["(", "(", "l", "'", "eau", ")", ")", "."])
@example(["l", "'", "n", "'", "l", "-", "l", "’"])
@settings(max_examples=300, deadline=None)
def test_whole_words_are_joined_as_ours(words: list[str]) -> None:
    tokenizer = train_tokenizer(iter([" ".join(WORDS)] * 2), TokenizerConfig("wordlevel", 100, 1))
    ids = [i for i in (tokenizer.fast.token_to_id(word) for word in words) if i is not None]
    assert [reloaded(tokenizer).decode(ids)] == tokenizer.decode([ids])


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_in_the_order_of_its_ids(kind: str) -> None:
    tokenizer = tokenizer_pair(kind, joint=True).src
    tokens = tokens_by_id(stand_alone(tokenizer))
    assert len(tokens) == tokenizer.vocab_size
    assert [tokenizer.fast.token_to_id(token) for token in tokens] == list(range(len(tokens)))
    assert tokens[:4] == ["<pad>", "<unk>", "<bos>", "<eos>"]
