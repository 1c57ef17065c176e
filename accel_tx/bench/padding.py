"""How much padding the batch plan leaves to attention, and what planning costs. Nothing else has any padding."""

from __future__ import annotations

import time
from typing import Any

from accel_tx.bench.memory import watched_peak
from accel_tx.bench.report import markdown_table
from accel_tx.bench.workload import book_like_lengths, load_workload
from accel_tx.config import Config
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.dealing import Lengths
from accel_tx.data.forecast import shapes_on

BUDGETS = (1024, 2048, 4096)
N_SYNTHETIC = 1_000_000


def measure_padding(config: Config, n_synthetic: int | None) -> list[dict[str, Any]]:
    """The plan of one epoch at every budget: of the config's corpus and a million book-like pairs, or of `n_synthetic`.

    A budget that the longest pair does not fit is left out.
    """
    longest = min(config.model.max_positions, 150)
    synthetic = n_synthetic or N_SYNTHETIC
    sides: dict[str, tuple[Lengths, Lengths]] = {
        f"{synthetic:,} book-like pairs": book_like_lengths(synthetic, longest, config.train.seed)
    }
    if n_synthetic is None:
        workload = load_workload(config, None, None)
        sides = {workload.name: (workload.pairs.src_lengths, workload.pairs.tgt_lengths), **sides}
    return [
        {"data": name, "max_tokens": budget, **_measure(src, tgt, config, budget)}
        for name, (src, tgt) in sides.items()
        for budget in BUDGETS
        if max(src.max(), tgt.max()) <= budget
    ]


def _measure(src: Lengths, tgt: Lengths, config: Config, budget: int) -> dict[str, Any]:
    train = config.train
    with watched_peak() as base:
        time.sleep(0.01)
    with watched_peak() as peak:
        started_at_s = time.perf_counter()
        limits = BatchLimits(max_tokens=budget, batch_size=None)
        plan = plan_epoch(src, tgt, limits, train.micro_batches_per_update, train.seed, 0)
        seconds = time.perf_counter() - started_at_s
    return {
        "n_updates": plan.n_updates,
        "padding_share": {device: found.padding_share for device, found in shapes_on(config, plan, src, tgt).items()},
        "plan_s": seconds,
        "plan_peak_mib": None if peak.mib is None or base.mib is None else peak.mib - base.mib,
    }


def padding_markdown(rows: list[dict[str, Any]]) -> str:
    """The measurements as a table."""
    header = ["data", "max_tokens", "padding in attention on CPU", "on GPU", "updates", "plan, s", "plan, MiB"]
    return "\n".join(
        markdown_table(
            header,
            (
                [
                    row["data"],
                    f"{row['max_tokens']:,}",
                    f"{row['padding_share']['cpu']:.2%}",
                    f"{row['padding_share']['gpu']:.2%}",
                    f"{row['n_updates']:,}",
                    f"{row['plan_s']:.2f}",
                    "not known" if row["plan_peak_mib"] is None else f"{row['plan_peak_mib']:,.0f}",
                ]
                for row in rows
            ),
        )
    )
