"""`checkpoints`: list, verify and prune what a run has saved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.config import RunError

if TYPE_CHECKING:
    from accel_tx.train.checkpoint_table import Entry


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "checkpoints",
        "List what a run has saved, and whether it is whole; remove what is not. The exit status is 1 where something "
        "that is listed is damaged, or of a newer version of this program.",
    )
    parser.add_argument("--run_dir", type=str, required=True, help="folder of a training run")
    parser.add_argument(
        "--verify", action="store_true", help="read and hash what is saved; without it sizes are compared"
    )
    parser.add_argument(
        "--prune",
        type=int | None,
        help="first remove all but so many of the newest valid checkpoints, the best one and the one for a rollback, "
        "what `validated/` has for the others alone, and what crashes left; refused while the run is being written",
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
    else:
        _print_table(entries, options.verify, removed, running)
    damaged = [entry.name for entry in entries if entry.fault is not None]
    if damaged:
        raise RunError(f"{run_dir}: {len(damaged)} of {len(entries)} folders cannot be used: {', '.join(damaged)}")


def _print_table(entries: list[Entry], verify: bool, removed: list[str], running: str | None) -> None:
    from rich.console import Console

    from accel_tx.train.checkpoint_table import as_table

    # A pipe has no width of its own, and what reads it wants whole lines.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name in removed:
        console.print(f"removed {name}")
    console.print(as_table(entries, verify))
    if running is not None:
        console.print(f"{running} is writing this run", highlight=False, soft_wrap=True)
    if not verify:
        console.print("sizes compared; --verify reads and hashes every folder", soft_wrap=True)
