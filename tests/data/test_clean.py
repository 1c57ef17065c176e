from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.config import DataConfig, UserError
from accel_tx.data.clean import CleanReport, clean_pairs, report_table, rules_from
from accel_tx.data.corpus import load_corpus

Pairs = list[tuple[str, str]]
OFFICE_HELP = Path(__file__).parents[3] / "shared/corpora/office_help_en_fr/train.tsv.gz"
ORIGINAL: dict[str, Any] = {
    "max_src_words": 150,
    "max_tgt_extra_chars": 10,
    "min_src_chars": 20,
    "min_tgt_chars": 20,
}


def dataset(pairs: Pairs) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"src": [s for s, _ in pairs], "tgt": [t for _, t in pairs]})


def pairs_of(data: datasets.Dataset) -> Pairs:
    assert data.column_names == ["src", "tgt"]
    return list(zip(data["src"], data["tgt"], strict=True))


def keeps(src: str, tgt: str, **fields: Any) -> bool:
    return all(rule.keeps(src, tgt) for rule in rules_from(DataConfig(**fields)))


@pytest.mark.parametrize(
    ("src", "tgt", "fields", "kept"),
    [
        ("a", "b", {}, True),
        ("", "b", {}, False),
        ("a", " \t\u00a0\u2003\n", {}, False),
        ("a b c", "x", {"max_src_words": 4}, True),
        ("a b c d", "x", {"max_src_words": 4}, False),
        ("well, no...", "x", {"max_src_words": 5}, True),  # well | , | no | ...
        ("well, no...", "x", {"max_src_words": 4}, False),
        ("cafe\u0301 cafe\u0301", "x", {"max_src_words": 3}, True),  # a combining accent is inside its word
        ("1½ 2²", "x", {"max_src_words": 4}, False),  # 1 | ½ | 2 | ²
        ("1½ 2²", "x", {"max_src_words": 5}, True),
        ("12345", "x" * 7, {"max_tgt_extra_chars": 3}, True),
        ("12345", "x" * 8, {"max_tgt_extra_chars": 3}, False),
        ("éééé", "x", {"min_src_chars": 3}, True),
        ("ééé", "x", {"min_src_chars": 3}, False),
        ("x", "éééé", {"min_tgt_chars": 3}, True),
        ("x", "ééé", {"min_tgt_chars": 3}, False),
        ("x", "x", {"max_src_words": 0}, False),
        ("x", "x", {"max_src_words": 1}, False),
    ],
)
def test_each_rule_is_strict_at_its_bound(src: str, tgt: str, fields: dict[str, int], kept: bool) -> None:
    assert keeps(src, tgt, **fields) is kept


def test_rules_are_off_by_default_and_keep_the_recipes_order() -> None:
    assert [rule.name for rule in rules_from(DataConfig())] == ["empty side"]
    rules = rules_from(DataConfig(**ORIGINAL))
    assert [rule.name for rule in rules] == ["empty side", *ORIGINAL]
    assert [rule.meaning for rule in rules][1] == "source under 150 words"


@pytest.mark.skipif(not OFFICE_HELP.is_file(), reason=f"{OFFICE_HELP} is not here")
def test_word_counts_equal_those_of_the_whitespace_pre_tokenizer_on_real_text() -> None:
    rules = {limit: rules_from(DataConfig(max_src_words=limit))[1] for limit in (5, 20, 150)}
    lines = gzip.decompress(OFFICE_HELP.read_bytes()).decode().split("\n")
    cut = Whitespace().pre_tokenize_str
    for line in lines:
        n_words = len(cut(line))
        assert [rule.keeps(line, "") for rule in rules.values()] == [n_words < limit for limit in rules], line


@pytest.mark.skipif(not OFFICE_HELP.is_file(), reason=f"{OFFICE_HELP} is not here")
@pytest.mark.parametrize("n_procs", [1, 2])
def test_the_originals_four_filters_keep_the_same_pairs_on_real_text(tmp_path: Path, n_procs: int) -> None:
    rows = [line.split("\t") for line in gzip.decompress(OFFICE_HELP.read_bytes()).decode().split("\n")[1:-1]]
    pre_tokenizer = Whitespace()
    expected = [
        (src, tgt)
        for src, tgt in rows
        if len(pre_tokenizer.pre_tokenize_str(src)) < 150
        and len(src) + 10 > len(tgt)
        and len(src) > 20
        and len(tgt) > 20
        and src.strip()
        and tgt.strip()
    ]
    config = DataConfig(corpus=str(OFFICE_HELP), n_procs=n_procs, **ORIGINAL)
    kept, report = clean_pairs(load_corpus(config, tmp_path / "work").train, config)
    assert 1_000 < len(expected) < len(rows)
    assert pairs_of(kept) == expected
    assert (report.n_read, report.n_kept) == (len(rows), len(expected))
    assert sum(report.dropped.values()) == len(rows) - len(expected)


def test_a_pair_counts_for_the_first_rule_that_objects_to_it() -> None:
    pairs = [("", ""), ("a b c d", "x"), ("abc", "x" * 9), ("ab", "x"), ("abc", "x"), ("abc", "xyz"), (" ", "yes")]
    config = DataConfig(max_src_words=4, max_tgt_extra_chars=3, min_src_chars=2, min_tgt_chars=1)
    kept, report = clean_pairs(dataset(pairs), config)
    assert pairs_of(kept) == [("abc", "xyz")]
    assert report.dropped == {
        "empty side": 2,
        "max_src_words": 1,
        "max_tgt_extra_chars": 1,
        "min_src_chars": 1,
        "min_tgt_chars": 1,
    }
    assert report.examples["empty side"] == [["", ""], [" ", "yes"]]
    assert report.examples["min_src_chars"] == [["ab", "x"]]


