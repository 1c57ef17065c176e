"""Runs beside each other as one HTML page: scores, curves, translations, what is different about them, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from accel_tx.data.html_page import page, section
from accel_tx.pages.curves import CURVE_STYLE, Curve, badge, line_chart, pieces_of
from accel_tx.pages.run_tables import differing_settings, evaluations, machines, scores
from accel_tx.train.run_history import Line, RunHistory, number

_STYLE = (
    CURVE_STYLE
    + """
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 12px;font-size:14px}
.legend span{overflow-wrap:anywhere}
td{overflow-wrap:anywhere;min-width:84px}
.numbers td{white-space:nowrap;min-width:0}
.numbers td:first-child{white-space:normal;min-width:104px}
.below{margin:8px 0 0;overflow-wrap:anywhere}
.wide+details{margin-top:4px}
.below+.wide{margin-top:14px}
.sentence{border-left:3px solid var(--line);padding:2px 0 2px 12px;margin:0 0 14px}
.sentence:last-child{margin-bottom:0}
.sentence div{display:grid;grid-template-columns:86px 1fr;gap:10px;padding:2px 0;overflow-wrap:anywhere}
.sentence div>:first-child{color:var(--soft);font-size:13px}
.alert{border-left:3px solid var(--gone);padding-left:10px}
@media (max-width:560px){.sentence div{grid-template-columns:66px 1fr}}
@media print{section{break-inside:avoid}body{background:#fff}}
"""
)
_CURVES = (
    ("loss", "training loss", True),
    ("val_loss", "validation loss", True),
    ("bleu", "BLEU, validation", False),
    ("chrf", "chrF, validation", False),
)


def run_report(runs: Sequence[RunHistory]) -> str:
    """The page; what stands in it is text of the run folders, escaped."""
    names = short_names([run.run_dir for run in runs])
    title = f"Training report: {', '.join(names)}"
    legend = _legend(names)
    notes = [*_notes(runs, names)]
    return page(
        title,
        [
            f'<h1>{escape(title)}</h1><p class="sub">{escape(_languages(runs))}</p>',
            section("Notes", "".join(f'<p class="alert">{escape(note)}</p>' for note in notes)) if notes else "",
            section("Validation", scores(runs, names)),
            *_if_any("Scores with 95 % intervals", evaluations(runs, names)),
            section("Learning curves", legend + _curves(runs, names)),
            *_if_any("Translations", _translations(runs, names)),
            section("Settings that differ", differing_settings(runs, names)),
            section("Hardware and speed", machines(runs, names)),
        ],
        _STYLE,
    )


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many before it as tell it from the others."""
    paths = [path.resolve().parts for path in run_dirs]
    n_parts = [1] * len(paths)
    while True:
        names = ["/".join(parts[-n:]).replace("//", "/") for parts, n in zip(paths, n_parts)]
        same = [i for i, name in enumerate(names) if names.count(name) > 1 and n_parts[i] < len(paths[i])]
        if not same:
            return names
        for i in same:
            n_parts[i] += 1


def _languages(runs: Sequence[RunHistory]) -> str:
    pairs = dict.fromkeys(f"{run.config.data.src_lang} → {run.config.data.tgt_lang}" for run in runs)
    return f"{', '.join(pairs)}; {len(runs)} run{'s' if len(runs) > 1 else ''}"


def _legend(names: Sequence[str]) -> str:
    entries = (f"<span>{badge(i)} {escape(name)}</span>" for i, name in enumerate(names, start=1))
    return f'<div class="legend">{"".join(entries)}</div>'


def _if_any(title: str, body: str) -> list[str]:
    return [section(title, body)] if body else []


def _notes(runs: Sequence[RunHistory], names: Sequence[str]) -> list[str]:
    """What makes numbers of these runs no match for each other, and what is missing."""
    notes = []
    differs = (
        ("data_sha256", "were prepared from different data (corpus, cleaning, split or vocabulary), so their "),
        ("signature", "score BLEU in different ways (see the signatures), so their "),
    )
    for key, text in differs:
        if len({run.best[key] for run in runs if key in run.best}) > 1:
            notes.append(f"The runs {text}validation scores are no match for each other.")
    for field, text in (("label_smoothing", "smooth labels differently"), ("r_drop", "differ in R-Drop")):
        if len({getattr(run.config.optim, field) for run in runs}) > 1:
            notes.append(f"The runs {text}, so compare their validation losses, not the training losses.")
    for run, name in zip(runs, names, strict=True):
        if run.n_unreadable:
            notes.append(f"{name}: {run.n_unreadable:,} line(s) of metrics.jsonl cannot be read and are left out.")
        if not run.training and not run.validations:
            notes.append(f"{name}: has written no line of metrics yet.")
        elif not run.validations:
            notes.append(f"{name}: has not been validated yet.")
    return notes


def _curves(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    figures = []
    for key, title, is_loss in _CURVES:
        for x_title in ("updates", "minutes of training"):
            curves = [
                Curve(i, name, pieces_of((_place(line, x_title), number(line, key)) for line in _lines(run, key)))
                for i, (run, name) in enumerate(zip(runs, names, strict=True), start=1)
            ]
            if any(curve.points for curve in curves):
                ends = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.4g}" for curve in curves if curve.points)
                chart = line_chart(f"{title} over {x_title}: {ends}", x_title, curves, is_loss)
                figures.append(
                    f"<figure><figcaption>{escape(title)} <i>over {x_title}</i></figcaption>{chart}</figure>"
                )
    if not figures:
        return '<p class="note">No line of metrics yet.</p>'
    note = (
        '<p class="note">Losses in nats per target token; that of the training is smoothed where the config smooths '
        "labels. What lies above a chart of losses is cut off. Minutes of training and validation, on whatever "
        "machine; time between two starts of a run does not count.</p>"
    )
    return f'{note}<div class="charts">{"".join(figures)}</div>'


def _lines(run: RunHistory, key: str) -> list[Line]:
    return run.training if key == "loss" else run.validations


def _place(line: Line, x_title: str) -> float | None:
    if x_title == "updates":
        return number(line, "update")
    seconds = number(line, "trained_s")
    return None if seconds is None else seconds / 60


def _translations(runs: Sequence[RunHistory], names: Sequence[str]) -> str:
    """Every sentence that one of the runs shows, with what each run made of it."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    shown: dict[bool, list[str]] = {True: [], False: []}
    for i, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        of_run = run.best_samples
        if of_run is not None:
            shown[run.shows_best].append(f"{name} at {of_run[0]:,}")
            for src, reference, translation in of_run[1]:
                found.setdefault((src, reference), []).append((i, translation))
    if not found:
        return ""
    blocks = []
    for (src, reference), translations in found.items():
        lines = [("source", escape(src)), ("reference", escape(reference))]
        lines += [(f"{badge(i)}", escape(text) or "<i>empty</i>") for i, text in translations]
        blocks.append(
            '<div class="sentence">'
            + "".join(f"<div><span>{a}</span><span>{b}</span></div>" for a, b in lines)
            + "</div>"
        )
    said = {True: "At the update that validated best", False: "At the last update that has samples"}
    note = " ".join(f"{said[is_best]}: {', '.join(runs_shown)}." for is_best, runs_shown in shown.items() if runs_shown)
    return f'{_legend(names)}<p class="note">{escape(note)}</p>{"".join(blocks)}'
