"""The command line: parse, call, and turn bad input into one line and exit status 2."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx import options as opt
from accel_tx.config import RunError, UserError
from accel_tx.inference.lines import blocks_of_lines, read_lines, write_whole

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from accel_tx.config import Config
    from accel_tx.data.dataset import PreparedData
    from accel_tx.inference.translator import Translator
    from accel_tx.train.stopping import Stop

_PIPED_COLUMNS = 100
USAGE = """\
usage: python -m accel_tx COMMAND ...
       accelerate launch [--config_file launch/X.yaml] -m accel_tx COMMAND ...

Train encoder-decoder Transformers for machine translation on HuggingFace Accelerate.

commands:
  data       load, clean, split and tokenize a corpus; report what was dropped and why, and what training will be like
             python -m accel_tx data --config configs/quickstart.yaml --html report.html
  train      train, or go on exactly where an earlier start stopped
             accelerate launch -m accel_tx train --config configs/quickstart.yaml --run_dir runs/quickstart
  checkpoints  what a run has saved, and whether it is whole
             python -m accel_tx checkpoints --run_dir runs/quickstart
  evaluate   translate a file (or the run's validation set) and score it
             python -m accel_tx evaluate --run_dir runs/quickstart --src test.en --ref test.fr
  translate  line in, line out, order kept
             echo "The old man reads." | python -m accel_tx translate --run_dir runs/quickstart
  bench      speed, memory and padding on this machine, beside the baselines; one table
             python -m accel_tx bench --config configs/multi30k_en_fr.yaml --synthetic 20000 --seconds 20

`python -m accel_tx COMMAND --help` lists the options of a command.
Any field of the config is an option: --section.field value, such as --train.seed 7.
"""


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits with one line and status 2 on bad input, or status 1 if a run cannot go on."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(USAGE, end="")
            return
        if argv[0] not in _COMMANDS:
            raise UserError(f"unknown command {argv[0]!r}; expected one of {', '.join(_COMMANDS)}")
        _COMMANDS[argv[0]](argv[1:])
    except (UserError, RunError) as error:
        rank = os.environ.get("RANK", "0")
        print(f"accel_tx: {'' if rank == '0' else f'process {rank}: '}{error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("accel_tx: interrupted", file=sys.stderr)
        # At once: an orderly end of Python may wait for other processes, or abort inside a communication library.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; Python must not flush to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _data(argv: list[str]) -> None:
    parser = opt.config_parser("data", "Load, clean, split and tokenize the corpus of a config, and print the report.")
    parser.add_argument("--report", type=str | None, help="also write the report to this JSON file")
    parser.add_argument("--html", type=str | None, help="also write the report, with plots, to this HTML file")
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="print thresholds that fit the corpus, as YAML for a config, instead of the report",
    )
    config, options = opt.parse_with_config(parser, argv)
    from accel_tx.data.dataset import cache_folder, prepare_data
    from accel_tx.data.forecast import forecast_training

    is_cached = os.path.exists(cache_folder(config))
    data = prepare_data(config)
    forecast = forecast_training(config, data).to_dict()
    if options.suggest:
        from accel_tx.data.suggest import as_yaml, suggest

        print(as_yaml(suggest(data.report.statistics, config.clean, config.train), data.report.n_read), end="")
    else:
        _print_report(config, data, forecast)
        print(f"{'found in' if is_cached else 'written to'} {data.folder}")
    if options.report:
        values = {**data.report.to_dict(), "forecast": forecast}
        write_whole(Path(options.report), iter([json.dumps(values, indent=1, ensure_ascii=False)]))
    if options.html:
        from accel_tx.data.report_page import report_page

        write_whole(Path(options.html), iter([report_page(data.report, config, forecast)]))


def _print_report(config: Config, data: PreparedData, forecast: dict[str, Any]) -> None:
    from rich.console import Console

    from accel_tx.data import report_terminal as tables
    from accel_tx.data.clean_report import report_table

    # Where nobody sees a terminal, rich would take 80 columns.
    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    console.print(report_table(data.report))
    console.print(tables.text_table(data.report.statistics))
    console.print(tables.vocabulary_table(data.report.statistics))
    console.print(tables.forecast_table(forecast))
    src, tgt = data.tokenizers.src.vocab_size, data.tokenizers.tgt.vocab_size
    console.print(f"{len(data.train):,} training pairs, {len(data.valid):,} validation pairs")
    console.print(f"vocabulary: {src:,} joint" if config.tokenizer.joint else f"vocabularies: {src:,} and {tgt:,}")
    for note in data.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)


def _train(argv: list[str]) -> None:
    from accel_tx.train.stopping import Stop, end_with_launcher

    # First of all: the imports below take seconds, in which a signal may come and which count for max_hours.
    with Stop(ends_program=True) as stop:
        end_with_launcher()
        _train_until(stop, argv)


def _train_until(stop: Stop, argv: list[str]) -> None:
    parser = opt.config_parser("train", "Train a model, or go on with the run in the run folder.")
    parser.add_argument("--run_dir", type=str, default=None, help="folder that the run writes into (required)")
    parser.add_argument(
        "--resume",
        choices=["auto", "never", "require"],
        default="auto",
        help="auto: go on from the newest valid checkpoint if there is one; never: refuse if there is one; "
        "require: refuse if there is none",
    )
    parser.add_argument(
        "--init_from",
        type=str,
        default=None,
        help="begin a new run with the weights of another: its run folder (best/, else the newest checkpoint), or a "
        "folder inside it; same model and vocabulary, a new schedule. A run that goes on does not load them again",
    )
    config, options = opt.parse_with_config(parser, argv)
    if options.run_dir is None:
        raise UserError("command line: --run_dir is missing; expected the folder that the run writes into")
    from accel_tx.train.loop import train

    init_from = None if options.init_from is None else Path(options.init_from)
    train(config, Path(options.run_dir), options.resume, init_from, stop)


def _checkpoints(argv: list[str]) -> None:
    parser = opt.plain_parser("checkpoints", "List what a run has saved, and whether it is whole; remove what is not.")
    parser.add_argument("--run_dir", type=str, required=True, help="folder of a training run")
    parser.add_argument("--verify", action="store_true", help="read and hash every file; without it sizes are compared")
    parser.add_argument(
        "--prune",
        type=int | None,
        help="first remove all but so many of the newest valid checkpoints, the best one and the one for a rollback, "
        "and what crashes left; refused while the run is being written",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = opt.parse(parser, argv)
    from accel_tx.train import checkpoint_table, run_lock

    run_dir = Path(options.run_dir)
    removed = [] if options.prune is None else checkpoint_table.prune(run_dir, options.prune)
    entries = checkpoint_table.list_entries(run_dir, options.verify)
    running = run_lock.holder(run_dir)
    if options.json:
        print(checkpoint_table.as_json(entries, options.verify, running))
        return
    from rich.console import Console

    # A pipe has no width of its own, and what reads it wants whole lines.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in removed:
        console.print(f"removed {name}")
    console.print(checkpoint_table.as_table(entries, options.verify))
    if running is not None:
        console.print(f"{running} is writing this run", highlight=False, soft_wrap=True)
    if not options.verify:
        console.print("sizes compared; --verify reads and hashes every checkpoint", soft_wrap=True)


def _evaluate(argv: list[str]) -> None:
    parser = opt.plain_parser("evaluate", "Translate a file, or the run's own validation set, and score it.")
    _add_run_options(parser)
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
    translator = _translator(options)
    scores = score_translations(translator.translate(src), ref, options.tokenize)
    _warn_of_cut_lines(translator)
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


def _translate(argv: list[str]) -> None:
    parser = opt.plain_parser("translate", "Translate line by line; the order is kept, and an empty line stays empty.")
    _add_run_options(parser)
    parser.add_argument("--input", default="-", help="file with one sentence a line; - for standard input")
    parser.add_argument("--output", default="-", help="file for the translations; - for standard output")
    options = opt.parse(parser, argv)
    translator = _translator(options)
    answers = (answer for block in blocks_of_lines(options.input) for answer in _one_line_each(translator, block))
    if options.output == "-":
        for answer in answers:
            print(answer, flush=sys.stdin.isatty())
    else:
        write_whole(Path(options.output), answers)
    _warn_of_cut_lines(translator)


def _one_line_each(translator: Translator, block: list[str]) -> list[str]:
    return [" ".join(answer.split("\n")) for answer in translator.translate(block)]


def _translator(options: Namespace) -> Translator:
    from accel_tx.inference.translator import Translator, best_device

    return Translator.from_run_dir(Path(options.run_dir), options.weights, best_device())


def _warn_of_cut_lines(translator: Translator) -> None:
    if translator.n_cut:
        limit = translator.model.config.max_positions
        print(
            f"accel_tx: {translator.n_cut} line(s) cut to the model's {limit} positions (model.max_positions)",
            file=sys.stderr,
        )


def _bench(argv: list[str]) -> None:
    parser = opt.config_parser(
        "bench",
        "Measure on this machine, on the config's model and corpus, and print a table. Example: "
        "python -m accel_tx bench --config configs/multi30k_en_fr.yaml --synthetic 20000 --precision bf16,no",
    )
    parser.add_argument(
        "--measure",
        choices=["speed", "padding", "loss"],
        default="speed",
        help="speed: tokens/s, padding, time shares and memory of training, beside the baselines; padding: of the "
        "batch plan, and what planning costs; loss: memory and time of the vocabulary loss beside plain cross-entropy",
    )
    parser.add_argument(
        "--systems",
        default="ours,original,original-before",
        help="what trains; original-before pads all to the longest",
    )
    parser.add_argument("--peer", choices=["hf", None], default=None, help="hf: also HuggingFace's Seq2SeqTrainer")
    parser.add_argument("--precision", default=None, help="such as bf16,no: each is measured (default: the config's)")
    parser.add_argument("--seconds", type=float, default=60.0, help="training of each system, over all rounds")
    parser.add_argument("--rounds", type=int, default=3, help="in each round every system has a turn")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads (default: train.cpu_threads)")
    parser.add_argument("--workers", default="0,2", help="loader workers of ours: each number is measured")
    parser.add_argument("--vocab", type=int | None, default=None, help="size of both vocabularies of the model")
    parser.add_argument(
        "--synthetic", type=int | None, default=None, help="so many pairs of book-like lengths instead of the corpus"
    )
    parser.add_argument("--json", type=str | None, help="also write everything, each round included, to this file")
    config, options = opt.parse_with_config(parser, argv)
    from accel_tx.bench.command import run_bench

    text, found = run_bench(config, options)
    print(text)
    if options.json:
        write_whole(Path(options.json), iter([json.dumps(found, indent=1)]))


def _add_run_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run_dir", type=str, required=True, help="folder of a training run")
    parser.add_argument(
        "--weights", default="best", help="folder inside it: best, final or checkpoints/update_00000123"
    )


_COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "data": _data,
    "train": _train,
    "checkpoints": _checkpoints,
    "evaluate": _evaluate,
    "translate": _translate,
    "bench": _bench,
}
