"""Systems beside each other on the same references: scores, intervals, differences and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from accel_tx.inference.line_metrics import LineMetric
from accel_tx.inference.resampling import (
    Interval,
    Resampling,
    bootstrap_p,
    bootstrap_scores,
    interval,
    randomization_p,
)


@dataclass(frozen=True)
class SystemScore:
    """One system under one metric."""

    score: float
    interval: Interval | None
    """None where nothing is resampled."""
    difference: float | None = None
    """This score minus that of the first system; None for the first itself, as are the next two."""
    p_bootstrap: float | None = None
    p_randomization: float | None = None

    def to_dict(self) -> dict[str, float]:
        """What there is, ready for JSON."""
        values = {"score": self.score}
        if self.interval is not None:
            around = self.interval
            values |= {"mean": around.mean, "low": around.low, "high": around.high, "half_width": around.half_width}
        compared = {name: getattr(self, name) for name in ("difference", "p_bootstrap", "p_randomization")}
        return values | {name: value for name, value in compared.items() if value is not None}


@dataclass(frozen=True)
class MetricScores:
    """All systems under one metric."""

    name: str
    signature: str
    """With the numbers of resamples, of trials where systems were compared, and the seed."""
    plain_signature: str
    """Of the scores alone."""
    systems: list[SystemScore]
    """In the order given."""


def score_systems(metric: LineMetric, systems: Sequence[Sequence[str]], drawn: Resampling) -> MetricScores:
    """Score the translations of each system, line beside line, and compare the first with each of the others.

    Without resamples there are neither intervals nor a p-value of the bootstrap, without trials none of randomization.
    """
    statistics = [metric.statistics(lines) for lines in systems]
    scores = [metric.score(counts.sum(0)) for counts in statistics]
    found = [SystemScore(score, None) for score in scores]
    if drawn.n_resamples:
        resampled = [bootstrap_scores(counts, metric.score, drawn.n_resamples, drawn.seed) for counts in statistics]
        found = [SystemScore(score, interval(values)) for score, values in zip(scores, resampled, strict=True)]
    for i in range(1, len(systems)):
        difference = scores[i] - scores[0]
        found[i] = replace(found[i], difference=difference)
        # sacreBLEU counts what is larger, so that no difference at all would look like the surest one.
        p = 1.0
        if drawn.n_resamples:
            if difference:
                p = bootstrap_p(resampled[0], resampled[i], difference)
            found[i] = replace(found[i], p_bootstrap=p)
        if drawn.n_trials:
            if difference:
                p = randomization_p(statistics[0], statistics[i], metric.score, difference, drawn.n_trials, drawn.seed)
            found[i] = replace(found[i], p_randomization=p)
    resampling = {"bs": drawn.n_resamples, "ar": drawn.n_trials if len(systems) > 1 else 0}
    told = {name: n for name, n in resampling.items() if n}
    told |= {"seed": drawn.seed} if told else {}
    return MetricScores(metric.name, metric.signature(**told), metric.signature(), found)
