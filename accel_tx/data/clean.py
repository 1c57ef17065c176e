"""Which pairs are kept: one pure rule each, run with `datasets`, and a report of what every rule took."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.config import DataConfig, UserError
from accel_tx.data.corpus import progress_on_terminal_only

if TYPE_CHECKING:
    from rich.table import Table

_N_EXAMPLES = 3
_EXAMPLE_CHARS = 120
_TABLE_CHARS = 40
_KEPT = -1
# A regular expression of Python's would not do: its \w leaves out combining marks and takes in ½ and ².
_PRE_TOKENIZER = Whitespace()


@dataclass(frozen=True)
class Rule:
    """One reason to drop a pair."""

    name: str
    """The config field that switches it, where there is one."""
    meaning: str
    """What a kept pair is like, in words."""
    keeps: Callable[[str, str], bool]
    """Whether (src, tgt) may stay."""


def neither_side_empty(src: str, tgt: str) -> bool:
    """Both sides have more than whitespace."""
    return bool(src.strip()) and bool(tgt.strip())


def src_words_below(limit: int, src: str, tgt: str) -> bool:
    """The source has fewer word-level tokens than `limit`: words and runs of punctuation."""
    # A token has at least one character, which settles the short sources without cutting them up.
    return len(src) < limit or len(_PRE_TOKENIZER.pre_tokenize_str(src)) < limit


def tgt_not_much_longer(extra_chars: int, src: str, tgt: str) -> bool:
    """The target has fewer characters than the source's plus `extra_chars`."""
    return len(src) + extra_chars > len(tgt)


def src_longer_than(n_chars: int, src: str, tgt: str) -> bool:
    """The source has more than `n_chars` characters."""
    return len(src) > n_chars


def tgt_longer_than(n_chars: int, src: str, tgt: str) -> bool:
    """The target has more than `n_chars` characters."""
    return len(tgt) > n_chars


def rules_from(config: DataConfig) -> list[Rule]:
    """The rules that `config` switches on, in the order in which they are applied."""
    rules = [Rule("empty side", "text on both sides", neither_side_empty)]
    for name, meaning, rule in (
        ("max_src_words", "source under {} words", src_words_below),
        ("max_tgt_extra_chars", "target under {} characters longer than source", tgt_not_much_longer),
        ("min_src_chars", "source over {} characters", src_longer_than),
        ("min_tgt_chars", "target over {} characters", tgt_longer_than),
    ):
        limit = getattr(config, name)
        if limit is not None:
            rules.append(Rule(name, meaning.format(limit), partial(rule, limit)))
    return rules


