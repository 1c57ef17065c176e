"""The tables of the report that compares runs; each gives HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from accel_tx.config import SECTIONS
from accel_tx.data.charts import short_number
from accel_tx.pages.curves import badge
from accel_tx.train.run_history import Line, RunHistory, number

_NONE = "–"
_PRECISION_NAMES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}
_SCORES = (
    ("val_loss", "loss", ".3f", True),
    ("bleu", "BLEU", ".2f", False),
    ("chrf", "chrF", ".2f", False),
    ("cer", "CER", ".4f", True),
    ("wer", "WER", ".4f", True),
)
"""Key of a line of metrics, heading, digits, and whether lower is better."""
_METRIC_NAMES = {"bleu": "BLEU", "chrf": "chrF2", "chrfpp": "chrF2++", "ter": "TER", "cer": "CER", "wer": "WER"}
_LOWER_IS_BETTER = ("ter", "cer", "wer")
_SIGNATURES = {"bleu": "signature", "chrf": "chrf_signature"}
"""Key of a line of metrics, and that of the formula that it was computed by."""
_OF_RESAMPLING = ("bs:", "ar:", "seed:")
"""Parts of a signature that say nothing of the score itself."""


def scores(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    """What each run reached at the validation that its config holds for the best one."""
    keys = [key for key, *_ in _SCORES]
    more = dict.fromkeys(key for run in runs for key in run.best if key.partition("/")[0] in keys and "/" in key)
    columns = [*_SCORES, *(_of_further_set(key) for key in more)]
    marked = [
        _marked([number(run.best, key) for run in runs], digits, is_lower_better, _is_of_one_formula(runs, key))
        for key, _, digits, is_lower_better in columns
    ]
    head = ["run", "best by", "at update", *(escape(title) for _, title, *_ in columns)]
    body = [
        [
            _run(i, name),
            escape(run.config.validation.best_metric) if run.best else _NONE,
            _count(run.best.get("update")),
            *(column[i - 1] for column in marked),
        ]
        for i, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
    ]
    signatures = dict.fromkeys(
        f"{title} {run.best[key]}"
        for key, title in (("signature", "BLEU"), ("chrf_signature", "chrF"))
        for run in runs
        if key in run.best
    )
    note = "".join(f"<br><code>{escape(signature)}</code>" for signature in signatures)
    text = (
        "Of the whole validation set, at the update that the run keeps in <code>best/</code>; the best is bold, "
        "where the signatures are the same."
    )
    return f'{_table(head, body, "numbers")}<p class="note below">{text}{note}</p>'


def _is_of_one_formula(runs: Sequence[RunHistory], key: str) -> bool:
    name = _SIGNATURES.get(key.partition("/")[0])
    return name is None or len({run.best.get(name) for run in runs if number(run.best, key) is not None}) < 2


def _of_further_set(key: str) -> tuple[str, str, str, bool]:
    metric, _, name = key.partition("/")
    _, title, digits, is_lower_better = next(column for column in _SCORES if column[0] == metric)
    return key, f"{title} {name}", digits, is_lower_better


def evaluations(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    """Scores that `evaluate --json` left in the run folders: a table for each text, the best of a metric in bold
    where all have it by one formula."""
    by_text: dict[Any, list[tuple[int, str, Line]]] = {}
    for i, run in enumerate(runs):
        for file, values in run.evaluations.items():
            by_text.setdefault(_text_of(file, values), []).append((i, file, values))
    tables = []
    for text, found in by_text.items():
        tables.append(_evaluation_table(found, names))
        files = dict.fromkeys(file for _, file, _ in found)
        signatures = dict.fromkeys(
            str(signature) for _, _, values in found for signature in values["signatures"].values()
        )
        lines = "".join(f"<br><code>{escape(signature)}</code>" for signature in signatures)
        # Where they are the reason for no bold number, they stand there unasked.
        is_open = "" if all(_are_of_one_formula(found, key) for key in _METRIC_NAMES) else " open"
        tables.append(
            f'<p class="note below">{escape(", ".join(files))}: {_count(text[1])} sentences; in brackets where 95 % of '
            "the bootstrap resamples lie.</p>"
            f"<details{is_open}><summary>signatures</summary><p>{lines.removeprefix('<br>')}</p></details>"
        )
    return "".join(tables)


def _text_of(file: str, values: Line) -> tuple[Any, Any]:
    """The references, by their hash, and how many; without it, as earlier versions wrote, the name of the file."""
    return values.get("references_sha256", file), values.get("n_sentences")


def _are_of_one_formula(found: Sequence[tuple[int, str, Line]], key: str) -> bool:
    """Whether the scores of a metric have one signature, but for what the resampling adds."""
    formulas = {
        "|".join(part for part in str(values["signatures"].get(key)).split("|") if not part.startswith(_OF_RESAMPLING))
        for _, _, values in found
        if _system(values, key)
    }
    return len(formulas) < 2


def _evaluation_table(found: Sequence[tuple[int, str, Line]], names: Sequence[str]) -> str:
    metrics = [key for key in _METRIC_NAMES if any(_system(values, key) for _, _, values in found)]
    columns = []
    for key in metrics:
        of_metric = [_system(values, key) for _, _, values in found]
        digits = ".4f" if key in ("cer", "wer") else ".2f"
        is_comparable = _are_of_one_formula(found, key)
        marked = _marked([number(one, "score") for one in of_metric], digits, key in _LOWER_IS_BETTER, is_comparable)
        columns.append([cell + _interval(one, digits) for cell, one in zip(marked, of_metric, strict=True)])
    body = [
        [_run(i + 1, names[i]), escape(_how(values)), *(column[row] for column in columns)]
        for row, (i, _, values) in enumerate(found)
    ]
    return _table(["run", "weights", *(_METRIC_NAMES[key] for key in metrics)], body, "numbers")


def _system(values: Line, key: str) -> Line:
    first = values["systems"][0]
    found = first.get(key) if isinstance(first, dict) else None
    return found if isinstance(found, dict) else {}


def _how(values: Line) -> str:
    decode = values.get("decode")
    beam = f", beam {decode['beam_size']}" if isinstance(decode, dict) and "beam_size" in decode else ""
    others = values.get("ensemble")
    members = [values.get("weights") or "given", *(others if isinstance(others, list) else [])]
    return f"{' + '.join(map(str, members))}{beam}"


def _interval(system: Line, digits: str) -> str:
    low, high = number(system, "low"), number(system, "high")
    return "" if low is None or high is None else f"<br><i>[{low:{digits}}, {high:{digits}}]</i>"


def differing_settings(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    """The fields of the configs that are not the same in all runs."""
    if len(runs) < 2:
        return '<p class="note">There is one run alone.</p>'
    flat = [_flat(run) for run in runs]
    differing = [key for key in flat[0] if len({repr(values[key]) for values in flat}) > 1]
    if not differing:
        return '<p class="note">None: the configs are the same.</p>'
    head = ["field", *_run_heads(names)]
    body = [[_breakable(key), *(escape(_shown(values[key])) for values in flat)] for key in differing]
    return _table(head, body)


def _flat(run: RunHistory) -> dict[str, Any]:
    sections = {section: vars(getattr(run.config, section)) for section in SECTIONS}
    return {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}


def _shown(value: Any) -> str:
    """As it would stand in a config file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return str(dataclasses.asdict(value))
    return str(list(value) if isinstance(value, tuple) else value)


