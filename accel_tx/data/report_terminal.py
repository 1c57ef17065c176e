"""Statistics and forecast as compact tables for the terminal, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accel_tx.data.forecast import shown_epochs, shown_padding
from accel_tx.data.histogram import Histogram

if TYPE_CHECKING:
    from rich.table import Table


def text_table(statistics: Mapping[str, Any]) -> Table:
    """Lengths, ratios and duplicates, as read and as cleaned."""
    before, after = (
        {name: Histogram.from_dict(values) for name, values in statistics["text"][stage].items()}
        for stage in ("before", "after")
    )
    table = _table("Text", "as read", "after cleaning")
    for name, label in (
        ("src_words", "words a source"),
        ("tgt_words", "words a target"),
        ("src_chars", "characters a source"),
        ("tgt_chars", "characters a target"),
    ):
        table.add_row(label, _lengths(before[name]), _lengths(after[name]))
    table.add_row("target / source characters", _ratios(before["char_ratio"]), _ratios(after["char_ratio"]))
    found = statistics["duplicates"]
    n_pairs = max(found["n_pairs"], 1)
    for label, field in (
        ("pairs repeated exactly", "n_exact"),
        ("but for case, spaces, punctuation", "n_near"),
        ("sources that occurred before", "n_repeated_src"),
    ):
        table.add_row(label, f"{found[field]:,} ({found[field] / n_pairs:.1%})", "")
    return table


def vocabulary_table(statistics: Mapping[str, Any]) -> Table:
    """What the vocabularies know of the running text, and how much of them is used."""
    vocabulary = statistics["vocabulary"]
    sides = [vocabulary["src"], vocabulary["tgt"]]
    kind = f"{vocabulary['kind']}, {'joint' if vocabulary['joint'] else 'separate'}"
    table = _table(f"Vocabulary ({kind})", "source", "target")
    table.add_row("entries", *(f"{side['size']:,}" for side in sides))
    table.add_row(
        f"never seen; under {vocabulary['rare_below']} times",
        *(f"{side['n_unused'] / side['n_entries']:.1%}; {side['n_rare'] / side['n_entries']:.1%}" for side in sides),
    )
    for label, field, form in (
        ("unknown tokens", "unknown_share", ".2%"),
        ("tokens a word", "tokens_per_word", ".2f"),
        ("words kept whole", "whole_word_share", ".1%"),
    ):
        values = [f"{side['train'][field]:{form}}; {side['valid'][field]:{form}}" for side in sides]
        table.add_row(f"{label}: training; validation", *values)
    lengths = statistics["tokens"]["train"]
    table.add_row("tokens with EOS a side", *(_lengths(Histogram.from_dict(lengths[side])) for side in ("src", "tgt")))
    return table


def forecast_table(forecast: Mapping[str, Any]) -> Table:
    """What the training will be like; a `Forecast.to_dict()`."""
    table = _table("Forecast", "", "")
    pairs, tokens = forecast["pairs_per_micro_batch"], forecast["tgt_tokens_per_micro_batch"]
    table.add_row("padding in attention", shown_padding(forecast["padding_share"]))
    for label, spread in (("pairs a micro-batch", pairs), ("target tokens a micro-batch", tokens)):
        values = f"{spread['mean']:,.0f} ± {spread['std']:,.0f}", f"{spread['least']:,} to {spread['most']:,}"
        table.add_row(label, *values)
    table.add_row("target tokens an update", f"{forecast['tgt_tokens_per_update']:,.0f}")
    epochs = f"{forecast['updates_per_epoch']:,} an epoch, {shown_epochs(forecast['epochs'])} epochs"
    table.add_row("updates", f"{forecast['n_updates']:,}", epochs)
    table.add_row("parameters", f"{forecast['n_parameters']:,}")
    for setting, memory in forecast["memory_mib"].items():
        table.add_row(f"peak memory, {setting}", f"{memory['total']:,.0f} MiB", _largest_part(memory))
    return table


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _lengths(histogram: Histogram) -> str:
    values = [histogram.quantile(0.5), histogram.quantile(0.99), histogram.largest]
    return "{:,.0f}, 99 % to {:,.0f}, most {:,.0f}".format(*values)


def _ratios(histogram: Histogram) -> str:
    values = [histogram.quantile(share) for share in (0.5, 0.01, 0.99)]
    return "{:.2f}, 98 % in {:.2f} to {:.2f}".format(*values)


def _largest_part(memory: Mapping[str, float]) -> str:
    part = max((name for name in memory if name != "total"), key=lambda name: memory[name])
    return f"most of it {part}, {memory[part]:,.0f}"
