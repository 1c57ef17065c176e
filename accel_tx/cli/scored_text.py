"""The text that `evaluate` scores: files, or a set that the run brings."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx.cli.outputs import check_apart
from accel_tx.config import UserError
from accel_tx.inference.lines import read_lines
from accel_tx.inference.stream import readable
from accel_tx.inference.weights import load_scores, weights_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from accel_tx.config import Config
    from accel_tx.data.dataset import PreparedData
    from accel_tx.inference.members import Member


@dataclass(frozen=True)
class ScoredText:
    """What is scored."""

    name: str
    """Of the run's set, or the files of the references."""
    src: list[str]
    """Empty where translations are given and no source."""
    references: list[list[str]]
    """One list of lines a file."""
    tokenize: str = "13a"
    """sacreBLEU's tokenizer, where the user names no other."""

    @property
    def n_lines(self) -> int:
        return len(self.references[0])

    def references_sha256(self) -> str:
        """By which `report` knows scores that may be compared."""
        return hashlib.sha256(json.dumps(self.references).encode()).hexdigest()


def text_of_files(src: str | None, ref: Sequence[str], hyp: tuple[str, list[str]] | None) -> ScoredText:
    """Sources and references line beside line, with the name and lines of the translations where these are given.

    Raises: UserError for files without text or of different lengths.
    """
    given = [] if src is None else [(src, list(read_lines(src)))]
    sources = given[0][1] if given else []
    (first, lines), *others = given if hyp is None else [*given, hyp]
    if not lines:
        raise UserError(f"{readable(first)}: is empty; expected one sentence a line")
    for name, translations in others:
        _check_as_many(translations, name, len(lines), first)
    references = [lines_beside(file, len(lines), first) for file in ref]
    if not any(line.strip() for reference in references for line in reference):
        raise UserError(f"{', '.join(ref)}: holds only empty lines; expected reference translations")
    return ScoredText(", ".join(ref), sources, references)


def text_of_validation(
    run_dir: Path, weights: str, valid_set: str | None, outputs: Mapping[str, str | None]
) -> ScoredText:
    """The validation set of a run: the main one, or the further one of this name.

    Raises: UserError as `_data_of`, or for a name that the run does not have.
    """
    config, data = _data_of(run_dir, weights, outputs)
    if valid_set is None:
        return _scored("validation set", data.valid_src, data.valid_tgt, config)
    if valid_set not in data.valid_sets:
        names = ", ".join(data.valid_sets) or "none (data.valid_sets)"
        raise UserError(f"--valid_set {valid_set}: the run has {names}; leave it out for its main one")
    own = data.valid_sets[valid_set]
    return _scored(f"validation set {valid_set}", own.src, own.tgt, config)


def text_of_test(run_dir: Path, weights: str, outputs: Mapping[str, str | None]) -> ScoredText:
    """The test text that the config of a run names.

    Raises: UserError as `_data_of`, or where it names none.
    """
    config, data = _data_of(run_dir, weights, outputs)
    if data.test_src is None or data.test_tgt is None:
        raise UserError(
            f"--test: {run_dir} has no test text (data.test_corpus, data.test_src and data.test_tgt, or `test` in its "
            "corpora); give --src and --ref"
        )
    if unchecked := config.corpora_without_overlap():
        print(
            f"accel_tx: clean.overlap is off for {', '.join(unchecked)}: test text may be in training", file=sys.stderr
        )
    return _scored("test text", data.test_src, data.test_tgt, config)


def warn_of_other_data(first: Member, others: Sequence[Member]) -> None:
    """Say on standard error which members of an ensemble may have learned the text of the first one's run."""
    trained_on = load_scores(weights_folder(first.run_dir, first.weights)).get("data_sha256")
    for other in others:
        if load_scores(other.folder()).get("data_sha256") != trained_on:
            print(
                f"accel_tx: {other} was trained on other data than {first}, and the text that is scored may be in it",
                file=sys.stderr,
            )


def _data_of(run_dir: Path, weights: str, outputs: Mapping[str, str | None]) -> tuple[Config, PreparedData]:
    """Config and data of a run.

    Raises: UserError if its weights were trained on other data, or for an output that is a file of its corpus.
    """
    from accel_tx.data.dataset import prepare_data
    from accel_tx.data.input_files import input_files
    from accel_tx.inference.translator import load_run_config

    config = load_run_config(run_dir)
    check_apart(outputs, {"a file of the run's corpus": input_files(config.data)})
    folder = weights_folder(run_dir, weights)
    trained_on = load_scores(folder).get("data_sha256")
    if trained_on is None:
        raise UserError(f"{folder}: does not say what its weights were trained on (data_sha256); give --src and --ref")
    data = prepare_data(config, run_dir)
    if data.sha256 != trained_on:
        raise UserError(f"{run_dir}: its corpus has changed since the training; give --src and --ref")
    return config, data


def _scored(name: str, src: pa.ChunkedArray, tgt: pa.ChunkedArray, config: Config) -> ScoredText:
    return ScoredText(name, src.to_pylist(), [tgt.to_pylist()], config.validation.tokenize)


def lines_beside(file: str, n_lines: int, other: str) -> list[str]:
    """The lines of a file. Raises: UserError if they are not as many as `other` has, `n_lines`."""
    return _check_as_many(list(read_lines(file)), file, n_lines, other)


def _check_as_many(lines: list[str], file: str, n_lines: int, other: str) -> list[str]:
    if len(lines) != n_lines:
        found = f"{readable(other)} has {n_lines} lines and {readable(file)} has {len(lines)}"
        raise UserError(f"{found}; expected as many")
    return lines
