"""What a run folder tells of its run, whether that has ended, still goes on, or was cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_tx.config import Config, UserError
from accel_tx.inference.translator import load_run_config
from accel_tx.inference.weights import MODEL, SCORES
from accel_tx.train import run_lock
from accel_tx.train.file_system import read_json
from accel_tx.train.run_samples import Sample, samples_of
from accel_tx.train.starts import STARTS_FILE

Line = dict[str, Any]


@dataclass(frozen=True)
class RunHistory:
    """A run, read at one moment."""

    run_dir: Path
    config: Config
    training: list[Line]
    """Lines of metrics of the training, one an update at most, updates rising."""
    validations: list[Line]
    """The same of validations."""
    n_unreadable: int
    """Lines of metrics.jsonl that are whole and yet no metrics."""
    best: Line
    """`best/scores.json`; empty where there is none."""
    final: Line
    """`final/scores.json`; empty where there is none."""
    is_running: bool
    """Whether a process is writing it now."""
    starts: list[Line]
    """Lines of starts.jsonl; none in runs of earlier versions."""
    samples: dict[int, list[Sample]]
    """By the update of the validation."""
    evaluations: dict[str, Line]
    """What `evaluate --json` wrote into the run folder, by the name of the file."""

    @property
    def update(self) -> int:
        """The last update that is told of."""
        return max((int(line["update"]) for line in (*self.training[-1:], *self.validations[-1:])), default=0)

    @property
    def is_complete(self) -> bool:
        """Whether `final/` has the weights of the last update told of, and no start since made the run longer."""
        end = int(self.final.get("update", -1))
        goes_on = any(start["update"] >= end and start["n_updates"] > end for start in self.starts[-1:])
        return end >= self.update and not goes_on

    @property
    def n_updates(self) -> int | None:
        """Length of the run, where it is known."""
        return self.starts[-1]["n_updates"] if self.starts else self.config.train.max_updates

    @property
    def trained_s(self) -> float:
        """Seconds of training and validation, over all starts."""
        lines = (*self.training[-1:], *self.validations[-1:])
        return max((number(line, "trained_s") or 0.0 for line in lines), default=0.0)

    @property
    def shows_best(self) -> bool:
        """Whether `best_samples` are those of the best validation."""
        return self.best.get("update") in self.samples

    @property
    def best_samples(self) -> tuple[int, list[Sample]] | None:
        """Those of the best validation, else of the newest that has some, and their update."""
        update = self.best.get("update")
        if update not in self.samples:
            update = max(self.samples, default=None)
        return None if update is None else (update, self.samples[update])


def read_run(run_dir: Path) -> RunHistory:
    """Read what a run folder holds so far.

    Raises: UserError if it holds no run, or a config that is not one of `train`.
    """
    config = load_run_config(run_dir)
    if (run_dir / MODEL).is_file():
        raise UserError(f"{run_dir}: holds an exported or imported model; expected the folder of a training run")
    lines, n_unreadable = _read_metrics(run_dir / "metrics.jsonl")
    return RunHistory(
        run_dir=run_dir,
        config=config,
        training=without_overlap(line for line in lines if "val_loss" not in line),
        validations=without_overlap(line for line in lines if "val_loss" in line),
        n_unreadable=n_unreadable,
        best=read_json(run_dir / "best" / SCORES),
        final=read_json(run_dir / "final" / SCORES),
        is_running=run_lock.holder(run_dir) is not None,
        starts=read_starts(run_dir),
        samples=samples_of(run_dir),
        evaluations=_evaluations(run_dir),
    )


def read_starts(run_dir: Path) -> list[Line]:
    """The lines of starts.jsonl; none in runs of earlier versions. Raises: UserError if it cannot be read."""
    return [line for line in _json_lines(run_dir / STARTS_FILE) if _is_start(line)]


def number(line: Line, name: str) -> float | None:
    """A finite number of a line; None where it is missing, null or not finite."""
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def without_overlap(lines: Iterable[Line]) -> list[Line]:
    """Lines with rising updates: one takes the place of all before it that are not about an earlier update.

    So it is where a start went on from an earlier checkpoint; `train` takes such lines out itself, but a run folder
    may have been copied while it did.
    """
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["update"] >= line["update"]:
            kept.pop()
        kept.append(line)
    return kept


def _read_metrics(path: Path) -> tuple[list[Line], int]:
    """The lines with an update, and how many others there are."""
    found = list(_json_lines(path))
    lines = [line for line in found if isinstance(line.get("update"), int)]
    return lines, len(found) - len(lines)


def _json_lines(path: Path) -> Iterator[Line]:
    """The object of each line, an empty one where it is none, but for a line whose end has not been written yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    for raw in content.split(b"\n")[:-1]:
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        yield value if isinstance(value, dict) else {}


def _is_start(line: Line) -> bool:
    return all(isinstance(line.get(name), int) for name in ("update", "n_updates", "n_parameters"))


def _evaluations(run_dir: Path) -> dict[str, Line]:
    found = {path.name: read_json(path) for path in sorted(run_dir.glob("*.json"))}
    return {name: values for name, values in found.items() if _is_evaluation(values)}


def _is_evaluation(values: Line) -> bool:
    systems = values.get("systems")
    return isinstance(values.get("signatures"), dict) and isinstance(systems, list) and bool(systems)
