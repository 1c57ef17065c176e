"""What a run tells: metrics.jsonl, TensorBoard, the progress bar's numbers and lines on the terminal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from accel_tx.config import Config


class MetricsLog:
    """metrics.jsonl and TensorBoard; writes on the main process only."""

    def __init__(
        self, accelerator: Accelerator, run_dir: Path, config: Config, update: int, validation_is_due: bool = False
    ) -> None:
        """Continue after `update`: lines of what comes then, from a start that was lost, are taken out."""
        self.is_main = accelerator.is_main_process
        self.path = run_dir / "metrics.jsonl"
        self.writer: Any = None
        if not self.is_main:
            return
        from torch.utils.tensorboard import SummaryWriter

        _forget_after(self.path, update, validation_is_due)
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=update + 1)
        if update == 0:
            self.writer.add_text("config", _as_markdown(config), 0)

    def write(self, values: dict[str, Any], prefix: str) -> None:
        """Append one line and the same numbers as TensorBoard scalars `prefix/name` at `values["update"]`."""
        if not self.is_main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)) and name not in ("update", "epoch", "trained_s"):
                self.writer.add_scalar(f"{prefix}/{name}", value, values["update"])
        self.writer.flush()

    def write_samples(self, update: int, samples: list[tuple[str, str, str]]) -> None:
        """Sample translations (source, reference, hypothesis) as a TensorBoard text."""
        if self.is_main and samples:
            rows = ["| source | reference | translation |", "|---|---|---|"]
            rows += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in samples]
            self.writer.add_text("samples", "\n".join(rows), update)
            self.writer.flush()

    def close(self) -> None:
        """Flush and close."""
        if self.writer is not None:
            self.writer.close()


def _forget_after(path: Path, update: int, validation_is_due: bool) -> None:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if _update_of(line) <= update]
    if validation_is_due:
        kept = [line for line in kept if _update_of(line) < update or "val_loss" not in line]
    if len(kept) < len(lines):
        beside = path.with_name(".metrics.jsonl.new")
        beside.write_text("".join(kept), encoding="utf-8")
        beside.replace(path)


def _update_of(line: str) -> float:
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off by a crash


def _as_markdown(config: Config) -> str:
    rows = [
        f"| {section}.{name} | {value} |"
        for section, values in dataclasses.asdict(config).items()
        for name, value in values.items()
    ]
    return "\n".join(["| field | value |", "|---|---|", *rows])
