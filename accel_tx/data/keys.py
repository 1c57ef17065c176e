"""One number for all spellings of a text: equal keys mean the same words, whatever case, spaces, quotes and dots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

# Punctuation, separators and control characters; letters keep their marks, and signs such as + and € stay. NFKC makes
# a space and a mark of an accent that stands alone, such as ´. U+02BB to U+02BD are apostrophes that count as letters.
_FOLDED = r"(?:[\pP\pC`^\x{2bb}-\x{2bd}]|\pZ\p{Mn}*)+"
# What has several lower-case spellings: STRASSE, ΟΔΟΣ, and the dotted and dotless i of Turkish.
_SAME_LETTERS = (("ß", "ss"), ("ς", "σ"), ("i\u0307", "i"), ("ı", "i"))


def content_keys(texts: pa.Array | pa.ChunkedArray) -> Keys:
    """Key of each text (n,): equal for texts that differ only in case, spaces, quotes and other punctuation.

    Letters are folded as by `str.casefold`, but for the iota subscript of Greek and some historic letters of Cyrillic.
    A text of nothing but punctuation keeps it. Two different texts among 100 million share a key with a chance of
    about 1 in 4,000 (64 bits).
    """
    # Lowered before, so that marks find their letter (there is ẖ, but no capital of it); and after, for 𝐀.
    lowered = pc.utf8_lower(pc.utf8_normalize(pc.utf8_lower(texts), form="NFKC"))
    for spelling, same in _SAME_LETTERS:
        lowered = pc.replace_substring(lowered, pattern=spelling, replacement=same)
    folded = pc.replace_substring_regex(lowered, pattern=_FOLDED, replacement="")
    folded = pc.if_else(pc.equal(pc.binary_length(folded), 0), lowered, folded)
    digests = (xxhash.xxh3_64_intdigest(text) for text in _bytes_of(folded))
    return np.fromiter(digests, dtype=np.uint64, count=len(folded))


def combined_keys(src_keys: Keys, tgt_keys: Keys) -> Keys:
    """One key for each pair (n,), given the keys of its sides."""
    mixed = (src_keys ^ (src_keys >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    both: Keys = (mixed ^ (mixed >> np.uint64(29))) + tgt_keys
    return both


def _bytes_of(texts: Any) -> list[bytes]:
    return texts.cast(pa.large_binary()).to_pylist()  # type: ignore[no-any-return]
