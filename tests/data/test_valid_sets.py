"""Further validation sets: used as they are, never trained on, part of what names the prepared data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, DataConfig, UserError
from accel_tx.data.dataset import PreparedData, cache_folder, prepare_data

MakeConfig = Callable[..., Config]
TRAIN = [(f"this is sentence number {i} of the text", f"voici la phrase numéro {i} du texte") for i in range(60)]
ODD = [("  a line  with spaces ", "Une ligne   avec des espaces "), (TRAIN[7][0].upper(), "tout autre chose")]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in [("en", "fr"), *rows]), encoding="utf-8")
    return str(path)


@pytest.fixture
def prepare(tiny_config: MakeConfig, tmp_path: Path) -> Callable[..., PreparedData]:
    corpus = write(tmp_path / "corpus.tsv", TRAIN)

    def make(**data: Any) -> PreparedData:
        fields = {"corpus": corpus, "valid_size": 5, "cache_dir": str(tmp_path / "cache"), **data}
        return prepare_data(tiny_config(data=fields))

    return make


def test_sets_are_used_as_they_are_and_training_is_kept_clear_of_them(
    prepare: Callable[..., PreparedData], tmp_path: Path
) -> None:
    (tmp_path / "x.en").write_text(TRAIN[3][0] + "\n")
    (tmp_path / "x.fr").write_text(TRAIN[3][1] + "\n")
    plain = prepare()
    sets = [
        {"name": "odd", "corpus": write(tmp_path / "odd.tsv", ODD)},
        {"name": "lines", "src": str(tmp_path / "x.en"), "tgt": str(tmp_path / "x.fr")},
    ]
    data = prepare(valid_sets=sets)
    odd = data.valid_sets["odd"]

    assert list(data.valid_sets) == ["odd", "lines"]
    assert list(zip(odd.src.to_pylist(), odd.tgt.to_pylist(), strict=True)) == ODD
    ids = data.tokenizers.src.encode([src for src, _ in ODD])
    assert [odd.pairs[i].src.tolist() for i in range(2)] == ids
    # One pair stands in `lines`, and the source of another in `odd` but for its case.
    assert data.report.dropped["overlap"] == 2
    assert len(data.train) + len(data.valid) == len(plain.train) + len(plain.valid) - 2
    assert data.sha256 != plain.sha256


def test_the_prepared_data_is_that_of_these_sets(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def folder(*sets: dict[str, str]) -> Path:
        return cache_folder(tiny_config(data={"corpus": corpus, "valid_sets": list(sets)}))

    corpus = write(tmp_path / "corpus.tsv", TRAIN)
    odd = {"name": "odd", "corpus": write(tmp_path / "odd.tsv", ODD)}
    before = {folder(), folder(odd), folder({**odd, "name": "other"})}
    write(tmp_path / "odd.tsv", ODD[:1])

    assert len({*before, folder(odd)}) == 4


def test_a_pair_that_is_too_long_is_named_with_its_set(prepare: Callable[..., PreparedData], tmp_path: Path) -> None:
    for words, message in ((100, "101 tokens; expected at most model.max_positions = 96"), (9999, "bytes")):
        long = write(tmp_path / "long.tsv", [("fine", "bien"), ("wörd " * words, "mot")])
        with pytest.raises(UserError, match=rf"data\.valid_sets long: pair 2 has (more than .*)?{message}"):
            prepare(valid_sets=[{"name": "long", "corpus": long}])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([{"name": "a/b", "corpus": "x.tsv"}], "entry 1: name is 'a/b'; expected letters, digits"),
        ([{"name": "a"}], "entry 1.corpus and data.valid_sets, entry 1.src: neither given"),
        ([{"name": "a", "corpus": "x", "src": "y", "tgt": "z"}], "both given"),
        ([{"name": "a", "src": "y"}], "only one is given"),
        ([{"name": "a", "corpsu": "x"}], "unknown key corpsu; did you mean corpus"),
        ([{"name": "a", "corpus": 3}], "corpus is 3; expected text"),
        (["a.tsv"], "entry 1 is 'a.tsv'; expected a mapping with name, corpus, src, tgt"),
        ([{"name": "a", "corpus": "x"}, {"name": "a", "corpus": "y"}], "data.valid_sets: the name 'a' is given twice"),
    ],
)
def test_entries_that_do_not_fit_are_refused(sets: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataConfig(valid_sets=sets)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "a", "corpus": "none.tsv"}, r"data\.valid_sets a none\.tsv: no such file"),
        ({"name": "a", "src": "none.en", "tgt": "none.fr"}, r"data\.valid_sets a: src none\.en: no such file"),
    ],
)
def test_a_set_that_is_not_there_is_named(
    entry: dict[str, str], message: str, prepare: Callable[..., PreparedData]
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(valid_sets=[entry])


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("bleu/none", "best_metric is bleu/none, but data.valid_sets has odd"),
        ("blue", "best_metric is 'blue'; expected bleu, chrf, val_loss, cer, wer"),
        ("ter/odd", "best_metric is 'ter/odd'; expected"),
    ],
)
def test_the_best_metric_must_be_one_that_is_scored(metric: str, message: str, tiny_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=message):
        tiny_config(data={"valid_sets": [{"name": "odd", "corpus": "x"}]}, validation={"best_metric": metric})
