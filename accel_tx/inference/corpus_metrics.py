"""The metrics behind `score_translations`, as `evaluate.Metric` classes.

`evaluate.load` downloads a script for each metric; these classes come with the package and work offline.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


def text_metric_info(description: str, citation: str) -> evaluate.MetricInfo:
    """Describe a metric of one hypothesis and one reference a line."""
    text = datasets.Value("string")
    features = datasets.Features({"predictions": text, "references": text})
    return evaluate.MetricInfo(description=description, citation=citation, features=features)


class Bleu(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """BLEU with its signature, as sacreBLEU computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric_info("BLEU, 0 to 100", "Papineni et al. 2002; Post 2018")

    def _compute(self, predictions: list[str], references: list[str], tokenize: str = "13a") -> dict[str, Any]:
        if tokenize not in BLEU.TOKENIZERS:
            raise ValueError(f"tokenize is {tokenize!r}; expected one of {', '.join(sorted(BLEU.TOKENIZERS))}")
        bleu = BLEU(tokenize=tokenize)
        score = bleu.corpus_score(predictions, [references]).score
        return {"score": score, "signature": str(bleu.get_signature())}


class ChrF(evaluate.Metric):  # type: ignore[misc]
    """Character n-gram F-score with its signature, as sacreBLEU computes it."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric_info("chrF2, 0 to 100", "Popović 2015; Post 2018")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        chrf = CHRF()
        score = chrf.corpus_score(predictions, [references]).score
        return {"score": score, "signature": str(chrf.get_signature())}


class CharacterErrorRate(evaluate.Metric):  # type: ignore[misc]
    """Edits of characters (code points, spaces included) over characters of the references."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric_info("Character error rate, 0 is best", "Levenshtein 1966")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"error_rate": error_rate(predictions, references)}


class WordErrorRate(evaluate.Metric):  # type: ignore[misc]
    """Edits of words, which are what stands between whitespace, over words of the references."""

    def _info(self) -> evaluate.MetricInfo:
        return text_metric_info("Word error rate, 0 is best", "Levenshtein 1966")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"error_rate": error_rate([line.split() for line in predictions], [line.split() for line in references])}


def error_rate(hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]) -> float:
    """Edit distances summed over the corpus, divided by the summed lengths of the references.

    Raises: ValueError if all references are empty.
    """
    reference_length = sum(map(len, references))
    if not reference_length:
        raise ValueError(f"all {len(references)} references are empty; expected text to compare with")
    return sum(map(edit_distance, hypotheses, references)) / reference_length


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions of one item that turn `a` into `b`.

    A column of the usual table is held as two integers, whose bit i says that row i + 1 is one more, or one less, than
    row i. So Python works on a whole column at once: len(b) rounds instead of len(a) x len(b).
    Source: Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances", figure 3.
    """
    if not a:
        return len(b)
    positions: dict[Hashable, int] = {}
    for row, item in enumerate(a):
        positions[item] = positions.get(item, 0) | 1 << row
    all_rows = (1 << len(a)) - 1
    last_row = 1 << (len(a) - 1)
    more, less, distance = all_rows, 0, len(a)
    for item in b:
        match = positions.get(item, 0) | less
        diagonal_same = (((match & more) + more) ^ more) | match
        right_more = less | ~(more | diagonal_same)
        right_less = more & diagonal_same
        if right_more & last_row:
            distance += 1
        elif right_less & last_row:
            distance -= 1
        right_more = right_more << 1 | 1  # the first row of the table grows by one a column
        more = (right_less << 1 | ~(diagonal_same | right_more)) & all_rows
        less = right_more & diagonal_same & all_rows
    return distance
