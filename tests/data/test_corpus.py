from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accel_tx.config import DataConfig, UserError
from accel_tx.data import readers, text_file
from accel_tx.data.corpus import load_corpus
from accel_tx.data.input_files import input_files, input_fingerprint

Pairs = list[tuple[str, str]]
CORPORA = Path(__file__).parents[3] / "shared/corpora"
MULTI30K = CORPORA / "multi30k_en_fr"

# Everything that a careless reader cuts, strips or changes; no tab, which TSV cannot hold.
ODD: Pairs = [
    ("a\u2028b\x0bc\x85d\x1ce", "é\u0085\x0cf"),
    ("  leading, trailing  ", '"quoted" and ""doubled""'),
    ("cafe\u0301 \ufeff inside", "emoji 👩\u200d💻 \\n not a line end"),
    ("inner\rreturn", "N/A"),
    ("", "empty source"),
    ("null", "123"),
]


def many_pairs() -> Pairs:
    """More than one batch of rows and, on the source side, more than one read of bytes."""
    return [*ODD, *((f"source {i} " + "x" * (i % 250), f"cible {i}") for i in range(11_000)), *ODD]


def write_plain(folder: Path, pairs: Pairs, name: str = "train", end: str = "\n") -> dict[str, str]:
    paths = folder / f"{name}.en", folder / f"{name}.fr"
    for side, path in enumerate(paths):
        path.write_bytes("".join(pair[side] + end for pair in pairs).encode())
    return {"train_src": str(paths[0]), "train_tgt": str(paths[1])}


def write_tsv(path: Path, pairs: Pairs, header: str = "en\tfr") -> None:
    path.write_bytes("".join(f"{line}\n" for line in [header, *("\t".join(pair) for pair in pairs)]).encode())


def write_csv(path: Path, pairs: Pairs) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("fr", "id", "en"), *((tgt, i, src) for i, (src, tgt) in enumerate(pairs))])


def write_jsonl(path: Path, pairs: Pairs) -> None:
    lines = [json.dumps({"id": i, "en": src, "fr": tgt}, ensure_ascii=i % 2 == 0) for i, (src, tgt) in enumerate(pairs)]
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_jsonl_nested(path: Path, pairs: Pairs) -> None:
    lines = [json.dumps({"translation": {"en": src, "fr": tgt}}, ensure_ascii=False) for src, tgt in pairs]
    path.write_bytes("\n".join(lines).encode())


def write_parquet(path: Path, pairs: Pairs) -> None:
    pq.write_table(pa.table({"tgt": [t for _, t in pairs], "n": range(len(pairs)), "src": [s for s, _ in pairs]}), path)


def write_parquet_large(path: Path, pairs: Pairs) -> None:
    columns = {"en": pa.array([s for s, _ in pairs], pa.large_string()), "fr": pa.array([t for _, t in pairs])}
    pq.write_table(pa.table({"en": columns["en"], "fr": columns["fr"].dictionary_encode()}), path)


def write_parquet_nested(path: Path, pairs: Pairs) -> None:
    rows = [{"en": src, "fr": tgt} for src, tgt in pairs]
    pq.write_table(pa.table({"id": range(len(rows)), "translation": rows}), path, row_group_size=7)


def pairs_of(data: datasets.Dataset | None) -> Pairs:
    assert data is not None
    assert data.column_names == ["src", "tgt"]
    return list(zip(data["src"], data["tgt"], strict=True))


def load(tmp_path: Path, **fields: Any) -> Pairs:
    return pairs_of(load_corpus(DataConfig(**fields), tmp_path / "work").train[0])


