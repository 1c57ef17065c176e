"""Texts that say the same in another spelling share a key; others do not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from accel_tx.data.keys import content_keys


def key(text: str) -> int:
    return int(content_keys(pa.array([text]))[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The cat sleeps.", "the CAT sleeps"),
        ("l'eau est froide", "l’eau  est\u00a0froide !"),
        ("« Oui », dit-il.", '"Oui", dit-il.'),
        ("a\tb\u200bc", "abc"),
        ("cafe\u0301", "café"),
        ("ﬁn", "fin"),
        ("Ünï", "ünï"),
        ("l'eau", "l´eau"),
        ("l'eau", "l\u02bceau"),
        ("c'est l'été", "c`est l\u1ffdété"),
        ('"Wort"', "¨Wort¨"),
        ("straße", "STRASSE"),
        ("Straße", "STRAẞE"),
        ("ὁδός", "ὉΔΌΣ"),
        ("οδος", "ΟΔΟΣ"),
        ("istanbul", "İSTANBUL"),
        ("ısı", "ISI"),
        ("h\u0331", "H\u0331"),
        ("𝐀b", "ab"),
    ],
)
def test_spellings_of_one_text_share_a_key(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("cat", "cats"), ("5 euros", "6 euros"), ("1 + 1", "1 1"), ("?", "!"), ("कि", "का"), ("été", "ete"), ("", "?")],
)
def test_different_texts_have_different_keys(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_letters_are_folded_as_python_folds_them() -> None:
    letters = [chr(code) for code in range(0x110000) if chr(code).isalpha() and not 0x1C80 <= code < 0x1C89]
    # Greek with an iota subscript: two letters when it is folded.
    letters = [letter for letter in letters if not (0x1F80 <= ord(letter) < 0x2000 and letter.casefold().endswith("ι"))]
    folded = content_keys(pa.array([letter.casefold() for letter in letters]))
    assert [c for c, same in zip(letters, folded == content_keys(pa.array(letters)), strict=True) if not same] == []
    single = [letter for letter in letters if len(letter.upper()) == 1]
    upper = content_keys(pa.array([letter.upper() for letter in single]))
    assert [c for c, same in zip(single, upper == content_keys(pa.array(single)), strict=True) if not same] == []
    assert len(single) > 100_000


def test_keys_do_not_depend_on_chunks_or_batch() -> None:
    texts = [f"sentence number {i}" for i in range(100)]
    whole = content_keys(pa.array(texts))
    assert len(set(whole.tolist())) == 100
    np.testing.assert_array_equal(content_keys(pa.chunked_array([texts[:7], texts[7:]])), whole)
