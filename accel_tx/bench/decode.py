"""The speed of translating a validation set, beside `generate` of `transformers` with the same weights."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from accel_tx.bench.report import machine, markdown_table
from accel_tx.config import Config
from accel_tx.data.dataset import prepare_data
from accel_tx.inference.metrics import score_translations
from accel_tx.inference.translator import Translator, best_device

Translate = Callable[[list[str]], list[str]]
_DTYPES = {"no": ("float32", torch.float32), "bf16": ("bfloat16", torch.bfloat16)}
# Batch sizes among which the baseline takes its fastest, and the share of the sentences on which it looks for it.
_BATCH_SIZES = (16, 32, 64)
_TRIED_SHARE = 8


@dataclass
class System:
    """One way to translate, and what its rounds gave."""

    name: str
    translate: Translate
    seconds: list[float] = field(default_factory=list)
    translations: list[str] = field(default_factory=list)
    note: str = ""


def measure_decode(
    config: Config,
    run_dir: Path,
    weights: str,
    precisions: tuple[str, ...],
    peer: str | None,
    n_rounds: int,
    n_threads: int,
) -> dict[str, Any]:
    """Translate the config's validation set with a run's weights and the config's section `decode`, in rounds.

    Every system has a turn in each round; what a turn measures is text to text, tokenizing included.
    Raises: UserError for what cannot be compared.
    """
    data = prepare_data(config, run_dir)
    lines, references = data.valid_src.to_pylist(), data.valid_tgt.to_pylist()
    systems = [_ours(config, run_dir, weights, precision) for precision in precisions]
    if peer == "hf":
        systems += [_hf(config, run_dir, weights, precision, lines) for precision in precisions]
    for system in systems:
        system.translate(lines[:: _TRIED_SHARE * 4] or lines)
    for number in range(1, n_rounds + 1):
        for system in systems:
            started_at_s = time.perf_counter()
            system.translations = system.translate(lines)
            system.seconds.append(time.perf_counter() - started_at_s)
            _say(f"round {number} of {n_rounds}: {system.name}  {len(lines) / system.seconds[-1]:.1f} sentences/s")
    baseline = systems[len(precisions) if peer else 0]
    rows = [_row(system, systems[0], baseline, references, config.validation.tokenize) for system in systems]
    return {
        "n_sentences": len(lines),
        "baseline": baseline.name,
        "decode": dataclasses.asdict(config.decode),
        "machine": machine(n_threads),
        "systems": rows,
    }


def decode_markdown(found: dict[str, Any]) -> str:
    """The measurements as a table."""
    decode = found["decode"]
    return "\n".join(
        [
            *markdown_table(
                ["system", "sentences/s (range)", "times the baseline (range)", "BLEU", "same lines as the first row"],
                (
                    [
                        row["system"],
                        f"{row['sentences_per_s']:.1f} ({row['range'][0]:.1f} to {row['range'][1]:.1f})",
                        f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})",
                        f"{row['bleu']:.2f}",
                        f"{row['same_lines']:.1%}",
                    ]
                    for row in found["systems"]
                ),
            ),
            "",
            f"- {found['n_sentences']:,} sentences, beam {decode['beam_size']}, length penalty "
            f"{decode['length_penalty']} {decode['length_exponent']:g}; medians over the rounds, ratios within one; "
            f"baseline: {found['baseline']}.",
            f"- BLEU {found['systems'][0]['signature']}.",
            *(f"- {row['system']}: {row['note']}." for row in found["systems"] if row["note"]),
            f"- Machine: {', '.join(f'{name} {value}' for name, value in found['machine'].items())}.",
        ]
    )


def _ours(config: Config, run_dir: Path, weights: str, precision: str) -> System:
    fields = {**dataclasses.asdict(config.decode), "precision": _DTYPES[precision][0]}
    translator = Translator.from_run_dir(run_dir, weights, best_device(), fields)
    return System(f"ours ({_DTYPES[precision][0]})", translator.translate)


def _hf(config: Config, run_dir: Path, weights: str, precision: str, lines: list[str]) -> System:
    from accel_tx.bench.peer_hf import check_installed

    check_installed()
    from accel_tx.bench.peer_hf_decode import HfTranslator

    # Not rounded, whatever the run's `decode.precision`.
    ours = Translator.from_run_dir(run_dir, weights, best_device(), {"precision": "float32"})
    hf = HfTranslator(ours.transformer, ours.tokenizers, config.decode, _DTYPES[precision][1])
    some, seconds = lines[::_TRIED_SHARE] or lines, {}
    for hf.batch_size in _BATCH_SIZES:
        started_at_s = time.perf_counter()
        hf.translate(some)
        seconds[hf.batch_size] = time.perf_counter() - started_at_s
    hf.batch_size = min(seconds, key=lambda size: seconds[size])
    name = f"{type(hf.model).__name__}.generate ({_DTYPES[precision][0]})"
    return System(name, hf.translate, note=f"batches of {hf.batch_size}, the fastest of {list(_BATCH_SIZES)}")


def _row(system: System, first: System, baseline: System, references: list[str], tokenize: str) -> dict[str, Any]:
    n = len(references)
    rates = [n / seconds for seconds in system.seconds]
    ratios = [theirs / own for own, theirs in zip(system.seconds, baseline.seconds, strict=True)]
    same = sum(map(str.__eq__, system.translations, first.translations)) / n
    scores = score_translations(system.translations, references, tokenize).to_dict()
    return {
        "system": system.name,
        "note": system.note,
        "seconds": system.seconds,
        "sentences_per_s": statistics.median(rates),
        "range": [min(rates), max(rates)],
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        **{name: scores[name] for name in ("bleu", "signature")},
        "same_lines": same,
    }


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
