"""What the page to try a model answers: translations of a text and pictures of attention. Knows nothing of the page."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from accel_tx.config import UserError
from accel_tx.inference.attention_map import attention_map
from accel_tx.inference.attention_picture import as_file, can_draw, draw
from accel_tx.inference.parts import TranslatedLine, parts_of
from accel_tx.inference.stream import clean_text
from accel_tx.inference.translator import Translator

LengthPenalty = Literal["average", "gnmt", "none"]
MOST_CHARS = 20_000
"""Of a text. One after the other is answered, so that who pastes a book does not make all others wait."""
LARGEST_BEAM = 32
_MOST = 1e9
_N_WORDS_SHOWN = 8
_LONGEST_SHOWN_CHARS = 50


class About(NamedTuple):
    """What the page says of the model."""

    title: str
    description: str
    src_lang: str
    tgt_lang: str


@dataclass(frozen=True)
class Asked:
    """How to search; the rest is as in the run's section `decode`, without its sampling."""

    beam_size: int = 5
    n_best: int = 1
    length_penalty: LengthPenalty = "average"
    length_exponent: float = 1.0

    @classmethod
    def usual(cls, translator: Translator) -> Asked:
        """As `translate` searches with this run, with a beam that is allowed here."""
        usual = translator.decode
        beam_size = min(usual.beam_size, LARGEST_BEAM)
        return cls(beam_size, min(usual.n_best, beam_size), usual.length_penalty, usual.length_exponent)

    @classmethod
    def read(cls, beam_size: Any, n_best: Any, length_penalty: Any, length_exponent: Any) -> Asked:
        """From what a visitor sent. Raises: UserError that names what is no number."""
        whole = {"beam_size": beam_size, "n_best": n_best}
        for name, value in (*whole.items(), ("length_exponent", length_exponent)):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST
            if not is_number or (name in whole and value != int(value)):
                shown = json.dumps(value, default=str)[:_LONGEST_SHOWN_CHARS]
                raise UserError(f"{name} is {shown}; expected a {'whole ' if name in whole else ''}number.")
        return cls(int(beam_size), int(n_best), length_penalty, float(length_exponent))

    def of(self, translator: Translator) -> Translator:
        """The same model, searching like this. Raises: UserError for numbers that do not fit."""
        if not 1 <= self.beam_size <= LARGEST_BEAM:
            raise UserError(f"The beam is {self.beam_size}; expected from 1 to {LARGEST_BEAM}.")
        if not 1 <= self.n_best <= self.beam_size:
            raise UserError(
                f"{self.n_best} translations of a line need a beam of at least {self.n_best}; this one is "
                f"{self.beam_size}. Make the beam larger, or ask for fewer."
            )
        if self.length_penalty not in get_args(LengthPenalty):
            known = ", ".join(get_args(LengthPenalty))
            raise UserError(f"The length penalty is {self.length_penalty}; expected one of {known}.")
        settings = dataclasses.replace(
            translator.decode.for_validation(self.beam_size),
            n_best=self.n_best,
            length_penalty=self.length_penalty,
            length_exponent=self.length_exponent,
        )
        return Translator(translator.model, translator.tokenizers, settings)


@dataclass(frozen=True)
class Answer:
    """The translations of a text, line by line."""

    lines: list[TranslatedLine]
    sentences: list[str]
    """What the model took in one go, in order: a line, or a part of one that was too long for it."""
    remarks: list[str]
    """What is to be said about them, a sentence each."""

    @property
    def text(self) -> str:
        """The best translation of each line."""
        return "\n".join(line.translations[0].text for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; numbers are null where the model was not asked."""
        return {
            "translation": self.text,
            "lines": [
                [
                    {
                        "text": one.text,
                        "log_prob": one.log_prob if line.n_searched else None,
                        "score": one.score if line.n_searched else None,
                    }
                    for one in line.translations
                ]
                for line in self.lines
            ],
            "remarks": self.remarks,
        }


@dataclass(frozen=True)
class Picture:
    """Where the decoder looked."""

    png: bytes
    translation: str
    """Of the sentence, its rows."""
    title: str


def answer(translator: Translator, text: str, asked: Asked) -> Answer:
    """Translate every line of a text as `translate` does.

    Raises: UserError, in words for a page, for a text without words, one that is too long, or a search that cannot be.
    """
    began_at_s = time.monotonic()
    if not isinstance(text, str):  # a program may send anything
        shown = json.dumps(text, default=str)[:_LONGEST_SHOWN_CHARS]
        raise UserError(f"text is {shown}; expected a text.")
    if not text.strip():
        raise UserError("There is nothing to translate: write a sentence, or choose an example.")
    if len(text) > MOST_CHARS:
        raise UserError(
            f"The text has {len(text):,} characters; this page takes up to {MOST_CHARS:,}. "
            "For files there is the command `translate`."
        )
    text, n_replaced = clean_text(text)
    lines = [line.removesuffix("\r") for line in text.rstrip().split("\n")]
    searching = asked.of(translator)
    found = searching.translate_lines(lines)
    parts = parts_of(lines, translator.tokenizers.src, translator.max_positions)
    remarks = _remarks(found, n_replaced, searching)
    seconds = time.monotonic() - began_at_s
    n_lines = sum(line.n_parts > 0 for line in found)
    remarks.insert(0, f"{n_lines:,} line{'s' if n_lines != 1 else ''} in {seconds:.2f} s.")
    return Answer(found, [part.text for of_line in parts for part in of_line], remarks)


def attention_picture(
    translator: Translator, sentence: str, asked: Asked, layer: int | None = None, head: int | None = None
) -> Picture:
    """The cross-attention of a sentence and its best translation; `layer` and `head` as `AttentionMap.of` takes them.

    Raises: UserError, in words for a page, where nothing can be drawn.
    """
    if not can_draw():
        raise UserError("The picture needs matplotlib, which is not installed here: pip install matplotlib")
    if not sentence.strip():
        raise UserError("There is no sentence to draw.")
    translation = dataclasses.replace(asked, n_best=1).of(translator).translate([sentence])[0]
    found = attention_map(translator.transformer, translator.tokenizers, sentence, translation)
    for name, value, n in (("layer", layer, found.n_layers), ("head", head, found.n_heads)):
        if value is not None and not 1 <= value <= n:
            raise UserError(f"The {name} is {value}; expected from 1 to {n}.")
    png, _ = as_file(draw(found, layer, head), "png")
    return Picture(png, translation, found.title(layer, head))


def _remarks(found: Sequence[TranslatedLine], n_replaced: int, translator: Translator) -> list[str]:
    remarks = []
    if translator.n_split:
        limit = translator.max_positions
        remarks.append(
            f"{translator.n_split:,} of them longer than the model's {limit} positions: translated sentence by "
            "sentence, or in smaller parts where a sentence is too long."
        )
    unknown = list(dict.fromkeys(word for line in found for word in line.unknown))
    if unknown:
        more = ", …" if len(unknown) > _N_WORDS_SHOWN else ""
        remarks.append(f"The vocabulary lacks {', '.join(unknown[:_N_WORDS_SHOWN])}{more}.")
    if translator.n_cut:
        remarks.append("A translation reached its length limit before its end.")
    if n_replaced:
        remarks.append(f"{n_replaced:,} characters that are no text were replaced.")
    return remarks
