"""What the page to try a model answers is what the commands answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from accel_tx.config import DecodeConfig, ModelConfig, TokenizerConfig, UserError
from accel_tx.data.tokenizer import EOS_ID, TokenizerPair, train_tokenizer
from accel_tx.inference.translator import Translator
from accel_tx.model.transformer import Transformer
from accel_tx.pages import answers
from accel_tx.pages.answers import LARGEST_BEAM, MOST_CHARS, Asked, answer, attention_picture

LINES = ["the queen reads a letter", "it is late", "the garden is green", "where is the key", "a key is in the letter"]
LONG = "The queen reads a letter. It is late. " * 5
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def translator() -> Translator:
    """An untrained model with lively logits, of 16 positions."""
    tokenizer = train_tokenizer(iter([*LINES, "The It ."] * 2), TokenizerConfig("wordlevel", min_frequency=1))
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"d_model": 16, "d_ff": 24, "n_heads": 2, "n_encoder_layers": 1, "n_decoder_layers": 2}
    model = Transformer(ModelConfig(**sizes, max_positions=16), tokenizer.vocab_size, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.output_bias[EOS_ID] += 1
    return Translator(model, TokenizerPair(tokenizer, tokenizer), DecodeConfig(max_len_extra=4, unknown="copy"))


def test_a_text_is_answered_line_by_line_as_by_translate(translator: Translator) -> None:
    lines = ["the queen reads a letter", "", LONG, "  it is late"]
    found = answer(translator, "\n".join(lines) + "\n\n", Asked(beam_size=5))
    assert found.text.split("\n") == translator.translate(lines)
    assert found.lines[2].n_parts > 1
    assert found.sentences[0] == lines[0]
    assert found.sentences[-1] == "it is late"
    assert " ".join(found.sentences[1:-1]) == LONG.strip()
    assert found.remarks[0].startswith("3 lines in ")
    assert "1 of them longer than the model's 16 positions" in found.remarks[1]


@pytest.mark.parametrize("penalty", ["average", "gnmt", "none"])
def test_the_search_is_the_one_asked_for(penalty: Any, translator: Translator) -> None:
    asked = Asked(beam_size=4, n_best=3, length_penalty=penalty, length_exponent=0.6)
    settings = {"beam_size": 4, "n_best": 3, "length_penalty": penalty, "length_exponent": 0.6}
    other = Translator(translator.model, translator.tokenizers, dataclasses.replace(translator.decode, **settings))
    found = answer(translator, LINES[0], asked).lines[0].translations
    assert found == other.n_best([LINES[0]])[0]
    assert len(found) == 3


def test_a_run_that_samples_is_searched_here(translator: Translator) -> None:
    decode = dataclasses.replace(translator.decode, sampling=True, n_best=7, temperature=1.5)
    samples = Translator(translator.model, translator.tokenizers, decode)
    assert answer(samples, LINES[0], Asked()).text == translator.translate(LINES[:1])[0]


def test_what_is_odd_in_a_text_is_remarked(translator: Translator) -> None:
    found = answer(translator, "xylophone\0 the queen\r\nzebra", Asked())
    remarks = " ".join(found.remarks)
    assert "lacks xylophone" in remarks
    assert "1 characters that are no text" in remarks
    assert found.lines[1].translations[0].text == "zebra"
    assert found.to_dict()["lines"][1] == [{"text": "zebra", "log_prob": None, "score": None}]


def test_the_usual_search_is_the_one_of_the_run(translator: Translator) -> None:
    def usual(**fields: Any) -> Asked:
        decode = dataclasses.replace(translator.decode, **fields)
        return Asked.usual(Translator(translator.model, translator.tokenizers, decode))

    assert usual(beam_size=2, length_penalty="gnmt", length_exponent=0.65) == Asked(2, 1, "gnmt", 0.65)
    assert usual(beam_size=4, n_best=3) == Asked(beam_size=4, n_best=3)
    assert usual(beam_size=100, n_best=50) == Asked(beam_size=LARGEST_BEAM, n_best=LARGEST_BEAM)
    assert usual(sampling=True, beam_size=2, n_best=7) == Asked(beam_size=2, n_best=2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("beam_size", None, "beam_size is null; expected a whole number"),
        ("beam_size", 2.5, "beam_size is 2.5; expected a whole number"),
        ("beam_size", float("inf"), "beam_size is Infinity"),
        ("n_best", "three", 'n_best is "three"; expected a whole number'),
        ("n_best", 10**400, "n_best is 1000"),
        ("n_best", [1], r"n_best is \[1\]"),
        ("n_best", True, "n_best is true"),
        ("length_exponent", "x" * 1_000, 'length_exponent is "x{49}; expected a number'),
        ("length_exponent", float("nan"), "length_exponent is NaN"),
    ],
)
def test_what_is_no_number_is_named(name: str, value: Any, expected: str) -> None:
    given = {"beam_size": 2.0, "n_best": 1, "length_penalty": "none", "length_exponent": 1}
    assert Asked.read(**given) == Asked(2, 1, "none", 1.0)
    with pytest.raises(UserError, match=expected):
        Asked.read(**{**given, name: value})


@pytest.mark.parametrize(
    ("text", "asked", "expected"),
    [
        (None, Asked(), "text is null; expected a text"),
        ("", Asked(), "nothing to translate"),
        (" \n\t\n", Asked(), "nothing to translate"),
        ("a" * (MOST_CHARS + 1), Asked(), "20,001 characters"),
        ("a", Asked(beam_size=0), "beam is 0"),
        ("a", Asked(beam_size=33), "beam is 33"),
        ("a", Asked(beam_size=2, n_best=3), "beam of at least 3"),
        ("a", Asked(n_best=0), "0 translations"),
        ("a", Asked(length_penalty="square"), "length penalty is square"),  # type: ignore[arg-type]
        ("a", Asked(length_exponent=-1.0), "length_exponent is -1"),
        ("a", Asked(length_exponent=10.0), "length_exponent is 10.0; expected from 0.0 to below 10.0"),
    ],
)
def test_what_cannot_be_answered_is_said(text: Any, asked: Asked, expected: str, translator: Translator) -> None:
    with pytest.raises(UserError, match=expected):
        answer(translator, text, asked)


def test_the_picture_is_of_the_sentence_and_its_translation(translator: Translator) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    found = attention_picture(translator, LINES[0], Asked(beam_size=3), layer=1, head=2)
    assert found.png.startswith(PNG)
    assert found.translation == answer(translator, LINES[0], Asked(beam_size=3)).text
    assert found.title == "cross-attention, decoder layer 1 of 2, head 2 of 2"


def test_what_cannot_be_drawn_is_said(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "can_draw", lambda: True)
    for layer, head, expected in ((3, None, "layer is 3; expected from 1 to 2"), (None, 9, "head is 9")):
        with pytest.raises(UserError, match=expected):
            attention_picture(translator, LINES[0], Asked(), layer, head)
    with pytest.raises(UserError, match="no sentence"):
        attention_picture(translator, " ", Asked())
    monkeypatch.setattr(answers, "can_draw", lambda: False)
    with pytest.raises(UserError, match="pip install matplotlib"):
        attention_picture(translator, LINES[0], Asked())
