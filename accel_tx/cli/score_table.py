"""Scores for the terminal: a line a metric, and a table where systems are compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accel_tx.inference.comparison import MetricScores, SystemScore
    from accel_tx.inference.resampling import Resampling

_NAME_COLUMNS = len("chrF2++")
_PIPED_COLUMNS = 120


def print_scores(found: Mapping[str, MetricScores], comet: float | None, drawn: Resampling, n_sentences: int) -> None:
    """One system: its scores with intervals and signatures."""
    for key, metric in found.items():
        system = metric.systems[0]
        around = f" {_interval(key, system)}" if system.interval else ""
        print(f"{metric.name:<{_NAME_COLUMNS}} {_number(key, system.score)}{around}   {metric.signature}")
    if comet is not None:
        print(f"{'COMET':<{_NAME_COLUMNS}} {comet:.4f}")
    print("\n".join(_notes(drawn, n_sentences)))


def print_comparison(
    names: Sequence[str],
    found: Mapping[str, MetricScores],
    comet: Sequence[float] | None,
    drawn: Resampling,
    n_sentences: int,
) -> None:
    """The first system and the others as a table, and the signatures below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("system", overflow="fold")
    for title in ("score", "95 % interval", "difference", "p bootstrap", "p randomization"):
        table.add_column(title, justify="right", no_wrap=True)
    for key, metric in found.items():
        for row, (name, system) in enumerate(zip(names, metric.systems, strict=True)):
            table.add_row("" if row else metric.name, name, *_cells(key, system), end_section=row == len(names) - 1)
    for row, (name, score) in enumerate(zip(names, comet or [])):
        difference = f"{score - comet[0]:+.4f}" if row and comet else ""
        table.add_row("" if row else "COMET", name, f"{score:.4f}", "", difference)
    # Where nobody sees a terminal, rich would take 80 columns.
    Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS, highlight=False, markup=False).print(table)
    print()
    for metric in found.values():
        print(f"{metric.name:<{_NAME_COLUMNS}} {metric.signature}")
    print("\n".join(_notes(drawn, n_sentences)))
    print(f"difference: to {names[0]}; p: how likely so large a one is where both systems are equally good")


def _notes(drawn: Resampling, n_sentences: int) -> Iterator[str]:
    yield f"{n_sentences:,} sentences"
    if drawn.n_resamples:
        yield f"intervals: where 95 % of {drawn.n_resamples:,} bootstrap resamples of the sentences lie"


def _cells(key: str, system: SystemScore) -> list[str]:
    difference = "" if system.difference is None else _number(key, system.difference, sign="+")
    p_values = ["" if p is None else f"{p:.4f}" for p in (system.p_bootstrap, system.p_randomization)]
    return [_number(key, system.score), _interval(key, system), difference, *p_values]


def _interval(key: str, system: SystemScore) -> str:
    around = system.interval
    return "" if around is None else f"[{_number(key, around.low)}, {_number(key, around.high)}]"


def _number(key: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{4 if key in ('cer', 'wer') else 2}f}"
