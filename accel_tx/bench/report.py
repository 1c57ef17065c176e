"""What a bench found, as Markdown to paste and as JSON."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from accel_tx.bench.phases import PHASES
from accel_tx.bench.turns import Turn

_PRECISION_NAMES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass
class SystemResult:
    """The turns of one system in one precision, one a round."""

    label: str
    precision: str
    n_parameters: int
    turns: list[Turn]
    peak_mib: float | None

    @property
    def name(self) -> str:
        """Name and precision."""
        return f"{self.label} ({_PRECISION_NAMES[self.precision]})"

    def tgt_tokens_per_s(self) -> list[float]:
        """Real target tokens over seconds of each round."""
        return [turn.n_tgt_tokens / turn.seconds for turn in self.turns]

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds, and what holds for all rounds together."""
        seconds = sum(turn.seconds for turn in self.turns)
        computed = sum(turn.computed_flops for turn in self.turns)
        shares = {p: sum(t.phase_s.get(p, 0.0) for t in self.turns) / seconds for p in PHASES}
        return {
            "tgt_tokens_per_s": median(self.tgt_tokens_per_s()),
            "tgt_tokens_per_s_range": [min(self.tgt_tokens_per_s()), max(self.tgt_tokens_per_s())],
            "src_and_tgt_tokens_per_s": median((t.n_src_tokens + t.n_tgt_tokens) / t.seconds for t in self.turns),
            "padding_share": 1 - sum(turn.model_flops for turn in self.turns) / max(1, computed),
            "time_shares": {**shares, "rest": 1 - sum(shares.values())},
            "model_flops_per_s": median(turn.model_flops / turn.seconds for turn in self.turns),
            "computed_flops_per_s": median(turn.computed_flops / turn.seconds for turn in self.turns),
            "peak_mib": self.peak_mib,
            "n_parameters": self.n_parameters,
            "n_updates": sum(turn.n_updates for turn in self.turns),
            "seconds": seconds,
        }


@dataclass
class SpeedReport:
    """Everything that `bench` measured of training."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    matmul_flops_per_s: dict[str, float]
    """The best rate of matrix products, by precision."""
    results: list[SystemResult]

    def ratios(self) -> list[dict[str, Any]]:
        """How many times as fast as every other system ours is, in each of its precisions."""
        ours = [result for result in self.results if result.label == "ours"]
        others = [result for result in self.results if not result.label.startswith("ours")]
        return [
            {
                "of": a.name,
                "to": b.name,
                "ratio": median(a.tgt_tokens_per_s()) / median(b.tgt_tokens_per_s()),
                "range": [min(each), max(each)],
                "crosses_to_faster_precision": a.precision == "no" != b.precision,
            }
            for a in ours
            for b in others
            for each in [[x / y for x, y in zip(a.tgt_tokens_per_s(), b.tgt_tokens_per_s(), strict=True)]]
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, every round included."""
        systems = [
            {
                "system": result.label,
                "precision": result.precision,
                **result.summary(),
                "share_of_matmul_peak": self._share_of_peak(result),
                "rounds": [dataclasses.asdict(turn) for turn in result.turns],
            }
            for result in self.results
        ]
        return {
            "machine": self.machine,
            "settings": self.settings,
            "matmul_flops_per_s": self.matmul_flops_per_s,
            "systems": systems,
            "ratios": self.ratios(),
        }

    def to_markdown(self) -> str:
        """The table, and what one must know to read it."""
        header = [
            "system",
            "target tokens/s (range)",
            "both sides, tokens/s",
            "padding",
            "load / forward / backward / optimizer / rest",
            "model TFLOP/s",
            "of peak",
            "peak MiB",
            "parameters",
        ]
        lines = markdown_table(header, [self._row(result) for result in self.results])
        lines += ["", *self._notes()]
        return "\n".join(lines)

    def _row(self, result: SystemResult) -> list[str]:
        values = result.summary()
        low, high = values["tgt_tokens_per_s_range"]
        return [
            result.name,
            f"{values['tgt_tokens_per_s']:,.0f} ({low:,.0f} to {high:,.0f})",
            f"{values['src_and_tgt_tokens_per_s']:,.0f}",
            f"{values['padding_share']:.1%}",
            " / ".join(f"{share:.1%}" for share in values["time_shares"].values()),
            f"{values['model_flops_per_s'] / 1e12:.3f}",
            f"{self._share_of_peak(result):.1%}",
            "not known" if result.peak_mib is None else f"{result.peak_mib:,.0f}",
            f"{result.n_parameters:,}",
        ]

    def _notes(self) -> list[str]:
        lines = [
            f"- {r['of']} is {r['ratio']:.2f} times as fast as {r['to']} "
            f"({r['range'][0]:.2f} to {r['range'][1]:.2f} over the rounds)."
            for r in self.ratios()
            if not r["crosses_to_faster_precision"]
        ]
        peaks = ", ".join(
            f"{_PRECISION_NAMES[name]} {value / 1e12:.3f} TFLOP/s" for name, value in self.matmul_flops_per_s.items()
        )
        src, tgt = self.settings["vocabularies"]
        s = self.settings
        return [
            *lines,
            f"- Data: {s['data']}; vocabularies of {src:,} and {tgt:,}; dropout {s['dropout']:g}, attention dropout "
            f"{s['attention_dropout']:g}, label smoothing {s['label_smoothing']:g}, the same for all.",
            "- Rates are of real tokens, medians over the rounds. Padding is its share of the work in matrix products. "
            "Model FLOPs are forward and backward over real tokens (causal attention as full squares); the peak is of "
            f"square matrix products in the same precision, measured between the rounds: {peaks}. Peak memory on a "
            "CPU is that of the training process, without loader workers.",
            *(f"- All systems and the peak: {line}." for line in s["tf32"]),
            f"- Machine: {', '.join(f'{name} {value}' for name, value in self.machine.items())}.",
        ]

    def _share_of_peak(self, result: SystemResult) -> float:
        return float(result.summary()["model_flops_per_s"]) / self.matmul_flops_per_s[result.precision]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first column is of text, the others are of numbers."""
    rule = ["---", *("---:" for _ in header[1:])]
    return ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]


def machine(n_threads: int) -> dict[str, Any]:
    """Hardware and versions."""
    import torch

    from accel_tx.model.gpu import uses_gpu
    from accel_tx.train.starts import processor

    found: dict[str, Any] = {"processor": processor(), "threads": n_threads}
    if uses_gpu():
        found["GPU"] = torch.cuda.get_device_name()
    found["Python"] = platform.python_version()
    for package in ("torch", "accelerate", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