def machines(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    """On what each run was trained, how fast and how far."""
    head = ["", *_run_heads(names)]
    rows: list[tuple[str, Callable[[RunHistory], str]]] = [
        ("state", _state),
        ("updates", lambda run: f"{run.update:,} of {_count(run.n_updates)}"),
        ("epochs", lambda run: _formatted((run.training or run.validations or [{}])[-1], "epoch", ".2f")),
        ("minutes of training", lambda run: f"{run.trained_s / 60:,.1f}"),
        ("target tokens/s, median", lambda run: _median(run.training, "tgt_tokens_per_s", ",.0f")),
        ("padding, median", lambda run: _median(run.training, "padding_share", ".1%")),
        ("updates skipped or bad", _not_made),
        ("parameters", lambda run: _of_starts(run, lambda start: short_number(start["n_parameters"]))),
        ("device", lambda run: _of_starts(run, _device)),
        ("processes", lambda run: _of_starts(run, lambda start: start.get("n_processes"))),
        ("precision", lambda run: _of_starts(run, _precision)),
        ("threads a process", lambda run: _of_starts(run, lambda start: start.get("cpu_threads"))),
        ("torch", lambda run: _of_starts(run, lambda start: start.get("torch"))),
        ("starts", _starts),
    ]
    body = [[escape(title), *(escape(cell(run)) for run in runs)] for title, cell in rows]
    return _table(head, body)


def _state(run: RunHistory) -> str:
    if run.is_running:
        return "being written"
    return "complete" if run.is_complete else "stopped"


def _starts(run: RunHistory) -> str:
    if not run.starts:
        return _NONE
    later = [f"{start['update']:,}" for start in run.starts[1:]]
    return f"{len(run.starts)}" + (f", again from {', '.join(later)}" if later else "")


def _not_made(run: RunHistory) -> str:
    sums = [sum(int(number(line, name) or 0) for line in run.training) for name in ("skipped_updates", "bad_updates")]
    return " and ".join(f"{n:,}" for n in sums)


def _of_starts(run: RunHistory, value: Callable[[Line], Any]) -> str:
    """What the starts say, each value once."""
    return ", ".join(dict.fromkeys(str(value(start) or _NONE) for start in run.starts)) or _NONE


def _device(start: Line) -> str:
    device, processor = start.get("device"), start.get("processor")
    return str(processor if device == "cpu" else device)


def _precision(start: Line) -> Any:
    asked = start.get("precision")
    return _PRECISION_NAMES.get(str(asked), asked)


def _median(lines: Sequence[Line], name: str, digits: str) -> str:
    found = [value for value in (number(line, name) for line in lines) if value is not None]
    return f"{median(found):{digits}}" if found else _NONE


def _formatted(line: Mapping[str, Any], name: str, digits: str) -> str:
    value = number(dict(line), name)
    return _NONE if value is None else f"{value:{digits}}"


def _marked(
    values: Sequence[float | None], digits: str, is_lower_better: bool, is_comparable: bool = True
) -> list[str]:
    """The numbers, the best of several in bold where they may be compared."""
    known = [value for value in values if value is not None]
    best = (min(known) if is_lower_better else max(known)) if is_comparable and len(known) > 1 else None
    shown = [_NONE if value is None else f"{value:{digits}}" for value in values]
    return [f"<b>{text}</b>" if value is not None and value == best else text for text, value in zip(shown, values)]


def _run_heads(names: Sequence[str]) -> list[str]:
    return [_run(i, name) for i, name in enumerate(names, start=1)]


def _run(i: int, name: str) -> str:
    return f"{badge(i)} {escape(name)}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _NONE


def _breakable(key: str) -> str:
    """A field's name that may break behind an underscore or a dot."""
    return escape(key).replace("_", "_<wbr>").replace(".", ".<wbr>")


def _table(head: Sequence[str], body: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table whose cells are HTML, the headings too; `kind` is a class of the style sheet."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in body)
    return f'<div class="wide"><table class="{kind}"><tr>{heads}</tr>{lines}</table></div>'
