"""`find-lr`: which peak learning rate suits a config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.config import UserError

if TYPE_CHECKING:
    from accel_tx.train.find_lr import Found


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.config_parser(
        "find-lr",
        "Learning-rate range test: make the first updates of the run that the config describes, on a model that is "
        "thrown away, at rates that grow until the loss goes up, and propose optim.max_lr. Writes find_lr/curve.png "
        "(with matplotlib) and find_lr/curve.json into the run folder, and nothing else. Example: "
        "python -m accel_tx find-lr --config configs/quickstart.yaml --run_dir runs/quickstart",
    )
    parser.add_argument("--run_dir", type=str, default=None, help="folder that train writes into (required)")
    parser.add_argument("--lr_from", type=float, default=1e-6, help="rate of the first update")
    parser.add_argument("--lr_to", type=float, default=1.0, help="rate of the last one, if the loss has not gone up")
    parser.add_argument(
        "--updates",
        type=int,
        default=100,
        help="number of updates from lr_from to lr_to; more give a smoother curve",
    )
    parser.add_argument("--init_from", type=str, default=None, help="weights to begin with, as for train")
    config, options = opt.parse_with_config(parser, argv)
    if options.run_dir is None:
        raise UserError("command line: --run_dir is missing; expected the folder that train writes into")
    from accel_tx.train.find_lr import find_lr
    from accel_tx.train.rate_curve import Ramp

    ramp = Ramp(options.lr_from, options.lr_to, options.updates)
    init_from = None if options.init_from is None else Path(options.init_from)
    found = find_lr(config, Path(options.run_dir), ramp, init_from)
    if found is not None:
        _print(found, config.optim.max_lr)


def _print(found: Found, configured: float) -> None:
    for line in found.curve.in_words():
        print(line)
    print(f"curve in {found.json}" + ("" if found.picture is None else f", picture in {found.picture}"))
    if found.picture is None:
        print("accel_tx: no picture, because matplotlib is not installed: pip install matplotlib", file=sys.stderr)
    if found.curve.proposal is not None:
        print(f"the config has optim.max_lr {configured:g}; to use the proposal:")
        print(f"    --optim.max_lr {found.curve.proposal:.1e}")
