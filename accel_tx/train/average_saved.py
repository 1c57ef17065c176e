"""Averaging weights that a run has saved: which ones are meant, and whether they belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from os.path import isfile
from pathlib import Path

from accel_tx.config import LOWER_IS_BETTER, UserError
from accel_tx.inference.translator import load_run_config
from accel_tx.inference.weights import SCORES
from accel_tx.train import checkpoint, file_system, validated
from accel_tx.train.averaging import mean_of_files
from accel_tx.train.checkpoint_identity import run_identity
from accel_tx.train.checkpoint_writer import save_weights


@file_system.usable_folders()
def saved_weights(run_dir: Path) -> dict[int, Path]:
    """Folders of weights by update, oldest first; of one update the checkpoint before what `validated/` has."""
    found = {update: validated.folder_of(run_dir, update) for update in validated.updates_kept(run_dir)}
    found |= {checkpoint.update_of(path): path for path in checkpoint.checkpoint_dirs(run_dir)}
    return dict(sorted(found.items()))


def last(run_dir: Path, n: int) -> list[Path]:
    """The newest `n`, oldest first. Raises: UserError if there are fewer."""
    return _take(run_dir, "--last", n, saved_weights(run_dir), lambda update: update)


def best(run_dir: Path, n: int) -> list[Path]:
    """The `n` that validated best by `validation.best_metric`, oldest first. Raises: UserError if there are fewer."""
    metric = load_run_config(run_dir).validation.best_metric
    scores = _raw_scores(run_dir, metric)
    sign = -1 if metric.partition("/")[0] in LOWER_IS_BETTER else 1
    validated_ones = {update: path for update, path in saved_weights(run_dir).items() if update in scores}
    return _take(run_dir, "--best", n, validated_ones, lambda update: sign * scores[update])


def _take(run_dir: Path, option: str, n: int, found: dict[int, Path], rank: Callable[[int], float]) -> list[Path]:
    if n < 2:
        raise UserError(f"{option} is {n}; expected at least 2")
    if len(found) < n:
        there = ", ".join(path.relative_to(run_dir).as_posix() for path in found.values()) or "none"
        of = "saved weights that were validated" if option == "--best" else "saved weights"
        raise UserError(
            f"{option} is {n}, but {run_dir} has {len(found)} {of}: {there}; a run keeps more with "
            "train.keep_checkpoints or validation.average_last"
        )
    return [found[update] for update in sorted(sorted(found, key=rank)[-n:])]


def _raw_scores(run_dir: Path, metric: str) -> dict[int, float]:
    """Of the run's own weights, by update, from metrics.jsonl."""
    path, scores = run_dir / "metrics.jsonl", {}
    for text in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:  # cut off by a crash
            continue
        value = line.get(metric) if isinstance(line, dict) and "val_loss" in line else None
        if isinstance(value, (int, float)) and not math.isnan(value):
            scores[line["update"]] = float(value)
    return scores


def named(run_dir: Path, names: Sequence[str]) -> list[Path]:
    """The folders with these names, below `checkpoints/`, the run folder or anywhere. Raises: UserError."""
    found: list[Path] = []
    for name in names:
        places = [run_dir / "checkpoints" / name, run_dir / name, Path(name)]
        folder = next((place for place in places if isfile(place / checkpoint.MODEL)), None)
        if folder is None:
            raise UserError(f"--checkpoints {name}: no weights there; see `checkpoints --run_dir {run_dir}`")
        if folder.resolve() in {path.resolve() for path in found}:
            raise UserError(f"--checkpoints {name}: is given twice; expected each once")
        found.append(folder)
    if len(found) < 2:
        raise UserError(f"--checkpoints names {len(found)} folder; expected at least 2")
    return found


def write_average(run_dir: Path, folders: Sequence[Path], output: Path) -> list[str]:
    """Average the weights in `folders` into `output`, for `evaluate --weights`; the names of what was averaged.

    Raises: UserError, and nothing is written, if one is damaged or of another run, or `output` holds something else.
    """
    _check_output(run_dir, output)
    own, expected = _own_origin(run_dir, folders)
    for folder in folders:
        if _origin(folder) != expected:
            raise UserError(f"{folder}: is of another run than {own}; expected weights of one run")
    weights = mean_of_files([folder / checkpoint.MODEL for folder in folders])
    names = [_name(run_dir, folder) for folder in folders]
    values = {"averaged": names, "data_sha256": expected["data_sha256"], "run": expected["run"]}
    failed = save_weights(weights, output, values)
    if failed is not None:
        raise UserError(failed)
    return names


def _own_origin(run_dir: Path, folders: Sequence[Path]) -> tuple[Path, dict[str, str]]:
    """Where the run's weights come from, by ones that are not averaged if any of them is whole and says it.

    Raises: UserError.
    """
    for path in [*saved_weights(run_dir).values(), *(run_dir / name for name in ("best", "final"))]:
        if path not in folders and (path / checkpoint.MODEL).is_file():
            with suppress(UserError):  # nobody asked for these
                return path, _origin(path)
    return folders[0], _origin(folders[0])


@file_system.usable_folders()
def _origin(folder: Path) -> dict[str, str]:
    """The run and the data that weights come from. Raises: UserError if they are damaged or do not say."""
    if (folder / checkpoint.STATE).exists():
        if fault := checkpoint.find_fault(folder):
            raise UserError(f"{folder}: is damaged: {fault}; expected whole checkpoints")
        state = checkpoint.load_state(folder)
        return {"run": run_identity(state), "data_sha256": state.data_sha256}
    scores = file_system.read_json(folder / SCORES)
    found = {name: scores.get(name) for name in ("run", "data_sha256")}
    if not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{folder}: does not say which run it is of; expected weights saved by `train`")
    return {name: str(value) for name, value in found.items()}


def _name(run_dir: Path, folder: Path) -> str:
    inside = folder.resolve().is_relative_to(run_dir.resolve())
    return folder.resolve().relative_to(run_dir.resolve()).as_posix() if inside else str(folder)


def _check_output(run_dir: Path, output: Path) -> None:
    if not output.exists():
        if not output.absolute().parent.is_dir():
            raise UserError(f"--output {output}: there is no folder {output.parent}; expected one to write into")
        return
    if "averaged" not in file_system.read_json(output / SCORES):
        raise UserError(
            f"--output {output}: is there and holds no average; expected a new name, such as {run_dir / 'average'}"
        )
