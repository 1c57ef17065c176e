"""`check`: a dry run of `train`, to find problems before any hours are spent."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.config import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from accel_tx.train.outlook import Outlook

_PIPED_COLUMNS = 120


def run(argv: list[str]) -> None:
    """Parse the options and do it; exits with status 2 if there is a problem."""
    parser = opt.config_parser(
        "check",
        "Dry run: show in a table what train with the same options would do (data, batches, memory, updates, time, "
        "disk). It does everything that precedes the first update, then runs one update on the largest micro-batch of "
        "the first epoch with a throw-away model, and times up to 20 real updates. Problems are listed below the "
        "table, and then the exit status is 2. Nothing is written into the run folder. Example: "
        "python -m accel_tx check --config configs/quickstart.yaml --run_dir runs/quickstart",
    )
    parser.add_argument("--run_dir", type=str, default=None, help="folder that train would write into (required)")
    parser.add_argument("--resume", choices=["auto", "never", "require"], default="auto", help="as for train")
    parser.add_argument("--init_from", type=str, default=None, help="as for train")
    config, options = opt.parse_with_config(parser, argv)
    if options.run_dir is None:
        raise UserError("command line: --run_dir is missing; expected the folder that train would write into")
    from accel_tx.train.check import check

    init_from = None if options.init_from is None else Path(options.init_from)
    found = check(config, Path(options.run_dir), init_from, options.resume)
    if found is None:  # not the main process
        return
    _print(found)
    if found.problems:
        for problem in found.problems:
            print(f"accel_tx: {problem}", file=sys.stderr)
        sys.exit(2)


def _print(found: Outlook) -> None:
    from rich.console import Console

    # Where nobody sees a terminal, rich would take 80 columns.
    console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    if found.rows:
        console.print(_table(found))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    n = len(found.problems)
    console.print(f"{n} problem(s):" if n else "no problem found", highlight=False)
    sys.stdout.flush()


def _table(found: Outlook) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What train would do", title_justify="left", show_header=False, box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    table.add_column("")
    for label, value in found.rows:
        table.add_row(label, escape(value))
    return table
