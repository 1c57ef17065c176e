"""`data`: prepare a corpus and report what was done to it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx import options as opt
from accel_tx.cli.outputs import check_outputs, told_beside
from accel_tx.inference.lines import write_whole

if TYPE_CHECKING:
    from accel_tx.config import Config
    from accel_tx.data.dataset import PreparedData

_PIPED_COLUMNS = 100


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.config_parser("data", "Load, clean, split and tokenize the corpus of a config, and print the report.")
    parser.add_argument("--report", type=str, help="also write the report to this JSON file")
    parser.add_argument("--html", type=str, help="also write the report, with plots, to this HTML file")
    parser.add_argument(
        "--suggest",
        action="store_true",
        help="print thresholds that fit the corpus, as YAML for a config, instead of the report",
    )
    config, options = opt.parse_with_config(parser, argv)
    from accel_tx.config import UserError
    from accel_tx.data.budget import is_auto, with_budget
    from accel_tx.data.dataset import cache_folder, prepare_data
    from accel_tx.data.forecast import forecast_training
    from accel_tx.data.input_files import input_files

    if os.environ.get("RANK", "0") != "0":  # under a launcher: on a machine of its own the data is made, but not told
        prepare_data(config)
        return
    outputs = {"--report": options.report, "--html": options.html}
    check_outputs(outputs, {"--config": options.config, "a file of the corpus": input_files(config.data)})
    is_cached = os.path.exists(cache_folder(config))
    data = prepare_data(config)
    asked, assumption = config, None
    if is_auto(config):
        from accel_tx.train.auto_tokens import assumed

        try:
            config, assumption = assumed(config, data)
        except UserError as error:  # the data are what was asked for, and may be meant for another machine
            config = with_budget(config, config.model.max_positions, 1)
            assumption = f"{error}; the forecast above is of micro-batches of {config.train.max_tokens:,} tokens"
    forecast = forecast_training(config, data).to_dict()
    with told_beside(outputs):
        if options.suggest:
            from accel_tx.data.suggest import as_yaml, suggest

            print(as_yaml(suggest(data.report.statistics, asked.clean, asked.train), data.report.n_read), end="")
        else:
            _print_report(config, data, forecast)
            if assumption is not None:
                print(assumption)
            print(f"{'found in' if is_cached else 'written to'} {data.folder}")
    if options.report:
        values = {**data.report.to_dict(), "forecast": forecast, "notes": data.notes}
        write_whole(Path(options.report), iter([json.dumps(values, indent=1, ensure_ascii=False)]))
    if options.html:
        from accel_tx.data.report_page import report_page

        write_whole(Path(options.html), iter([report_page(data.report, config, forecast, data.notes)]))


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
    sizes = "".join(f", {name} {len(own.pairs):,}" for name, own in data.valid_sets.items())
    console.print(f"{len(data.train):,} training pairs, {len(data.valid):,} validation pairs{sizes}")
    console.print(f"vocabulary: {src:,} joint" if config.tokenizer.joint else f"vocabularies: {src:,} and {tgt:,}")
    for note in data.notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
