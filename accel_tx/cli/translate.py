"""`translate`: line in, line out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.trained import add_run_options, load_translator, warn_of_cut_lines
from accel_tx.inference.lines import blocks_of_lines, write_whole

if TYPE_CHECKING:
    from accel_tx.inference.translator import Translator


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser("translate", "Translate line by line; the order is kept, and an empty line stays empty.")
    add_run_options(parser)
    parser.add_argument("--input", default="-", help="file with one sentence a line; - for standard input")
    parser.add_argument("--output", default="-", help="file for the translations; - for standard output")
    options = opt.parse(parser, argv)
    translator = load_translator(options)
    answers = (answer for block in blocks_of_lines(options.input) for answer in _one_line_each(translator, block))
    if options.output == "-":
        for answer in answers:
            print(answer, flush=sys.stdin.isatty())
    else:
        write_whole(Path(options.output), answers)
    warn_of_cut_lines(translator)


def _one_line_each(translator: Translator, block: list[str]) -> list[str]:
    return [" ".join(answer.split("\n")) for answer in translator.translate(block)]