def error_of(tmp_path: Path, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_corpus(DataConfig(**fields), tmp_path / "work")
    message = str(caught.value)
    assert "\n" not in message
    assert not list((tmp_path / "work").glob("*.part")), "a broken read left its file behind"
    return message


def zipped(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return target


WRITERS: dict[str, tuple[str, Callable[[Path, Pairs], None]]] = {
    "tsv": ("x.tsv", write_tsv),
    "csv": ("x.csv", write_csv),
    "jsonl": ("x.jsonl", write_jsonl),
    "json": ("x.json", write_jsonl_nested),
    "parquet": ("x.parquet", write_parquet),
    "parquet_large": ("x.parquet", write_parquet_large),
    "parquet_translation": ("x.parquet", write_parquet_nested),
}


@pytest.mark.parametrize(
    ("kind", "packed"), [(k, packed) for k in WRITERS for packed in (False, True) if not (packed and "parquet" in k)]
)
def test_text_comes_back_exactly_and_in_order_whatever_the_format(tmp_path: Path, kind: str, packed: bool) -> None:
    name, write = WRITERS[kind]
    pairs = many_pairs()
    write(tmp_path / name, pairs)
    path = zipped(tmp_path / name) if packed else tmp_path / name
    assert load(tmp_path, corpus=str(path)) == pairs


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_translation_that_is_text_is_a_column_like_any_other(tmp_path: Path, suffix: str) -> None:
    rows = [{"translation": "by hand", "src": "one", "tgt": "un"}, {"translation": None, "src": "two", "tgt": "deux"}]
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert load(tmp_path, corpus=str(path)) == [("one", "un"), ("two", "deux")]


@pytest.mark.parametrize("packed", [False, True])
def test_plain_files_come_back_exactly_and_in_order(tmp_path: Path, packed: bool) -> None:
    pairs = many_pairs()
    files = write_plain(tmp_path, pairs)
    if packed:
        files = {key: str(zipped(Path(path))) for key, path in files.items()}
    assert load(tmp_path, **files) == pairs


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("ends_open", [False, True])
def test_byte_order_mark_and_line_ends_are_no_text(tmp_path: Path, line_end: str, ends_open: bool) -> None:
    expected = [("one", "un"), ("two", "deux")]
    for side, path in enumerate((tmp_path / "x.en", tmp_path / "x.fr")):
        text = line_end.join(pair[side] for pair in expected) + ("" if ends_open else line_end)
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    rows = [("en", "fr"), *expected]
    (tmp_path / "x.tsv").write_bytes(b"\xef\xbb\xbf" + line_end.join("\t".join(row) for row in rows).encode())
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + line_end.join(",".join(row) for row in rows).encode())
    assert load(tmp_path, train_src=str(tmp_path / "x.en"), train_tgt=str(tmp_path / "x.fr")) == expected
    assert load(tmp_path, corpus=str(tmp_path / "x.tsv")) == expected
    assert load(tmp_path, corpus=str(tmp_path / "x.csv")) == expected


def test_a_line_longer_than_a_read_stays_whole(tmp_path: Path) -> None:
    long = "é" * (3 * text_file._BYTES_PER_READ // 2)
    write_tsv(tmp_path / "x.tsv", [("a", "b"), (long, long + "!"), ("c", "d")])
    assert load(tmp_path, corpus=str(tmp_path / "x.tsv")) == [("a", "b"), (long, long + "!"), ("c", "d")]


def test_languages_name_the_columns_and_may_be_swapped(tmp_path: Path) -> None:
    write_tsv(tmp_path / "x.tsv", [("one", "un")])
    assert load(tmp_path, corpus=str(tmp_path / "x.tsv"), src_lang="fr", tgt_lang="en") == [("un", "one")]
    write_tsv(tmp_path / "y.tsv", [("un", "one")], header="tgt\tsrc")
    assert load(tmp_path, corpus=str(tmp_path / "y.tsv"), src_lang="de", tgt_lang="nl") == [("one", "un")]


def test_reading_needs_the_same_memory_for_a_corpus_eight_times_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "_BYTES_PER_READ", 1 << 16)
    monkeypatch.setattr(readers, "ROWS_PER_BATCH", 1_000)

    def peak(n_pairs: int) -> int:
        files = write_plain(tmp_path, [(f"source {i} " + "x" * 100, f"cible {i}") for i in range(n_pairs)])
        tracemalloc.start()
        load_corpus(DataConfig(**files), tmp_path / "work")  # type: ignore[arg-type]
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak_bytes

    peak(1_000)
    assert peak(80_000) < 1.2 * peak(10_000)


def test_a_dataset_that_is_still_mapped_survives_the_next_load(tmp_path: Path) -> None:
    write_tsv(tmp_path / "x.tsv", [("one", "un")])
    first = load_corpus(DataConfig(corpus=str(tmp_path / "x.tsv")), tmp_path / "work").train[0]
    write_tsv(tmp_path / "x.tsv", [("other", "autre")] * 1_000)
    assert len(load(tmp_path, corpus=str(tmp_path / "x.tsv"))) == 1_000
    assert pairs_of(first) == [("one", "un")]


TEXT = b"\xe9t\xe9"  # Latin-1
BROKEN: dict[str, tuple[str, bytes, str]] = {
    "tsv_utf8": ("x.tsv", b"en\tfr\na\tb\nc\t" + TEXT + b"\n", "line 3: byte 0xe9 is not valid UTF-8"),
    "tsv_utf8_late": ("x.tsv", b"en\tfr\n" + b"a\tb\n" * 300_000 + TEXT, "line 300002: byte 0xe9"),
    "tsv_short_row": ("x.tsv", b"en\tfr\na\tb\na\n", "line 3: has 1 column; expected 2"),
    "tsv_long_row": ("x.tsv", b"en\tfr\n" + b"a\tb\n" * 15_000 + b"a\tb\tc\n", "line 15002: has 3 columns; expected 2"),
    "tsv_blank_row": ("x.tsv", b"en\tfr\n\na\tb\n", "line 2: has 1 column"),
    "tsv_header": ("x.tsv", b"english\tfrench\na\tb\n", "line 1: found english, french; expected the names en and fr"),
    "tsv_header_twice": ("x.tsv", b"en\tfr\ten\na\tb\tc\n", "line 1: found en, fr, en; expected"),
    "tsv_no_bytes": ("x.tsv", b"", "line 1: found nothing; expected the names en and fr"),
    "tsv_no_pairs": ("x.tsv", b"en\tfr\n", "holds no pairs"),
    "csv_header": ("x.csv", b"a,b\n1,2\n", "line 1: found a, b; expected the names en and fr"),
    "csv_no_bytes": ("x.csv", b"", "line 1: found nothing"),
    "csv_short_row": ("x.csv", b'en,fr\n"a\nb",c\nd\n', "line 4: has 1 column; expected 2"),
    "csv_open_quote": ("x.csv", b'en,fr\na,b\n"a,b\n', "line 3: is not valid CSV"),
    "csv_utf8": ("x.csv", b"en,fr\na," + TEXT, "line 2: byte 0xe9"),
    "csv_no_pairs": ("x.csv", b"en,fr\n", "holds no pairs"),
    "json_syntax": ("x.jsonl", b'{"en": "a", "fr": "b"}\n{"en": "a", "fr": }\n', "line 2: is not valid JSON"),
    "json_blank": ("x.jsonl", b'{"en": "a", "fr": "b"}\n\n', "line 2: is not valid JSON"),
    "json_deep": ("x.jsonl", b"[" * 100_000, "line 1: is not valid JSON"),
    "json_list": ("x.json", b'[{"en": "a", "fr": "b"}]\n', "line 1: holds a list; expected one JSON object a line"),
    "json_missing": ("x.jsonl", b'{"en": "a"}\n', "line 1, keys: found en; expected the names en and fr"),
    "json_missing_nested": ("x.jsonl", b'{"translation": {"fr": "a"}}', "line 1, keys: found fr; expected"),
    "json_missing_text": ("x.jsonl", b'{"translation": "a"}', "line 1, keys: found translation; expected the names"),
    "json_null": ("x.jsonl", b'{"en": "a", "fr": "b"}\n{"en": "a", "fr": null}\n', "line 2: fr is null; expected text"),
    "json_number": ("x.jsonl", b'{"en": 5, "fr": "b"}\n', "line 1: en is 5; expected text"),
    "json_surrogate": ("x.jsonl", b'{"en": "\\ud800", "fr": "b"}\n', "line 1: en has half a surrogate pair"),
    "json_no_bytes": ("x.jsonl", b"", "holds no pairs"),
    "tsv_nul": ("x.tsv", b"en\tfr\n" + b"a\tb\n" * 300_000 + b"a\0\tb\n", "line 300002: holds a NUL byte"),
    "tsv_utf16": (
        "x.tsv",
        "en\tfr\na\tb\n".encode("utf-16-le"),
        "line 1: holds a NUL byte; expected UTF-8 text: convert",
    ),
    "csv_nul": ("x.csv", b'en,fr\n"a\nb",c\nd,\0\n', "line 4: holds a NUL byte"),
    "json_nul": ("x.jsonl", b'{"en": "a", "fr": "b\\u0000"}\n', "line 1: fr holds a NUL character"),
    "csv_empty_header": ("x.csv", b"\nen,fr\na,b\n", "line 1: found nothing; expected the names en and fr"),
    "gz_truncated": ("x.tsv.gz", gzip.compress(b"en\tfr\n" + os.urandom(99).hex().encode())[:-20], "damaged .gz file"),
    "gz_not_gzip": ("x.tsv.gz", b"en\tfr\na\tb\n", "damaged .gz file somewhere after line 0"),
    "gz_flipped": ("x.jsonl.gz", gzip.compress(b"a" * 99)[:10] + b"\xff" * 20, "damaged .gz file"),
    "parquet_damaged": ("x.parquet", b"PAR1 but nothing else", "is not readable as parquet"),
    "parquet_no_bytes": ("x.parquet", b"", "is not readable as parquet"),
    "unknown_kind": ("x.xlsx", b"PK", "unknown kind of file; expected .tsv .csv .jsonl"),
    "packed_parquet": ("x.parquet.gz", b"", "unknown kind of file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_the_line_at_fault(tmp_path: Path, case: str) -> None:
    name, content, expected = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    message = error_of(tmp_path, corpus=str(tmp_path / name))
    assert str(tmp_path / name) in message
    assert expected in message


def test_a_file_that_is_one_endless_line_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "_BYTES_PER_READ", 100)
    monkeypatch.setattr(text_file, "LONGEST_LINE_BYTES", 3 << 20)
    (tmp_path / "x.jsonl").write_bytes(b'{"en": "a", "fr": "b"}\n' * 5 + b"[" + b"1," * (2 << 20) + b"1]\n")
    assert "x.jsonl, line 6: is longer than 3 MiB; expected one pair a line" in error_of(
        tmp_path, corpus=str(tmp_path / "x.jsonl")
    )


def test_a_csv_field_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [("a", "b" * 10_000_000)])
    assert load(tmp_path, corpus=str(tmp_path / "x.csv")) == [("a", "b" * 10_000_000)]


GROUPED = [("one", "un", "first"), ("two", "deux", "first"), ("three", "trois", "2")]


def write_grouped(path: Path) -> None:
    src, tgt, book = map(list, zip(*GROUPED, strict=True))
    if path.suffix in (".tsv", ".csv"):
        sep = "\t" if path.suffix == ".tsv" else ","
        rows = [("book", "en", "fr"), *((b, s, t) for s, t, b in GROUPED)]
        path.write_text("".join(sep.join(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pairs = [{"en": s, "fr": t} for s, t in zip(src, tgt, strict=True)]
        pq.write_table(pa.table({"book": pa.array(book).dictionary_encode(), "translation": pairs}), path)
    else:
        lines = [{"translation": {"en": s, "fr": t}, "book": 2 if b == "2" else b} for s, t, b in GROUPED]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl", "parquet"])
def test_the_group_comes_along_from_every_format_with_columns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    write_grouped(path)
    (data,) = load_corpus(DataConfig(corpus=str(path), group_column="book"), tmp_path / "work").train
    assert list(zip(data["src"], data["tgt"], data["group"], strict=True)) == GROUPED
    message = error_of(tmp_path, corpus=str(path), group_column="chapter")
    assert str(path) in message
    assert "expected the name chapter once, which data.group_column gives" in message


def test_plain_files_and_the_phrasebook_have_no_groups(tmp_path: Path) -> None:
    files = write_plain(tmp_path, [("a", "b")])
    assert "have no columns; expected .tsv" in error_of(tmp_path, group_column="book", **files)
    assert "the phrasebook has no such column" in error_of(tmp_path, group_column="book")


def test_test_text_is_read_from_files_and_from_the_test_split_of_a_folder(tmp_path: Path) -> None:
    files = write_plain(tmp_path, [("a", "b")])
    write_plain(tmp_path, [("t", "u")], name="test")
    make_hub_folder(tmp_path / "hub")
    plain = {"test_src": str(tmp_path / "test.en"), "test_tgt": str(tmp_path / "test.fr")}
    given = [(plain, [("t", "u")]), ({"test_corpus": str(tmp_path)}, [("t", "u")])]
    given.append(({"test_corpus": str(tmp_path / "hub")}, [("three", "trois")]))
    seen = set()
    for fields, expected in given:
        config = DataConfig(**files, **fields)  # type: ignore[arg-type]
        assert pairs_of(load_corpus(config, tmp_path / "work").test) == expected
        seen.add(input_fingerprint(config))
    assert len(seen) == 2, "the same two files given in two ways, and the folder"
    assert load_corpus(DataConfig(**files), tmp_path / "work").test is None  # type: ignore[arg-type]


def test_a_folder_brings_its_own_test_split(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", [("a", "b")])
    write_tsv(tmp_path / "test.tsv", [("t", "u")])
    assert pairs_of(load_corpus(DataConfig(corpus=str(tmp_path)), tmp_path / "work").test) == [("t", "u")]


def test_several_corpora_bring_all_their_test_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_tsv(tmp_path / name / "train.tsv", [(name, "x")])
    entries = [{"name": name, "corpus": str(tmp_path / name)} for name in ("a", "b", "c")]
    without = input_fingerprint(DataConfig(corpora=entries))
    for name in ("a", "c"):
        write_tsv(tmp_path / name / "test.tsv", [(f"{name} of the test", "y")])
    config = DataConfig(corpora=entries)
    test = load_corpus(config, tmp_path / "work").test
    assert pairs_of(test) == [("a of the test", "y"), ("c of the test", "y")]
    assert input_fingerprint(config) != without
    assert {path.name for path in input_files(config)} == {"train.tsv", "test.tsv"}
    given = DataConfig(corpora=entries, test_corpus=str(tmp_path / "a/train.tsv"))
    assert pairs_of(load_corpus(given, tmp_path / "work").test) == [("a", "x")], "one given on its own replaces them"


def test_several_corpora_come_each_on_its_own_with_all_their_validation(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tsv(tmp_path / name / "train.tsv", [(f"{name} {i}", "x") for i in range(3)])
        write_tsv(tmp_path / name / "dev.tsv", [(f"{name} held out", "x")])
    make_hub_folder(tmp_path / "hub")
    entries = [{"name": name, "corpus": str(tmp_path / name)} for name in ("a", "hub", "b")]
    corpus = load_corpus(DataConfig(corpora=entries), tmp_path / "work")
    assert [pairs_of(part)[0][0] for part in corpus.train] == ["a 0", "one", "b 0"]
    assert [src for src, _ in pairs_of(corpus.valid)] == ["a held out", "two", "b held out"]
    entries[0]["corpus"] = "./nowhere"
    assert "data.corpora ./nowhere: no such file or folder" in error_of(tmp_path, corpora=entries)


def test_streaming_reads_the_same_pairs_and_keeps_no_copy(tmp_path: Path) -> None:
    make_hub_folder(tmp_path / "hub")
    config = DataConfig(corpus=str(tmp_path / "hub"), streaming=True)
    corpus = load_corpus(config, tmp_path / "work")
    assert pairs_of(corpus.train[0]) == [("one", "un"), *ODD]
    assert pairs_of(corpus.valid) == [("two", "deux")]
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["test.arrow", "train.arrow", "valid.arrow"]


def parquet_text(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.string())


BROKEN_TABLES: dict[str, tuple[pa.Table, str]] = {
    "null": (
        pa.table({"en": ["a"] * 12_000, "fr": parquet_text(["b"] * 11_000 + [None] + ["b"] * 999)}),
        "row 11001: fr is null; expected text",
    ),
    "null_struct": (pa.table({"translation": [{"en": "a", "fr": "b"}, None]}), "row 2: en is null; expected text"),
    "null_in_struct": (
        pa.table({"translation": [{"en": "a", "fr": "b"}, {"en": "c", "fr": None}]}),
        "row 2: fr is null; expected text",
    ),
    "columns": (pa.table({"a": ["x"], "b": ["y"]}), "columns: found a, b; expected the names en and fr"),
    "keys": (pa.table({"translation": [{"de": "x", "fr": "y"}]}), "column translation: found de, fr; expected"),
    "numbers": (pa.table({"en": [1], "fr": ["y"]}), "column en holds int64; expected text"),
    "utf8": (
        pa.table({"en": pa.array([b"ok", b"\xe9"]).view(pa.string()), "fr": ["a", "b"]}),
        "rows 1 to 2: en is not valid text",
    ),
    "nul": (pa.table({"en": ["a"] * 10_001, "fr": ["b"] * 10_000 + ["\0"]}), "row 10001: fr holds a NUL character"),
    "no_rows": (pa.table({"en": parquet_text([]), "fr": parquet_text([])}), "holds no pairs"),
}


@pytest.mark.parametrize("case", BROKEN_TABLES)
def test_a_broken_parquet_is_named_with_the_row_at_fault(tmp_path: Path, case: str) -> None:
    table, expected = BROKEN_TABLES[case]
    pq.write_table(table, tmp_path / "x.parquet")
    message = error_of(tmp_path, corpus=str(tmp_path / "x.parquet"))
    assert message.startswith(str(tmp_path / "x.parquet"))
    assert expected in message


@pytest.mark.parametrize(("n_src", "n_tgt"), [(3, 2), (20_000, 20_001), (0, 1), (5, 40_000), (40_000, 5)])
def test_plain_files_of_unequal_length_are_both_counted(tmp_path: Path, n_src: int, n_tgt: int) -> None:
    (tmp_path / "x.en").write_text("a\n" * n_src)
    (tmp_path / "x.fr").write_text("b\n" * n_tgt)
    message = error_of(tmp_path, train_src=str(tmp_path / "x.en"), train_tgt=str(tmp_path / "x.fr"))
    assert f"x.en has {n_src:,} lines" in message
    assert f"x.fr has {n_tgt:,};" in message


def test_plain_files_name_the_line_that_is_not_utf8(tmp_path: Path) -> None:
    files = write_plain(tmp_path, [("a", "b")] * 3)
    (tmp_path / "train.fr").write_bytes(b"b\n\xff\nb\n")
    assert "train.fr, line 2: byte 0xff is not valid UTF-8" in error_of(tmp_path, **files)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file system may refuse such a name")
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/fran\xe7ais.tsv")
    write_tsv(Path(path), [("a", "b")] * 3)
    assert error_of(tmp_path, corpus=path) == (
        f"data.corpus {path}: its name is not UTF-8; rename it, or give a link to it"
    )


def test_of_a_parquet_file_only_the_columns_that_are_wanted_are_read(tmp_path: Path) -> None:
    table = pa.table({"en": ["a", "c"], "fr": ["b", "d"], "raw": [os.urandom(99), os.urandom(99)]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    damaged = pq.ParquetFile(path).metadata.row_group(0).column(2)
    assert damaged.path_in_schema == "raw"
    with path.open("r+b") as file:
        file.seek(damaged.data_page_offset)
        file.write(b"\xff" * 30)
    with pytest.raises((pa.ArrowException, OSError)):
        pq.read_table(path)
    assert load(tmp_path, corpus=str(path)) == [("a", "b"), ("c", "d")]


def test_empty_plain_files_are_an_error(tmp_path: Path) -> None:
    assert "holds no pairs; expected at least one" in error_of(tmp_path, **write_plain(tmp_path, []))


MISSING: dict[str, tuple[dict[str, str], str]] = {
    "suffix": ({"corpus": "nowhere.tsv"}, "data.corpus nowhere.tsv: no such file or folder"),
    "packed": ({"corpus": "nowhere.csv.gz"}, "data.corpus nowhere.csv.gz: no such file or folder"),
    "parquet_in_folder": ({"corpus": "a/b.parquet"}, "data.corpus a/b.parquet: no such"),
    "dot": ({"corpus": "./a"}, "data.corpus ./a: no such"),
    "absolute": ({"corpus": "/nowhere"}, "data.corpus /nowhere: no such"),
    "home": ({"corpus": "~/nowhere-at-all"}, "data.corpus ~/nowhere-at-all: no such"),
    "two_slashes": ({"corpus": "a/b/c"}, "data.corpus a/b/c: no such"),
    "placeholder": ({"corpus": "data/my_corpus"}, "data.corpus data/my_corpus: no such file or folder; expected .tsv"),
    "mistyped": (
        {"corpus": "tests/dtaa"},
        "data.corpus tests/dtaa: no such file or folder; expected .tsv .csv .jsonl .json (each also .gz) or .parquet, "
        "or a folder of these; give it with --data.corpus; a dataset of the Hub with this name is found where there is "
        "no folder tests",
    ),
    "slash": ({"corpus": "nowhere/"}, "data.corpus nowhere/: no such file or folder"),
    "plain": ({"train_src": "no.en", "train_tgt": "no.fr"}, "data.train_src no.en: no such file; expected plain text"),
    "plain_folder": ({"train_src": ".", "train_tgt": "no.fr"}, "data.train_src .: is not a file"),
    "valid_corpus": ({"valid_corpus": "a/b"}, "data.valid_corpus a/b: no such file; expected .tsv"),
    "valid_plain": ({"valid_src": "no.en", "valid_tgt": "no.fr"}, "data.valid_src no.en: no such file"),
    # From Python 3.14 on, Path only says that there is no such file.
    "long": ({"corpus": "n" * 300}, f"data.corpus {'n' * 300}"),
    "long_valid": ({"valid_corpus": "n" * 300}, f"data.valid_corpus {'n' * 300}: "),
    "long_plain": ({"train_src": "n" * 300, "train_tgt": "no.fr"}, f"data.train_src {'n' * 300}: "),
    "user": ({"corpus": "~nosuchuser/x"}, "data.corpus ~nosuchuser/x: no such user"),
    "user_test": ({"test_corpus": "~nosuchuser/x"}, "data.test_corpus ~nosuchuser/x: no such user"),
    "user_plain": ({"valid_src": "~nosuchuser/x", "valid_tgt": "y"}, "data.valid_src ~nosuchuser/x: no such user"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_input_is_the_same_error_for_the_fingerprint(tmp_path: Path, case: str) -> None:
    fields, expected = MISSING[case]
    message = error_of(tmp_path, **fields)
    assert message.startswith(expected)
    with pytest.raises(UserError) as caught:
        input_fingerprint(DataConfig(**fields))  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
@pytest.mark.parametrize("option", ["corpus", "valid_corpus", "test_corpus"])
def test_a_folder_that_may_not_be_looked_at_is_one_line(tmp_path: Path, option: str) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    expected = f"data.{option} {folder}: cannot be read (Permission denied); expected a readable file or folder"
    try:
        assert error_of(tmp_path, **{option: str(folder)}) == expected
    finally:
        folder.chmod(0o700)  # pytest removes it


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_readme_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", [("a", "b")])
    (tmp_path / "README.md").touch(mode=0)
    assert "README.md: cannot be read (Permission denied)" in error_of(tmp_path, corpus=str(tmp_path))


def test_a_folder_of_plain_files_is_found_by_whole_names(tmp_path: Path) -> None:
    write_plain(tmp_path, [("Raw", "Brut")])
    write_plain(tmp_path, [("lower", "bas")], name="train.lc.norm.tok")
    write_plain(tmp_path, [("lower", "bas")], name="xtrain")
    write_plain(tmp_path, [("v", "w")], name="val")
    zipped(tmp_path / "train.en")
    corpus = load_corpus(DataConfig(corpus=str(tmp_path)), tmp_path / "work")
    assert pairs_of(corpus.train[0]) == [("Raw", "Brut")]
    assert pairs_of(corpus.valid) == [("v", "w")]


@pytest.mark.parametrize("stem", ["valid", "val", "validation", "dev"])
def test_a_folder_of_files_brings_its_validation_under_any_usual_name(tmp_path: Path, stem: str) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [("a", "b")])
    assert load_corpus(DataConfig(corpus=str(folder)), tmp_path / "work").valid is None
    write_parquet_nested(folder / f"{stem}.parquet", [("c", "d")])
    assert pairs_of(load_corpus(DataConfig(corpus=str(folder)), tmp_path / "work").valid) == [("c", "d")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.tsv", "train.csv.gz"], "train.tsv, train.csv.gz could all be meant"),
        (["train.en", "train.fr", "train.parquet"], "train.parquet, train.en + train.fr could all be meant"),
        (["train.en", "train.en.gz", "train.fr"], "train.en + train.fr, train.en.gz + train.fr could all be meant"),
        (["train.tsv", "val.tsv", "dev.tsv"], "val.tsv, dev.tsv could all be meant"),
        (["train.en"], "has train.en but no train.fr or train.fr.gz"),
        (["train.tsv", "dev.fr.gz"], "has dev.fr.gz but no dev.en or dev.en.gz"),
        (["train.lc.en.gz", "notes.txt"], "holds notes.txt, train.lc.en.gz; looked for train with .tsv .csv"),
        ([], "holds nothing; looked for train with .tsv .csv"),
    ],
)
def test_a_folder_that_is_not_clear_is_an_error_that_lists_its_files(
    tmp_path: Path, names: list[str], expected: str
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    message = error_of(tmp_path, corpus=str(folder))
    assert str(folder) in message
    assert expected in message


def test_validation_given_on_its_own_replaces_that_of_the_corpus(tmp_path: Path) -> None:
    folder, other = tmp_path / "corpus", tmp_path / "other"
    for made in (folder, other):
        made.mkdir()
    write_tsv(folder / "train.tsv", [("a", "b")])
    write_tsv(folder / "valid.tsv", [("own", "propre")])
    write_tsv(other / "train.tsv", [("not", "pas")])
    write_tsv(other / "dev.tsv", [("given", "donné")])
    plain = write_plain(other, [("plain", "plat")], name="v")
    given: list[tuple[dict[str, str], Pairs]] = [
        ({}, [("own", "propre")]),
        ({"valid_corpus": str(other)}, [("given", "donné")]),
        ({"valid_corpus": str(other / "train.tsv")}, [("not", "pas")]),
        ({"valid_src": plain["train_src"], "valid_tgt": plain["train_tgt"]}, [("plain", "plat")]),
    ]
    for fields, expected in given:
        corpus = load_corpus(DataConfig(corpus=str(folder), **fields), tmp_path / "work")  # type: ignore[arg-type]
        assert pairs_of(corpus.train[0]) == [("a", "b")]
        assert pairs_of(corpus.valid) == expected
    (other / "dev.tsv").unlink()
    assert "looked for valid|val|validation|dev" in error_of(tmp_path, corpus=str(folder), valid_corpus=str(other))


def make_hub_folder(folder: Path, valid: bool = True, names: Sequence[str] = ("validation",)) -> None:
    splits = {"train": [("one", "un"), *ODD], "test": [("three", "trois")]}
    splits |= {name: [("two", "deux")] for name in names if valid}
    header = "---\nconfigs:\n- config_name: en-fr\n  data_files:\n"
    (folder / "en-fr").mkdir(parents=True)
    for split, pairs in splits.items():
        header += f"  - split: {split}\n    path: en-fr/{split}-*\n"
        half = len(pairs) // 2
        write_parquet_nested(folder / f"en-fr/{split}-00000-of-00002.parquet", pairs[:half] or pairs)
        if half:
            write_parquet_nested(folder / f"en-fr/{split}-00001-of-00002.parquet", pairs[half:])
    (folder / "README.md").write_text(header + "---\n# A dataset\n")


@pytest.mark.parametrize("subset", ["en-fr", None])
@pytest.mark.parametrize("valid", [False, True])
def test_the_hubs_own_layout_is_read_from_a_folder(tmp_path: Path, subset: str | None, valid: bool) -> None:
    make_hub_folder(tmp_path / "hub", valid)
    corpus = load_corpus(DataConfig(corpus=str(tmp_path / "hub"), subset=subset), tmp_path / "work")
    assert pairs_of(corpus.train[0]) == [("one", "un"), *ODD]
    if valid:
        assert pairs_of(corpus.valid) == [("two", "deux")]
    else:
        assert corpus.valid is None
        message = error_of(tmp_path, valid_corpus=str(tmp_path / "hub"), **write_plain(tmp_path, [("a", "b")]))
        assert "has no split valid|val|validation|dev; expected one" in message


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["valid", "val", "dev"])
def test_the_hubs_layout_may_call_its_validation_as_a_folder_of_files_does(
    tmp_path: Path, name: str, streaming: bool
) -> None:
    make_hub_folder(tmp_path / "hub", names=[name])
    corpus = load_corpus(DataConfig(corpus=str(tmp_path / "hub"), streaming=streaming), tmp_path / "work")
    assert pairs_of(corpus.valid) == [("two", "deux")]
    assert pairs_of(corpus.test) == [("three", "trois")]


def test_several_validation_splits_in_the_hubs_layout_are_one_line(tmp_path: Path) -> None:
    make_hub_folder(tmp_path / "named", names=["dev", "validation", "val"])
    corpus = load_corpus(DataConfig(corpus=str(tmp_path / "named")), tmp_path / "work")
    assert pairs_of(corpus.valid) == [("two", "deux")], "the split of that very name"
    make_hub_folder(tmp_path / "hub", names=["dev", "val"])
    expected = "hub: has the splits val and dev, which could all be meant; expected one of them"
    assert expected in error_of(tmp_path, corpus=str(tmp_path / "hub"))
    own = write_plain(tmp_path, [("a", "b")])
    given = {"valid_src": own["train_src"], "valid_tgt": own["train_tgt"]}
    assert load(tmp_path, corpus=str(tmp_path / "hub"), **given)[0] == ("one", "un")


def test_the_hubs_layout_gives_validation_alone_too(tmp_path: Path) -> None:
    make_hub_folder(tmp_path / "hub")
    config = DataConfig(**write_plain(tmp_path, [("a", "b")]), valid_corpus=str(tmp_path / "hub"))  # type: ignore[arg-type]
    corpus = load_corpus(config, tmp_path / "work")
    assert (pairs_of(corpus.train[0]), pairs_of(corpus.valid)) == ([("a", "b")], [("two", "deux")])


def test_reading_a_folder_writes_nothing_outside_the_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    make_hub_folder(tmp_path / "hub")
    corpus = load_corpus(DataConfig(corpus=str(tmp_path / "hub")), tmp_path / "work")
    assert [file["filename"] for file in corpus.train[0].cache_files] == [str(tmp_path / "work/train.arrow")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "work"]


def test_a_changed_folder_is_read_anew_into_the_same_work_folder(tmp_path: Path) -> None:
    make_hub_folder(tmp_path / "hub")
    load(tmp_path, corpus=str(tmp_path / "hub"))
    shard = tmp_path / "hub/en-fr/train-00000-of-00002.parquet"
    times = shard.stat()
    write_parquet_nested(shard, [("new", "neuf")])
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(tmp_path, corpus=str(tmp_path / "hub"))[0] == ("new", "neuf")


def test_an_unknown_subset_is_one_line_with_the_known_ones(tmp_path: Path) -> None:
    make_hub_folder(tmp_path / "hub")
    message = error_of(tmp_path, corpus=str(tmp_path / "hub"), subset="en-de")
    assert re.search(
        r"hub, subset en-de: datasets.load_dataset could not read this folder \(ValueError: .*en-fr", message
    )


def test_a_readme_with_a_broken_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs: [\n---\n")
    assert "README.md: its header is not valid YAML" in error_of(tmp_path, corpus=str(tmp_path))


_ROWS = b"".join(b'{"en": "%s", "fr": "x"}\n' % os.urandom(20).hex().encode() for _ in range(2_000))
BROKEN_SHARDS: dict[str, tuple[dict[str, bytes], str]] = {
    "cut_gz": ({"train.jsonl.gz": gzip.compress(_ROWS)[:-500]}, "EOFError: Compressed file ended before"),
    "empty": ({"train.jsonl": b""}, "StopIteration: a data file is empty"),
    "types": (
        {"train0.jsonl": b'{"translation": {"en": "a", "fr": "b"}}\n', "train1.jsonl": b'{"translation": "b"}\n'},
        "TypeError: Couldn't cast array of type string",
    ),
    "csv": ({"train.csv": b"en,fr\na,b\na,b,c\n"}, "ParserError: Error tokenizing data"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", BROKEN_SHARDS)
def test_a_broken_file_in_the_hubs_layout_is_one_line_with_the_cause(
    tmp_path: Path, case: str, streaming: bool
) -> None:
    files, expected = BROKEN_SHARDS[case]
    folder = tmp_path / "hub"
    folder.mkdir()
    header = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train*\n---\n"
    (folder / "README.md").write_text(header)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entries = [{"name": "hub", "corpus": str(folder)}, {"name": "own", "corpus": "phrasebook"}]
    message = error_of(tmp_path, corpora=entries, streaming=streaming)
    assert message.startswith(f"data.corpora {folder}: datasets.load_dataset could not read this folder ({expected}")


@pytest.mark.parametrize("corpus", ["Helsinki-NLP/opus_books", "phrasebok"])
def test_a_hub_that_cannot_be_reached_is_one_line_with_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = error_of(tmp_path, corpus=corpus, subset="en-fr")
    assert message.startswith(
        f"data.corpus {corpus}, subset en-fr: datasets.load_dataset could not get it from the Hub, and no such "
        "folder or file is here ("
    )
    assert "or give a local folder or file, or phrasebook" in message


def test_a_hub_dataset_is_asked_for_by_id_and_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
        asked.append((path, name))
        rows = [{"en": "one", "fr": "un"}]
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"id": ["0"], "translation": rows}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = DataConfig(corpus="Helsinki-NLP/opus_books", subset="en-fr")
    corpus = load_corpus(config, tmp_path / "work")
    assert pairs_of(corpus.train[0]) == [("one", "un")]
    assert (corpus.valid, corpus.test) == (None, None)
    assert asked == [("Helsinki-NLP/opus_books", "en-fr")], "one load serves all splits"
    other = DataConfig(corpus="Helsinki-NLP/opus_books", subset="de-en")
    assert input_fingerprint(config) != input_fingerprint(other)


def test_a_hub_dataset_names_split_and_row_of_a_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"en": "one", "fr": "un"}, {"en": "two", "fr": None}]
    made = datasets.DatasetDict(train=datasets.Dataset.from_dict({"translation": rows}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)
    assert "some/id, split train, row 2: fr is null" in error_of(tmp_path, corpus="some/id")


def test_the_fingerprint_changes_with_every_file_and_setting_that_decides_the_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_plain(folder, [("a", "b")])
    seen = [input_fingerprint(DataConfig(corpus=str(folder)))]
    assert input_fingerprint(DataConfig(corpus=f"{folder}/../corpus", n_procs=2)) == seen[0]

    def now(**fields: Any) -> None:
        seen.append(input_fingerprint(DataConfig(corpus=str(folder), **fields)))

    (folder / "train.en").write_text("ab\n")
    now()
    os.utime(folder / "train.fr", ns=(1, 1))
    now()
    write_plain(folder, [("c", "d")], name="valid")
    now()
    now(src_lang="fr", tgt_lang="en")
    now(valid_src=str(folder / "valid.en"), valid_tgt=str(folder / "train.fr"))
    shutil.copytree(folder, tmp_path / "copy")
    seen.append(input_fingerprint(DataConfig(corpus=str(tmp_path / "copy"))))
    make_hub_folder(tmp_path / "hub")
    for subset in (None, "en-fr"):
        seen.append(input_fingerprint(DataConfig(corpus=str(tmp_path / "hub"), subset=subset)))
    os.utime(tmp_path / "hub/en-fr/train-00001-of-00002.parquet", ns=(1, 1))
    seen.append(input_fingerprint(DataConfig(corpus=str(tmp_path / "hub"))))
    seen += [
        input_fingerprint(DataConfig(**fields))
        for fields in (
            {},
            {"phrasebook_seed": 2},
            {"phrasebook_train_pairs": 7},
            {"phrasebook_valid_pairs": 7},
            {"src_lang": "fr", "tgt_lang": "en"},
        )
    ]
    assert len(set(seen)) == len(seen)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in seen)


def test_the_phrasebook_is_the_corpus_by_default(tmp_path: Path) -> None:
    phrasebook = pytest.importorskip("accel_tx.data.phrasebook")
    config = DataConfig(phrasebook_train_pairs=12_345, phrasebook_valid_pairs=10, phrasebook_seed=3)
    corpus = load_corpus(config, tmp_path / "work")
    assert pairs_of(corpus.train[0]) == list(phrasebook.iter_pairs("train", 12_345, 3))
    assert pairs_of(corpus.valid) == list(phrasebook.iter_pairs("validation", 10, 3))
    swapped = load(tmp_path, src_lang="fr", tgt_lang="en", phrasebook_train_pairs=9, phrasebook_seed=3)
    assert swapped == [(fr, en) for en, fr in phrasebook.iter_pairs("train", 9, 3)]


def test_the_phrasebook_has_two_languages_only(tmp_path: Path) -> None:
    assert "src_lang is en and data.tgt_lang de; expected en and fr" in error_of(tmp_path, tgt_lang="de")


@pytest.mark.skipif(not MULTI30K.is_dir(), reason=f"{MULTI30K} is not here")
def test_multi30k_is_found_in_its_folder_as_raw_text(tmp_path: Path) -> None:
    corpus = load_corpus(DataConfig(corpus=str(MULTI30K)), tmp_path / "work")
    for data, stem in ((corpus.train[0], "train"), (corpus.valid, "val")):
        sides = [gzip.decompress((MULTI30K / f"{stem}.{lang}.gz").read_bytes()).decode() for lang in ("en", "fr")]
        assert pairs_of(data) == list(zip(*(side.split("\n")[:-1] for side in sides), strict=True))
    assert (len(corpus.train[0]), len(corpus.valid or [])) == (29_000, 1_014)
