"""JSON Lines in and out: one object a line, whatever characters its texts hold."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from accel_tx.config import UserError
from accel_tx.inference.stream import REPLACEMENT, Line, clean_text, readable

# Characters that JSON allows in a string and that some readers take for a line's end, and half a surrogate pair, which
# is no UTF-8.
_TO_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_REASON_CHARS = 200


def dump_line(values: dict[str, Any], where: str = "JSON") -> str:
    """One line of JSON, readable where that is safe.

    Raises: UserError that begins with `where` if it is nested too deeply.
    """
    text = _written(values, where, ensure_ascii=False, allow_nan=False)
    return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def parse_line(line: Line, key: str, name: str) -> tuple[dict[str, Any], Line]:
    """The object of a line of the input `name`, and the line of text that stands in it under `key`.

    Raises: UserError if it is no object, or holds no such text.
    """
    where = f"{readable(name)}: line {line.number}"
    expected = f'expected one JSON object a line with a text "{key}"'
    try:
        values = json.loads(line.text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON_CHARS]
        raise UserError(f"{where} is not valid JSON ({reason}); {expected}") from None
    if not isinstance(values, dict) or not isinstance(values.get(key), str):
        found = (
            f"keys {', '.join(map(json.dumps, values)) or 'none'}"[:_LONGEST_REASON_CHARS]
            if isinstance(values, dict)
            else "no object"
        )
        raise UserError(f"{where} holds {found}; {expected}")
    text, n_replaced = clean_text(values[key])
    return values, Line(line.number, text, line.n_replaced + n_replaced)


def optional_text(values: dict[str, Any], key: str, line: Line, name: str) -> str:
    """The text under `key` in the object of a line of the input `name`; empty where there is none, or null.

    Raises: UserError if it is something else, or holds what is no text.
    """
    text = values.get(key)
    if text is None:
        return ""
    where = f'{readable(name)}: line {line.number} has "{key}"'
    if not isinstance(text, str):
        shown = _written(text, where)[:_LONGEST_REASON_CHARS]
        raise UserError(f"{where} {shown}; expected a text, or no such key")
    if clean_text(text)[1] or (line.n_replaced and REPLACEMENT in text):
        raise UserError(f"{where} with bytes that are not UTF-8, NUL or half a surrogate pair; expected text")
    return text


def _written(value: Any, where: str, **form: Any) -> str:
    # The parser takes one or two levels more than the writer.
    try:
        return json.dumps(value, **form)
    except RecursionError:
        raise UserError(f"{where} nested too deeply to be written again; expected a flatter object") from None


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
