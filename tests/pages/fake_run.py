"""Run folders as `train` leaves them, made without a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from accel_tx.config import Config, dump_yaml
from accel_tx.train.run_samples import as_markdown

Samples = Sequence[tuple[str, str, str]]
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def training_line(update: int, **values: Any) -> dict[str, Any]:
    """A line of metrics of the training, three seconds an update."""
    usual = {"update": update, "epoch": update / 10, "loss": 8 / update, "lr": 1e-3, "tgt_tokens_per_s": 1_000.0}
    return {**usual, "padding_share": 0.04, "skipped_updates": 0, "bad_updates": 0, "trained_s": 3.0 * update, **values}


def validation_line(update: int, bleu: float, **values: Any) -> dict[str, Any]:
    """The same of a validation."""
    usual = {"update": update, "epoch": update / 10, "val_loss": 10 / update, "bleu": bleu, "chrf": bleu + 20}
    scores = {"cer": 0.5, "wer": 0.75, "signature": SIGNATURE, "chrf_signature": "chrf", "validation_s": 1.0}
    return {**usual, **scores, "trained_s": 3.0 * update, **values}


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_samples(run_dir: Path, by_update: dict[int, Samples], purge_step: int | None = None) -> None:
    """What one start writes to TensorBoard."""
    with SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step) as writer:
        for update, samples in by_update.items():
            writer.add_scalar("train/loss", 1.0, update)
            writer.add_text("samples", as_markdown(samples), update)


def fake_run(
    run_dir: Path,
    config: Config,
    lines: Sequence[dict[str, Any]],
    samples: dict[int, Samples] | None = None,
    best: dict[str, Any] | None = None,
) -> Path:
    """A run folder with these lines of metrics; `best` is what stands beside the best weights."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    write_lines(run_dir / "metrics.jsonl", lines)
    if samples is not None:
        write_samples(run_dir, samples)
    if best is not None:
        (run_dir / "best").mkdir()
        (run_dir / "best" / "scores.json").write_text(json.dumps(best), encoding="utf-8")
    return run_dir
