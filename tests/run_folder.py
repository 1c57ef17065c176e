"""What a finished run left behind, without what depends on the clock and the machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from accel_tx.train.checkpoint import find_fault

TIMED = {"tgt_tokens_per_s", "trained_s", "validation_s", "device_peak_gib", "host_rss_gib"}
TOP_LEVEL = {
    "config.yaml",
    "clean_report.json",
    "metrics.jsonl",
    "starts.jsonl",
    "tokenizer",
    "tensorboard",
    "checkpoints",
    "best",
    "final",
}


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, times included."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [_untimed(line) for line in read_lines(run_dir)]


def weights(run_dir: Path, name: str = "final") -> bytes:
    """The file of weights in `final/`, or in `best/`."""
    return (run_dir / name / "model.safetensors").read_bytes()


def scores(run_dir: Path, name: str) -> dict[str, Any]:
    """What stands beside the weights in `final/` or `best/`."""
    return _untimed(json.loads((run_dir / name / "scores.json").read_text()))


def assert_same_run(run_dir: Path, expected: Path) -> None:
    """Both ended with the same bytes of weights, after the same updates with the same numbers."""
    for name in ("final", "best"):
        assert weights(run_dir, name) == weights(expected, name), name
        assert scores(run_dir, name) == scores(expected, name)
    assert metrics(run_dir) == metrics(expected)


def largest_difference(a: Path, b: Path) -> float:
    """Between the final weights of two runs in float64."""
    first, second = load_file(a / "final" / "model.safetensors"), load_file(b / "final" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(tensor.dtype == torch.float64 for tensor in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def _untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMED}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its name inside."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def newest_update(run_dir: Path) -> int:
    """Of the newest checkpoint, 0 where there is none."""
    found = (run_dir / "checkpoints").glob("update_*")
    return max((int(path.name.removeprefix("update_")) for path in found), default=0)


def assert_only_what_belongs(run_dir: Path) -> None:
    """Nothing is in the folder of a finished run but what docs/guarantees.md names."""
    names = {path.name for path in run_dir.iterdir()}
    assert names == TOP_LEVEL, names ^ TOP_LEVEL
    checkpoints = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert all(re.fullmatch(r"latest|update_\d{8}", name) for name in checkpoints), checkpoints
    for path in (run_dir / "checkpoints").glob("update_*"):
        assert find_fault(path) is None, path
    for name in ("best", "final"):
        assert {path.name for path in (run_dir / name).iterdir()} == {"model.safetensors", "scores.json"}
    assert all(path.name.startswith("events.out.tfevents") for path in (run_dir / "tensorboard").iterdir())
