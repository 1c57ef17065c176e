from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import CleanConfig, Config
from accel_tx.data.charts import Series, bar_chart, count_axis, ratio_axis, rebin, short_number
from accel_tx.data.clean_report import CleanReport
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.forecast import forecast_training
from accel_tx.data.histogram import Histogram
from accel_tx.data.report_page import report_page
from tests.outline import outline

MEAN = '<script>alert("&amp;")</script>'


@pytest.fixture
def mean_page(tmp_path: Path, tiny_config: Callable[..., Config]) -> tuple[str, PreparedData]:
    """The page of a corpus whose text and whose name look like HTML."""
    rows = [f"sentence number {i} is here\tla phrase numéro {i} est ici" for i in range(60)]
    path = tmp_path / "<b>&.tsv"
    path.write_text("\n".join(["en\tfr", *rows, f"{MEAN}\t"]), encoding="utf-8")
    config = tiny_config(data={"corpus": str(path), "cache_dir": str(tmp_path / "cache")})
    data = prepare_data(config)
    return report_page(data.report, config, forecast_training(config, data).to_dict()), data


def test_the_page_is_well_formed_and_text_stays_text(mean_page: tuple[str, PreparedData]) -> None:
    page, _ = mean_page
    found = outline(page)
    assert not {"script", "b>&.tsv", "iframe", "object", "img"} & set(found.tags)
    assert MEAN in found.text
    assert any("<b>&.tsv" in text for text in found.text)
    assert found.tags.count("svg") == 7


def test_the_page_tells_the_notes_where_there_are_any(
    mean_page: tuple[str, PreparedData], tiny_config: Callable[..., Config]
) -> None:
    page, data = mean_page
    assert "Notes" not in outline(page).text
    found = outline(report_page(data.report, tiny_config(), notes=[MEAN]))
    assert found.text[found.text.index("Notes") + 1] == MEAN


def test_the_page_says_that_it_counts_one_of_both_directions(
    mean_page: tuple[str, PreparedData], tiny_config: Callable[..., Config]
) -> None:
    page, data = mean_page
    assert "in one direction" not in page
    both_ways = outline(report_page(data.report, tiny_config(data={"both_directions": True})))
    at = both_ways.text.index(f"{len(data.train):,}")
    assert "".join(both_ways.text[at + 1 : at + 3]) == "for training in one direction"


def test_the_page_needs_nothing_from_elsewhere(mean_page: tuple[str, PreparedData]) -> None:
    page, _ = mean_page
    assert outline(page).addresses == []
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_page_shows_the_numbers_of_the_report(mean_page: tuple[str, PreparedData]) -> None:
    page, data = mean_page
    text = " ".join(outline(page).text)
    assert f"{data.report.n_read:,}" in text
    assert f"{len(data.train):,}" in text
    for rule, count in data.report.dropped.items():
        if count:
            assert text.count(rule) >= 2 or "_" in rule


def test_the_row_of_a_corpus_counts_what_the_report_does(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    rows = [f"sentence number {i} is here\tla phrase numéro {i // 3} est ici" for i in range(60)]
    (tmp_path / "c.tsv").write_text("\n".join(["en\tfr", *rows]), encoding="utf-8")
    config = tiny_config(data={"corpus": str(tmp_path / "c.tsv"), "cache_dir": str(tmp_path / "cache")})
    config = dataclasses.replace(config, clean=CleanConfig(near_duplicates=False))
    report = prepare_data(config).report
    n_dropped = report.dropped["target held out"]
    assert n_dropped
    text = outline(report_page(report, config)).text
    assert f"{60 - n_dropped} ({(60 - n_dropped) / 60:.1%})" in text
    assert f"target held out ({n_dropped})" in text


def test_a_report_with_statistics_comes_back_from_its_dict(mean_page: tuple[str, PreparedData]) -> None:
    _, data = mean_page
    assert CleanReport.from_dict(data.report.to_dict()) == data.report
    assert data.report.statistics["text"]["before"]["src_chars"]["n"] == data.report.n_read == 61


def bars(svg: str, name: str) -> list[float]:
    return [float(height) for height in re.findall(rf'<rect class="{name}"[^>]*height="([\d.]+)"', svg)]


def test_bars_are_as_high_as_their_counts() -> None:
    histogram = Histogram.of("count", [0, 1, 1, 1, 1, 2, 2])
    svg = bar_chart("a label", "x", count_axis([histogram]), [Series("after", histogram)])
    heights = bars(svg, "after")
    assert heights[1] / heights[0] == pytest.approx(4, rel=0.01)
    assert heights[2] / heights[0] == pytest.approx(2, rel=0.01)
    assert outline(svg).tags.count("title") == 3


@pytest.mark.parametrize("values", [[], [0], [1] * 999 + [10**6], list(range(3000))])
def test_no_count_is_lost_between_bins_and_bars(values: list[int]) -> None:
    histogram = Histogram.of("count", values)
    axis = count_axis([histogram])
    assert rebin(histogram, axis.edges).sum() == pytest.approx(len(values))
    assert 1 <= len(axis.edges) - 1 <= 45
    outline(bar_chart("a", "b", axis, [Series("before", histogram)]))


def test_ratios_are_drawn_symmetric_about_one() -> None:
    histogram: Any = Histogram.of("ratio", [0.5, 1, 1, 2, 3.9])
    axis = ratio_axis([histogram])
    assert [text for _, text in axis.ticks] == ["1/4", "1/2", "1", "2", "4"]
    counts = rebin(histogram, axis.edges)
    assert counts.sum() == pytest.approx(5)
    assert counts[len(counts) // 2] == pytest.approx(2)


def test_large_numbers_are_written_short() -> None:
    assert [short_number(n) for n in (0, 950, 12_345, 1_500_000)] == ["0", "950", "12.3k", "1.5M"]
