"""What a run tells: metrics.jsonl, TensorBoard and other trackers, and lines on the terminal where those fail."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from accel_tx.config import Config, what_is_learned, what_starts_share
from accel_tx.inference.attention_map import AttentionMap
from accel_tx.inference.attention_picture import as_pixels, can_draw, draw
from accel_tx.inference.weights import SCORES
from accel_tx.train import file_system
from accel_tx.train.lines import append_whole, keep_lines, update_of_line
from accel_tx.train.run_samples import as_markdown
from accel_tx.train.sharding import whole
from accel_tx.train.tensorboard import TensorBoard
from accel_tx.train.trackers import TENSORBOARD, Trackers, in_a_line

_NO_CURVES = ("update", "epoch", "trained_s")


class MetricsLog:
    """metrics.jsonl and the trackers of `train.trackers`; writes on the main process only.

    Where the disk is full, lines of metrics wait in memory for the next write, and TensorBoard misses what was due; a
    line on the terminal says so.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        run_dir: Path,
        config: Config,
        update: int,
        say: Callable[[str], object],
        validation_is_due: bool = False,
    ) -> None:
        """Continue after `update`: lines of what comes then, from a start that was lost, are taken out.

        Raises: UserError where a tracker cannot begin.
        """
        self.is_main = accelerator.is_main_process
        self.run_dir, self.path, self.say = run_dir, run_dir / "metrics.jsonl", say
        self.waiting: list[str] = []
        self.drawing_failed = False
        self.wants_board = TENSORBOARD in config.train.trackers
        self.board = TensorBoard(run_dir / "tensorboard", say)
        self.trackers = Trackers(accelerator, config.train.trackers, run_dir, say)
        if not self.is_main:
            return
        if self.trackers.names:
            self.trackers.open(_flat(config), _last_updates(self.path))
        self._open(update, validation_is_due)
        if update == 0:
            self.board.add_config(_flat(config), _hyper_parameters(config))

    def write(self, values: dict[str, Any], kind: str) -> None:
        """Append one line and give the same numbers to the trackers, at `values["update"]`; see `_tag`.

        `kind`: `train` or `validation`.
        """
        if not self.is_main:
            return
        update = values["update"]
        if self._append(json.dumps(values) + "\n") and self.wants_board and not self.board.is_open:
            self.board.open(update - 1)
        curves = {
            _tag(name, kind): value
            for name, value in values.items()
            if isinstance(value, (int, float)) and name not in _NO_CURVES
        }
        self.board.add_scalars(curves, update)
        self.trackers.log(curves, kind, update)

    def write_samples(self, update: int, samples: list[tuple[str, str, str]]) -> None:
        """Sample translations (source, reference, hypothesis) as a TensorBoard text."""
        if self.is_main and samples:
            self.board.add_text("samples", as_markdown(samples), update)

    def write_histograms(self, update: int, model: nn.Module) -> None:
        """Of the weights, and of the gradient that they have just been given, to TensorBoard; all processes call it."""
        for name, parameter in model.named_parameters():
            for kind, tensor in (("weights", parameter), ("gradients", parameter.grad)):
                found = None if tensor is None else whole(tensor)
                if found is not None and self.is_main:
                    self.board.add_histogram(f"{kind}/{name}", found, update)

    def go_back(self, update: int) -> None:
        """Take out what was written after `update`, on file and waiting, and go on from there. Raises: OSError."""
        if not self.is_main:
            return
        self.trackers.go_back()
        self.board.close()
        self.waiting = [line for line in self.waiting if update_of_line(line.encode()) <= update]
        self._open(update, validation_is_due=False)

    def write_attention(self, update: int, attention: AttentionMap | None) -> None:
        """The attention of the first sample as a TensorBoard picture; after a first failure, told in a line, none.

        An installed matplotlib may fail as well, such as one that was built for another numpy.
        """
        if not self.is_main or attention is None or not self.board.is_open or self.drawing_failed:
            return
        missing = None if can_draw() else "matplotlib is not installed"
        try:
            if missing is None:
                self.board.add_picture("attention", as_pixels(draw(attention)), update)
        except Exception as error:
            missing = f"matplotlib cannot draw ({in_a_line(error)})"
        if missing is not None:
            self.drawing_failed = True
            self.say(
                f"{missing}, so TensorBoard gets no picture of attention: pip install matplotlib, or "
                "validation.draw_attention false"
            )

    def close(self, completed_at: int | None = None) -> str | None:
        """Write what waits and close; None, or one line that says what could not be written.

        `completed_at`: the last update, where the run is complete with it.
        """
        if not self.is_main:
            return None
        if completed_at is not None:
            self.board.add_end(completed_at, _best_scores(self.run_dir))
        self.board.close()
        self.trackers.close()
        if self.waiting and not self._append(""):
            return f"{self.path}: {len(self.waiting)} line(s) could not be written"
        return None

    def _open(self, update: int, validation_is_due: bool) -> None:
        keep_lines(self.path, lambda line: _is_before(line, update, validation_is_due))
        if self.wants_board:
            self.board.open(update)

    def flush(self) -> None:
        """Bring the lines onto the disk that a checkpoint made now relies on."""
        if not self.is_main:
            return
        if self.waiting:
            self._append("")
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _append(self, line: str) -> bool:
        """Append the lines that wait and this one, all or none."""
        if line:
            self.waiting.append(line)
        try:
            append_whole(self.path, "".join(self.waiting).encode())
        except OSError as error:
            if len(self.waiting) == 1:
                self.say(f"{self.path}: cannot be written ({error.strerror}); its lines wait in memory")
            return False
        self.waiting.clear()
        return True


def _tag(name: str, kind: str) -> str:
    """Under which name a number of a line is a curve: those of the machine have groups of their own."""
    if name == "padding_share" or name.endswith("_s"):
        return f"speed/{name}"
    return f"system/{name}" if name.endswith("_gib") else f"{kind}/{name}"


def _is_before(line: bytes, update: int, validation_is_due: bool) -> bool:
    if validation_is_due and _kind(line) == "validation":
        return update_of_line(line) < update
    return update_of_line(line) <= update


def _kind(line: bytes) -> str:
    return "validation" if b"val_loss" in line else "train"


def _last_updates(path: Path) -> dict[str, int]:
    """The last update of each kind of line, also of a start that was lost."""
    found: dict[str, int] = {}
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        update = update_of_line(line)
        if update < float("inf"):
            found[_kind(line)] = max(found.get(_kind(line), 0), int(update))
    return found


def _best_scores(run_dir: Path) -> dict[str, float]:
    """Of the best validation; nothing of the clock."""
    scores = file_system.read_json(run_dir / "best" / SCORES)
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, float) and name not in _NO_CURVES and not name.endswith("_s")
    }


def _flat(config: Config) -> dict[str, str | int | float | bool]:
    """Every field as `section.field`; what trackers have no type for as text."""
    return {
        f"{section}.{name}": value if isinstance(value, (str, int, float)) else json.dumps(value)
        for section, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    }


def _hyper_parameters(config: Config) -> dict[str, Any]:
    """The fields by which runs differ in what they learn, without those not set and a length that may change."""
    return {name: value for name, value in what_starts_share(what_is_learned(config)).items() if value is not None}
