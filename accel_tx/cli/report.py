"""`report`: runs beside each other on one HTML page."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from accel_tx import options as opt
from accel_tx.cli.outputs import check_outputs, files_of_run, told_beside
from accel_tx.config import UserError
from accel_tx.inference.lines import write_whole


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "report",
        "Compare runs on one HTML page that needs nothing else: scores, learning curves over updates and over minutes, "
        "translations, the settings that differ, hardware and speed. A run may still be training. Scores get intervals "
        "where `evaluate --json` has written into the run folder. Example: "
        "python -m accel_tx report --run_dirs runs/small runs/large --output report.html",
    )
    parser.add_argument("--run_dirs", type=str, nargs="+", required=True, help="folders of training runs")
    parser.add_argument("--output", default="report.html", help="HTML file to write")
    options = opt.parse(parser, argv)
    run_dirs = [Path(name) for name in options.run_dirs]
    # Not Path.resolve, which raises for a link to itself in some versions of Python.
    places = [os.path.realpath(path) for path in run_dirs]
    for i, path in enumerate(run_dirs):
        if places[i] in places[:i]:
            raise UserError(f"--run_dirs: {path} is given twice; expected different runs")
    output = Path(options.output)
    read = [file for path in run_dirs for file in (*files_of_run(path, "best", "final"), *_json_files(path))]
    outputs = {"--output": options.output}
    check_outputs(outputs, {"a file of --run_dirs": read})
    from accel_tx.pages.run_report import run_report
    from accel_tx.train.run_history import read_run

    text = run_report([read_run(path) for path in run_dirs])
    write_whole(output, iter([text]))
    with told_beside(outputs):
        print(f"{output}: {len(run_dirs)} run(s), {len(text.encode()) / 1e3:,.0f} kB")


def _json_files(folder: Path) -> list[Path]:
    return [folder / name for name in glob("*.json", root_dir=folder)]
