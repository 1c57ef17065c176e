"""`translate`: line in, line out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accel_tx import options as opt
from accel_tx.cli.continued_output import blocks_left, check_is_file, opened_to_go_on
from accel_tx.cli.outputs import check_outputs
from accel_tx.cli.pipe import Progress, Remarks, Silent, warn_of_replaced, write_blocks
from accel_tx.cli.trained import (
    add_decode_options,
    add_ensemble_option,
    add_processes_option,
    add_run_options,
    blocks_ahead,
    check_n_processes,
    files_of_models,
    opened_translator,
    warn_of_lengths,
)
from accel_tx.config import UserError
from accel_tx.inference.ahead import taken_ahead
from accel_tx.inference.json_lines import dump_line, optional_text, parse_line
from accel_tx.inference.stream import LINES_PER_BLOCK, Block, Line, read_blocks, readable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from accel_tx.inference.line_translator import LineTranslator
    from accel_tx.inference.parts import TranslatedLine

_N_EXAMPLES, _LONGEST_EXAMPLE_CHARS = 5, 30
Check = Callable[[list[Line], list[str]], None]
"""Gets lines of the input that are done, and what would be written for them now."""


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    options = opt.parse(_parser(), argv)
    if options.block_lines < 1:
        raise UserError(f"--block_lines is {options.block_lines}; expected at least 1")
    check_n_processes(options)
    if options.resume:
        check_is_file(options.output)
    if options.prefix_key is not None and options.input_format != "jsonl":
        raise UserError(f"--prefix_key {options.prefix_key}: the input has lines of text; add --input_format jsonl")
    if options.format == "text" and (options.get("n_best") or 1) > 1:
        raise UserError(f"--n_best is {options.n_best}, but a line of text holds one translation; add --format jsonl")
    outputs = {"--output": options.output}
    check_outputs(outputs, {"--input": options.input, **files_of_models(options)})
    with opened_translator(options) as translator, Progress([options.input], options.output) as progress:
        work = _Work(translator, options, progress)
        if options.resume:
            work.go_on()
        else:
            work.write()
    work.sum_up()


def _parser() -> ArgumentParser:
    parser = opt.plain_parser(
        "translate",
        "Translate line by line; the order is kept, and an empty line stays empty. A block of lines is translated when "
        "it is full, when no line has come for 0.05 s, or 0.5 s after its first line; a terminal is answered line by "
        "line. Example: python -m accel_tx translate --run_dir runs/quickstart --format jsonl --n_best 3 < in.en",
    )
    add_run_options(parser)
    add_ensemble_option(parser)
    add_processes_option(parser)
    parser.add_argument("--input", default="-", help="file with one sentence a line; - for standard input")
    parser.add_argument("--output", default="-", help="file for the translations; - for standard output")
    parser.add_argument(
        "--format",
        choices=["text", "jsonl"],
        default="text",
        help="text: the best translation; jsonl: an object a line with source, translations (text, log_prob, score) "
        "and notes",
    )
    parser.add_argument(
        "--input_format",
        choices=["text", "jsonl"],
        default="text",
        help='jsonl: an object a line with the text under "source"; --format jsonl hands its other values on',
    )
    parser.add_argument(
        "--prefix_key",
        type=str,
        help="with --input_format jsonl: the key of words that the translation of that line has to begin with",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a file that an earlier command has begun: --output is written in place, block by block, "
        "behind the lines that it has",
    )
    parser.add_argument("--block_lines", type=int, default=LINES_PER_BLOCK, help="lines in a full block")
    add_decode_options(parser)
    return parser


class _Work:
    """Lines in, lines out, and what there is to say of them."""

    def __init__(self, translator: LineTranslator, options: Namespace, progress: Progress) -> None:
        self.translator, self.options, self.progress = translator, options, progress
        self.remarks, self.found = Remarks(), _Found()

    def write(self) -> None:
        """Translate all of the input."""
        write_blocks(self.options.output, self._answers((block, 0) for block in self._blocks()))

    def go_on(self) -> None:
        """Translate what an earlier command has not."""
        with opened_to_go_on(self.options.output) as output:
            if output.told:
                self.remarks.say(output.told)

            def check(done: list[Line], now: list[str]) -> None:
                numbers = [line.number for line in done]
                output.check(dict(zip(numbers, now, strict=True)), self._content_of)

            def check_first(done: list[Line]) -> None:
                check(done, self._again(done))

            left = blocks_left(self._blocks(), output, self.options.input, check_first, self._pass_over)
            for lines in self._answers(left, check):
                output.append(lines)

    def sum_up(self) -> None:
        """Say what was not said line by line."""
        self.remarks.sum_up()
        copies = self.translator.decode.unknown == "copy"
        self.found.sum_up(self.remarks, self.options.prefix_key, unknown_are_copied=copies)
        warn_of_lengths(self.translator)

    def _blocks(self) -> Iterator[Block]:
        return read_blocks(self.options.input, self.options.block_lines)

    def _answers(self, blocks: Iterable[tuple[Block, int]], check: Check | None = None) -> Iterator[list[str]]:
        """The lines to write for each block, but for so many of its first, which `check` gets."""
        begun = ((self._begin(block.lines, self.remarks, self.found), block, n_done) for block, n_done in blocks)
        for finish, block, n_done in taken_ahead(begun, blocks_ahead(self.options)):
            lines = finish()
            if n_done and check is not None:
                check(block.lines[:n_done], lines[:n_done])
            yield lines[n_done:]
            self.progress.add(len(block.lines) - n_done, block.n_bytes)

    def _again(self, lines: list[Line]) -> list[str]:
        """What would be written for lines that have been counted and remarked on before."""
        before = self.translator.n_split, self.translator.n_cut
        written = self._begin(lines, Silent(), _Found())()
        self.translator.n_split, self.translator.n_cut = before
        return written

    def _pass_over(self, block: Block) -> None:
        self.progress.add(0, block.n_bytes)

    def _content_of(self, line: str) -> object:
        return _content_of(line, self.options.format)

    def _begin(self, lines: list[Line], remarks: Remarks, found: _Found) -> Callable[[], list[str]]:
        """Have a block translated; what is returned gives its lines of output."""
        from accel_tx.inference.line_translator import LongPrefixError

        options = self.options
        values: list[dict[str, Any]] = [{} for _ in lines]
        prefixes = None
        if options.input_format == "jsonl":
            parsed = [parse_line(line, "source", options.input) for line in lines]
            values, lines = [of_line for of_line, _ in parsed], [line for _, line in parsed]
            if options.prefix_key is not None:
                prefixes = [optional_text(of_line, options.prefix_key, line, options.input) for of_line, line in parsed]
                found.n_with_prefix_key += sum(options.prefix_key in of_line for of_line in values)
        for line in lines:
            warn_of_replaced(remarks, options.input, line)
        try:
            translate = self.translator.begin([line.text for line in lines], prefixes)
        except LongPrefixError as error:
            where = f"{readable(options.input)}: line {lines[error.index].number}"
            raise UserError(f'{where} has "{options.prefix_key}" of {error.size}') from None

        def finish() -> list[str]:
            translated = translate()
            for of_line in translated:
                found.add(of_line)
            if options.format == "text":
                return [of_line.translations[0].text for of_line in translated]
            return [_as_json(*row, options.input) for row in zip(values, lines, translated, strict=True)]

        return finish


def _content_of(line: str, written_as: str) -> object:
    """What is told by a line of output, without its numbers; None where the line is none."""
    if written_as == "text":
        return line
    try:
        values = json.loads(line)
        return values["source"], [found["text"] for found in values["translations"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _as_json(values: dict[str, Any], line: Line, found: TranslatedLine, name: str) -> str:
    notes: dict[str, Any] = {}
    if found.n_parts > 1:
        notes["parts"] = found.n_parts
    if found.unknown:
        notes["unknown"] = found.unknown
    if line.n_replaced:
        notes["replaced"] = line.n_replaced
    translations = []
    for one in found.translations:
        # Where the model has seen nothing there is no probability to tell.
        numbers = (one.log_prob, one.score) if found.n_searched else (None, None)
        answer: dict[str, Any] = {"text": one.text, "log_prob": numbers[0], "score": numbers[1]}
        if one.copied:
            answer["copied"] = one.copied
        if one.is_cut:
            answer["cut"] = True
        translations.append(answer)
    whole = {**values, "source": line.text, "translations": translations, "notes": notes}
    return dump_line(whole, f"{readable(name)}: line {line.number} has an object")


@dataclass
class _Found:
    """What there is to say at the end."""

    n_lines: int = 0
    n_with_prefix_key: int = 0
    n_with_unknown: int = 0
    n_words: int = 0
    n_copied: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, found: TranslatedLine) -> None:
        self.n_lines += 1
        self.n_with_unknown += bool(found.unknown)
        self.n_words += len(found.unknown)
        self.n_copied += len(found.translations[0].copied)
        for word in found.unknown:
            example = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word[:_LONGEST_EXAMPLE_CHARS])
            if len(self.examples) < _N_EXAMPLES and example not in self.examples:
                self.examples.append(example)

    def sum_up(self, remarks: Remarks, prefix_key: str | None, unknown_are_copied: bool) -> None:
        if prefix_key is not None and self.n_lines and not self.n_with_prefix_key:
            remarks.say(
                f'no line has the key "{prefix_key}" (--prefix_key), so no translation had to begin with anything'
            )
        if self.n_words:
            copied = f", {self.n_copied:,} of them copied into the translation" if unknown_are_copied else ""
            remarks.say(
                f"{self.n_with_unknown:,} line(s) with {self.n_words:,} word(s) that the vocabulary lacks{copied} "
                f"(such as {', '.join(self.examples)})"
            )
