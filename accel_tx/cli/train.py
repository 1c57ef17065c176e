"""`train`: train, or go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.config import UserError

if TYPE_CHECKING:
    from accel_tx.train.stopping import Stop


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
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