@dataclass(frozen=True)
class CleanReport:
    """What became of the pairs that were read: n_read is n_kept and all that was dropped."""

    n_read: int
    n_kept: int
    dropped: dict[str, int]
    """Rule name -> pairs that it took, being the first to object; rules in the order applied."""
    examples: dict[str, list[list[str]]]
    """Rule name -> the first pairs [src, tgt] that it took, shortened."""
    meanings: dict[str, str]
    """Rule name -> what a kept pair is like."""

    def __post_init__(self) -> None:
        if self.n_read != self.n_kept + sum(self.dropped.values()):
            raise ValueError(f"{self.n_read} pairs read are not {self.n_kept} kept and {self.dropped} dropped")

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `CleanReport(**d)` gives the report back."""
        return dataclasses.asdict(self)

    def with_dropped(self, name: str, meaning: str, count: int, examples: Sequence[Sequence[str]] = ()) -> CleanReport:
        """A copy in which one more rule has taken `count` of the pairs that were left."""
        if name in self.dropped or not 0 <= count <= self.n_kept:
            raise ValueError(f"rule {name!r} dropped {count}; expected a new rule and 0 to {self.n_kept} pairs")
        return CleanReport(
            n_read=self.n_read,
            n_kept=self.n_kept - count,
            dropped={**self.dropped, name: count},
            examples={
                **self.examples,
                name: [[_shorten(t, _EXAMPLE_CHARS) for t in pair] for pair in examples[:_N_EXAMPLES]],
            },
            meanings={**self.meanings, name: meaning},
        )


def clean_pairs(pairs: datasets.Dataset, config: DataConfig) -> tuple[datasets.Dataset, CleanReport]:
    """The pairs that every rule keeps, in their order, and the report.

    What `datasets` writes on the way lies beside the input's own files: one byte a pair and one index a kept pair.
    Raises: UserError if no pair is left.
    """
    n_procs = config.n_procs if config.n_procs > 1 else None
    with progress_on_terminal_only():
        marks = pairs.map(
            partial(_mark, config=config),
            input_columns=["src", "tgt"],
            batched=True,
            remove_columns=pairs.column_names,
            features=datasets.Features({"dropped_by": datasets.Value("int8")}),
            num_proc=n_procs,
            load_from_cache_file=False,
            cache_file_name=_beside(pairs, "marks"),
            desc="clean",
        )
        dropped_by = marks.data.column("dropped_by").to_numpy()
        report = _report(pairs, dropped_by, rules_from(config))
        if report.n_kept == 0:
            raise UserError(_nothing_left(report, config))
        # Side by side with the text, not written out with it: the text is on disk once.
        kept = datasets.concatenate_datasets([pairs, marks], axis=1).filter(
            _is_kept,
            input_columns=["dropped_by"],
            batched=True,
            num_proc=n_procs,
            load_from_cache_file=False,
            cache_file_name=_beside(pairs, "kept"),
            desc="filter",
        )
    return kept.remove_columns("dropped_by"), report


def report_table(report: CleanReport) -> Table:
    """The report as a table for the terminal, a line for each rule."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Cleaning: {report.n_kept:,} of {report.n_read:,} pairs kept", title_justify="left")
    table.add_column("rule", no_wrap=True)
    table.add_column("keeps")
    table.add_column("dropped", justify="right")
    table.add_column("share", justify="right")
    table.add_column("first one dropped")
    for name, count in report.dropped.items():
        first = [_shorten(text, _TABLE_CHARS) for pair in report.examples[name][:1] for text in pair]
        share = f"{count / max(report.n_read, 1):.1%}"
        # Text, because square brackets in a sentence are not markup.
        table.add_row(name, report.meanings[name], f"{count:,}", share, Text(" → ".join(first)))
    return table


def _mark(src: list[str], tgt: list[str], config: DataConfig) -> dict[str, list[int]]:
    checks = [rule.keeps for rule in rules_from(config)]
    return {"dropped_by": [_first_objection(checks, s, t) for s, t in zip(src, tgt, strict=True)]}


def _first_objection(checks: list[Callable[[str, str], bool]], src: str, tgt: str) -> int:
    for i, keeps in enumerate(checks):
        if not keeps(src, tgt):
            return i
    return _KEPT


def _is_kept(dropped_by: list[int]) -> list[bool]:
    return [i == _KEPT for i in dropped_by]


def _report(pairs: datasets.Dataset, dropped_by: np.ndarray[Any, np.dtype[np.int8]], rules: list[Rule]) -> CleanReport:
    report = CleanReport(n_read=len(pairs), n_kept=len(pairs), dropped={}, examples={}, meanings={})
    for i, rule in enumerate(rules):
        rows = np.flatnonzero(dropped_by == i)
        examples = [(row["src"], row["tgt"]) for row in (pairs[int(at)] for at in rows[:_N_EXAMPLES])]
        report = report.with_dropped(rule.name, rule.meaning, len(rows), examples)
    return report


def _nothing_left(report: CleanReport, config: DataConfig) -> str:
    shown = f"{config.train_src} and {config.train_tgt}" if config.train_src else config.corpus
    counts = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items())
    worst = max(report.dropped, key=lambda name: report.dropped[name])
    advice = "check that both columns hold text" if worst == "empty side" else f"loosen data.{worst}"
    return f"corpus {shown}: 0 of {report.n_read:,} pairs left after cleaning ({counts}); {advice}"


def _beside(pairs: datasets.Dataset, what: str) -> str | None:
    """A file beside the input's own; None, which means memory, for an input that has no file."""
    if not pairs.cache_files:
        return None
    path = Path(pairs.cache_files[0]["filename"])
    return str(path.with_name(f"{path.stem}.{what}.arrow"))


def _shorten(text: str, n_chars: int) -> str:
    return text if len(text) <= n_chars else text[: n_chars - 1] + "…"
