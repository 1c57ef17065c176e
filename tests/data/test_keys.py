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


def test_keys_do_not_depend_on_chunks_or_batch() -> None:
    texts = [f"sentence number {i}" for i in range(100)]
    whole = content_keys(pa.array(texts))
    assert len(set(whole.tolist())) == 100
    np.testing.assert_array_equal(content_keys(pa.chunked_array([texts[:7], texts[7:]])), whole)
