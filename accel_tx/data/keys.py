"""One number for all spellings of a text: equal keys mean the same words, whatever case, spaces, quotes and dots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

# Punctuation, separators and control characters; letters keep their marks, and signs such as + and € stay.
_FOLDED = r"[\pP\pZ\pC`´¨^]+"


def content_keys(texts: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """Key of each text (n,): equal for texts that differ only in case, spaces, quotes and other punctuation.

    A text of nothing but punctuation keeps it. Two different texts among 100 million share a key with a chance of
    about 1 in 4,000 (64 bits).
    """
    lowered = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    folded = pc.replace_substring_regex(lowered, pattern=_FOLDED, replacement="")
    folded = pc.if_else(pc.equal(pc.binary_length(folded), 0), lowered, folded)
    digests = (xxhash.xxh3_64_intdigest(text) for text in _bytes_of(folded))
    return np.fromiter(digests, dtype=np.uint64, count=len(folded))


def _bytes_of(texts: Any) -> list[bytes]:
    return texts.cast(pa.large_binary()).to_pylist()  # type: ignore[no-any-return]
