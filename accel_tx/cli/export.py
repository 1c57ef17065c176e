"""`export`: a trained model in the format of another program, proved to translate the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.outputs import check_apart
from accel_tx.cli.trained import add_run_options
from accel_tx.config import UserError
from accel_tx.export.formats import FORMATS, find_format
from accel_tx.inference.lines import read_lines

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from accel_tx.export.proof import Sentences
    from accel_tx.export.source import Trained


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "export",
        "Write a trained model in the format of another program, with tokenizers and a model card. 200 sentences are "
        "translated greedily by both; where too few are identical (float32: fewer than all, else fewer than 99 %), "
        "nothing is written and the exit status is 2. "
        "Example: python -m accel_tx export --run_dir runs/quickstart --format safetensors --output quickstart_model",
    )
    add_run_options(parser)
    parser.add_argument(
        "--format",
        choices=list(FORMATS),
        required=True,
        help="safetensors: for accel_tx itself; the others for the program of that name, to be installed beside it",
    )
    parser.add_argument("--output", type=str, required=True, help="folder to make")
    parser.add_argument(
        "--quantization",
        type=str,
        help="of the weights, ctranslate2 only: int8, float16, ...; default: float32, or what model.quantization says",
    )
    parser.add_argument(
        "--least_identical",
        type=float | None,
        help="share of the translations that has to be identical; default: 1 for float32, else 0.99",
    )
    parser.add_argument(
        "--sentences",
        type=str,
        help="file of sentences to compare, one a line; default: the run's validation text",
    )
    options = opt.parse(parser, argv)
    if options.least_identical is not None and not 0 <= options.least_identical <= 1:
        raise UserError(f"--least_identical is {options.least_identical:g}; expected from 0 to 1")
    from accel_tx.export.command import check_output, export
    from accel_tx.export.source import Trained

    output = Path(options.output)
    # Before anything is loaded.
    find_format(options.format, options.quantization)
    check_output(output)
    check_apart({"--output": output}, {"--run_dir": options.run_dir, "--sentences": options.sentences})
    trained = Trained.load(Path(options.run_dir), options.weights)
    sentences = _sentences(options, trained)
    found = export(trained, options.format, output, sentences, options.quantization, options.least_identical)
    proof, speed, bleu = found.proof, found.record["sentences_per_s"], found.record.get("bleu")
    print(f"identical: {proof.n_identical} of {proof.n_sentences} translations (greedy; {proof.sentences.origin})")
    if bleu is not None:
        print(f"BLEU on them: accel_tx {bleu['accel_tx']:.2f}, {proof.runtime} {bleu['exported']:.2f}")
    print(
        f"sentences/s: accel_tx {speed['accel_tx']}, {proof.runtime} {speed['exported']}, {speed['ratio']} times "
        "(one thread, text to text)"
    )
    print(f"{output}: {found.n_bytes / 1e6:.1f} MB; README.md is its model card and says how to load it")


def _sentences(options: Namespace, trained: Trained) -> Sentences:
    from accel_tx.export.proof import Sentences

    if options.sentences is not None:
        return Sentences(Path(options.sentences).name, list(read_lines(options.sentences)))
    from accel_tx.data.dataset import prepare_data

    try:
        data = prepare_data(trained.config, trained.run_dir)
    except UserError as error:
        raise UserError(f"{error}; or give --sentences FILE") from None
    return Sentences("the run's validation text", data.valid_src.to_pylist(), data.valid_tgt.to_pylist())
