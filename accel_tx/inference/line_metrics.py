"""Metrics as numbers of each line that add up, and the score of their sum: what resampling needs.

BLEU, chrF and TER are sacreBLEU's own objects, so every number and every signature is its own. The error rates follow
the same form. Importing this puts sacreBLEU's warning of tokenized text into words that fit here.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.base import Metric as SacreBleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from accel_tx.config import UserError
from accel_tx.inference.resampling import Statistics

References = Sequence[Sequence[str]]
"""One sequence of lines a reference file, line beside line."""

TOKENIZERS = tuple(BLEU.TOKENIZERS)
METRICS = ("bleu", "chrf", "chrfpp", "ter", "cer", "wer")


def _in_our_words(record: logging.LogRecord) -> bool:
    """Of sacreBLEU's three warnings of tokenized text one is kept, which names what there is here to answer it."""
    text = record.getMessage()
    if "forgot to detokenize" in text:
        record.msg, record.args = (
            "100 lines end in a period of its own: for text that is tokenized give --tokenize none, or "
            "validation.tokenize none",
            (),
        )
    return "in a tokenized period" not in text and "`force`" not in text


logging.getLogger("sacrebleu").addFilter(_in_our_words)


class LineMetric(Protocol):
    """A metric against given references."""

    name: str
    """As it is printed."""

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """What is counted in each line, (n, k)."""

    def score(self, sums: NDArray[Any]) -> float:
        """Of the statistics summed over lines, (k,)."""

    def signature(self, **resampling: int) -> str:
        """How it was computed; `bs`, `ar` and `seed` tell of resampling."""


def line_metric(key: str, references: References, tokenize: str = "13a", lowercase: bool = False) -> LineMetric:
    """One of METRICS. `tokenize` is of BLEU alone; TER folds case in any event, which is its default everywhere.

    Raises: UserError for a tokenizer that is unknown, or needs what is not installed.
    """
    if key == "bleu":
        if tokenize not in TOKENIZERS:
            raise UserError(f"tokenize is {tokenize!r}; expected one of {', '.join(sorted(TOKENIZERS))}")
        # Told that the text is tokenized, sacreBLEU need not warn of that.
        force = tokenize == "none"
        try:
            return SacreBleuMetric(BLEU(lowercase=lowercase, tokenize=tokenize, force=force, references=references))
        except (ImportError, RuntimeError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(f"tokenize {tokenize}: sacreBLEU cannot use it here ({why})") from None
    if key in ("chrf", "chrfpp"):
        word_order = 2 if key == "chrfpp" else 0
        return SacreBleuMetric(CHRF(word_order=word_order, lowercase=lowercase, references=references))
    if key == "ter":
        return SacreBleuMetric(TER(references=references))
    return ErrorRate("character" if key == "cer" else "word", references, lowercase)


class SacreBleuMetric:
    """BLEU, chrF or TER."""

    def __init__(self, metric: SacreBleu) -> None:
        """`metric` was made with its references."""
        self._metric = metric
        nothing = metric._extract_corpus_statistics([""], None)
        self.name = str(metric._compute_score_from_stats(nothing[0]).name)

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """See LineMetric."""
        return np.array(self._metric._extract_corpus_statistics(hypotheses, None), dtype=np.float64)

    def score(self, sums: NDArray[Any]) -> float:
        """See LineMetric; 0 to 100, and above that for TER of translations that are much too long."""
        return self._metric._compute_score_from_stats(sums).score  # type: ignore[arg-type,no-any-return]

    def signature(self, **resampling: int) -> str:
        """See LineMetric."""
        signature = self._metric.get_signature()
        for name, value in resampling.items():
            signature.update(name, value)
        return str(signature)


class ErrorRate:
    """Edits over the length of the references, of characters (code points, spaces included) or of words.

    Words are what stands between whitespace. Of several references the one with the fewest edits counts, and the mean
    of their lengths, as in TER.
    """

    def __init__(self, unit: Literal["character", "word"], references: References, lowercase: bool = False) -> None:
        """Raises: ValueError if all references are empty."""
        self.name = "CER" if unit == "character" else "WER"
        self.unit, self.lowercase = unit, lowercase
        self.references = [[self._units(line) for line in lines] for lines in references]
        if not any(line for lines in self.references for line in lines):
            raise ValueError(f"all {len(references[0])} references are empty; expected text to compare with")

    def statistics(self, hypotheses: Sequence[str]) -> Statistics:
        """See LineMetric."""
        rows = []
        for hypothesis, *references in zip(map(self._units, hypotheses), *self.references, strict=True):
            n_edits = min(edit_distance(hypothesis, reference) for reference in references)
            rows.append((n_edits, sum(map(len, references)) / len(references)))
        return np.array(rows, dtype=np.float64)

    def score(self, sums: NDArray[Any]) -> float:
        """See LineMetric; 0 is best, above 1 is possible."""
        n_edits, length = sums
        if length == 0:  # lines drawn by a resample may be empty where the whole is not
            return float(n_edits > 0)
        return float(n_edits / length)

    def signature(self, **resampling: int) -> str:
        """See LineMetric."""
        drawn = [f"{name}:{value}" for name, value in resampling.items()]
        return "|".join([f"nrefs:{len(self.references)}", *drawn, f"case:{'lc' if self.lowercase else 'mixed'}"])

    def _units(self, line: str) -> Sequence[str]:
        line = line.lower() if self.lowercase else line
        return line if self.unit == "character" else line.split()


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
