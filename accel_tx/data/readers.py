"""Parallel text formats, each read into Arrow record batches of `src` and `tgt` with bounded memory.

Every reader takes the file(s) and the names of the columns, and raises UserError naming the file and the 1-based line
or row at fault.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accel_tx.config import UserError
from accel_tx.data.text_file import LONGEST_LINE_BYTES, lines_of, one_line

ROWS_PER_BATCH = 10_000
csv.field_size_limit(LONGEST_LINE_BYTES)


@dataclass(frozen=True)
class Columns:
    """The names under which a pair stands in the input."""

    src_lang: str
    tgt_lang: str
    group: str | None = None
    """The column with the book or document; None where it is not needed."""

    @property
    def schema(self) -> pa.Schema:
        """What readers give: `src`, `tgt` and, where asked for, `group`."""
        names = ["src", "tgt", *(["group"] if self.group else [])]
        return pa.schema([(name, pa.string()) for name in names])


Reader = Callable[[Path, Columns], Iterator[pa.RecordBatch]]


def read_line_files(src_path: Path, tgt_path: Path) -> Iterator[pa.RecordBatch]:
    """Pairs of two plain text files, line beside line."""
    with lines_of(src_path) as src_lines, lines_of(tgt_path) as tgt_lines:
        n_read = 0
        while True:
            src, tgt = list(islice(src_lines, ROWS_PER_BATCH)), list(islice(tgt_lines, ROWS_PER_BATCH))
            if len(src) != len(tgt):
                n_src = n_read + len(src) + sum(1 for _ in src_lines)
                n_tgt = n_read + len(tgt) + sum(1 for _ in tgt_lines)
                raise UserError(
                    f"{src_path} has {n_src:,} lines but {tgt_path} has {n_tgt:,}; "
                    "expected the same number, line n of one translating line n of the other"
                )
            if not src:
                return
            n_read += len(src)
            yield pair_batch(src, tgt)


def read_tsv(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Pairs of a tab-separated file with a header; quotes and backslashes are text like any other."""
    with lines_of(path) as lines:
        names = next(lines, "").split("\t")
        wanted = _positions(f"{path}, line 1", names, columns)
        first_line = 2
        while rows := [line.split("\t") for line in islice(lines, ROWS_PER_BATCH)]:
            if set(map(len, rows)) != {len(names)}:
                offset, row = next((i, row) for i, row in enumerate(rows) if len(row) != len(names))
                raise _wrong_width(path, first_line + offset, len(row), len(names))
            first_line += len(rows)
            yield pair_batch(*([row[at] for row in rows] for at in wanted))


def read_csv(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Pairs of a comma-separated file with a header; a quoted field may hold commas, quotes and line ends."""
    with lines_of(path, keep_cr=True) as lines:
        rows = _csv_rows(path, lines)
        _, names = next(rows, (1, []))
        wanted = _positions(f"{path}, line 1", names, columns)
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            for line, row in batch:
                if len(row) != len(names):
                    raise _wrong_width(path, line, len(row), len(names))
            yield pair_batch(*([row[at] for _, row in batch] for at in wanted))


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line on which it begins."""
    # Line ends go in as they are: inside quotes they belong to the text.
    rows = csv.reader((line + "\n" for line in lines), strict=True)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: is not valid CSV ({error}); expected fields as in RFC 4180"
            ) from None
        if row is None:
            return
        yield line, row


