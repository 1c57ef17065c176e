"""Intervals and p-values equal those that sacreBLEU's own command line prints for the same files and seed."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel_tx.config import UserError
from accel_tx.inference.comparison import MetricScores, score_systems
from accel_tx.inference.line_metrics import METRICS, line_metric
from accel_tx.inference.resampling import Resampling, bootstrap_scores, interval, randomization_p
from tests.inference.system_texts import damaged, references

REFERENCES = references(90)
SYSTEMS = {"a": damaged(REFERENCES, 0.2, 1), "b": damaged(REFERENCES, 0.2, 2), "c": damaged(REFERENCES, 0.3, 3)}
OPTIONS = ["-m", "bleu", "chrf", "ter", "--chrf-word-order", "2", "-q", "-nc"]
KEYS = {"BLEU": "bleu", "chrF2++": "chrfpp", "TER": "ter"}
DRAWN = Resampling(n_resamples=300, n_trials=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("systems")
    for name, lines in {"ref": REFERENCES, **SYSTEMS}.items():
        (path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def sacrebleu(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", *arguments, *OPTIONS]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def compared(key: str, names: Sequence[str], drawn: Resampling, refs: Sequence[Sequence[str]] = ()) -> MetricScores:
    return score_systems(line_metric(key, refs or [REFERENCES]), [SYSTEMS[name] for name in names], drawn)


def test_intervals_equal_sacrebleus_command_line(folder: Path) -> None:
    printed = json.loads(sacrebleu(folder, "a", "-ci", "-cin", "300", "-w", "5"))

    assert {entry["name"] for entry in printed} == set(KEYS)
    for entry in printed:
        found = compared(KEYS[entry["name"]], "a", DRAWN)
        around = found.systems[0].interval
        assert around is not None
        assert found.signature == entry["signature"]
        assert round(found.systems[0].score, 5) == entry["score"]
        # Its mean is of single precision.
        assert (around.mean, around.half_width) == pytest.approx(
            (entry["confidence_mean"], entry["confidence_var"]), abs=2e-5
        )


def test_approximate_randomization_equals_sacrebleus_command_line(folder: Path) -> None:
    systems: list[dict[str, Any]] = json.loads(sacrebleu(folder, "a", "b", "c", "--paired-ar", "--paired-ar-n", "400"))

    for name, key in KEYS.items():
        found = compared(key, "abc", DRAWN).systems
        assert [system.score for system in found] == [system[name]["score"] for system in systems]
        assert [system.p_randomization for system in found] == [system[name]["p_value"] for system in systems]
        assert (found[1].p_randomization or 0) > 0.05
        assert (found[2].p_randomization or 1) < 0.05


def test_the_paired_bootstrap_equals_sacrebleus_command_line(folder: Path) -> None:
    # As JSON, sacreBLEU 2.6 cannot print it: its numbers are of single precision.
    printed = sacrebleu(folder, "a", "b", "c", "--paired-bs", "--paired-bs-n", "300", "-w", "6", "-f", "latex")
    header = next(line for line in printed.splitlines() if "System" in line)
    names = re.findall(r"(\S+) \(μ", header)
    rows = [line.split("&")[1:] for line in printed.splitlines() if line.count("&") == 3 and "System" not in line]

    assert names == list(KEYS)
    assert len(rows) == 3
    for column, name in enumerate(names):
        found = compared(KEYS[name], "abc", DRAWN).systems
        for row, system in zip(rows, found, strict=True):
            score, mean, half_width, *p_value = map(float, re.findall(r"\d+\.\d+", row[column]))
            assert system.interval is not None
            assert round(system.score, 6) == score
            assert (system.interval.mean, system.interval.half_width) == pytest.approx((mean, half_width), abs=2e-5)
            assert [f"{p:.4f}" for p in p_value] == ([] if system is found[0] else [f"{system.p_bootstrap:.4f}"])


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_several_references_and_lower_case_equal_sacrebleus_command_line(folder: Path, tokenize: str) -> None:
    more = [*OPTIONS, "-lc", "--chrf-lowercase", "-tok", tokenize, "-w", "9"]
    command = [sys.executable, "-m", "sacrebleu", "ref", "b", "-i", "a", *more]
    printed = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout)

    for entry in printed:
        metric = line_metric(KEYS[entry["name"]], [REFERENCES, SYSTEMS["b"]], tokenize, lowercase=True)
        found = score_systems(metric, [SYSTEMS["a"]], Resampling(0, 0))
        assert found.systems[0].score == pytest.approx(entry["score"], abs=1e-8)
        assert found.signature == found.plain_signature == entry["signature"]
        assert found.systems[0].interval is None


def test_blocks_draw_what_one_whole_draw_would() -> None:
    counts = np.random.default_rng(1).integers(0, 9, size=(23, 2)).astype(np.float64)
    score = lambda sums: float(sums[0] / sums[1])  # noqa: E731
    whole = np.random.default_rng(5).choice(23, size=(200, 23), replace=True)
    kept = np.random.default_rng(5).integers(2, size=(200, 23), dtype=bool)[:, :, None]
    other = counts[::-1]
    first, second = (np.where(kept, a, b).sum(1) for a, b in ((counts, other), (other, counts)))
    differences = [abs(score(a) - score(b)) for a, b in zip(first, second, strict=True)]

    assert bootstrap_scores(counts, score, 200, 5) == pytest.approx([score(counts[rows].sum(0)) for rows in whole])
    expected = (sum(d > 0.1 for d in differences) + 1) / 201
    assert 0.1 < expected < 0.9
    assert randomization_p(counts, other, score, -0.1, 200, 5) == expected


def test_an_interval_leaves_a_fortieth_out_at_each_end() -> None:
    around = interval(np.arange(1000.0)[::-1])

    assert (around.low, around.high, around.mean, around.half_width) == (25, 974, 499.5, 474.5)


@pytest.mark.parametrize("key", METRICS)
def test_every_metric_tells_equal_systems_from_different_ones(key: str) -> None:
    found = score_systems(line_metric(key, [REFERENCES]), [SYSTEMS["a"], SYSTEMS["a"], SYSTEMS["c"]], DRAWN)
    own, same, worse = found.systems

    assert own.interval is not None
    assert own.interval.low < own.score < own.interval.high
    assert (same.difference, same.p_bootstrap, same.p_randomization) == (0, 1, 1)
    assert worse.difference is not None
    assert (worse.difference < 0) == (key in ("bleu", "chrf", "chrfpp"))
    assert worse.p_bootstrap == 1 / 301
    assert worse.p_randomization is not None
    assert worse.p_randomization < 0.02
    assert found.signature.startswith("nrefs:1|bs:300|ar:400|seed:12345|case:")


@pytest.mark.parametrize("other", ["a", "c"])
def test_a_test_that_was_not_run_has_no_p_value(other: str) -> None:
    systems = [SYSTEMS["a"], SYSTEMS[other]]
    for n_resamples, n_trials in ((0, 0), (20, 0), (0, 20)):
        drawn = dataclasses.replace(DRAWN, n_resamples=n_resamples, n_trials=n_trials)
        _, found = score_systems(line_metric("bleu", [REFERENCES]), systems, drawn).systems
        assert (found.p_bootstrap is None, found.p_randomization is None) == (not n_resamples, not n_trials)


def test_of_several_references_the_closest_counts_for_error_rates() -> None:
    refs = [["le chat dort", "oui"], ["un chat dort bien", "non"]]

    found = {key: score_systems(line_metric(key, refs), [["un chat dort", "non"]], Resampling(0, 0)) for key in METRICS}

    # Edits: 1 and 0 words, 2 (not 5, " bien") and 0 characters; lengths: the means.
    assert found["wer"].systems[0].score == pytest.approx((1 + 0) / (3.5 + 1))
    assert found["cer"].systems[0].score == pytest.approx((2 + 0) / ((12 + 17) / 2 + 3))


def test_a_tokenizer_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match="tokenize ja-mecab: sacreBLEU cannot use it here"):
        line_metric("bleu", [REFERENCES], "ja-mecab")
