"""The work of `import-marian`: read a folder, write a model of ours beside, compare, then give it its name."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_tx import __version__
from accel_tx.config import (
    Config,
    DataConfig,
    DecodeConfig,
    OptimConfig,
    TokenizerConfig,
    TrainConfig,
    UserError,
    ValidationConfig,
)
from accel_tx.config.extras import lack_of
from accel_tx.data.text_file import one_line
from accel_tx.data.tokenizer import PAD_ID, UNK_ID
from accel_tx.export import hf_format, safetensors_format
from accel_tx.export.folder import check_can_make, made_beside, real_path
from accel_tx.export.proof import LEAST_EXACT, Proof, Sentences, prove
from accel_tx.export.source import Trained
from accel_tx.inference.weights import IMPORT_RECORD, sha256_of
from accel_tx.model.transformer import count_parameters
from accel_tx.pretrained.marian_folder import MarianFolder
from accel_tx.pretrained.marian_vocabulary import Vocabularies
from accel_tx.pretrained.marian_weights import load_marian, model_config

CORPUS_TO_NAME = "./your_corpus"
"""In the config that is written: what to fine-tune on is not known."""


@dataclass(frozen=True)
class Imported:
    """What was written."""

    n_parameters: int
    vocabularies: Vocabularies
    proof: Proof | None
    """Where sentences to compare were given."""


def import_marian(
    name: str,
    path: Path,
    output: Path,
    sentences: Sentences | None,
    languages: tuple[str | None, str | None] = (None, None),
    least_identical: float = LEAST_EXACT,
) -> Imported:
    """Write the folder `output` from that of a MarianMTModel at `path`, which is called `name`.

    With `sentences` by `transformers`, too, at least this share of them has to be translated the same.
    `languages`, of source and target, take the place of what the folder says.
    Raises: UserError for what cannot be read, is another kind of model, or translates otherwise.
    """
    check_output(output)
    if sentences is not None and (lack := lack_of(hf_format.PACKAGES)):
        raise UserError(f"--sentences: to compare needs {lack}")
    folder = MarianFolder.read(path)
    vocabularies = Vocabularies.of(folder)
    config = _config(folder, vocabularies, languages)
    model = load_marian(folder, vocabularies, config.model)
    imported = Trained(path, path, "best", config, model, vocabularies.tokenizers, {})
    proof = None
    if sentences is not None:
        proof = _proof(imported, folder, vocabularies, sentences)
        proof.check(least_identical, "")
    record = _record(name, folder, vocabularies, proof)
    with made_beside(output, check_output) as beside:
        safetensors_format.write(imported, beside, "float32")
        (beside / IMPORT_RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Imported(count_parameters(model), vocabularies, proof)


def check_output(output: Path) -> None:
    """Raise UserError unless the folder can be made and nothing is there."""
    check_can_make(output)
    target = real_path(output)
    if target.is_dir() and any(target.iterdir()):
        raise UserError(f"--output {output}: is a folder that holds something; expected a new or an empty one")


def _config(folder: MarianFolder, vocabularies: Vocabularies, languages: tuple[str | None, str | None]) -> Config:
    """Of the model, its search as there, and what is usual for fine-tuning."""
    tokenizers, model = vocabularies.tokenizers, model_config(folder, vocabularies)
    src_lang, tgt_lang = _languages(folder, languages)
    n_beams, length_penalty = folder.count("num_beams", 1), folder.number("length_penalty", 1.0)
    no_repeat_ngram = folder.count("no_repeat_ngram_size", 0)
    try:
        return Config(
            data=DataConfig(corpus=CORPUS_TO_NAME, src_lang=src_lang, tgt_lang=tgt_lang),
            tokenizer=TokenizerConfig(
                kind=vocabularies.kind,  # type: ignore[arg-type]
                vocab_size=max(tokenizers.src.vocab_size, tokenizers.tgt.vocab_size),
                joint=vocabularies.is_joint,
            ),
            model=model,
            # The rate and length of Seq2SeqTrainer where nothing else is said.
            optim=OptimConfig(
                name="adamw", schedule="linear", max_lr=5e-5, warmup_updates=1, eps=1e-8, betas=(0.9, 0.999)
            ),
            train=TrainConfig(epochs=3, max_tokens=max(4_096, model.max_positions)),
            validation=ValidationConfig(every_updates=500),
            decode=DecodeConfig(beam_size=n_beams, length_exponent=length_penalty, no_repeat_ngram=no_repeat_ngram),
        )
    except UserError as error:
        raise UserError(f"{folder.path}: in our terms {error}") from None


def _proof(imported: Trained, folder: MarianFolder, vocabularies: Vocabularies, sentences: Sentences) -> Proof:
    ours = imported.greedy()
    fitting = sentences.fitting(ours)
    if not fitting.src:
        raise UserError(f"--sentences {sentences.origin}: has no sentence that fits the model; give others")
    return prove(ours, _Theirs(folder, vocabularies), fitting, n_rounds=1)


class _Theirs:
    """The model by `transformers`, whose refusals are a line."""

    def __init__(self, folder: MarianFolder, vocabularies: Vocabularies) -> None:
        self._path = folder.path
        never = [vocabularies.tgt_rows[i] for i in (PAD_ID, UNK_ID)]
        with self._refusals_told(), warnings.catch_warnings():
            # Of a package that its tokenizer offers to use, and does not use for this.
            warnings.filterwarnings("ignore", message=".*sacremoses")
            self._runtime = hf_format.Runtime(folder.path, never)
        self.name = self._runtime.name

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """See `Runtime`."""
        with self._refusals_told():
            return self._runtime.translate(lines, limits)

    @contextlib.contextmanager
    def _refusals_told(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # whatever its many readers and checks raise
            raise UserError(
                f"--sentences: transformers cannot use {self._path} ({type(error).__name__}: {one_line(error)}); mend "
                "it, or leave --sentences out"
            ) from None


def _languages(folder: MarianFolder, given: tuple[str | None, str | None]) -> tuple[str, str]:
    """Those that are given, else what the folder says, unless it is a group of languages on both sides."""
    told = folder.languages if folder.languages[0] != folder.languages[1] else (None, None)
    src, tgt = (a or b or c for a, b, c in zip(given, told, ("src", "tgt"), strict=True))
    if src == tgt:
        raise UserError(f"--src_lang and --tgt_lang: both are {src!r}; expected two names")
    return src, tgt


def _record(name: str, folder: MarianFolder, vocabularies: Vocabularies, proof: Proof | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "accel_tx": __version__,
        "model": name,
        "weights": folder.weights_file.name,
        "sha256": sha256_of(folder.weights_file),
        "tags": vocabularies.tags,
    }
    if proof is not None:
        record["sentences"] = {
            "from": proof.sentences.origin,
            "n": proof.n_sentences,
            "identical": proof.n_identical,
            "runtime": proof.runtime,
        }
    return record
