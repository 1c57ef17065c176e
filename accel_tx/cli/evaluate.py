"""`evaluate`: translate and score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.trained import add_run_options, load_translator, warn_of_cut_lines
from accel_tx.config import UserError
from accel_tx.inference.lines import read_lines, write_whole

if TYPE_CHECKING:
    from jsonargparse import Namespace


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser("evaluate", "Translate a file, or the run's own validation set, and score it.")
    add_run_options(parser)
    parser.add_argument("--src", type=str | None, help="source sentences, one a line; default: the validation set")
    parser.add_argument("--ref", type=str | None, help="reference translations, line beside line")
    parser.add_argument("--json", type=str | None, help="also write the scores to this file")
    parser.add_argument("--tokenize", default="13a", help="sacreBLEU's tokenizer; `none` for text already tokenized")
    options = opt.parse(parser, argv)
    if (options.src is None) != (options.ref is None):
        raise UserError("--src and --ref: only one is given; expected both, or neither for the validation set")
    from sacrebleu.metrics.bleu import BLEU

    from accel_tx.inference.metrics import score_translations

    if options.tokenize not in BLEU.TOKENIZERS:
        raise UserError(f"--tokenize {options.tokenize}: expected one of {', '.join(BLEU.TOKENIZERS)}")
    src, ref = _pairs_to_score(options)
    if not any(line.strip() for line in ref):
        raise UserError(f"{options.ref}: holds only empty lines; expected reference translations")
    translator = load_translator(options)
    scores = score_translations(translator.translate(src), ref, options.tokenize)
    warn_of_cut_lines(translator)
    print(f"BLEU {scores.bleu:.2f}   {scores.signature}")
    print(f"chrF {scores.chrf:.2f}   {scores.chrf_signature}")
    print(f"CER  {scores.cer:.4f}\nWER  {scores.wer:.4f}\n{len(src):,} sentences")
    if options.json:
        values = {**scores.to_dict(), "n_sentences": len(src), "weights": options.weights}
        write_whole(Path(options.json), iter([json.dumps(values, indent=1)]))


def _pairs_to_score(options: Namespace) -> tuple[list[str], list[str]]:
    if options.src is None:
        from accel_tx.data.dataset import prepare_data
        from accel_tx.inference.translator import load_run_config, load_scores

        run_dir = Path(options.run_dir)
        data = prepare_data(load_run_config(run_dir))
        if data.sha256 != load_scores(run_dir / options.weights)["data_sha256"]:
            raise UserError(f"{run_dir}: its corpus has changed since the training; give --src and --ref")
        return data.valid_src.to_pylist(), data.valid_tgt.to_pylist()
    src, ref = list(read_lines(options.src)), list(read_lines(options.ref))
    if len(src) != len(ref):
        raise UserError(f"{options.src} has {len(src)} lines and {options.ref} has {len(ref)}; expected as many")
    if not src:
        raise UserError(f"{options.src}: is empty; expected one sentence a line")
    return src, ref
