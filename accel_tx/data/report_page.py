"""The data report as one HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from accel_tx.config import Config, dump_yaml
from accel_tx.data.charts import Axis, Series, bar_chart, count_axis, ratio_axis, short_number
from accel_tx.data.clean_report import CleanReport
from accel_tx.data.forecast import shown_epochs, shown_padding
from accel_tx.data.histogram import Histogram
from accel_tx.data.html_page import page, section, table_row, table_rows


def report_page(
    report: CleanReport, config: Config, forecast: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
) -> str:
    """The page for a report whose `statistics` are filled, a `Forecast.to_dict()` and `PreparedData.notes`.

    All text is escaped.
    """
    statistics = report.statistics
    title = f"Data report: {', '.join(corpus['name'] for corpus in statistics['corpora'])}"
    sections = [
        _header(title, report, config, forecast),
        section("Notes", "".join(f"<p>{escape(note)}</p>" for note in notes)) if notes else "",
        section("From read to kept", _flow(report)),
        section("Rules", _rules(report)),
        section("Lengths", _lengths(statistics, config)),
        section("Vocabulary", _vocabulary(statistics["vocabulary"])),
        section("Duplicates", _duplicates(statistics["duplicates"])),
        section("Corpora", _corpora(report)),
        section("Forecast of the training", _forecast(forecast)) if forecast else "",
        section("Settings", f"<details><summary>every field</summary><pre>{escape(dump_yaml(config))}</pre></details>"),
    ]
    return page(title, sections)


def _header(title: str, report: CleanReport, config: Config, forecast: Mapping[str, Any] | None) -> str:
    statistics = report.statistics
    tokens = statistics["tokens"]
    counted = ["weights applied"] if any(part.weight != 1 for part in report.parts) else []
    counted += ["in one direction"] if config.data.both_directions else []
    tiles = [
        ("pairs read", f"{report.n_read:,}", ""),
        ("kept", f"{report.n_kept:,}", _percent(report.n_kept, report.n_read)),
        ("for training", f"{tokens['train']['src']['n']:,}", ", ".join(counted)),
        ("for validation", f"{tokens['valid']['src']['n']:,}", ""),
    ]
    if forecast:
        tiles += [
            ("padding", f"{forecast['padding_share']['cpu']:.1%}", "of the positions in attention, on CPU"),
            ("updates", f"{forecast['n_updates']:,}", f"{shown_epochs(forecast['epochs'])} epochs"),
            ("parameters", short_number(forecast["n_parameters"]), ""),
        ]
    boxes = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}{f' <i>{escape(note)}</i>' if note else ''}</span></div>"
        for name, value, note in tiles
    )
    languages = f"{config.data.src_lang} → {config.data.tgt_lang}, cleaned with preset {config.clean.preset}"
    return f'<h1>{escape(title)}</h1><p class="sub">{escape(languages)}</p><div class="tiles">{boxes}</div>'


def _flow(report: CleanReport) -> str:
    """What each rule took, as a bar beside the largest of these, and how many pairs were left behind it."""
    most = max([*report.dropped.values(), 1])
    rows = [f"<div><b>read</b><em></em><span></span><b>{report.n_read:,}</b></div>"]
    left = report.n_read
    for name, count in report.dropped.items():
        left -= count
        if count:
            bar = f'<u style="width:{count / most:.2%}"></u>'
            took = f"−{count:,} <i>{escape(_percent(count, report.n_read))}</i>"
            rows.append(f"<div><span>{_name(name)}</span><em>{bar}</em><span>{took}</span><span>{left:,}</span></div>")
    share = f"<i>{escape(_percent(report.n_kept, report.n_read))}</i>"
    rows.append(f"<div><b>kept</b><em></em><span>{share}</span><b>{report.n_kept:,}</b></div>")
    idle = [name for name, count in report.dropped.items() if not count]
    note = f'<p class="note">Took nothing: {escape(", ".join(idle))}.</p>' if idle else ""
    return f'<div class="flow">{"".join(rows)}</div>{note}'


def _rules(report: CleanReport) -> str:
    rows = []
    for name, count in report.repaired.items():
        rows.append(_rule_row(report, name, f"mended {count:,}", count, ""))
    for name, count in report.dropped.items():
        alone = f"{report.alone[name]:,}" if name in report.alone else "–"
        rows.append(_rule_row(report, name, f"{count:,}", count, alone))
    head = table_row(["rule, and what it keeps", "dropped", "of all read", "alone"], "th")
    note = (
        "A pair counts for the first rule that objects to it, from top to bottom; <i>alone</i> is what the rule would "
        "take if it were the only one, where that is known. Of a repair the examples are text before and after."
    )
    return f'<p class="note">{note}</p><div class="wide"><table class="rules">{head}{"".join(rows)}</table></div>'


def _rule_row(report: CleanReport, name: str, dropped: str, count: int, alone: str) -> str:
    numbers = [dropped, _percent(count, report.n_read), alone]
    first = f"{_name(name)}<br><i>{escape(report.meanings.get(name, ''))}</i>"
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in numbers)
    start = "<tr>" if count or report.alone.get(name) else '<tr class="idle">'
    row = f"{start}<td>{first}</td>{cells}</tr>"
    examples = report.examples.get(name, [])
    if not examples:
        return row
    pairs = "".join(f"<li><p>{escape(src)}</p><p>{escape(tgt)}</p></li>" for src, tgt in examples)
    shown = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
    details = f"<details><summary>{shown}</summary><ul>{pairs}</ul></details>"
    return f'{row}<tr class="more"><td colspan="4">{details}</td></tr>'


def _lengths(statistics: Mapping[str, Any], config: Config) -> str:
    languages = {"src": f"source ({config.data.src_lang})", "tgt": f"target ({config.data.tgt_lang})"}
    charts = []
    for unit, title in (("words", "word-level tokens"), ("chars", "characters")):
        for side, language in languages.items():
            charts.append(_before_and_after(statistics, f"{side}_{unit}", f"{title}, {language}", count_axis))
    charts.append(
        _before_and_after(
            statistics, "char_ratio", "target / source characters (Han, kana, Hangul count twice)", ratio_axis
        )
    )
    for side, language in languages.items():
        histogram = Histogram.from_dict(statistics["tokens"]["train"][side])
        title = f"subword tokens with EOS, {language}"
        if statistics["vocabulary"]["kind"] == "wordlevel":
            title = f"vocabulary tokens with EOS, {language}"
        charts.append(_figure(title, count_axis([histogram]), [Series("training", histogram)]))
    key = (
        '<p class="note"><span class="key before"></span> as read <span class="key after"></span> after cleaning '
        '<span class="key training"></span> training pairs after encoding. The last bar holds all that is longer.</p>'
    )
    return f'{key}<div class="charts">{"".join(charts)}</div>'


def _before_and_after(statistics: Mapping[str, Any], name: str, title: str, axis: Any) -> str:
    series = [Series(stage, Histogram.from_dict(statistics["text"][stage][name])) for stage in ("before", "after")]
    return _figure(title, axis([s.histogram for s in series]), series)


def _figure(title: str, axis: Axis, series: Sequence[Series]) -> str:
    last = series[-1].histogram
    digits = ".2f" if last.scale == "ratio" else ",.0f"
    summary = f"median {last.quantile(0.5):{digits}}, 99 % up to {last.quantile(0.99):{digits}}"
    summary += f", largest {last.largest:{digits}}"
    chart = bar_chart(f"{title}: {summary}", title, axis, series)
    return f"<figure><figcaption>{escape(title)} <i>{escape(summary)}</i></figcaption>{chart}</figure>"


def _vocabulary(vocabulary: Mapping[str, Any]) -> str:
    kind = f"{vocabulary['kind']}, {'one for both languages' if vocabulary['joint'] else 'one for each language'}"
    head = table_row(["", "source", "target"], "th")
    src, tgt = vocabulary["src"], vocabulary["tgt"]
    rows = [["entries", *(f"{side['size']:,}" for side in (src, tgt))]]
    rows += [
        [label, *(_percent(side[field], side["n_entries"]) for side in (src, tgt))]
        for label, field in (
            ("never occur in training", "n_unused"),
            (f"occur under {vocabulary['rare_below']} times, the former included", "n_rare"),
        )
    ]
    for name, shown in (("train", "training"), ("valid", "validation")):
        rows += [
            [f"unknown tokens, {shown}", *(f"{side[name]['unknown_share']:.2%}" for side in (src, tgt))],
            [f"tokens a word, {shown}", *(f"{side[name]['tokens_per_word']:.2f}" for side in (src, tgt))],
            [f"words kept whole, {shown}", *(f"{side[name]['whole_word_share']:.1%}" for side in (src, tgt))],
        ]
    note = (
        f"{kind}. Words are runs of letters and digits, or of punctuation; those kept whole and the tokens a word are "
        f"counted in up to {vocabulary['n_sample']:,} pairs of each set, the rest in all."
    )
    return f'<p class="note">{escape(note)}</p><div class="wide"><table>{head}{table_rows(rows)}</table></div>'


def _duplicates(duplicates: Mapping[str, int]) -> str:
    n = duplicates["n_pairs"]
    rows = [
        [label, f"{duplicates[field]:,}", _percent(duplicates[field], n)]
        for label, field in (
            ("pairs that repeat an earlier one exactly", "n_exact"),
            ("… but for case, spaces and punctuation (the exact ones included)", "n_near"),
            ("sources that occurred before, in any such spelling", "n_repeated_src"),
        )
    ]
    return f'<p class="note">Among the pairs as read.</p><div class="wide"><table>{table_rows(rows)}</table></div>'


def _corpora(report: CleanReport) -> str:
    head = table_row(
        ["corpus", "weight", "read", "kept", "words a source", "words a target", "target / source", "most dropped by"],
        "th",
    )
    rows = []
    for part, corpus in zip(report.parts, report.statistics["corpora"], strict=True):
        after = corpus["after"]
        worst = max(part.dropped.items(), key=lambda item: item[1], default=("", 0))
        means = [
            f"{after['mean_src_words']:.1f}",
            f"{after['mean_tgt_words']:.1f}",
            f"{after['median_char_ratio']:.2f}",
        ]
        rows.append(
            [
                part.name,
                f"{part.weight:g}",
                f"{part.n_read:,}",
                f"{part.n_kept:,} ({_percent(part.n_kept, part.n_read)})",
                *means,
                f"{worst[0]} ({worst[1]:,})" if worst[1] else "–",
            ]
        )
    note = '<p class="note">Means and the median ratio of characters are of what cleaning kept, before the split.</p>'
    return f'{note}<div class="wide"><table>{head}{table_rows(rows)}</table></div>'


def _forecast(forecast: Mapping[str, Any]) -> str:
    pairs, tokens = forecast["pairs_per_micro_batch"], forecast["tgt_tokens_per_micro_batch"]
    rows = [
        ["padding in attention", shown_padding(forecast["padding_share"])],
        [
            "pairs a micro-batch",
            f"{pairs['mean']:,.0f} ± {pairs['std']:,.0f} ({pairs['least']:,} to {pairs['most']:,})",
        ],
        [
            "target tokens a micro-batch",
            f"{tokens['mean']:,.0f} ± {tokens['std']:,.0f} ({tokens['least']:,} to {tokens['most']:,})",
        ],
        ["target tokens an update", f"{forecast['tgt_tokens_per_update']:,.0f}"],
        ["updates an epoch", f"{forecast['updates_per_epoch']:,}"],
        ["updates in all", f"{forecast['n_updates']:,} ({shown_epochs(forecast['epochs'])} epochs)"],
        ["parameters", f"{forecast['n_parameters']:,}"],
    ]
    memory = forecast["memory_mib"]
    names = list(next(iter(memory.values())))
    head = table_row(["MiB", *names], "th")
    body = table_rows([[setting, *(f"{values[name]:,.0f}" for name in names)] for setting, values in memory.items()])
    note = '<p class="note">Peak memory of one training process; the largest micro-batch decides.</p>'
    numbers = f'<div class="wide"><table>{table_rows(rows)}</table></div>'
    return f'{numbers}{note}<div class="wide"><table>{head}{body}</table></div>'


def _name(rule: str) -> str:
    """A rule's name that may break behind an underscore."""
    return escape(rule).replace("_", "_<wbr>")


def _percent(part: float, whole: float) -> str:
    share = part / max(whole, 1)
    if 0 < share < 0.0001:
        return "<0.01%"
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"