def read_jsonl(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Pairs of a file with one JSON object a line, the texts in it or in its `translation` object."""
    with lines_of(path) as all_lines:
        lines = enumerate(all_lines, start=1)
        while batch := [_json_pair(f"{path}, line {n}", line, columns) for n, line in islice(lines, ROWS_PER_BATCH)]:
            yield pair_batch(*zip(*batch, strict=True))


def read_parquet(path: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Pairs of a parquet file with a `translation` struct column or two text columns."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if _has_translation(schema):
                wanted = ["translation", *([columns.group] if columns.group else [])]
            else:
                wanted = _wanted_names(f"{path}, columns", schema.names, columns)
            yield from read_arrow(file.iter_batches(ROWS_PER_BATCH, columns=wanted), schema, str(path), columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not readable as parquet ({one_line(error)}); write or fetch it again") from None


def read_arrow(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, where: str, columns: Columns
) -> Iterator[pa.RecordBatch]:
    """Pairs of Arrow record batches whose schema has a `translation` struct or two text columns."""
    nested = _has_translation(schema)
    fields = schema.field("translation").type if nested else schema
    names = [field.name for field in fields]
    pair = _pair_names(f"{where}, {'column translation' if nested else 'columns'}", names, columns)
    for name in pair:
        if not _is_text(fields.field(name).type):
            raise UserError(f"{where}: column {name} holds {fields.field(name).type}; expected text")
    if columns.group:
        _check_group(f"{where}, columns", schema.names, columns.group)
    first_row = 1
    for batch in batches:
        sides = []
        for name in pair:
            side = pc.struct_field(batch.column("translation"), name) if nested else batch.column(name)
            sides.append(_checked_text(side, name, where, first_row))
        if columns.group:
            sides.append(_group_text(batch.column(columns.group), columns.group, where, first_row))
        first_row += batch.num_rows
        yield pa.record_batch(sides, schema=columns.schema)


def pair_batch(*columns: Iterable[str]) -> pa.RecordBatch:
    """One record batch of equally long columns: sources, targets and, where there are any, groups."""
    return pa.record_batch(
        [pa.array(column, pa.string()) for column in columns], names=["src", "tgt", "group"][: len(columns)]
    )


READERS: dict[str, Reader] = {".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl, ".json": read_jsonl}
READERS.update({f"{suffix}.gz": reader for suffix, reader in READERS.items()})
READERS[".parquet"] = read_parquet


def _positions(where: str, names: list[str], columns: Columns) -> list[int]:
    """Where the source, the target and, if asked for, the group stand in a row."""
    return [names.index(name) for name in _wanted_names(where, names, columns)]


def _wanted_names(where: str, names: list[str], columns: Columns) -> list[str]:
    """Of the source, the target and, if asked for, the group."""
    wanted = [*_pair_names(where, names, columns)]
    if columns.group:
        _check_group(where, names, columns.group)
        wanted.append(columns.group)
    return wanted


def _check_group(where: str, names: list[str], group: str) -> None:
    if names.count(group) != 1:
        found = one_line(", ".join(names) or "nothing")
        raise UserError(f"{where}: found {found}; expected the name {group} once, which data.group_column gives")


def _pair_names(where: str, names: list[str], columns: Columns) -> tuple[str, str]:
    src_lang, tgt_lang = columns.src_lang, columns.tgt_lang
    for pair in ((src_lang, tgt_lang), ("src", "tgt")):
        if all(names.count(name) == 1 for name in pair):
            return pair
    found = ", ".join(names) or "nothing"
    raise UserError(
        f"{where}: found {one_line(found)}; expected the names {src_lang} and {tgt_lang}, or src and tgt, "
        "once each; rename them or set data.src_lang and data.tgt_lang"
    )


def _wrong_width(path: Path, line: int, n_found: int, n_expected: int) -> UserError:
    columns = "1 column" if n_found == 1 else f"{n_found} columns"
    return UserError(
        f"{path}, line {line}: has {columns}; expected {n_expected} as in the header; "
        "look there for a stray or missing separator"
    )


def _json_pair(where: str, line: str, columns: Columns) -> tuple[str, ...]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON ({one_line(error)}); expected one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: holds {_json_name(row)}; expected one JSON object a line with two texts")
    # As in Arrow tables: a `translation` that is no object is a column like any other.
    pair = row["translation"] if isinstance(row.get("translation"), dict) else row
    src, tgt = (_json_text(where, name, pair[name]) for name in _pair_names(f"{where}, keys", list(pair), columns))
    if columns.group is None:
        return src, tgt
    _check_group(f"{where}, keys", list(row), columns.group)
    group = row[columns.group]
    return src, tgt, _json_text(where, columns.group, str(group) if type(group) is int else group)


def _json_text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} is {_json_name(value)}; expected text, fill or remove the row")
    if "\0" in value:
        raise UserError(f"{where}: {name} holds a NUL character (\\u0000); expected text, take it out")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} has half a surrogate pair (\\ud800 to \\udfff); expected text") from None
    return value


def _json_name(value: Any) -> str:
    return {type(None): "null", list: "a list", dict: "an object", str: "a string"}.get(type(value), json.dumps(value))


def _has_translation(schema: pa.Schema) -> bool:
    return any(field.name == "translation" and pa.types.is_struct(field.type) for field in schema)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _group_text(groups: pa.Array, name: str, where: str, first_row: int) -> pa.Array:
    try:
        return _checked_text(groups, name, where, first_row)
    except pa.ArrowException:
        raise UserError(f"{where}: column {name} holds {groups.type}; expected text or numbers") from None


def _checked_text(side: pa.Array, name: str, where: str, first_row: int) -> pa.Array:
    side = side.cast(pa.string())
    if side.null_count:
        row = first_row + pc.index(side.is_null(), True).as_py()
        raise UserError(f"{where}, row {row}: {name} is null; expected text, fill or remove the row")
    has_nul = pc.match_substring(side, "\0")
    if pc.any(has_nul).as_py():
        row = first_row + pc.index(has_nul, True).as_py()
        raise UserError(f"{where}, row {row}: {name} holds a NUL character; expected text, take it out")
    try:
        side.validate(full=True)
    except pa.ArrowInvalid as error:
        last_row = first_row + len(side) - 1
        raise UserError(
            f"{where}, rows {first_row} to {last_row}: {name} is not valid text ({one_line(error)}, counted from 0 "
            "in these rows); expected UTF-8, write the file again"
        ) from None
    return side
