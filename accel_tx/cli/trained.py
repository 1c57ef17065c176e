"""What the commands share that use a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx.cli.outputs import Inputs, files_of_run
from accel_tx.config import DecodeConfig, UserError
from accel_tx.inference.members import Member
from accel_tx.options import add_section_options, given_fields

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from accel_tx.inference.line_translator import LineTranslator
    from accel_tx.inference.translator import Translator

_MOST_PROCESSES = 1_000


def add_run_options(parser: ArgumentParser, required: bool = True) -> None:
    """`--run_dir` and `--weights`."""
    parser.add_argument("--run_dir", type=str, required=required, help="folder of a training run")
    parser.add_argument(
        "--weights", default="best", help="folder inside it: best, final, average or checkpoints/update_00000123"
    )


def add_ensemble_option(parser: ArgumentParser) -> None:
    """`--ensemble`."""
    parser.add_argument(
        "--ensemble",
        type=str,
        nargs="+",
        metavar="RUN",
        help="further models to translate with as one, by the mean of the probabilities of all: RUN, with the weights "
        "that --weights names, or RUN:WEIGHTS, such as runs/b runs/c:final runs/a:checkpoints/update_00000123; all "
        "need the same vocabularies; settings and validation text are those of --run_dir",
    )


def members(options: Namespace) -> list[Member]:
    """What `--ensemble` names. Raises: UserError where that is no name."""
    return [Member.read(text, options.weights) for text in options.get("ensemble") or []]


def files_of_models(options: Namespace) -> Inputs:
    """What these options read, by the option, for `check_outputs`."""
    others = [path for member in members(options) for path in files_of_run(member.run_dir, member.weights)]
    return {
        "a file of --run_dir": files_of_run(options.run_dir, options.weights),
        "a file of --ensemble": others,
    }


def add_decode_options(parser: ArgumentParser) -> None:
    """The fields of the run's section `decode`."""
    add_section_options(parser, DecodeConfig, "Search (default of each: the run's config.yaml)")


def add_processes_option(parser: ArgumentParser) -> None:
    """`--n_processes`."""
    parser.add_argument(
        "--n_processes",
        type=int,
        default=1,
        help="processes that share out the work, each with the model in memory; of several GPUs each takes one; on a "
        "CPU one a core is fastest",
    )


def check_n_processes(options: Namespace) -> None:
    """Raise UserError for what is no number of processes."""
    if not 1 <= options.n_processes <= _MOST_PROCESSES:
        raise UserError(f"--n_processes is {options.n_processes}; expected from 1 to {_MOST_PROCESSES:,}")


def blocks_ahead(options: Namespace) -> int:
    """Blocks of lines to begin before they are asked for, so that no process waits for the end of a block."""
    return 0 if options.n_processes == 1 else 2 + options.n_processes


@contextmanager
def opened_translator(options: Namespace) -> Iterator[LineTranslator]:
    """The model or ensemble that these options name, in `--n_processes` processes."""
    if options.n_processes == 1:
        yield load_translator(options)
        return
    from accel_tx.data.processes import n_cores
    from accel_tx.inference.model_processes import ModelProcesses, TranslatingProcesses, What
    from accel_tx.inference.translator import SavedModels
    from accel_tx.model.gpu import uses_gpu

    n = options.n_processes
    if not uses_gpu() and n > n_cores():
        told = f"--n_processes is {n}, but there are {n_cores()} core(s): some will wait for others"
        print(f"accel_tx: {told}", file=sys.stderr)
    what = What(Path(options.run_dir), options.weights, given_fields(options, DecodeConfig), members(options))
    trained = SavedModels.read(what.run_dir, what.weights, what.decode, what.others)
    with ModelProcesses(what, n) as processes:
        yield TranslatingProcesses(trained, processes)


def load_translator(options: Namespace) -> Translator:
    """The model, or the ensemble, that these options name, on the best device."""
    from accel_tx.inference.translator import Translator, best_device

    decode = given_fields(options, DecodeConfig)  # none where the command does not search
    run_dir, others = Path(options.run_dir), members(options)
    return Translator.from_run_dir(run_dir, options.weights, best_device(), decode, others)


def warn_of_lengths(translator: LineTranslator) -> None:
    """Say on standard error how many lines were translated in parts, and how many translations were cut."""
    if translator.n_split:
        limit = translator.max_positions
        print(
            f"accel_tx: {translator.n_split:,} line(s) longer than the model's {limit} positions "
            "(model.max_positions): translated in parts, sentence by sentence where that is enough",
            file=sys.stderr,
        )
    if translator.n_cut:
        print(
            f"accel_tx: {translator.n_cut:,} translation(s) reached their length limit and end there "
            "(max_len_ratio, max_len_extra)",
            file=sys.stderr,
        )
