"""The event files of a run: curves, texts, pictures, histograms, and the config as hyper-parameters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel_tx.train.run_samples import as_cell

_N_BINS = 64


class TensorBoard:
    """Writes an event file a start; on the main process only.

    Where the disk is full, what was due is missing there, and a line says so; `open` tries again.
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        self.folder, self.say = folder, say
        self._writer: Any = None
        self._has_failed = False
        self._excepthook = threading.excepthook

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    def open(self, update: int) -> None:
        """Go on after `update`: what comes later in the event files before, of a start that was lost, is not shown."""
        from torch.utils.tensorboard import SummaryWriter

        if threading.excepthook != self._on_thread_error:
            self._excepthook, threading.excepthook = threading.excepthook, self._on_thread_error
        try:
            # At the very beginning nothing of a lost start is kept, not even what it said of its config.
            self._writer = SummaryWriter(str(self.folder), purge_step=update + 1 if update else 0)
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """Write what waits; nothing more is written until `open`."""
        self._write(lambda writer: writer.close())
        self._writer = None
        threading.excepthook = self._excepthook

    def add_config(self, config: Mapping[str, Any], hyper_parameters: Mapping[str, Any]) -> None:
        """The config as a table of text, and the part of it that decides what is learned as hyper-parameters."""
        rows = [
            "| field | value |",
            "|---|---|",
            *(f"| {name} | {as_cell(str(value))} |" for name, value in config.items()),
        ]
        start, _ = _session(hyper_parameters)

        def add(writer: Any) -> None:
            writer.add_text("config", "\n".join(rows), 0)
            writer.file_writer.add_summary(start, 0)

        self._write(add)

    def add_end(self, update: int, results: Mapping[str, float]) -> None:
        """Mark the run as complete on the page of hyper-parameters, with `results`, which come first there."""
        _, end = _session({})
        self.add_scalars({f"best/{name}": value for name, value in results.items()}, update)
        self._write(lambda writer: writer.file_writer.add_summary(end, update))

    def add_scalars(self, values: Mapping[str, float], update: int) -> None:
        def add(writer: Any) -> None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, update)

        self._write(add)

    def add_text(self, tag: str, markdown: str, update: int) -> None:
        self._write(lambda writer: writer.add_text(tag, markdown, update))

    def add_picture(self, tag: str, pixels: Any, update: int) -> None:
        """`pixels`: (height, width, 3) uint8."""
        self._write(lambda writer: writer.add_image(tag, pixels, update, dataformats="HWC"))

    def add_histogram(self, tag: str, tensor: Tensor, update: int) -> None:
        """Waits for the device; a tensor with a value that is not finite gets none."""
        values = histogram_of(tensor) if self.is_open else None
        if values is not None:
            self._write(lambda writer: writer.add_histogram_raw(tag, global_step=update, **values))

    def _write(self, add: Callable[[Any], None]) -> None:
        if self._writer is None:
            return
        try:
            add(self._writer)
            self._writer.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._writer = None
        if not self._has_failed:
            self.say(f"{self.folder}: cannot be written ({error.strerror}); its curves have gaps")
        self._has_failed = True

    def _on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        # TensorBoard's own thread gives us the same error at the next call.
        if not isinstance(error.exc_value, OSError):
            self._excepthook(error)


def histogram_of(tensor: Tensor) -> dict[str, Any] | None:
    """What `add_histogram_raw` takes, counted on the tensor's device; None where a value is not finite.

    Equal bins from the least to the largest value.
    """
    values = tensor.detach().float().flatten()
    low, high = (float(bound) for bound in torch.aminmax(values))
    if not (torch.isfinite(torch.tensor([low, high])).all()):
        return None
    if low == high:  # torch would take the bounds for not given
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(values, _N_BINS, low, high)
    sums = torch.stack([values.sum(dtype=torch.float64), values.double().square().sum()]).tolist()
    return {
        "min": low,
        "max": high,
        "num": values.numel(),
        "sum": sums[0],
        "sum_squares": sums[1],
        "bucket_limits": torch.linspace(low, high, _N_BINS + 1, dtype=torch.float64)[1:].tolist(),
        "bucket_counts": counts.tolist(),
    }


def _session(hyper_parameters: Mapping[str, Any]) -> tuple[Any, Any]:
    """What the page of hyper-parameters wants of a run: a summary of its start, and one of its end.

    Without the third, of the experiment: the page would take its columns from the first run that it finds. So it shows
    every field and every curve of all runs, and those first that differ.
    """
    from torch.utils.tensorboard.summary import hparams

    known = {name: value if isinstance(value, (int, float)) else str(value) for name, value in hyper_parameters.items()}
    _, start, end = hparams(known, {})  # type: ignore[no-untyped-call]
    return start, end
