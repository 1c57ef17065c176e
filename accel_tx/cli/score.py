"""`score`: the log-probability of given translations (forced decoding)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.outputs import check_outputs
from accel_tx.cli.pipe import Progress, Remarks, warn_of_replaced, write_blocks
from accel_tx.cli.trained import (
    add_ensemble_option,
    add_processes_option,
    add_run_options,
    blocks_ahead,
    check_n_processes,
    files_of_models,
    opened_translator,
)
from accel_tx.config import UserError
from accel_tx.inference.ahead import taken_ahead
from accel_tx.inference.json_lines import dump_line
from accel_tx.inference.stream import LINES_PER_BLOCK, Line, read_blocks, readable

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from accel_tx.inference.line_translator import LineTranslator
    from accel_tx.inference.pair_scores import PairScore

# Of both sides: the tokens of a block take some fifty times as much memory.
_CHARS_PER_BLOCK = 1 << 20


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "score",
        "The model's log-probability (natural logarithm) of given translations (forced decoding), a line for each "
        "pair, in order. It equals the log_prob from translate if re-tokenizing the text gives the same tokens and the "
        "translation was not cut (a cut hypothesis has no EOS). "
        "Example: python -m accel_tx score --run_dir runs/quickstart --src test.en --tgt test.fr > scores.tsv",
    )
    add_run_options(parser)
    add_ensemble_option(parser)
    add_processes_option(parser)
    parser.add_argument("--src", type=str, required=True, help="source sentences, one a line; - for standard input")
    parser.add_argument("--tgt", type=str, required=True, help="their translations, line beside line; - likewise")
    parser.add_argument("--output", default="-", help="file for the scores; - for standard output")
    parser.add_argument(
        "--format",
        choices=["text", "jsonl"],
        default="text",
        help="text: log_prob, log_prob per token and number of target tokens (with the end of sentence) between tabs, "
        "nan where the model has too few positions for a side; jsonl: an object a line, null there",
    )
    options = opt.parse(parser, argv)
    if options.src == options.tgt == "-":
        raise UserError("--src and --tgt: both are standard input; expected a file for one of them")
    outputs = {"--output": options.output}
    check_outputs(outputs, {"--src": options.src, "--tgt": options.tgt, **files_of_models(options)})
    check_n_processes(options)
    remarks, totals = Remarks(), _Totals()
    with opened_translator(options) as translator, Progress([options.src, options.tgt], options.output) as progress:

        def answers() -> Iterator[list[str]]:
            blocks = _blocks_of_pairs(options.src, options.tgt)
            begun = (
                (_begin(translator, options, src, tgt, remarks, totals), len(src), n_bytes)
                for src, tgt, n_bytes in blocks
            )
            for finish, n_pairs, n_bytes in taken_ahead(begun, blocks_ahead(options)):
                yield finish()
                progress.add(n_pairs, n_bytes)

        write_blocks(options.output, answers())
    remarks.sum_up()
    remarks.say(totals.summary())


@dataclass
class _Totals:
    n_pairs: int = 0
    n_scored: int = 0
    n_tokens: int = 0
    n_unknown: int = 0
    log_prob: float = 0.0

    def add(self, score: PairScore) -> None:
        self.n_pairs += 1
        if score.log_prob is not None:
            self.n_scored += 1
            self.n_tokens += score.n_tokens
            self.n_unknown += score.n_unknown
            self.log_prob += score.log_prob

    def summary(self) -> str:
        per_token = f", log_prob {self.log_prob / self.n_tokens:.4f} a token" if self.n_tokens else ""
        too_long = f" of {self.n_pairs:,}" if self.n_scored < self.n_pairs else ""
        unknown = f" ({self.n_unknown:,} not in the vocabulary, scored as any such word)" if self.n_unknown else ""
        return f"{self.n_scored:,}{too_long} pairs scored, {self.n_tokens:,} target tokens{unknown}{per_token}"


def _blocks_of_pairs(src_name: str, tgt_name: str) -> Iterator[tuple[list[Line], list[Line], int]]:
    """Lines of both sides, and how many bytes have been read since the block before."""
    n_bytes_read: list[int] = []
    src_lines, tgt_lines = _lines(src_name, n_bytes_read), _lines(tgt_name, n_bytes_read)
    src: list[Line] = []
    tgt: list[Line] = []
    n_chars = 0
    for n_read, (ours, theirs) in enumerate(zip_longest(src_lines, tgt_lines)):
        if ours is None or theirs is None:
            n_src, n_tgt = (
                n_read + (line is not None) + sum(1 for _ in rest)
                for line, rest in ((ours, src_lines), (theirs, tgt_lines))
            )
            raise UserError(
                f"{readable(src_name)} has {n_src:,} lines and {readable(tgt_name)} has {n_tgt:,}; expected as many, "
                "a line of one translating that of the other"
            )
        src.append(ours)
        tgt.append(theirs)
        n_chars += len(ours.text) + len(theirs.text)
        if len(src) == LINES_PER_BLOCK or n_chars >= _CHARS_PER_BLOCK:
            yield src, tgt, sum(n_bytes_read)
            src, tgt, n_chars = [], [], 0
            n_bytes_read.clear()
    if src:
        yield src, tgt, sum(n_bytes_read)


def _lines(name: str, n_bytes_read: list[int]) -> Iterator[Line]:
    for block in read_blocks(name):
        n_bytes_read.append(block.n_bytes)
        yield from block.lines


def _begin(
    translator: LineTranslator, options: Namespace, src: list[Line], tgt: list[Line], remarks: Remarks, totals: _Totals
) -> Callable[[], list[str]]:
    """Have a block scored; what is returned gives its lines of output."""
    from accel_tx.inference.pair_scores import begin_scores

    limit = translator.max_positions
    scores = begin_scores(
        translator.tokenizers,
        limit,
        [line.text for line in src],
        [line.text for line in tgt],
        translator.decode.max_tokens,
        translator.log_probs_later,
    )

    def finish() -> list[str]:
        rows = list(zip(src, tgt, scores(), strict=True))
        for src_line, tgt_line, score in rows:
            totals.add(score)
            warn_of_replaced(remarks, options.src, src_line)
            warn_of_replaced(remarks, options.tgt, tgt_line)
            if score.log_prob is None:
                text = f"is longer than the model's {limit} positions on a side (model.max_positions); not scored"
                remarks.add("too long to score", f"line {tgt_line.number}", text)
        if options.format == "text":
            return [_as_text(score) for _, _, score in rows]
        return [_as_json(*row) for row in rows]

    return finish


def _as_text(score: PairScore) -> str:
    numbers = "nan\tnan" if score.log_prob is None else f"{score.log_prob:.6f}\t{score.log_prob_per_token:.6f}"
    return f"{numbers}\t{score.n_tokens}"


def _as_json(src: Line, tgt: Line, score: PairScore) -> str:
    notes: dict[str, int | bool] = {}
    if score.log_prob is None:
        notes["too_long"] = True
    if score.n_unknown:
        notes["unknown"] = score.n_unknown
    if n_replaced := src.n_replaced + tgt.n_replaced:
        notes["replaced"] = n_replaced
    values = {
        "source": src.text,
        "target": tgt.text,
        "log_prob": score.log_prob,
        "log_prob_per_token": score.log_prob_per_token,
        "n_tokens": score.n_tokens,
        "notes": notes,
    }
    return dump_line(values)
