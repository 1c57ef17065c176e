"""`attention`: where the decoder looks in the source, as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.outputs import check_outputs, files_of_run, told_beside
from accel_tx.cli.trained import add_run_options, load_translator, warn_of_lengths
from accel_tx.config import UserError
from accel_tx.inference.lines import write_bytes_whole, write_whole

if TYPE_CHECKING:
    from accel_tx.inference.attention_map import AttentionMap

_FORMS = ("png", "svg", "pdf")


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "attention",
        "Translate a sentence and draw the cross-attention: rows are the pieces of the translation, columns those of "
        "the source. Needs matplotlib.",
    )
    add_run_options(parser)
    parser.add_argument("--input", type=str, required=True, help="the sentence itself, not a file")
    parser.add_argument("--target", type=str, help="a translation that is given, in place of the model's own")
    parser.add_argument("--output", default="attention.png", help="picture to write: .png, .svg or .pdf")
    parser.add_argument("--layer", type=int | None, help="decoder layer, from 1, as executed; default: the last")
    parser.add_argument("--head", type=int | None, help="one head of it, from 1; default: the mean of all")
    parser.add_argument("--json", type=str, help="also write pieces and weights [layer][head][row][column]")
    options = opt.parse(parser, argv)
    from accel_tx.inference.attention_map import attention_map
    from accel_tx.inference.attention_picture import as_file, can_draw, draw

    form = Path(options.output).suffix.lower().removeprefix(".")
    if form not in _FORMS:
        raise UserError(f"--output {options.output}: expected a name that ends with .{', .'.join(_FORMS)}")
    if not options.input.strip():
        raise UserError("--input is empty; expected a sentence")
    for name in ("input", "target"):
        try:
            (options[name] or "").encode()
        except UnicodeEncodeError:
            raise UserError(f"--{name} holds bytes that are not UTF-8; expected UTF-8 text") from None
    if not can_draw():
        raise UserError("attention needs matplotlib, which is not installed: pip install matplotlib")
    outputs = {"--output": options.output, "--json": options.json}
    check_outputs(outputs, {"a file of --run_dir": files_of_run(options.run_dir, options.weights)})
    translator = load_translator(options)
    target = options.target if options.target is not None else translator.translate([options.input])[0]
    warn_of_lengths(translator)
    found = attention_map(translator.transformer, translator.tokenizers, options.input, target)
    _check_choice("layer", options.layer, found.n_layers, found)
    _check_choice("head", options.head, found.n_heads, found)
    content, remark_on_font = as_file(draw(found, options.layer, options.head), form)
    write_bytes_whole(Path(options.output), [content])
    if options.json is not None:
        write_whole(Path(options.json), iter([json.dumps(found.to_dict(), ensure_ascii=False)]))
    with told_beside(outputs):
        print(target)
        print(f"{found.title(options.layer, options.head)}: {options.output}")
    positions = f"longer than the model's {translator.max_positions} positions, and cut in the picture"
    for remark in (*(f"the {side} is {positions}" for side in found.cut), remark_on_font):
        if remark is not None:
            print(f"accel_tx: {remark}", file=sys.stderr)


def _check_choice(name: str, value: int | None, n: int, found: AttentionMap) -> None:
    if value is not None and not 1 <= value <= n:
        has = f"{found.n_layers} decoder layers of {found.n_heads} heads"
        raise UserError(f"--{name} is {value}; expected 1 to {n}: the model has {has}")
