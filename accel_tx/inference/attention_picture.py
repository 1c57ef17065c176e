"""A heat map of attention, drawn with matplotlib, which only this module needs."""

from __future__ import annotations

import importlib.util
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accel_tx.inference.attention_map import AttentionMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES_A_PIECE = 0.3
_DPI = 120
_MOST_PIECES = 80  # a picture of more can hardly be read, and takes seconds


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(attention: AttentionMap, layer: int | None = None, head: int | None = None) -> Figure:
    """Target pieces down the side, source pieces along the top; `layer` and `head` as `AttentionMap.of` takes them.

    Of a longer sentence only the first pieces are drawn, and the title says so.
    """
    from matplotlib.figure import Figure

    weights = attention.of(layer, head)[:_MOST_PIECES, :_MOST_PIECES]
    n_rows, n_columns = weights.shape
    size = (2.5 + _INCHES_A_PIECE * n_columns, 2.0 + _INCHES_A_PIECE * n_rows)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    # A text with dollar signs is no formula.
    axes.set_xticks(range(n_columns), _printable(attention.src_pieces[:n_columns]), rotation=90, parse_math=False)
    axes.set_yticks(range(n_rows), _printable(attention.tgt_pieces[:n_rows]), parse_math=False)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(n_columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n_rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    is_cut = len(attention.src_pieces) > n_columns or len(attention.tgt_pieces) > n_rows
    title = attention.title(layer, head) + (f"; the first {_MOST_PIECES} pieces of each side" if is_cut else "")
    figure.suptitle(title, fontsize=9, wrap=True)
    figure.colorbar(image, ax=axes, fraction=0.05, aspect=30)
    return figure


def as_file(figure: Figure, form: str) -> tuple[bytes, str | None]:
    """The picture as png, svg or pdf; and a remark on characters that the font lacks, if it lacks any."""
    content = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(content, format=form)
    return content.getvalue(), _missing_characters(caught)


def as_pixels(figure: Figure) -> NDArray[np.uint8]:
    """The picture as (height, width, 3) numbers from 0 to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks shows as a box
        canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels


def _printable(pieces: list[str]) -> list[str]:
    """Control characters as their escapes: an SVG that holds them is no XML, and elsewhere nobody sees them."""
    return ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in piece) for piece in pieces]


def _missing_characters(caught: list[warnings.WarningMessage]) -> str | None:
    n_missing = sum("missing from" in str(warning.message) for warning in caught)
    if not n_missing:
        return None
    return "matplotlib's font lacks some of the characters, which show as boxes; set font.family in a matplotlibrc file"
