"""What the HTML pages are made of: one file that needs nothing else, no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from accel_tx.data.report_style import STYLE


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """The whole document; `body` is HTML, and `style` stands behind the style sheet that the pages share."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{STYLE}{style}</style>'
        f"</head><body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A box with a heading; `body` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def table_row(cells: Sequence[str], tag: str) -> str:
    """A row of a table, of `th` or `td`; cells are text."""
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def table_rows(of_text: Iterable[Sequence[str]]) -> str:
    """The rows of a table's body."""
    return "".join(table_row(cells, "td") for cells in of_text)
