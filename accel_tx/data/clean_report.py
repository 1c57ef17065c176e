"""What became of the pairs: counts a rule, examples, and the table for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

N_EXAMPLES = 5
_EXAMPLE_CHARS = 120
_TABLE_CHARS = 40


@dataclass(frozen=True)
class PartReport:
    """One corpus of the mix; n_read is n_kept and all that was dropped."""

    name: str
    n_read: int
    n_kept: int
    dropped: dict[str, int]
    """Rule name -> pairs that it took, being the first to object; rules in the order applied."""
    alone: dict[str, int]
    """Rule name -> pairs that it would take if it were the only rule."""
    weight: float = 1.0
    """How often each of its pairs counts in an epoch."""

    def __post_init__(self) -> None:
        _check_sum(self.n_read, self.n_kept, self.dropped)


@dataclass(frozen=True)
class CleanReport:
    """What became of the pairs that were read: n_read is n_kept and all that was dropped."""

    n_read: int
    n_kept: int
    dropped: dict[str, int]
    """Rule name -> pairs that it took, being the first to object; rules in the order applied."""
    alone: dict[str, int]
    """Rule name -> pairs that it would take if it were the only rule; not known of rules that judge what is left."""
    repaired: dict[str, int]
    """Repair -> pairs of which it changed a side."""
    examples: dict[str, list[list[str]]]
    """Rule name -> the first pairs [src, tgt] that it took, shortened; for a repair the text before and after."""
    meanings: dict[str, str]
    """Rule name -> what a kept pair is like; repair -> what was done."""
    parts: list[PartReport] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_sum(self.n_read, self.n_kept, self.dropped)
        if self.parts:
            dropped = {name: sum(part.dropped.get(name, 0) for part in self.parts) for name in self.dropped}
            n_read, n_kept = sum(part.n_read for part in self.parts), sum(part.n_kept for part in self.parts)
            if (n_read, n_kept, dropped) != (self.n_read, self.n_kept, self.dropped):
                raise ValueError(
                    f"the parts add up to {n_read} read, {n_kept} kept and {dropped} dropped; "
                    f"expected {self.n_read}, {self.n_kept} and {self.dropped}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CleanReport:
        """The report that `to_dict` wrote. Raises: ValueError if it does not add up, TypeError for other keys."""
        return cls(**{**values, "parts": [PartReport(**part) for part in values["parts"]]})

    def with_dropped(
        self, name: str, meaning: str, counts: Sequence[int], examples: Sequence[Sequence[str]]
    ) -> CleanReport:
        """A copy in which one more rule has taken so many of the pairs that were left of each part."""
        n_left = [part.n_kept for part in self.parts]
        if name in self.dropped or any(not 0 <= count <= n for count, n in zip(counts, n_left, strict=True)):
            raise ValueError(f"rule {name!r} dropped {list(counts)}; expected a new rule and at most {n_left} pairs")
        parts = [
            dataclasses.replace(part, n_kept=part.n_kept - count, dropped={**part.dropped, name: count})
            for part, count in zip(self.parts, counts, strict=True)
        ]
        return dataclasses.replace(
            self,
            n_kept=self.n_kept - sum(counts),
            dropped={**self.dropped, name: sum(counts)},
            examples={**self.examples, name: shortened(examples)},
            meanings={**self.meanings, name: meaning},
            parts=parts,
        )


def merged(parts: Sequence[PartReport], rest: CleanReport) -> CleanReport:
    """`rest` with the parts and the sums of their counts; rules in the order in which the parts bring them."""
    names = list(rest.meanings)

    def total(counts: str) -> dict[str, int]:
        found = {name for part in parts for name in getattr(part, counts)}
        return {name: sum(getattr(part, counts).get(name, 0) for part in parts) for name in names if name in found}

    return dataclasses.replace(
        rest,
        n_read=sum(part.n_read for part in parts),
        n_kept=sum(part.n_kept for part in parts),
        dropped=total("dropped"),
        alone=total("alone"),
        parts=list(parts),
    )


def shortened(pairs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The first examples, each text cut to what fits into a report."""
    return [[_shorten(text, _EXAMPLE_CHARS) for text in pair] for pair in pairs[:N_EXAMPLES]]


def report_table(report: CleanReport) -> Table:
    """The report as a table for the terminal: a line for each rule and repair, and one for each of several corpora."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"Cleaning: {report.n_kept:,} of {report.n_read:,} pairs kept"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("keeps")
    table.add_column("dropped", justify="right")
    table.add_column("share", justify="right")
    table.add_column("alone", justify="right")
    table.add_column("first example")

    def add(label: str, meaning: str, count: str, n: int, alone: str, examples: Sequence[Sequence[str]]) -> None:
        first = [_shorten(text, _TABLE_CHARS) for pair in examples[:1] for text in pair]
        share = f"{n / max(report.n_read, 1):.1%}"
        # Text, because square brackets in a sentence or a name are not markup.
        table.add_row(Text(label), Text(meaning), count, share, alone, Text(" → ".join(first)))

    for name, count in report.repaired.items():
        add(name, report.meanings[name], f"({count:,})", count, "", report.examples[name])
    for name, count in report.dropped.items():
        alone = f"{report.alone[name]:,}" if name in report.alone else "–"
        add(name, report.meanings[name], f"{count:,}", count, alone, report.examples[name])
    for part in report.parts if len(report.parts) > 1 else []:
        n_dropped = part.n_read - part.n_kept
        add(
            part.name,
            f"{part.n_kept:,} of {part.n_read:,} pairs, weight {part.weight:g}",
            f"{n_dropped:,}",
            n_dropped,
            "",
            [],
        )
    return table


def _check_sum(n_read: int, n_kept: int, dropped: Mapping[str, int]) -> None:
    if n_read != n_kept + sum(dropped.values()):
        raise ValueError(f"{n_read} pairs read are not {n_kept} kept and {dropped} dropped")


def _shorten(text: str, n_chars: int) -> str:
    """The beginning and the end, since sides often differ in the latter: a full stop, or all that was cut off."""
    if len(text) <= n_chars:
        return text
    n_last = n_chars // 3
    return f"{text[: n_chars - 1 - n_last]}…{text[-n_last:]}"