def test_examples_are_the_first_three_and_short() -> None:
    long = "é" * 500
    pairs = [("keep this", "oui"), *((f"{i}{long}", "x") for i in range(5))]
    _, report = clean_pairs(dataset(pairs), DataConfig(min_tgt_chars=1))
    shown = report.examples["min_tgt_chars"]
    assert [src[0] for src, _ in shown] == ["0", "1", "2"]
    assert all(len(src) == 120 and src.endswith("é…") for src, _ in shown)


def test_the_report_survives_json_and_can_be_extended() -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("c", ""), ("d", "e")]), DataConfig())
    assert CleanReport(**json.loads(json.dumps(report.to_dict()))) == report
    more = report.with_dropped("max_positions", "at most 9 tokens", 1, [("d" * 200, "e")])
    assert (more.n_read, more.n_kept, list(more.dropped.items())) == (3, 1, [("empty side", 1), ("max_positions", 1)])
    assert more.examples["max_positions"] == [["d" * 119 + "…", "e"]]
    assert more.meanings["max_positions"] == "at most 9 tokens"
    assert report.n_kept == 2, "the first report is left as it was"


@pytest.mark.parametrize(("name", "count"), [("empty side", 1), ("new", 3), ("new", -1)])
def test_a_rule_that_takes_more_than_is_left_or_comes_twice_is_refused(name: str, count: int) -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("c", ""), ("d", "e")]), DataConfig())
    with pytest.raises(ValueError, match=f"rule '{name}' dropped {count}; expected a new rule and 0 to 2 pairs"):
        report.with_dropped(name, "", count)


def test_a_report_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="3 pairs read are not 2 kept"):
        CleanReport(n_read=3, n_kept=2, dropped={"r": 2}, examples={"r": []}, meanings={"r": ""})


def test_nothing_left_says_which_rule_took_how_many_and_what_to_loosen() -> None:
    pairs = [("", "x"), *[("one two three", "x")] * 12, *[("short", "x")] * 987]
    config = DataConfig(corpus="my.tsv", max_src_words=3, min_src_chars=30)
    with pytest.raises(UserError) as caught:
        clean_pairs(dataset(pairs), config)
    assert str(caught.value) == (
        "corpus my.tsv: 0 of 1,000 pairs left after cleaning (empty side 1, max_src_words 12, min_src_chars 987); "
        "loosen data.min_src_chars"
    )


def test_nothing_but_empty_sides_is_not_blamed_on_a_setting() -> None:
    config = DataConfig(train_src="a.en", train_tgt="a.fr")
    with pytest.raises(UserError, match=r"corpus a\.en and a\.fr: 0 of 1 pairs .* check that both columns hold text"):
        clean_pairs(dataset([("a", " ")]), config)


@pytest.mark.parametrize("n_procs", [1, 2])
def test_files_on_the_way_stay_beside_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_procs: int) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "x.tsv").write_text("en\tfr\n" + "a\tb\nc\t \n" * 3_000)
    config = DataConfig(corpus=str(tmp_path / "x.tsv"), n_procs=n_procs)
    first = load_corpus(config, tmp_path / "work").train
    kept, _ = clean_pairs(first, config)
    assert pairs_of(kept) == [("a", "b")] * 3_000
    assert not list((tmp_path / "tmp").rglob("*.arrow"))
    files = {Path(file["filename"]) for file in kept.cache_files}
    assert {path.parent for path in files} == {tmp_path / "work"}
    assert {path.name.split("_")[0].removesuffix(".arrow") for path in files} == {"train", "train.marks", "train.kept"}
    assert sorted(files) == sorted((tmp_path / "work").iterdir())
    assert not (tmp_path / "home").exists()


def test_cleaning_again_with_other_rules_does_not_answer_from_old_files(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("en\tfr\na\tb\nabc\tdef\n")
    config = DataConfig(corpus=str(tmp_path / "x.tsv"))
    pairs = load_corpus(config, tmp_path / "work").train
    loose, _ = clean_pairs(pairs, config)
    strict, _ = clean_pairs(pairs, DataConfig(corpus=config.corpus, min_src_chars=2))
    assert pairs_of(strict) == [("abc", "def")]
    assert pairs_of(loose) == [("a", "b"), ("abc", "def")]


def test_pairs_held_in_memory_may_be_cleaned_by_two_processes() -> None:
    pairs = [(f"{i}", "x" * (i % 3)) for i in range(2_000)]
    kept, report = clean_pairs(dataset(pairs), DataConfig(n_procs=2))
    assert pairs_of(kept) == [pair for pair in pairs if pair[1]]
    assert not kept.cache_files
    assert report.dropped == {"empty side": 667}


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_bars_appear_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    class Stderr(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stderr = Stderr()
    monkeypatch.setattr(sys, "stderr", stderr)
    clean_pairs(dataset([("a", "b")]), DataConfig())
    assert ("clean" in stderr.getvalue()) is is_terminal
    assert not datasets.are_progress_bars_disabled()


def test_the_table_shows_every_rule_and_text_with_brackets_as_it_is() -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("[bold]x[/] [/red]", " ")]), DataConfig(min_src_chars=0))
    out = io.StringIO()
    Console(file=out, width=120).print(report_table(report))
    text = out.getvalue()
    for part in ("1 of 2 pairs kept", "empty side", "50.0%", "[bold]x[/] [/red] →", "min_src_chars", "source over 0"):
        assert part in text
