"""The command line: parse, call, and turn bad input into one line and exit status 2. A module for each command."""

from __future__ import annotations

import io
import os
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from accel_tx import __version__
from accel_tx.cli.outputs import ClosedOutput, OutputError, own_failures, remarks_may_be_lost
from accel_tx.cli.termination import Terminated, sigterm_raises
from accel_tx.config import RunError, UserError, nearest_of

USAGE = """\
usage: python -m accel_tx COMMAND ...
       accelerate launch [--config_file launch/X.yaml] -m accel_tx COMMAND ...
       (may be launched as several processes: data, check, find-lr and train)

Train encoder-decoder Transformers for machine translation on HuggingFace Accelerate.

commands:
  data       load, clean, split and tokenize a corpus; report what was dropped and why, and what training will be like
             python -m accel_tx data --config configs/quickstart.yaml --html report.html
  check      dry run: what train would do, and any problem
             python -m accel_tx check --config configs/quickstart.yaml --run_dir runs/quickstart
  find-lr    learning-rate range test: proposes optim.max_lr, with a plot
             python -m accel_tx find-lr --config configs/quickstart.yaml --run_dir runs/quickstart
  train      train, or resume a stopped run
             accelerate launch -m accel_tx train --config configs/quickstart.yaml --run_dir runs/quickstart
  checkpoints  list, verify and prune what a run has saved
             python -m accel_tx checkpoints --run_dir runs/quickstart
  average    average the weights of saved checkpoints
             python -m accel_tx average --run_dir runs/quickstart --last 2
  evaluate   score a run on a test or validation set, or an existing translation file
             python -m accel_tx evaluate --run_dir runs/quickstart --src test.en --ref test.fr
  translate  translate line by line
             echo "The old man reads." | python -m accel_tx translate --run_dir runs/quickstart
  score      score given translations (forced decoding)
             python -m accel_tx score --run_dir runs/quickstart --src test.en --tgt test.fr
  attention  plot the cross-attention of a sentence
             python -m accel_tx attention --run_dir runs/quickstart --input "The old man reads." --output reads.png
  export     export to safetensors, Transformers, CTranslate2 or ONNX, and compare the translations
             python -m accel_tx export --run_dir runs/quickstart --format ctranslate2 --output quickstart_ct2
  import-marian  take over a MarianMTModel of Transformers, such as Helsinki-NLP/opus-mt-*, to use or to fine-tune
             python -m accel_tx import-marian --model Helsinki-NLP/opus-mt-en-fr --output opus_en_fr
  demo       serve a web demo: translations, scores, attention
             python -m accel_tx demo --run_dir runs/quickstart
  report     compare runs on one HTML page: scores, curves, translations, settings, speed
             python -m accel_tx report --run_dirs runs/small runs/large --output report.html
  bench      measure speed, memory and padding beside other trainers
             python -m accel_tx bench --config configs/multi30k_en_fr.yaml --synthetic 20000 --seconds 20

`python -m accel_tx COMMAND --help` lists the options of a command, `python -m accel_tx --version` tells the versions.
Any field of the config is an option: --section.field value, such as --train.seed 7.
"""
_COMMANDS = (
    "data",
    "check",
    "find-lr",
    "train",
    "checkpoints",
    "average",
    "evaluate",
    "translate",
    "score",
    "attention",
    "export",
    "import-marian",
    "demo",
    "report",
    "bench",
)
_THAT_SEARCH = ("evaluate", "translate")
_WITH_PROCESSES_OF_ITS_OWN = ("evaluate", "translate", "score")
_OF_SEVERAL_PROCESSES = ("data", "check", "find-lr", "train")


def main(argv: list[str] | None = None) -> None:
    """Run one command; exits with one line and status 2 on bad input, or status 1 if a run cannot go on."""
    _keep_standard_descriptors()
    with remarks_may_be_lost():
        _run_and_tell(sys.argv[1:] if argv is None else argv)


def _run_and_tell(argv: list[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its encoding lacks is printed as \\x.., as on standard error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with own_failures():
            _run(argv)
    except (UserError, RunError) as error:
        rank = os.environ.get("RANK") or "0"
        print(f"accel_tx: {'' if rank == '0' else f'process {rank}: '}{error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, Terminated)
        if not is_terminated or os.environ.get("RANK", "0") == "0":  # a launcher tells it to all its processes
            print(f"accel_tx: {'ended by SIGTERM' if is_terminated else 'interrupted'}", file=sys.stderr)
        # At once: an orderly end of Python may wait for other processes, or abort inside a communication library.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(143 if is_terminated else 130)
    except (MemoryError, RuntimeError) as error:
        from accel_tx.train.shortage import is_shortage, quoted

        if not is_shortage(error):
            raise
        options = ["--max_tokens", "--beam_size"] if argv[0] in _THAT_SEARCH else []
        options += ["--n_processes"] if any(word.startswith("--n_processes") for word in argv) else []
        smaller = f", or give a lower {' or '.join(options)}" if options else ""
        advice = f"end other programs that hold memory, take a device with more{smaller}"
        print(f"accel_tx: out of memory ({quoted(error)}); {advice}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        _give_up_standard_output()  # its reader went away, as `head` does
        sys.exit(141)
    except OutputError as error:
        _give_up_standard_output()
        print(f"accel_tx: standard output: cannot be written ({error.strerror})", file=sys.stderr)
        sys.exit(2)


def _run(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="", flush=True)
        return
    if argv[0] == "--version":
        print(f"accel_tx {__version__}, torch {_installed('torch')}, accelerate {_installed('accelerate')}", flush=True)
        return
    if argv[0] not in _COMMANDS:
        meant = nearest_of(argv[0], _COMMANDS)
        raise UserError(f"unknown command {argv[0]!r}; did you mean {meant}? There are {', '.join(_COMMANDS)}")
    if not {"-h", "--help"} & set(argv):
        _check_processes(argv[0])
    # `train` answers signals itself: it finishes the update and saves.
    with nullcontext() if argv[0] == "train" else sigterm_raises():
        import_module(f"accel_tx.cli.{argv[0].replace('-', '_')}").run(argv[1:])
    if argv[0] != "train":  # that one goes on where nobody can read what it prints
        sys.stdout.flush()


def _installed(package: str) -> str:
    """Its version, without the seconds of its import."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _give_up_standard_output() -> None:
    """What waits there goes nowhere: Python would flush it again at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_processes(command: str) -> None:
    """Raise UserError where a launcher started several of a command that is the work of one.

    They would share out the lines of their input, and each would put its part in the place of the others' output.
    """
    n_processes = os.environ.get("WORLD_SIZE", "1")
    if n_processes not in ("", "1") and command not in _OF_SEVERAL_PROCESSES:
        n_here = os.environ.get("LOCAL_WORLD_SIZE") or n_processes
        several = f" --n_processes {n_here}" if command in _WITH_PROCESSES_OF_ITS_OWN else ""
        raise UserError(
            f"{command} was launched as {n_processes} processes (WORLD_SIZE); expected one: run python -m accel_tx "
            f"{command} ...{several} without a launcher, and where the machine sets it, after `unset WORLD_SIZE`"
        )


def _keep_standard_descriptors() -> None:
    """Where one was closed by whoever started us, no file of ours may take its number and be written to as output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # nor one of a process that the command starts
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, ClosedOutput())
