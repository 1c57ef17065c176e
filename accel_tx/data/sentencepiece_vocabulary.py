"""The vocabularies that a config takes from SentencePiece: its files, converted, and what a run records of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from accel_tx.config import TokenizerConfig, UserError
from accel_tx.data.sentencepiece_agreement import Agreement
from accel_tx.data.sentencepiece_file import FIELD, SentencePieceFile, bytes_of
from accel_tx.data.tokenizer import TokenizerPair

RECORD = "sentencepiece.json"
"""In the folder of a run's tokenizers: what they were converted from."""


def files_of(config: TokenizerConfig) -> tuple[SentencePieceFile, SentencePieceFile]:
    """The files of source and target, one object twice where the vocabulary is joint.

    Raises: UserError for one that cannot be used, or is of another kind than the config says.
    """
    files = [SentencePieceFile(Path(path)) for path in config.sentencepiece]
    for file in files:
        if file.kind != config.kind:
            raise UserError(
                f"{file.where}: is a {file.kind} model, but tokenizer.kind is {config.kind}; expected the same, so add "
                f"--tokenizer.kind {file.kind}"
            )
        taken = {piece.text for piece in file.kept()} & set(config.symbols)
        if taken:
            raise UserError(f"{file.where}: has {sorted(taken)[0]} itself; leave it out of tokenizer.symbols")
    return files[0], files[-1]


def convert(
    config: TokenizerConfig, texts: Callable[[str], Iterable[Sequence[str]]]
) -> tuple[TokenizerPair, Agreement]:
    """The vocabularies of the files in `config.sentencepiece`, and whether they give the ids of SentencePiece.

    `texts` gives those of a side, `src` or `tgt`, to compare, some at a time. Symbols of the config are no part of it.
    """
    src, tgt = files_of(config)
    ours = [src.tokenizer()]
    if tgt is not src:
        ours.append(tgt.tokenizer())
        if ours[0].fast.to_str() == ours[1].fast.to_str():
            raise UserError(f"{FIELD}: the two files are the same; expected it once, with --tokenizer.joint true")
    agreement = Agreement.of(src, ours[0], texts("src")) + Agreement.of(tgt, ours[-1], texts("tgt"))
    if config.symbols:
        for tokenizer in ours:
            tokenizer.add_symbols(config.symbols)
    return TokenizerPair(ours[0], ours[-1]), agreement


def sha256_of(config: TokenizerConfig) -> list[str]:
    """Of the content of each file."""
    return [_sha256_of(path) for path in config.sentencepiece]


def record_of(config: TokenizerConfig, sha256: Sequence[str]) -> str:
    """The text of the file RECORD."""
    return json.dumps({**_said_of(config), "sha256": list(sha256)}, indent=1)


def recorded_sha256(config: TokenizerConfig, folder: Path) -> list[str] | None:
    """Of the files of `config.sentencepiece`, if the tokenizers in this folder were converted from them.

    A file that is gone, or not to be found from here, is the one that was recorded under its name.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        recorded = list(map(str, record.pop("sha256")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    there = [_sha256_of(path) if os.path.isfile(path) else None for path in config.sentencepiece]
    said = _said_of(config)
    if None not in there:
        said["files"] = record.get("files")
    if record != said or len(recorded) != len(there):
        return None
    return recorded if all(found in (None, known) for found, known in zip(there, recorded, strict=True)) else None


def _said_of(config: TokenizerConfig) -> dict[str, Any]:
    return {"files": config.sentencepiece, "kind": config.kind, "symbols": config.symbols}


def _sha256_of(path: str) -> str:
    return hashlib.sha256(bytes_of(Path(path), f"{FIELD} {path}")).hexdigest()
