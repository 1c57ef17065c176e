"""Text that can be mended is mended: a wrong encoding undone, invisible control characters taken out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accel_tx.data.characters import Bools

# What ftfy's remove_terminal_escapes and remove_control_chars take: C0 but for tab, line ends and form feed, DEL,
# deprecated format characters, byte order mark, interlinear annotations.
_CONTROLS = r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]"
_CONTROLS_RE = re.compile(_CONTROLS)
_CONTROLS_RE2 = re.sub(r"\\u(....)", r"\\x{\1}", _CONTROLS)
# A character of two or more bytes that was decoded byte by byte leaves two or more characters outside of ASCII side by
# side, or one before a space that was U+00A0; or a C1 control. Plain ASCII is never touched.
_MAYBE_MOJIBAKE = r"[^\x00-\x7f]{2}|[ÂÃà] |[\x{80}-\x{9f}]"
_MOST_ROUNDS = 8


@dataclass(frozen=True)
class Repaired:
    """Texts after the repairs, and which ones changed (n,)."""

    texts: pa.Array
    mojibake: Bools
    control_characters: Bools


def repair(texts: pa.Array, mojibake: bool, control_characters: bool) -> Repaired:
    """Mend the texts (n,); mending what was mended changes nothing.

    Source: ftfy.fix_encoding (without its changes of quotes, widths, ligatures and entities, which are no damage).
    """
    has_mojibake = np.zeros(len(texts), bool)
    has_controls = np.zeros(len(texts), bool)
    if control_characters:
        has_controls = _matches(texts, _CONTROLS_RE2)
    candidates = np.flatnonzero(has_controls)
    if mojibake:
        candidates = np.flatnonzero(has_controls | _matches(texts, _MAYBE_MOJIBAKE))
    mended: dict[int, str] = {}
    for row in candidates:
        text = texts[int(row)].as_py()
        better, had_mojibake, had_controls = _mend(text, mojibake, control_characters)
        if better != text:
            mended[int(row)] = better
        has_mojibake[row], has_controls[row] = had_mojibake, had_controls
    if mended:
        changed = np.zeros(len(texts), bool)
        changed[list(mended)] = True
        texts = pc.replace_with_mask(texts, pa.array(changed), pa.array(mended.values(), pa.string()))
    return Repaired(texts, has_mojibake, has_controls)


def looks_like_mojibake(texts: pa.Array) -> Bools:
    """Whether each text (n,) looks as if it had been decoded with the wrong encoding. Source: ftfy.badness.is_bad."""
    flags = np.zeros(len(texts), bool)
    for row in np.flatnonzero(_matches(texts, _MAYBE_MOJIBAKE)):
        flags[row] = _is_bad(texts[int(row)].as_py())
    return flags


def _mend(text: str, mojibake: bool, control_characters: bool) -> tuple[str, bool, bool]:
    had_mojibake = had_controls = False
    for _ in range(_MOST_ROUNDS):
        before = text
        if mojibake:
            text = _fix_encoding(text)
            had_mojibake |= text != before
        if control_characters:
            without = _CONTROLS_RE.sub("", text)
            had_controls |= without != text
            text = without
        if text == before:
            break
    return text, had_mojibake, had_controls


def _fix_encoding(text: str) -> str:
    import ftfy
    from ftfy.fixes import fix_c1_controls

    # fix_encoding asks is_bad first as well, after more work.
    if _is_bad(text):
        text = ftfy.fix_encoding(text)
    return fix_c1_controls(text)


def _is_bad(text: str) -> bool:
    from ftfy.badness import is_bad

    return bool(is_bad(text))


def _matches(texts: pa.Array, pattern: str) -> Bools:
    return pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
