"""Datasets of the Hub, by their id or as a local folder in the Hub's layout, read by `datasets`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from accel_tx.config import UserError
from accel_tx.data import readers
from accel_tx.data.disk import is_disk_full
from accel_tx.data.text_file import one_line


def has_hub_header(folder: Path) -> bool:
    """Whether a folder's README.md says, as on the Hub, which files make which split."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    try:
        text = readme.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{readme}: cannot be read ({error.strerror}); expected a readable file") from None
    if not text.startswith("---\n"):
        return False
    try:
        header = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise UserError(f"{readme}: its header is not valid YAML ({one_line(error)}); mend or remove it") from None
    return isinstance(header, dict) and "configs" in header


class HubDataset:
    """A dataset in the Hub's layout, loaded once for all of its splits: a local folder, or an id to fetch."""

    def __init__(self, option: str, name: str, subset: str | None, folder: Path | None, streaming: bool) -> None:
        """`option` is what brought the dataset, for messages: data.corpus, data.valid_corpus, …"""
        self.option = option
        self.name, self.subset, self.folder, self.streaming = name, subset, folder, streaming
        self.shown = name if subset is None else f"{name}, subset {subset}"
        self._loaded: dict[Path, Any] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of a local folder; none of an id."""
        if not self.folder:
            return ()
        return tuple(sorted(f for f in self.folder.rglob("*") if f.is_file() and f.name[0] != "."))

    @property
    def identity(self) -> str:
        """What decides the pairs apart from the content of `files` and the split."""
        return json.dumps(["datasets", "" if self.folder else self.name, self.subset])

    def batches(
        self, names: Sequence[str], columns: readers.Columns, work_dir: Path
    ) -> Iterator[pa.RecordBatch] | None:
        """Read the split with the first of these names, else the one that has another of them; None if there is none.

        Raises: UserError if several of the others are there.
        """
        if work_dir not in self._loaded:
            from accel_tx.data.progress import progress_on_terminal_only  # with `datasets`, a second of imports

            with self._failures_told(), progress_on_terminal_only():
                self._loaded[work_dir] = self._load(work_dir)
        loaded = self._loaded[work_dir]
        found = [name for name in names if name in loaded]
        if len(found) > 1 and found[0] != names[0]:
            raise UserError(
                f"{self.shown}: has the splits {' and '.join(found)}, which could all be meant; "
                "expected one of them, give the text as a file in data.valid_corpus"
            )
        return self._read(loaded[found[0]], f"{self.shown}, split {found[0]}", columns) if found else None

    def _load(self, work_dir: Path) -> Any:
        import datasets

        if self.streaming:
            return datasets.load_dataset(self.name, name=self.subset, streaming=True)
        if not self.folder:  # a download stays in the Hub's own cache, for other projects too
            return datasets.load_dataset(self.name, name=self.subset)
        cache_dir = work_dir / f"datasets_{hashlib.sha256(self.shown.encode()).hexdigest()[:8]}"
        # An older copy there could pass for the folder's present content.
        shutil.rmtree(cache_dir, ignore_errors=True)
        return datasets.load_dataset(self.name, name=self.subset, cache_dir=str(cache_dir))

    def _read(self, data: Any, where: str, columns: readers.Columns) -> Iterator[pa.RecordBatch]:
        with self._failures_told():
            tables = data.with_format("arrow").iter(batch_size=readers.ROWS_PER_BATCH)
            first = next(tables, None)
            if first is not None:
                record_batches = (batch for table in chain([first], tables) for batch in table.to_batches())
                yield from readers.read_arrow(record_batches, first.schema, where, columns)

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:  # `datasets` lets through whatever its many builders and readers raise
            if is_disk_full(error):
                raise
            cause = _innermost(error)
            task = "read this folder" if self.folder else "get it from the Hub, and no such folder or file is here"
            check = "its files and data.subset" if self.folder else "the name, data.subset and the network"
            raise UserError(
                f"{self.option} {self.shown}: datasets.load_dataset could not {task} "
                f"({type(cause).__name__}{_told(cause)}); check {check}, "
                "or give a local folder or file, or phrasebook"
            ) from None


def _innermost(error: BaseException) -> BaseException:
    """What the error was raised from in the end: `datasets` itself only says that generating failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _told(cause: BaseException) -> str:
    if isinstance(cause, StopIteration):
        return ": a data file is empty"
    return f": {one_line(cause)}" if str(cause).strip() else ""
