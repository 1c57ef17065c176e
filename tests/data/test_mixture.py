"""How often the pairs of several corpora stand in an epoch, whatever their order."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from accel_tx.config import Config, DataConfig, UserError
from accel_tx.data.dataset import PreparedData, prepare_data
from accel_tx.data.mixture import sample, weighted_segments
from accel_tx.data.processes import processes_for

MakeConfig = Callable[..., Config]
Pair = tuple[str, str]


def rows(n: int, word: str) -> list[Pair]:
    return [(f"{word} number {i} is here", f"{word} numéro {i} est ici") for i in range(n)]


def dataset(pairs: list[Pair]) -> Dataset:
    return Dataset.from_dict(dict(zip(["src", "tgt"], map(list, zip(*pairs, strict=True)), strict=True)))


def epoch_of(pairs: list[Pair], weight: float) -> Counter[str]:
    counts: Counter[str] = Counter()
    for segment in weighted_segments(["a"], [dataset(pairs)], [weight]):
        for text in segment.pairs["src"]:
            counts[text] += segment.times
    return counts


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (1, {1: 100}),
        (2, {2: 100}),
        (0.5, {1: 50}),
        (1.5, {2: 50, 1: 50}),
        (3.25, {4: 25, 3: 75}),
        (0.01, {1: 1}),
    ],
)
def test_a_weight_says_how_often_each_pair_counts(weight: float, expected: dict[int, int]) -> None:
    pairs = rows(100, "cat")
    counts = epoch_of(pairs, weight)
    assert Counter(counts.values()) == expected
    assert epoch_of(random.Random(1).sample(pairs, 100), weight) == counts


def test_a_weight_that_leaves_nothing_is_an_error_that_says_so() -> None:
    with pytest.raises(UserError, match=r"^corpus a, weight 0\.001: none of 3 pairs is left; raise the weight$"):
        epoch_of(rows(3, "cat"), 0.001)


@pytest.mark.parametrize(
    ("n_pairs", "weight", "n_most", "expected"),
    [
        (3, 1_000, 500, {167: 2, 166: 1}),
        (3, 2, 5, {2: 2, 1: 1}),
        (100, 3, 100, {1: 100}),
        (100, 3, 150, {2: 50, 1: 50}),
    ],
)
def test_a_sample_repeats_a_pair_only_where_there_are_too_few(
    n_pairs: int, weight: float, n_most: int, expected: dict[int, int]
) -> None:
    segments, n_drawn = sample(weighted_segments(["a"], [dataset(rows(n_pairs, "cat"))], [weight]), n_most)
    assert n_drawn == n_most
    assert Counter({s.times: len(s.pairs) for s in segments}) == expected


def test_a_sample_has_a_pair_of_every_corpus() -> None:
    mixed = [dataset(rows(400, "cat")), dataset(rows(1, "dog"))]
    segments, n_drawn = sample(weighted_segments(["a", "b"], mixed, [1, 1]), 20)
    assert [(s.corpus, len(s.pairs), s.times) for s in segments] == [("a", 19, 1), ("b", 1, 1)]
    assert n_drawn == 20


def test_a_sample_is_drawn_evenly_from_all_corpora_and_not_by_order() -> None:
    corpora = [rows(400, "cat"), rows(200, "dog")]
    drawn = []
    for seed in (1, 2):
        mixed = [dataset(random.Random(seed).sample(pairs, len(pairs))) for pairs in corpora]
        segments, n_pairs = sample(weighted_segments(["a", "b"], mixed, [1, 2]), 200)
        assert n_pairs == 200
        assert [(s.corpus, len(s.pairs), s.times) for s in segments] == [("a", 100, 1), ("b", 100, 1)]
        drawn.append([set(s.pairs["src"]) for s in segments])
    assert drawn[0] == drawn[1]
    assert sample(segments, None)[1] == 200


def write_tsv(path: Path, pairs: list[Pair]) -> str:
    path.write_text("en\tfr\n" + "".join(f"{src}\t{tgt}\n" for src, tgt in pairs), encoding="utf-8")
    return str(path)


def prepared(tiny_config: MakeConfig, tmp_path: Path, entries: list[dict[str, Any]], **data: Any) -> PreparedData:
    return prepare_data(tiny_config(data={"cache_dir": str(tmp_path / "cache"), "corpora": entries, **data}))


def trained_on(data: PreparedData) -> Counter[str]:
    decoded = data.tokenizers.src.decode([data.train[i].src.tolist() for i in range(len(data.train))])
    return Counter(decoded)


@pytest.mark.parametrize("n_procs", [1, 2])
def test_corpora_are_mixed_by_weight_with_rules_of_their_own(
    tiny_config: MakeConfig, tmp_path: Path, n_procs: int
) -> None:
    cats = write_tsv(tmp_path / "cats.tsv", rows(60, "cat"))
    dogs = write_tsv(tmp_path / "dogs.tsv", [*rows(40, "dog"), ("no", "non")])
    entries = [
        {"name": "cats", "corpus": cats, "weight": 2},
        {"name": "dogs", "corpus": dogs, "weight": 0.5, "clean": {"min_src_chars": 5}},
    ]
    data = prepared(tiny_config, tmp_path, entries, valid_size=20, n_procs=n_procs)
    counts = trained_on(data)
    n_cats, n_dogs = (sum(text.startswith(word) for text in data.valid_src.to_pylist()) for word in ("cat", "dog"))
    assert (len(data.valid), n_cats + n_dogs) == (20, 20)
    assert len(set(data.valid_src.to_pylist())) == 20, "validation pairs are never repeated"
    assert not set(data.valid_src.to_pylist()) & set(counts)
    assert Counter(n for text, n in counts.items() if text.startswith("cat")) == {2: 60 - n_cats}
    assert Counter(n for text, n in counts.items() if text.startswith("dog")) == {1: int((40 - n_dogs) / 2 + 0.5)}
    parts = {part.name: part for part in data.report.parts}
    assert [(name, p.n_read, p.n_kept, p.weight) for name, p in parts.items()] == [
        ("cats", 60, 60, 2),
        ("dogs", 41, 40, 0.5),
    ]
    assert data.report.dropped["min_src_chars"] == 1
    assert data.notes[-2] == f"cats, weight 2: {60 - n_cats} training pairs, {2 * (60 - n_cats)} in an epoch"


def test_a_corpus_of_lines_that_are_too_long_is_left_out_and_counted(tiny_config: MakeConfig, tmp_path: Path) -> None:
    cats = write_tsv(tmp_path / "cats.tsv", rows(60, "cat"))
    dogs = write_tsv(tmp_path / "dogs.tsv", [("x" * 10_000, "y"), ("z", "y" * 10_000)])
    entries = [{"name": "cats", "corpus": cats}, {"name": "dogs", "corpus": dogs, "clean": {"preset": "none"}}]
    data = prepared(tiny_config, tmp_path, entries, valid_size=20)
    assert data.report.dropped["line length"] == 2
    assert len(data.train) == 40
    after = [corpus["after"]["n_pairs"] for corpus in data.report.statistics["corpora"]]
    assert after == [60, 0]


def test_what_late_rules_take_is_counted_for_its_corpus_with_examples(tiny_config: MakeConfig, tmp_path: Path) -> None:
    pairs = {name: [(src, tgt, "b1") for src, tgt in rows(30, name)] for name in ("cats", "dogs")}
    pairs["cats"] += [("x" * 7_000, "long", "b1"), *((f"cats {i} " + "x " * 96, "many", "b1") for i in range(3))]
    pairs["dogs"] += [(f"dogs {i} " + "x " * 96, "many", "b2") for i in range(4)]
    pairs["dogs"] += [("held out", "mis de côté", f"b{book}") for book in (1, 2)]
    entries = []
    for name, lines in pairs.items():
        path = tmp_path / f"{name}.tsv"
        path.write_text("en\tfr\tbook\n" + "".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
        entries.append({"name": name, "corpus": str(path), "clean": {"preset": "none"}})
    report = prepared(tiny_config, tmp_path, entries, group_column="book", valid_size=5).report
    late = ("line length", "shared with validation", "max_positions")
    assert {p.name: (p.n_read, p.n_kept, *(p.dropped[name] for name in late)) for p in report.parts} == {
        "cats": (34, 30, 1, 0, 3),
        "dogs": (36, 31, 0, 1, 4),
    }
    assert [len(report.examples[name]) for name in late] == [1, 1, 5]
    assert report.examples["shared with validation"] == [["held out", "mis de côté"]]
    assert not set(late) & set(report.alone)


def test_more_processes_than_rows_bring_no_warning(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[object] = []
    monkeypatch.setattr(datasets.arrow_dataset.logger, "warning", lambda *args: warnings.append(args))
    mended = [(f"{src}\a", tgt) for src, tgt in rows(2, "dog")]
    entries = [
        {"name": "cats", "corpus": write_tsv(tmp_path / "cats.tsv", rows(30, "cat"))},
        {"name": "dogs", "corpus": write_tsv(tmp_path / "dogs.tsv", mended)},
    ]
    data = prepared(tiny_config, tmp_path, entries, valid_size=2, n_procs=3)
    assert data.report.repaired["fix_control_characters"] == 2
    assert not warnings


@pytest.mark.parametrize(
    ("n_rows", "n_procs", "expected"), [(9, 4, 4), (3, 4, 3), (1, 4, None), (9, 1, None), (0, 2, None)]
)
def test_a_pass_takes_no_more_processes_than_rows(n_rows: int, n_procs: int, expected: int | None) -> None:
    assert processes_for(n_rows, n_procs) == expected


def test_every_weight_and_rule_has_prepared_data_of_its_own(tiny_config: MakeConfig, tmp_path: Path) -> None:
    corpus = write_tsv(tmp_path / "c.tsv", rows(60, "cat"))
    folders = {
        prepared(tiny_config, tmp_path, [{"name": "c", "corpus": corpus, **more}]).folder
        for more in ({}, {"weight": 2}, {"clean": {"min_src_chars": 3}})
    }
    assert len(folders) == 3


def test_test_text_is_kept_out_of_training(tiny_config: MakeConfig, tmp_path: Path) -> None:
    corpus = write_tsv(tmp_path / "c.tsv", rows(60, "a long enough cat"))
    leaked = [(src.upper() + " !", tgt) for src, tgt in rows(5, "a long enough cat")]
    test = write_tsv(tmp_path / "test.tsv", leaked)
    data = prepared(tiny_config, tmp_path, [{"name": "c", "corpus": corpus}], test_corpus=test)
    assert data.report.dropped["overlap"] == 5
    assert not {src for src, _ in rows(5, "a long enough cat")} & (
        set(trained_on(data)) | set(data.valid_src.to_pylist())
    )
    assert data.notes == []
    entries = [{"name": "c", "corpus": corpus, "clean": {"preset": "none"}}]
    unchecked = prepared(tiny_config, tmp_path, entries, test_corpus=test)
    assert unchecked.notes == ["clean.overlap is off for c: test text may be in training"]
    both = prepared(tiny_config, tmp_path, entries, test_corpus=test, valid_corpus=test)
    assert both.notes == ["clean.overlap is off for c: validation and test text may be in training"]


def test_a_vocabulary_of_a_sample_says_so(tiny_config: MakeConfig, tmp_path: Path) -> None:
    corpus = write_tsv(tmp_path / "c.tsv", rows(100, "cat"))
    config = tiny_config(
        data={"cache_dir": str(tmp_path / "cache"), "corpus": corpus, "valid_size": 10},
        tokenizer={"max_sentences": 30},
    )
    data = prepare_data(config)
    assert data.notes == ["vocabulary learned from 30 of 90 training pairs"]
    numbers = {str(i) for i in range(100)} & data.tokenizers.src.fast.get_vocab().keys()
    assert len(numbers) == 30


WRONG: list[tuple[Any, str]] = [
    ([{"name": "a", "corpus": "x", "wieght": 2}], "data.corpora, entry 1: unknown key wieght; did you mean weight?"),
    ([{"name": "a", "corpus": "x"}, {"corpus": "y"}], "entry 2: name is None; expected text"),
    ([{"name": "a", "corpus": 3}], "entry 1: corpus is 3; expected text"),
    ([{"name": "a", "corpus": "x"}, {"name": "a", "corpus": "y"}], "the name 'a' is given twice"),
    ([{"name": "a", "corpus": "x", "weight": 0}], "entry 1: weight is 0; expected a number above 0"),
    ([{"name": "a", "corpus": "x", "weight": "2"}], "weight is '2'; expected a number"),
    (["x"], "entry 1 is 'x'; expected a mapping with name, corpus, subset, weight, clean"),
    ([{"name": "a", "corpus": "x", "clean": 3}], "clean is 3; expected fields of the section clean"),
]


@pytest.mark.parametrize(("entries", "expected"), WRONG)
def test_a_wrong_entry_is_named(entries: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        DataConfig(corpora=entries)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        ({"max_wordz": 3}, "data.corpora, clean of a: unknown key max_wordz; did you mean max_words?"),
        ({"max_words": 0}, "data.corpora, clean of a: clean.max_words is 0"),
        ({"max_words": "many"}, "data.corpora, clean of a: max_words is 'many'; expected a whole number, or null"),
        ({"max_words": 10.5}, "data.corpora, clean of a: max_words is 10.5; expected a whole number, or null"),
        ({"max_words": True}, "data.corpora, clean of a: max_words is True; expected a whole number, or null"),
        ({"numbers": "no"}, "data.corpora, clean of a: numbers is 'no'; expected true or false, or null"),
        ({"urls": 0}, "data.corpora, clean of a: urls is 0; expected true or false, or null"),
        ({"max_word_ratio": True}, "data.corpora, clean of a: max_word_ratio is True; expected a number, or null"),
        (
            {"max_word_ratio": math.nan},
            "data.corpora, clean of a: clean.max_word_ratio is nan; expected a number",
        ),
        ({"without": [1]}, "data.corpora, clean of a: "),
        ({"preset": []}, "data.corpora, clean of a: preset is []"),
        ({"preset": "lihgt"}, "data.corpora, clean of a: preset is 'lihgt'; expected one of none, original"),
    ],
)
def test_wrong_rules_of_an_entry_are_named(tiny_config: MakeConfig, clean: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_config(data={"corpora": [{"name": "a", "corpus": "x", "clean": clean}]})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("beside", "way_out"),
    [
        ({"corpus": "other"}, "--data.corpus phrasebook"),
        ({"subset": "en-fr"}, "--data.subset null"),
        ({"train_src": "a", "train_tgt": "b"}, "--data.train_src null"),
    ],
)
def test_several_corpora_beside_another_one_are_refused(beside: dict[str, str], way_out: str) -> None:
    with pytest.raises(UserError, match=f"data.corpora and data.{next(iter(beside))} are both given; .*{way_out}"):
        DataConfig(corpora=[{"name": "a", "corpus": "x"}], **beside)  # type: ignore[arg-type]
