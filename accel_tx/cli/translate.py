"""`translate`: line in, line out."""

from __future__ import annotations

from collections.abc import Iterator

from accel_tx import options as opt
from accel_tx.cli.pipe import Progress, Remarks, warn_of_replaced, write_blocks
from accel_tx.cli.trained import add_decode_options, add_run_options, load_translator, warn_of_cut_lines
from accel_tx.inference.stream import read_blocks


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser("translate", "Translate line by line; the order is kept, and an empty line stays empty.")
    add_run_options(parser)
    parser.add_argument("--input", default="-", help="file with one sentence a line; - for standard input")
    parser.add_argument("--output", default="-", help="file for the translations; - for standard output")
    add_decode_options(parser)
    options = opt.parse(parser, argv)
    translator = load_translator(options)
    remarks = Remarks()
    with Progress([options.input], options.output) as progress:

        def answers() -> Iterator[list[str]]:
            for block in read_blocks(options.input):
                for line in block.lines:
                    warn_of_replaced(remarks, options.input, line)
                texts = translator.translate([line.text for line in block.lines])
                yield [" ".join(text.splitlines()) for text in texts]
                progress.add(len(block.lines), block.n_bytes)

        write_blocks(options.output, answers())
    remarks.sum_up()
    warn_of_cut_lines(translator)
