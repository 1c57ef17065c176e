"""Scores of translations against references, over a whole corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from accel_tx.inference.line_metrics import LineMetric, line_metric


@dataclass(frozen=True)
class Scores:
    """Corpus scores; a number without its signature says little."""

    bleu: float
    """0 to 100, higher is better."""
    chrf: float
    """0 to 100, higher is better."""
    cer: float
    """Edits of characters over characters of the references; 0 is best, above 1 is possible."""
    wer: float
    """The same for words between whitespace."""
    signature: str
    """sacreBLEU's record of how `bleu` was computed."""
    chrf_signature: str
    """The same for `chrf`."""

    def to_dict(self) -> dict[str, float | str]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self)


def score_translations(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "13a") -> Scores:
    """Score line i of the hypotheses against line i of the references.

    `tokenize` is sacreBLEU's name of BLEU's tokenizer: 13a for plain text, none for text tokenized before.
    Raises: ValueError if there is no line, if the numbers of lines differ, if all references are empty, or if the
    tokenizer is unknown.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses and {len(references)} references; expected as many of each")
    if not hypotheses:
        raise ValueError("no hypotheses and no references; expected at least one of each")

    bleu = line_metric("bleu", [references], tokenize)
    chrf, cer, wer = (line_metric(key, [references]) for key in ("chrf", "cer", "wer"))
    return Scores(
        bleu=_score(bleu, hypotheses),
        chrf=_score(chrf, hypotheses),
        cer=_score(cer, hypotheses),
        wer=_score(wer, hypotheses),
        signature=bleu.signature(),
        chrf_signature=chrf.signature(),
    )


def _score(metric: LineMetric, hypotheses: Sequence[str]) -> float:
    return metric.score(metric.statistics(hypotheses).sum(0))
