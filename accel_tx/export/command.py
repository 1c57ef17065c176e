"""The work of `export`: write a folder beside, prove it, then give it its name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accel_tx import __version__
from accel_tx.config import UserError
from accel_tx.export.card import model_card
from accel_tx.export.folder import check_can_make, made_beside, real_path
from accel_tx.export.formats import find_format
from accel_tx.export.proof import LEAST_EXACT, LEAST_ROUNDED, Proof, Sentences, prove
from accel_tx.export.source import Trained
from accel_tx.export.written import CARD, CARD_HASH, RECORD, is_card_edited, names_in, not_written
from accel_tx.inference.metrics import score_translations
from accel_tx.inference.weights import sha256_of
from accel_tx.train.file_system import size_bytes


@dataclass(frozen=True)
class Exported:
    """What was written."""

    proof: Proof
    record: dict[str, Any]
    """The content of `export.json`."""
    n_bytes: int


def export(
    trained: Trained,
    format_name: str,
    output: Path,
    sentences: Sentences,
    quantization: str | None = None,
    least_identical: float | None = None,
) -> Exported:
    """Write the folder `output` in a format, if enough of the sentences are translated the same by it.

    Raises: UserError for what cannot be exported, or is not proved; then `output` is what it was.
    """
    trained_for = trained.config.model.quantization
    form, quantization = find_format(format_name, quantization, trained_for)
    check_output(output)
    if least_identical is None:
        is_exact = quantization == "float32" and (trained_for == "none" or format_name == "safetensors")
        least_identical = LEAST_EXACT if is_exact else LEAST_ROUNDED
    ours = trained.greedy()
    fitting = sentences.fitting(ours)
    if not fitting.src:
        raise UserError(f"{sentences.origin}: has no sentence that fits the model; give others with --sentences FILE")
    # One thread for both programs, so that their speeds can be compared.
    with made_beside(output, check_output) as beside, _threads(1):
        form.write(trained, beside, quantization)
        proof = prove(ours, form.load(beside), fitting)
        is_rounded_late = quantization.startswith("int8") and trained_for == "none"
        proof.check(least_identical, ", or train for it: model.quantization int8" if is_rounded_late else "")
        record = _record(trained, format_name, quantization, proof)
        card = model_card(trained, form.LIBRARY, record, form.how_to_load(trained, real_path(output).name))
        (beside / CARD).write_text(card, encoding="utf-8")
        record[CARD_HASH] = sha256_of(beside / CARD)
        record["files"] = sorted([*names_in(beside), RECORD])
        (beside / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(proof, record, size_bytes(output))


def check_output(output: Path) -> None:
    """Raise UserError unless the folder can be made, or holds nothing but an earlier export, which is replaced."""
    check_can_make(output)
    if others := not_written(output):
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise UserError(
            f"--output {output}: holds {others[0]}{more} that no export has written; expected a new folder, or an "
            "earlier export to replace"
        )
    if is_card_edited(output):
        raise UserError(
            f"--output {output}: {CARD} there was changed since it was exported; expected it as it was: move it away "
            "to keep it, or give another --output"
        )


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Inside, torch computes on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record(trained: Trained, format_name: str, quantization: str, proof: Proof) -> dict[str, Any]:
    n = proof.n_sentences
    record: dict[str, Any] = {
        "accel_tx": __version__,
        "format": format_name,
        "quantization": quantization,
        "weights": trained.weights_name,
        "update": trained.scores.get("update"),
        "runtime": proof.runtime,
        "sentences": {"from": proof.sentences.origin, "n": n, "identical": proof.n_identical},
        "sentences_per_s": {
            "accel_tx": round(n / proof.ours_s, 1),
            "exported": round(n / proof.theirs_s, 1),
            "ratio": round(proof.ratio, 2),
            "threads": torch.get_num_threads(),
        },
    }
    if proof.sentences.references is not None:
        tokenize = trained.config.validation.tokenize
        both = [score_translations(lines, proof.sentences.references, tokenize) for lines in (proof.ours, proof.theirs)]
        record["bleu"] = {
            "accel_tx": round(both[0].bleu, 2),
            "exported": round(both[1].bleu, 2),
            "signature": both[0].signature,
        }
    return record
