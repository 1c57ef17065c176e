"""What a run tells: metrics.jsonl, TensorBoard, the progress bar's numbers and lines on the terminal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from accel_tx.config import Config
from accel_tx.inference.attention_map import AttentionMap
from accel_tx.inference.attention_picture import as_pixels, can_draw, draw
from accel_tx.train.lines import append_whole, keep_lines, update_of_line
from accel_tx.train.run_samples import as_markdown


class MetricsLog:
    """metrics.jsonl and TensorBoard; writes on the main process only.

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
        """Continue after `update`: lines of what comes then, from a start that was lost, are taken out."""
        self.is_main = accelerator.is_main_process
        self.run_dir, self.path, self.say = run_dir, run_dir / "metrics.jsonl", say
        self.writer: Any = None
        self.waiting: list[str] = []
        self.tensorboard_failed = False
        self.drawing_missed = False
        self._open(update, validation_is_due)
        if update == 0:
            self._to_tensorboard(lambda writer: writer.add_text("config", _as_markdown(config), 0))

    def write(self, values: dict[str, Any], prefix: str) -> None:
        """Append one line and the same numbers as TensorBoard scalars `prefix/name` at `values["update"]`."""
        if not self.is_main:
            return
        if self._append(json.dumps(values) + "\n") and self.writer is None:
            self._open_tensorboard(values["update"] - 1)
        scalars = {
            f"{prefix}/{name}": value
            for name, value in values.items()
            if isinstance(value, (int, float)) and name not in ("update", "epoch", "trained_s")
        }

        def add(writer: Any) -> None:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, values["update"])

        self._to_tensorboard(add)

    def write_samples(self, update: int, samples: list[tuple[str, str, str]]) -> None:
        """Sample translations (source, reference, hypothesis) as a TensorBoard text."""
        if self.is_main and samples:
            self._to_tensorboard(lambda writer: writer.add_text("samples", as_markdown(samples), update))

    def go_back(self, update: int) -> None:
        """Take out what was written after `update`, on file and waiting, and go on from there. Raises: OSError."""
        self.close()
        self.waiting = [line for line in self.waiting if update_of_line(line.encode()) <= update]
        self._open(update, validation_is_due=False)

    def write_attention(self, update: int, attention: AttentionMap | None) -> None:
        """The attention of the first sample as a TensorBoard picture, or one line that says what is missing for it."""
        if not self.is_main or attention is None or self.writer is None:
            return
        if not can_draw():
            if not self.drawing_missed:
                self.say(
                    "matplotlib is not installed, so TensorBoard gets no picture of attention: pip install matplotlib, "
                    "or validation.draw_attention false"
                )
            self.drawing_missed = True
            return
        pixels = as_pixels(draw(attention))
        self._to_tensorboard(lambda writer: writer.add_image("attention", pixels, update, dataformats="HWC"))

    def close(self) -> str | None:
        """Write what waits and close; None, or one line that says what could not be written."""
        if not self.is_main:
            return None
        if self.writer is not None:
            self._to_tensorboard(lambda writer: writer.close())
        threading.excepthook = self.excepthook
        if self.waiting and not self._append(""):
            return f"{self.path}: {len(self.waiting)} line(s) could not be written"
        return None

    def _open(self, update: int, validation_is_due: bool) -> None:
        if not self.is_main:
            return
        keep_lines(self.path, lambda line: _is_before(line, update, validation_is_due))
        self.excepthook = threading.excepthook
        threading.excepthook = self._on_thread_error
        self._open_tensorboard(update)

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

    def _open_tensorboard(self, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            self.writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=update + 1)
        except OSError as error:
            self._lose_tensorboard(error)

    def _to_tensorboard(self, add: Callable[[Any], None]) -> None:
        if self.writer is None:
            return
        try:
            add(self.writer)
            self.writer.flush()
        except OSError as error:
            self._lose_tensorboard(error)

    def _lose_tensorboard(self, error: OSError) -> None:
        self.writer = None
        if not self.tensorboard_failed:
            self.say(f"{self.run_dir / 'tensorboard'}: cannot be written ({error.strerror}); its curves have gaps")
        self.tensorboard_failed = True

    def _on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        # TensorBoard's own thread gives us the same error at the next call.
        if not isinstance(error.exc_value, OSError):
            self.excepthook(error)


def _is_before(line: bytes, update: int, validation_is_due: bool) -> bool:
    if validation_is_due and b"val_loss" in line:
        return update_of_line(line) < update
    return update_of_line(line) <= update


def _as_markdown(config: Config) -> str:
    rows = [
        f"| {section}.{name} | {value} |"
        for section, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    ]
    return "\n".join(["| field | value |", "|---|---|", *rows])
