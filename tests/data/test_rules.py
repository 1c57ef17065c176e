"""Each cleaning rule on cases written by hand, in several scripts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.config import CleanConfig
from accel_tx.data.characters import TextBatch
from accel_tx.data.language import base_language, scripts_of
from accel_tx.data.numbers_in_text import numbers_disagree
from accel_tx.data.repair import looks_like_mojibake, repair
from accel_tx.data.rules import RULES, PairBatch, objections, pair_rules
from accel_tx.data.rules_pair import MOST_CHARS_COMPARED
from tests.conftest import REPOSITORY


def taken_by(rule: str, value: Any, pairs: list[tuple[str, str]], langs: tuple[str, str] = ("en", "fr")) -> list[bool]:
    """Which pairs the rule objects to, judged in one batch."""
    src, tgt = zip(*pairs, strict=True)
    batch = PairBatch.from_arrow(pa.array(src), pa.array(tgt), *langs)
    bits = objections(batch, CleanConfig(preset="none", **{rule: value}).rules())
    return [bool(b >> 1 & 1) for b in bits]


CASES: dict[str, tuple[Any, tuple[str, str], list[tuple[str, str]], list[tuple[str, str]]]] = {
    # rule: threshold, languages, pairs that stay, pairs that it takes
    "min_words": (2, ("en", "fr"), [("a b", "c.")], [("a b", "c"), ("a", "b c")]),
    "max_words": (3, ("en", "fr"), [("a b c", "d, e")], [("a b c d", "e"), ("e", "a, b.")]),
    "min_chars": (3, ("en", "el"), [("abc", "αβγ")], [("abc", "αβ")]),
    "max_chars": (3, ("en", "el"), [("abc", "αβγ"), ("a😀b", "α")], [("abc", "αβγδ")]),
    "max_word_difference": (1, ("en", "fr"), [("a b", "c d e")], [("a b", "c"), ("a", "b c d")][1:]),
    "max_char_difference": (2, ("en", "fr"), [("abc", "a")], [("a", "abcd")]),
    "max_word_ratio": (
        2.0,
        ("en", "zh"),
        [
            ("one two", "a b c d e"),
            ("a " * 10, "b " * 20),
            ("he walks his dog in the park every day", "他每天在公园遛狗"),
        ],
        [("a " * 10, "b " * 21), ("b " * 12, "a")],
    ),
    "max_char_ratio": (
        2.0,
        ("en", "zh"),
        [("a" * 5, "b" * 25), ("a" * 30, "b" * 60), ("a" * 60, "狗" * 15)],
        [("a" * 30, "b" * 61), ("a" * 60, "狗" * 14)],
    ),
    "max_word_chars": (
        5,
        ("en", "ja"),
        [("abcde fghij", "老人は毎朝公園を散歩します"), ("abcde\u00a0fghij", "x"), ("ab", "cd"), ("abcde", "x")],
        [("abcdef", "x"), ("x", "ab cdefgh")],
    ),
    "max_char_repeats": (
        3,
        ("en", "ru"),
        [("aaa", "1000000"), ("aaa", "x"), ("wait...", "ждёмммм"[:6]), ("a aa", "a     b")],
        [("wait....", "x"), ("x", "даааа")],
    ),
    "max_word_repeats": (
        2,
        ("en", "el"),
        [("no no", "όχι όχι"), ("no", "no no"), ("well, I know I know", "x"), ("versions 1.1, 1.2, 1.3", "x")],
        [("no, no, no!", "x"), ("x", "όχι όχι όχι"), ("a b a b a b", "x"), ("a b c d a b c d a b c d", "x")],
    ),
    "min_letter_share": (
        0.5,
        ("en", "hi"),
        [("ab 12", "x"), ("café", "नमस्ते")],
        [("a 12", "x"), ("x", "+++ 5")],
    ),
    "broken_characters": (
        True,
        ("en", "fr"),
        [("café", "ok…")],
        [("caf\ufffd", "x"), ("x", "a\x92b"), ("\ue001", "x")],
    ),
    "identical": (
        3,
        ("en", "fr"),
        [("New York", "New York"), ("1 2 3 4", "1 2 3 4"), ("a b c", "a b d"), ("one", "two three")],
        [("one two three", "One two, three!"), ("L'Île de Ré", "l’île de ré")],
    ),
    "urls": (
        True,
        ("en", "fr"),
        [
            ("see https://en.example.org/a.", "voir https://fr.example.org/b !"),
            ("mail a.b@example.com.", "écrire à a.b@example.com"),
            ("at 5 @ home", "à 5"),
            ("See http://example.com for more.", "详情请访问http://example.com。"),
            ("The site www.example.com is new.", "新网站www.example.com上线了"),
            ("From example: http://example.com", "http://example.com에서"),
            ("Write to info@example.com for more.", "请写信至info@example.com了解详情"),
            ("see www.müller.de", "voir www.müller.de"),
        ],
        [
            ("see www.example.org", "voir"),
            ("a@example.com", "b@example.com"),
            ("http://a.org", "http://b.org"),
            ("see www.müller.de", "voir www.möller.de"),
            ("http://example.com", "详情请访问http://example.org。"),
            ("http://example.com", "请访问"),
        ],
    ),
    "markup": (
        True,
        ("en", "fr"),
        [
            ("<b>a</b> {0} %s", "%s {0} <b>b</b>"),
            ('<a href="x">a</a>', '<a href="y">b</a>'),
            ("50 % sure, 5 < 6", "sûr à 50 %"),
            ("R&D & more", "R&D et plus"),
            ("100% done", "100 % des"),
            ("Found %d files in the folder.", "在文件夹中找到%d个文件。"),
            ("%d files", "파일 %d개"),
            ("The file %s.", "文件%s。"),
        ],
        [("<b>a</b>", "b"), ("a &amp; b", "a & b"), ("{name}", "{nom}"), ("%s", "x"), ("%1$s of %2", "%1$s")],
    ),
    "terminal_punctuation": (
        True,
        ("en", "zh"),
        [
            ("It rains.", "下雨了。"),
            ("He said “yes.”", "« Oui ! »"),
            ("A title", "Un titre"),
            ("So:", "Donc :"),
            ("“That is good.”", "„Das ist gut.“"),
            ('"That is good."', "»Das ist gut.«"),
            ("He said, “I am going home now.”", "他说：「我现在要回家了。」"),
            ("(It is raining today.)", "（今天下雨了。）"),
            ("It rains.", "Il pleut.\n"),
            ("He said it.\u200f", "אמר.\u200f"),
        ],
        [("It rains.", "下雨"), ("It rains", "Il pleut.")],
    ),
}


@pytest.mark.parametrize("preset", ["original", "light", "standard", "strict"])
@pytest.mark.parametrize(
    ("src", "tgt"),
    [
        ("a" * 1_000_000 + "@ ://", "b" * 1_000_000 + "@ ://"),
        ("www.a(" * 150_000, "a@b." * 250_000),
        (" ".join(map(str, range(150_000))), " ".join(map(str, range(3, 1_000_000, 7)))),
    ],
    ids=["letters", "addresses", "numbers"],
)
def test_a_line_of_a_megabyte_takes_no_rule_long(preset: str, src: str, tgt: str) -> None:
    pairs = PairBatch.from_arrow(pa.array(["a", src]), pa.array(["b", tgt]), "en", "fr")
    started_at_s = time.process_time()
    objections(pairs, CleanConfig(preset=preset).rules())
    assert time.process_time() - started_at_s < 5


@pytest.mark.parametrize("rule", ["numbers", "urls", "markup"])
def test_lines_as_long_as_are_compared_are_compared_quickly_and_longer_ones_not(rule: str) -> None:
    texts = {
        "numbers": (" ".join(map(str, range(100, 1200))), " ".join(map(str, range(2100, 3100)))),
        "urls": ("www.a(" * 800, "a" * 4_900 + "@b.org ://"),
        "markup": ("<a " * 1_600 + "<b>", "&amp;" * 900),
    }
    src, tgt = texts[rule]
    started_at_s = time.process_time()
    assert taken_by(rule, True, [(src, tgt)] * 10) == [True] * 10
    assert time.process_time() - started_at_s < 2
    assert taken_by(rule, True, [(src + " " * MOST_CHARS_COMPARED, tgt)]) == [False]


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_takes_what_is_wrong_and_nothing_else(rule: str) -> None:
    value, langs, good, bad = CASES[rule]
    assert taken_by(rule, value, good + bad, langs) == [False] * len(good) + [True] * len(bad)
    for pair in good:
        assert taken_by(rule, value, [pair], langs) == [False], pair
    for pair in bad:
        assert taken_by(rule, value, [pair], langs) == [True], pair


@pytest.mark.parametrize(
    ("lang", "own", "other"),
    [
        ("en", "The dog, 狗, barks at nothing.", "Собака лает."),
        ("ru", "Собака лает на кота.", "Sobaka laet."),
        ("el", "Ο σκύλος γαβγίζει.", "O skilos."),
        ("zh-Hans", "狗在叫，123。", "The dog."),
        ("ja", "犬がワンワンと吠えるー。", "La le lo."),
        ("ko", "개가 짖는다.", "Собака лает."),
        ("ar", "الكلب ينبح", "The dog."),
        ("hi", "कुत्ता भौंकता है।", "The dog."),
        ("ka", "ძაღლი ყეფს", "The dog."),
    ],
)
def test_the_expected_script_follows_from_the_language(lang: str, own: str, other: str) -> None:
    assert taken_by("min_script_share", 0.7, [(own, "x"), (other, "x"), ("12 !", "x")], (lang, "en")) == [
        False,
        True,
        False,
    ]
    assert taken_by("min_script_share", 1.0, [(other, "x")], ("some code", "en")) == [False]


def test_codes_of_languages_may_have_three_letters_or_a_region() -> None:
    assert [base_language(code) for code in ("en", "EN-gb", "eng_Latn", "zh_CN", "xx")] == [
        "en",
        "en",
        "en",
        "zh",
        "xx",
    ]
    assert scripts_of("rus_Cyrl") == ("Cyrillic",)


@pytest.mark.parametrize(
    ("src", "tgt", "disagree"),
    [
        ("two men", "2 hommes", False),
        ("10,000 people", "dix mille personnes", False),
        ("1,234.50 euros", "1 234,5 euros", False),
        ("1,234 euros", "1\u202f234 euros", False),
        ("1.5 million", "1 500 000", False),
        ("at 3 pm", "à 15 h", False),
        ("in the 1990s", "dans les années 90", False),
        ("05/06/2020", "6.5.2020", False),
        ("12/31/2020", "31.12.2020", False),
        ("version 3.2.1", "version 3.2.1", False),
        ("page ١٢", "page 12", False),
        ("m²", "m2", False),
        ("page 12", "page 13", True),
        ("room 417", "salle 471", True),
        ("in 1984", "en ce temps", True),
        ("3.14", "3,15", True),
        ("from 5 to 7", "de 5 à 8", True),
        ("1,000 or 250", "1 000 ou 205", True),
    ],
)
def test_numbers_are_compared_whatever_their_separators_and_words(src: str, tgt: str, disagree: bool) -> None:
    assert numbers_disagree(src, tgt) is disagree
    assert numbers_disagree(tgt, src) is disagree
    assert taken_by("numbers", True, [("no", "non"), (src, tgt)]) == [False, disagree]


SENTENCES = {
    "en": "The old man walks his dog every morning in the park.",
    "fr": "Le vieil homme promène son chien chaque matin dans le parc.",
    "de": "Der alte Mann geht jeden Morgen mit seinem Hund spazieren.",
    "ru": "Старик каждое утро гуляет со своей собакой в парке.",
    "zh": "老人每天早上带着他的狗在公园里散步。",
    "nb": "Den gamle mannen går tur med hunden sin hver morgen.",
    "hr": "Stari čovjek svako jutro šeta svog psa u parku.",
}


def test_the_model_in_the_package_tells_languages_apart_and_spares_short_lines() -> None:
    for lang, own in SENTENCES.items():
        for other in SENTENCES.values():
            assert taken_by("language", 0.5, [(own, other)], ("no" if lang == "nb" else lang, lang)) == [own != other]
    short = [("Reset", "Recto"), ("OK", "OK"), ("...", "123"), ("Form Wizard", "Http Proxy")]
    assert taken_by("language", 0.2, short) == [False] * 4
    assert taken_by("language", 0.5, [(SENTENCES["en"].upper(), SENTENCES["fr"].upper())]) == [False]


def test_the_model_needs_no_network_and_no_file_outside_of_its_package() -> None:
    program = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('no network in this test')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from accel_tx.data.language import check_language_is_known\n"
        "check_language_is_known('data.src_lang', 'fr')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "FTLANG_CACHE": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


MOJIBAKE: dict[str, Callable[[str], str]] = {
    "latin-1": lambda text: text.encode().decode("latin-1"),
    "windows-1252": lambda text: text.encode().decode("cp1252", errors="ignore"),
}


@pytest.mark.parametrize("encoding", MOJIBAKE)
@pytest.mark.parametrize("text", ["Où est la forêt ?", "Grüße aus Köln", "naïve café", "l’été", "Привет, мир"])
def test_wrongly_decoded_text_is_mended_and_plain_text_left_alone(text: str, encoding: str) -> None:
    wrong = MOJIBAKE[encoding](text)
    if encoding == "windows-1252" and wrong.encode("cp1252") != text.encode():
        pytest.skip("windows-1252 cannot hold every byte of this text")
    mended = repair(pa.array([wrong, text, "plain"]), mojibake=True, control_characters=True)
    assert mended.texts.to_pylist() == [text, text, "plain"]
    assert mended.mojibake.tolist() == [True, False, False]
    assert not looks_like_mojibake(mended.texts).any()
    assert looks_like_mojibake(pa.array([wrong]))[0]


def test_a_repair_that_makes_way_for_another_is_followed_by_it() -> None:
    mended = repair(pa.array(["caf\u00c3\x00\u00a9 cr\u00c3\u00a8me"]), mojibake=True, control_characters=True)
    again = repair(mended.texts, mojibake=True, control_characters=True)
    assert mended.texts.to_pylist() == again.texts.to_pylist() == ["café crème"]
    assert mended.mojibake.tolist() == mended.control_characters.tolist() == [True]


def test_control_characters_are_taken_out_and_typography_stays() -> None:
    texts = ["a\x00b\x07", "\x1b[31mred\x1b[0m", "\ufeffBOM", "tab\tnbsp\u00a0“quotes” …ﬁ\u200d", "x"]
    mended = repair(pa.array(texts), mojibake=False, control_characters=True)
    assert mended.texts.to_pylist() == ["ab", "red", "BOM", texts[3], "x"]
    assert mended.control_characters.tolist() == [True, True, True, False, False]


def test_words_are_cut_as_the_pre_tokenizer_cuts_at_every_character_of_unicode() -> None:
    codes = [code for code in range(1, 0x20000, 7) if not 0xD800 <= code < 0xE000]
    texts = [f"a{chr(code)}a {chr(code)}{chr(code)}" for code in codes]
    cut = Whitespace().pre_tokenize_str
    assert TextBatch(pa.array(texts)).n_words.tolist() == [len(cut(text)) for text in texts]


def test_rules_see_the_same_in_a_slice_of_a_batch_and_in_an_empty_one() -> None:
    texts = pa.array(["no no no no", "café 狗", "", "a" * 90, "plain text."])
    rules = CleanConfig(preset="strict", without="language").rules()
    whole = objections(PairBatch.from_arrow(texts, texts, "en", "fr"), rules)
    for i in range(len(texts)):
        one = texts.slice(i, 1)
        assert objections(PairBatch.from_arrow(one, one, "en", "fr"), rules).tolist() == [whole[i]]
    none = texts.slice(2, 0)
    assert objections(PairBatch.from_arrow(none, none, "en", "fr"), rules).dtype == np.uint32


def test_every_threshold_has_a_rule_or_is_judged_over_all_pairs() -> None:
    everything = {name: 1 for name in CleanConfig.__dataclass_fields__ if name not in ("preset", "without")}
    rest = {"control_characters", "exact_duplicates", "near_duplicates", "overlap"}
    assert pair_rules(everything).keys() == RULES.keys()
    assert everything.keys() - RULES.keys() == rest
    assert RULES.keys() - everything.keys() == {"empty side"}
