"""A new schedule from the weights of an earlier run: which file is meant, and whether its model is this one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel_tx.config import Config, UserError
from accel_tx.data.tokenizer import Tokenizer, TokenizerPair
from accel_tx.inference.translator import load_run_config
from accel_tx.inference.weights import IMPORT_RECORD, SCORES, load_weights, sha256_of
from accel_tx.model.transformer import Transformer
from accel_tx.train import checkpoint, file_system
from accel_tx.train.sharding import is_sharded, shell_of
from accel_tx.train.sharding import load_weights as load_into_parts

ORIGIN = "init_from.json"
# They change what is learned, not what the weights mean.
_FREE = {"dropout", "attention_dropout", "init", "quantization"}


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    run_dir: Path
    weights: Path


def find_source(given: Path) -> Source:
    """The weights that `--init_from` means: a folder with weights, or a run folder's `best/`, else newest checkpoint.

    Raises: UserError if there are none, or the checkpoint is damaged.
    """
    if not given.is_dir():
        raise UserError(f"--init_from {given}: no such folder; expected a run folder, a checkpoint, best or final")
    if (given / "config.yaml").is_file() and (given / checkpoint.MODEL).is_file():
        return Source(given, given)  # what `export` wrote
    if (given / "config.yaml").is_file():
        folder = given / "best" if (given / "best" / checkpoint.MODEL).is_file() else checkpoint.newest_valid(given)[0]
        if folder is None:
            raise UserError(f"--init_from {given}: holds no best/ and no valid checkpoint; expected a run with weights")
        return Source(given, folder)
    if not (given / checkpoint.MODEL).is_file():
        raise UserError(
            f"--init_from {given}: holds no {checkpoint.MODEL}; expected a run folder, a checkpoint or best"
        )
    if (given / checkpoint.STATE).exists() and (fault := checkpoint.find_fault(given)):
        raise UserError(f"--init_from {given}: is damaged ({fault}); give another checkpoint")
    run_dir = next((folder for folder in given.resolve().parents if (folder / "config.yaml").is_file()), None)
    if run_dir is None:
        raise UserError(
            f"--init_from {given}: lies in no run folder; its config.yaml and tokenizer/ are needed as well"
        )
    return Source(run_dir, given)


def check_fits(source: Source, config: Config, tokenizers: TokenizerPair) -> None:
    """Raise UserError if the weights belong to another model or another vocabulary."""
    before, now = vars(load_run_config(source.run_dir).model), vars(config.model)
    for name in now:
        if name not in _FREE and before[name] != now[name]:
            raise UserError(
                f"--init_from {source.weights}: its run has model.{name} = {before[name]}, this start has {now[name]}; "
                "give the same value, or other weights"
            )
    for side, own in (("src", tokenizers.src), ("tgt", tokenizers.tgt)):
        path = source.run_dir / "tokenizer" / f"{side}.json"
        if Tokenizer.load(path).fast.to_str() != own.fast.to_str():
            raise UserError(
                f"--init_from {source.weights}: its vocabulary ({path}) is not this start's; its weights would "
                f"mean other words; add --tokenizer.from_run {source.run_dir}, or give weights of the same vocabulary"
            )


def load_initial_weights(source: Source, model: Transformer) -> dict[str, Any]:
    """Fill the model; returns what is recorded of where the weights came from. Raises: UserError if they do not fit."""
    path = source.weights / checkpoint.MODEL
    sha256 = _sha256(path)
    if is_sharded(model):
        read = shell_of(model).to_empty(device="cpu")
        load_weights(read, path)
        load_into_parts(model, read.state_dict())
    else:
        load_weights(model, path)
    if _sha256(path) != sha256:
        raise UserError(
            f"--init_from {source.weights}: was replaced while it was read; give the same command again, or a folder "
            "that no training replaces, such as a checkpoint"
        )
    scores = {
        **file_system.read_json(source.weights / checkpoint.STATE),
        **file_system.read_json(source.weights / SCORES),
    }
    found = {"weights": str(source.weights.resolve()), "update": scores.get("update"), "sha256": sha256}
    imported = _imported_as(source.run_dir)
    return found if imported is None else {**found, "imported": imported}


def _imported_as(run_dir: Path) -> str | None:
    """The model of another program that a run, or what it began with, was taken over from; None where there is none."""
    record, origin = (file_system.read_json(run_dir / name) for name in (IMPORT_RECORD, ORIGIN))
    model = record.get("model") or origin.get("imported")
    return None if model is None else str(model)


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read as weights: {error.strerror}") from None


def check_origin(run_dir: Path, given: Path | None, has_checkpoint: bool) -> None:
    """Raise UserError where `--init_from` contradicts how the run in `run_dir` began.

    A run that has a checkpoint goes on with or without the option; its weights are not read again.
    """
    if not (run_dir / "config.yaml").exists():
        return
    origin = file_system.read_json(run_dir / ORIGIN).get("weights")
    if given is None:
        if origin is not None and not has_checkpoint:
            raise UserError(
                f"{run_dir}: was begun with the weights {origin} and has no checkpoint yet; add --init_from"
            )
        return
    if origin is None:
        raise UserError(f"{run_dir}: was begun without --init_from; leave it out to go on, or give another --run_dir")
    if not Path(origin).is_relative_to(file_system.resolved(given)):
        raise UserError(
            f"{run_dir}: was begun with --init_from {origin}, this start has {given}; "
            "give the same, or leave it out, to go on; or give another --run_dir"
        )
