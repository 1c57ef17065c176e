"""Trackers besides TensorBoard, such as wandb, through Accelerate's `log_with`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers, get_available_trackers

from accel_tx.config import UserError
from accel_tx.train import file_system

TENSORBOARD = "tensorboard"
"""The one that `tensorboard.py` writes: Accelerate's has neither pictures of a run's own nor resumed curves."""
IDS = "trackers.json"
"""In the run folder: under which names the trackers know the run."""
_PROJECT = "accel_tx"
_PACKAGES = {"comet_ml": "comet-ml"}
"""Where a tracker's package is not called like the tracker."""


def check_installed(names: Sequence[str]) -> None:
    """Raise UserError, saying what to install, where a tracker's package is missing."""
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise UserError(
                f"train.trackers has {name}, which is not installed; pip install {_PACKAGES.get(name, name)}, "
                "or take it out of the list"
            )


class Trackers:
    """Those of `train.trackers` but for TensorBoard; on the main process only. One that fails is dropped, with a line.

    A tracker cannot take back what it was told. So what comes again, after a kill or for a run that went back to a
    checkpoint, is not told again.
    """

    def __init__(self, accelerator: Accelerator, names: Sequence[str], run_dir: Path, say: Callable[[str], object]):
        self.accelerator, self.run_dir, self.say = accelerator, run_dir, say
        self.names = [name for name in names if name != TENSORBOARD]
        self.told: dict[str, int] = {}
        """For each kind of line, the last update that was told."""

    def open(self, config: Mapping[str, Any], told: Mapping[str, int]) -> None:
        """Begin, or go on with the same run where the tracker can. Raises: UserError that says what a tracker lacks.

        `told`: for each kind, the update of the last line that the start before has written.
        """
        accelerator = self.accelerator
        accelerator.project_configuration.logging_dir = str(self.run_dir)
        accelerator.log_with = filter_trackers(self.names, str(self.run_dir))
        known = file_system.read_json(self.run_dir / IDS) or {"id": uuid.uuid4().hex}
        before_going_back = known.get("told", {})
        self.told = {
            kind: max(told.get(kind, 0), before_going_back.get(kind, 0)) for kind in (*told, *before_going_back)
        }
        run_name = self.run_dir.resolve().name
        arguments = {name: _arguments(name, run_name, str(known["id"])) for name in self.names}
        try:
            accelerator.init_trackers(_PROJECT, dict(config), arguments)
        except Exception as error:  # each library has errors of its own
            accelerator.trackers = []
            raise UserError(f"train.trackers {', '.join(self.names)}: cannot begin: {in_a_line(error)}") from None
        file_system.write_if_other(self.run_dir / IDS, json.dumps(known, indent=1))

    def log(self, values: Mapping[str, float], kind: str, update: int) -> None:
        """`kind`: of the line, `train` or `validation`."""
        if update <= self.told.get(kind, 0):
            return
        self.told[kind] = update
        self._have_all(lambda tracker: tracker.log(dict(values), step=update))

    def go_back(self) -> None:
        """Note what was told, which the lines of metrics tell no more. Raises: OSError."""
        if self.names:
            known = file_system.read_json(self.run_dir / IDS)
            file_system.write_if_other(self.run_dir / IDS, json.dumps({**known, "told": self.told}, indent=1))

    def close(self) -> None:
        """Wait until they have sent what they were told."""
        self._have_all(lambda tracker: tracker.finish())
        self.accelerator.trackers = []

    def _have_all(self, do: Callable[[Any], None]) -> None:
        for tracker in [*self.accelerator.trackers]:
            try:
                do(tracker)
            except Exception as error:
                self.accelerator.trackers.remove(tracker)
                self.say(f"{tracker.name} is told no more: {in_a_line(error)}")


def _arguments(name: str, run_name: str, run_id: str) -> dict[str, Any]:
    """What makes a tracker go on with the run that it knows by this id; others begin one at each start."""
    if name == "wandb":
        return {"name": run_name, "id": run_id, "resume": "allow"}
    if name == "trackio":
        return {"name": f"{run_name}-{run_id[:8]}", "resume": "allow"}
    return {}


def in_a_line(error: Exception) -> str:
    """The class of an error and the beginning of what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
