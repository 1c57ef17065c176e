"""`import-marian`: a MarianMTModel of `transformers` as a run of this program."""

from __future__ import annotations

import shlex
from pathlib import Path

from accel_tx import options as opt
from accel_tx.cli.outputs import check_apart
from accel_tx.config import UserError
from accel_tx.inference.lines import read_lines

_N_SHOWN_TAGS = 5


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "import-marian",
        "Take over a MarianMTModel of `transformers`, such as the models Helsinki-NLP/opus-mt-* of the Hub: a folder "
        "that translate, evaluate, export and the others take as --run_dir, and train as --init_from. "
        "Example: python -m accel_tx import-marian --model Helsinki-NLP/opus-mt-en-fr --output opus_en_fr",
    )
    parser.add_argument("--model", type=str, required=True, help="its folder, or its name on the Hub, to be fetched")
    parser.add_argument("--output", type=str, required=True, help="folder to make")
    parser.add_argument(
        "--sentences",
        type=str,
        help="file of source sentences, one a line: the first 200 that fit are translated greedily by `transformers` "
        "as well, and where fewer than --least_identical are the same, nothing is written",
    )
    parser.add_argument(
        "--least_identical", type=float | None, help="share of the translations that has to be identical; default: 1"
    )
    parser.add_argument("--src_lang", type=str, help="of the source; default: what the model says, else src")
    parser.add_argument("--tgt_lang", type=str, help="of the target; default: what the model says, else tgt")
    options = opt.parse(parser, argv)
    least_identical = 1.0 if options.least_identical is None else options.least_identical
    if not 0 <= least_identical <= 1:
        raise UserError(f"--least_identical is {least_identical:g}; expected from 0 to 1")
    if options.least_identical is not None and options.sentences is None:
        raise UserError("--least_identical: there is nothing to compare; expected --sentences FILE beside it")
    from accel_tx.export.proof import Sentences
    from accel_tx.pretrained.command import check_output, import_marian
    from accel_tx.pretrained.hub import folder_of

    output = Path(options.output)
    check_output(output)  # before anything is fetched
    check_apart({"--output": output}, {"--model": options.model, "--sentences": options.sentences})
    sentences = None
    if options.sentences is not None:
        sentences = Sentences(Path(options.sentences).name, list(read_lines(options.sentences)))
    path, name = folder_of(options.model)
    languages = (options.src_lang, options.tgt_lang)
    found = import_marian(name, path, output, sentences, languages, least_identical)
    vocabularies, tokenizers = found.vocabularies, found.vocabularies.tokenizers
    sizes = f"{tokenizers.src.vocab_size:,} and {tokenizers.tgt.vocab_size:,} entries"
    print(f"{output}: {found.n_parameters / 1e6:.1f} M parameters, vocabularies of {sizes}")
    if vocabularies.tags:
        shown = " ".join(vocabularies.tags[:_N_SHOWN_TAGS])
        rest = ", … (all in imported.json)" if len(vocabularies.tags) > _N_SHOWN_TAGS else ""
        print(f"begin each source with the language that is asked for, {len(vocabularies.tags)} in all: {shown}{rest}")
    if vocabularies.n_unknown:
        print(f"{vocabularies.n_unknown:,} pieces of source.spm are not in vocab.json: <unk> stands for them, as there")
    if vocabularies.n_left_out:
        print(f"{vocabularies.n_left_out:,} pieces of target.spm are not in the vocabulary: left out")
    if found.proof is None:
        print("not compared with `transformers`: give --sentences FILE for that")
    else:
        proof = found.proof
        print(f"identical: {proof.n_identical} of {proof.n_sentences} translations (greedy; {proof.runtime})")
    folder = shlex.quote(str(output))
    print(
        f"fine-tune: python -m accel_tx train --config {folder}/config.yaml --data.corpus FOLDER --run_dir NEW "
        f"--init_from {folder} --tokenizer.from_run {folder}"
    )
