"""The curve of a learning-rate range test, drawn with matplotlib, which only this module needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel_tx.train.rate_curve import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_HEADROOM = 0.15
"""Share of the fall that the picture shows above the first loss; single updates may lie far higher."""


def draw(curve: Curve, configured: float) -> Figure:
    """Loss over the rate, as it came and smoothed; lines at the proposal and at the rate of the config."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve.lrs, curve.losses, color="0.75", linewidth=1, label="loss of an update")
    axes.plot(curve.lrs, curve.smoothed, color="tab:blue", linewidth=2, label="smoothed")
    if curve.proposal is not None:
        axes.axvline(curve.proposal, color="tab:green", label=f"proposed max_lr {curve.proposal:.1e}")
    axes.axvline(configured, color="tab:orange", linestyle=":", label=f"optim.max_lr of the config {configured:.1e}")
    low, first = min(curve.smoothed), curve.smoothed[0]
    fall = max(first - low, 0.01 * first)
    axes.set_ylim(low - _HEADROOM * fall, first + 3 * _HEADROOM * fall)
    axes.set_xlim(min(curve.lrs[0], configured), max(curve.lrs[-1], configured))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, nats a target token")
    axes.grid(which="major", color="0.9")
    axes.legend(loc="lower left")
    return figure
