"""Preparing data: split by content, tokenizers that see the training split only, a cache that is used."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from accel_tx.config import CleanConfig, Config, UserError
from accel_tx.data import prepare
from accel_tx.data.dataset import cache_folder, prepare_data
from accel_tx.data.token_pairs import open_table

MakeConfig = Callable[..., Config]


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("en\tfr\n" + "".join(f"{src}\t{tgt}\n" for src, tgt in rows), encoding="utf-8")
    return path


def rows(n: int) -> list[tuple[str, str]]:
    return [(f"sentence number {i} is here", f"la phrase numéro {i} est ici") for i in range(n)]


def config_for(tiny_config: MakeConfig, tmp_path: Path, **data: Any) -> Config:
    return tiny_config(data={"cache_dir": str(tmp_path / "cache"), **data})


def test_tokenizers_see_the_training_split_only(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", rows(300))))
    data = prepare_data(config)
    known = {str(i) for i in range(300)} & data.tokenizers.src.fast.get_vocab().keys()
    held_out = {src.split()[2] for src in data.valid_src.to_pylist()}
    assert len(held_out) == 30
    assert known
    assert known.isdisjoint(held_out)


def test_ids_on_disk_are_those_of_the_tokenizer_and_the_references_are_raw(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    pairs = [(f"a  strange   {i} source", f"une  cible   {i} étrange") for i in range(100)]
    data = prepare_data(config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", pairs))))
    assert set(zip(data.valid_src.to_pylist(), data.valid_tgt.to_pylist(), strict=True)) <= set(pairs)
    for i, (src, tgt) in enumerate(zip(data.valid_src.to_pylist(), data.valid_tgt.to_pylist(), strict=True)):
        assert data.valid[i].src.tolist() == data.tokenizers.src.encode([src])[0]
        assert data.valid[i].tgt.tolist() == data.tokenizers.tgt.encode([tgt])[0]
        assert data.valid.src_lengths[i] == len(data.valid[i].src) + 1
    assert isinstance(data.valid_src, pa.ChunkedArray), "not a Python object a sentence"


def test_test_text_is_kept_as_it_stands(tiny_config: MakeConfig, tmp_path: Path) -> None:
    corpus = str(write_tsv(tmp_path / "c.tsv", rows(100)))
    pairs = [("a  strange   source", "une  cible"), ("again " * 5_000, "encore"), ("again " * 5_000, "encore")]
    test = str(write_tsv(tmp_path / "test.tsv", pairs))
    data = prepare_data(config_for(tiny_config, tmp_path, corpus=corpus, test_corpus=test))
    assert data.test_src is not None
    assert data.test_tgt is not None
    assert list(zip(data.test_src.to_pylist(), data.test_tgt.to_pylist(), strict=True)) == pairs
    none = prepare_data(config_for(tiny_config, tmp_path, corpus=corpus))
    assert (none.test_src, none.test_tgt) == (None, None)
    assert none.sha256 == data.sha256


@pytest.mark.parametrize("preset", ["light", "none"])
def test_a_target_held_out_with_another_source_is_not_trained_on(
    preset: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    pairs = [(f"{way} number {i}", f"la phrase numéro {i} est ici") for i in range(100) for way in ("one", "another")]
    pairs += [(f"short {i}", f"oui {i % 5}") for i in range(100)]
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", pairs)))
    data = prepare_data(dataclasses.replace(config, clean=CleanConfig(preset=preset, near_duplicates=False)))
    trained = set(data.tokenizers.tgt.decode(data.train[i].tgt.tolist() for i in range(len(data.train))))
    held_out = set(data.valid_tgt.to_pylist())
    long = {text for text in held_out if text.startswith("la")}
    assert len(long) > 10
    if preset == "none":
        assert trained & long
        return
    assert not trained & long
    assert trained & held_out, "a short target stands in any corpus"
    dropped = data.report.dropped["target held out"]
    assert dropped == len(pairs) - len(data.train) - len(data.valid) > 5


def test_a_split_that_holds_every_target_out_says_so(tiny_config: MakeConfig, tmp_path: Path) -> None:
    pairs = [(f"sentence number {i} is here", "la même phrase est ici") for i in range(12)]
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", pairs)))
    with pytest.raises(UserError, match=r"no pair is left to train on: every target .* or --clean.without overlap$"):
        prepare_data(dataclasses.replace(config, clean=CleanConfig(near_duplicates=False)))


def test_both_directions_double_the_training_pairs_and_nothing_else(tiny_config: MakeConfig, tmp_path: Path) -> None:
    corpus = str(write_tsv(tmp_path / "c.tsv", [(src, f"{tgt} !") for src, tgt in rows(50)]))
    one_way, both_ways = (
        prepare_data(config_for(tiny_config, tmp_path, corpus=corpus, both_directions=both)) for both in (False, True)
    )
    n = len(one_way.train)
    for i, pair in enumerate(one_way.train.__getitems__([*range(n)])):
        same, reverse = both_ways.train[i], both_ways.train[n + i]
        assert (same.src.tolist(), same.tgt.tolist()) == (pair.src.tolist(), pair.tgt.tolist())
        assert (reverse.src.tolist(), reverse.tgt.tolist()) == (pair.tgt.tolist(), pair.src.tolist())
    assert len(both_ways.train) == 2 * n
    assert both_ways.train.src_lengths.tolist() == [*one_way.train.src_lengths, *one_way.train.tgt_lengths]
    assert both_ways.valid.sha256() == one_way.valid.sha256()
    assert both_ways.folder == one_way.folder, "nothing is prepared again"
    assert both_ways.sha256 != one_way.sha256, "a run cannot go on with the other"
    assert both_ways.notes[-1] == "both directions: 45 pairs and their reverse are 90 training pairs"


def test_a_second_start_reads_the_cache_and_does_not_tokenize(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tsv(tmp_path / "c.tsv", rows(50))
    config = config_for(tiny_config, tmp_path, corpus=str(path))
    first = prepare_data(config)

    def fail(*_: object) -> None:
        raise AssertionError("read the corpus again")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "load_corpus", fail)
        assert prepare_data(config).sha256 == first.sha256
        with pytest.raises(AssertionError, match="again"):
            prepare_data(dataclasses.replace(config, clean=CleanConfig(min_src_chars=1)))
    write_tsv(path, rows(60))
    assert cache_folder(config) != first.folder
    assert len(prepare_data(config).train) != len(first.train)


def test_prepared_data_with_a_report_of_another_version_is_one_line(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", rows(50))))
    meta = prepare_data(config).folder / "meta.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"meanings"', '"meaning"'), encoding="utf-8")
    with pytest.raises(UserError, match="the prepared data is damaged"):
        prepare_data(config)


@pytest.mark.parametrize("name", ["train_0.arrow", "valid.arrow", "valid_set_0.arrow"])
def test_prepared_data_that_was_cut_between_batches_is_one_line(
    tiny_config: MakeConfig, tmp_path: Path, name: str
) -> None:
    corpus, news = str(write_tsv(tmp_path / "c.tsv", rows(50))), str(write_tsv(tmp_path / "n.tsv", rows(60)[50:]))
    config = config_for(tiny_config, tmp_path, corpus=corpus, valid_sets=[{"name": "news", "corpus": news}])
    path = prepare_data(config).folder / name
    table = open_table(path.parent, [name])
    with pa.OSFile(str(tmp_path / "cut"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table[:-1])
    (tmp_path / "cut").replace(path)
    n = len(table)
    expected = rf"the prepared data is damaged \({name}: {n - 1} pairs, where meta.json says {n}\); remove this folder"
    with pytest.raises(UserError, match=expected):
        prepare_data(config)


def test_a_failed_preparation_leaves_nothing_behind(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", rows(50))))
    config = dataclasses.replace(config, clean=CleanConfig(min_src_chars=1000))
    with pytest.raises(UserError, match="0 of 50 pairs left after cleaning"):
        prepare_data(config)
    assert list((tmp_path / "cache").iterdir()) == []


def test_pairs_longer_than_the_positions_are_dropped_and_counted(tiny_config: MakeConfig, tmp_path: Path) -> None:
    long = [(" ".join(["long"] * 96), "court"), ("short", " ".join(["long"] * 96)), ("x " * 95, "y " * 95)]
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", rows(97) + long)))
    report = prepare_data(dataclasses.replace(config, clean=CleanConfig(preset="none"))).report
    assert report.dropped["max_positions"] == 2
    assert report.n_read == 100
    assert report.n_kept == 98


def test_a_given_validation_pair_longer_than_the_positions_is_an_error(tiny_config: MakeConfig, tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", rows(50))
    write_tsv(tmp_path / "valid.tsv", [("short", "court"), ("x " * 96, "y")])
    with pytest.raises(UserError, match="validation pair 2 has 97 tokens"):
        prepare_data(config_for(tiny_config, tmp_path, corpus=str(tmp_path)))


@pytest.mark.parametrize("kind", ["bpe", "wordlevel"])
def test_a_line_of_ten_megabytes_is_dropped_and_counted_without_being_tokenized(
    tiny_config: MakeConfig, tmp_path: Path, kind: str
) -> None:
    pairs = [*rows(50), ("x" * 10_000_000, "court"), ("short", "y " * 5_000_000)]
    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", pairs)))
    tokenizer = dataclasses.replace(config.tokenizer, kind=kind)
    config = dataclasses.replace(config, clean=CleanConfig(preset="none"), tokenizer=tokenizer)
    started_at_s = time.process_time()
    report = prepare_data(config).report
    assert time.process_time() - started_at_s < 20
    assert report.dropped["line length"] == 2
    assert report.meanings["line length"] == "at most 6,144 bytes on both sides"
    assert (report.n_read, report.n_kept) == (52, 50)


def test_a_given_validation_line_of_ten_megabytes_is_an_error(tiny_config: MakeConfig, tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", rows(50))
    write_tsv(tmp_path / "valid.tsv", [("short", "court"), ("x" * 10_000_000, "y")])
    with pytest.raises(UserError, match="validation pair 2 has more than 6,144 bytes, 64 for each of model"):
        prepare_data(config_for(tiny_config, tmp_path, corpus=str(tmp_path)))


def test_groups_are_split_by_their_column_and_the_note_says_how_many(tiny_config: MakeConfig, tmp_path: Path) -> None:
    lines = [f"book {i // 20}\tsentence {i} here\tphrase {i} ici" for i in range(100)]
    (tmp_path / "c.tsv").write_text("\n".join(["book\ten\tfr", *lines]))
    config = config_for(tiny_config, tmp_path, corpus=str(tmp_path / "c.tsv"), group_column="book", valid_size=45)
    data = prepare_data(config)
    assert len({int(src.split()[1]) // 20 for src in data.valid_src.to_pylist()}) == 2
    assert (len(data.train), len(data.valid)) == (60, 40)
    assert data.notes == ["held out 40 pairs (45 asked for): 2 of 5 groups"]


def test_a_waiting_process_gets_what_the_builder_made(tiny_config: MakeConfig, tmp_path: Path) -> None:
    from threading import Thread

    config = config_for(tiny_config, tmp_path, corpus=str(write_tsv(tmp_path / "c.tsv", rows(50))))
    found = []
    waiting = Thread(target=lambda: found.append(prepare_data(config).sha256), daemon=True)
    waiting.start()
    assert prepare_data(config).sha256
    waiting.join(timeout=60)
    assert found == [prepare_data(config).sha256]
