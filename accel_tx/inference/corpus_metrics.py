"""BLEU, chrF2, chrF2++, TER and the error rates as `evaluate.Metric` classes, for programs that use `evaluate`.

`evaluate.load` downloads a script for each metric; these classes come with the package and work offline. Our own
commands compute the same without `evaluate`, whose import takes two seconds where `transformers` is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from accel_tx.inference.line_metrics import line_metric
from accel_tx.inference.resampling import SEED, bootstrap_scores, interval


class CorpusMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """One hypothesis a line; one reference, or a list of as many references for each line."""

    key: ClassVar[str]
    """Of `line_metrics.METRICS`."""
    meaning: ClassVar[str]
    source: ClassVar[str]

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        several = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
        single = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description=self.meaning, citation=self.source, features=[several, single])

    def _build_data_dir(self) -> str:
        # evaluate makes this folder also where nothing will be in it, in the user's home or on a disk that is full.
        return "" if self.keep_in_memory else str(super()._build_data_dir())

    def _compute(
        self,
        predictions: list[str],
        references: Sequence[str] | Sequence[Sequence[str]],
        n_resamples: int = 0,
        seed: int = SEED,
        **settings: Any,
    ) -> dict[str, Any]:
        """`score` and `signature`; with resamples also `mean`, `low` and `high` of the 95 % interval."""
        lines = [[line] if isinstance(line, str) else line for line in references]
        if len(set(map(len, lines))) > 1:
            raise ValueError("some lines have more references than others; expected as many for each")
        metric = line_metric(self.key, list(zip(*lines, strict=True)), **settings)
        statistics = metric.statistics(predictions)
        found: dict[str, Any] = {"score": metric.score(statistics.sum(0)), "signature": metric.signature()}
        if n_resamples:
            around = interval(bootstrap_scores(statistics, metric.score, n_resamples, seed))
            found |= {"mean": around.mean, "low": around.low, "high": around.high}
            found["signature"] = metric.signature(bs=n_resamples, seed=seed)
        return found


class Bleu(CorpusMetric):
    """BLEU with its signature, as sacreBLEU computes it. Settings: `tokenize`, `lowercase`."""

    key, meaning, source = "bleu", "BLEU, 0 to 100", "Papineni et al. 2002; Post 2018"


class ChrF(CorpusMetric):
    """Character n-gram F-score (chrF2) with its signature, as sacreBLEU computes it. Settings: `lowercase`."""

    key, meaning, source = "chrf", "chrF2, 0 to 100", "Popović 2015; Post 2018"


class ChrFPlusPlus(CorpusMetric):
    """The same over words and pairs of words besides (chrF2++). Settings: `lowercase`."""

    key, meaning, source = "chrfpp", "chrF2++, 0 to 100", "Popović 2017; Post 2018"


class TranslationEditRate(CorpusMetric):
    """TER with its signature, as sacreBLEU computes it: case does not count."""

    key, meaning, source = "ter", "TER, 0 is best", "Snover et al. 2006; Post 2018"


class CharacterErrorRate(CorpusMetric):
    """Edits of characters over characters of the references. Settings: `lowercase`."""

    key, meaning, source = "cer", "Character error rate, 0 is best", "Levenshtein 1966"


class WordErrorRate(CorpusMetric):
    """Edits of words over words of the references. Settings: `lowercase`."""

    key, meaning, source = "wer", "Word error rate, 0 is best", "Levenshtein 1966"
