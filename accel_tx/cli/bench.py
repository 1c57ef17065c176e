"""`bench`: measure speed, memory and padding on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.outputs import check_apart, check_outputs, files_of_run, told_beside
from accel_tx.config import UserError
from accel_tx.inference.lines import write_whole

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

_USED = {
    "speed": (
        "systems",
        "peer",
        "precision",
        "seconds",
        "rounds",
        "threads",
        "workers",
        "compile",
        "vocab",
        "synthetic",
    ),
    "parts": ("precision", "rounds", "threads", "vocab", "synthetic"),
    "padding": ("synthetic",),
    "loss": ("precision", "threads"),
    "decode": ("run_dir", "weights", "peer", "precision", "rounds", "threads"),
}
"""Options that each measurement looks at."""


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.config_parser(
        "bench",
        "Measure on this machine, on the config's model and corpus, and print a table. Example: "
        "python -m accel_tx bench --config configs/multi30k_en_fr.yaml --synthetic 20000 --precision bf16,no",
    )
    parser.add_argument(
        "--measure",
        choices=["speed", "parts", "padding", "loss", "decode"],
        default="speed",
        help="speed: tokens/s, padding, time shares and memory of training, beside the baselines; parts: what each "
        "part of a fast step is worth, beside plain torch; padding: of the batch plan, and what planning costs; loss: "
        "memory and time of the vocabulary loss beside plain cross-entropy; decode: sentences/s of translating the "
        "validation set with the weights of --run_dir",
    )
    parser.add_argument("--run_dir", type=str, default=None, help="for decode: folder of a training run")
    parser.add_argument("--weights", default="best", help="for decode: folder inside it")
    parser.add_argument(
        "--systems",
        default="ours,original,original-before",
        help="what trains; original-before pads all to the longest",
    )
    parser.add_argument(
        "--peer", choices=["hf", None], default=None, help="hf: also HuggingFace's Seq2SeqTrainer, or generate"
    )
    parser.add_argument("--precision", default=None, help="such as bf16,no: each is measured; null: the config's")
    parser.add_argument("--seconds", type=float, default=60.0, help="training of each system, over all rounds")
    parser.add_argument("--rounds", type=int, default=3, help="in each round every system has a turn")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads; null: train.cpu_threads")
    parser.add_argument("--workers", default="0,2", help="loader workers of ours: each number is measured")
    parser.add_argument(
        "--compile",
        default=None,
        help="such as false,true: ours is measured with each train.compile; null: the config's",
    )
    parser.add_argument("--vocab", type=int | None, default=None, help="size of both vocabularies of the model")
    parser.add_argument(
        "--synthetic", type=int | None, default=None, help="so many pairs of book-like lengths instead of the corpus"
    )
    parser.add_argument("--json", type=str, help="also write everything, each round included, to this file")
    config, options = opt.parse_with_config(parser, argv)
    _check_used(options, parser)
    outputs, run_files = {"--json": options.json}, files_of_run(options.run_dir, options.weights)
    check_outputs(outputs, {"--config": options.config, "a file of --run_dir": run_files})
    if options.json and options.synthetic is None and options.measure != "loss":
        from accel_tx.data.input_files import input_files

        check_apart(outputs, {"a file of the corpus": input_files(config.data)})
    from accel_tx.bench.command import run_bench

    text, found = run_bench(config, options)
    with told_beside(outputs):
        print(text)
    if options.json:
        write_whole(Path(options.json), iter([json.dumps(found, indent=1)]))


def _check_used(options: Namespace, parser: ArgumentParser) -> None:
    """Raise UserError for an option that this measurement would not look at."""
    for name in dict.fromkeys(name for names in _USED.values() for name in names):
        if name not in _USED[options.measure] and options[name] != parser.get_default(name):
            users = ", ".join(measure for measure, names in _USED.items() if name in names)
            raise UserError(
                f"--{name}: --measure {options.measure} does not look at it; expected it with --measure {users}"
            )
