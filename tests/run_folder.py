"""What a finished run left behind, without what depends on the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

TIMED = {"tgt_tokens_per_s", "trained_s", "validation_s"}


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [_untimed(json.loads(line)) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


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
