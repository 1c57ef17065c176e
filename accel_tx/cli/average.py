"""`average`: the mean of weights that a run has saved."""

from __future__ import annotations

from pathlib import Path

from accel_tx import options as opt
from accel_tx.cli.outputs import check_apart
from accel_tx.config import UserError


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser("average", "Average weights that a run has saved, for evaluate and translate --weights.")
    parser.add_argument("--run_dir", type=str, required=True, help="folder of a training run")
    parser.add_argument("--last", type=int | None, help="average so many of the newest, checkpoints or validated/")
    parser.add_argument(
        "--best", type=int | None, help="average the so many that validated best by the run's validation.best_metric"
    )
    parser.add_argument(
        "--checkpoints", nargs="+", help="average these: update_00000123, validated/update_00000123 or a path"
    )
    parser.add_argument("--output", type=str, help="folder to write; default: `average` in the run folder")
    options = opt.parse(parser, argv)
    given = [name for name in ("last", "best", "checkpoints") if options[name] is not None]
    if len(given) != 1:
        raise UserError(
            f"--last, --best, --checkpoints: {' and '.join(given) or 'none'} given; expected one, such as --last 2"
        )
    from accel_tx.inference.weights import check_is_run
    from accel_tx.train import average_saved

    run_dir = Path(options.run_dir)
    check_is_run(run_dir)
    if options.checkpoints is not None:
        folders = average_saved.named(run_dir, options.checkpoints)
    elif options.last is not None:
        folders = average_saved.last(run_dir, options.last)
    else:
        folders = average_saved.best(run_dir, options.best)
    output = run_dir / "average" if options.output is None else Path(options.output)
    check_apart({"--output": output}, {"a folder that is averaged": folders})
    names = average_saved.write_average(run_dir, folders, output)
    inside = output.resolve().is_relative_to(run_dir.resolve())
    weights = output.resolve().relative_to(run_dir.resolve()) if inside else output.resolve()
    print(f"{output}: the mean of {len(names)}: {', '.join(names)}")
    print(f"score it: python -m accel_tx evaluate --run_dir {run_dir} --weights {weights}")
