"""The folders of weights in a run folder: which is meant, whether it is whole, reading it. Starts without torch."""

from __future__ import annotations

import hashlib
import json
from os.path import isdir, isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx.config import UserError, nearest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from accel_tx.model.transformer import Transformer

MODEL, SCORES = "model.safetensors", "scores.json"
EXPORT_RECORD = "export.json"
"""What `export` writes beside weights."""
IMPORT_RECORD = "imported.json"
"""What `import-marian` writes beside weights."""
MANIFEST, STATE = "manifest.json", "trainer_state.json"
"""What a checkpoint has in place of `scores.json`."""
_MADE_BY = {
    "best": "the first validation",
    "final": "the end of the training",
    "average": "`python -m accel_tx average --run_dir {run_dir} --last 2`",
}

_KINDS: dict[str, Any] = {
    "update": int,
    **dict.fromkeys(("bleu", "chrf", "trained_s"), int | float),
    "val_loss": int | float | None,
    **dict.fromkeys(("signature", "chrf_signature"), str),
}
"""What others read of the scores, where it is there; a loss that was not finite is null."""
_LONGEST_SHOWN_CHARS = 50


def check_is_run(run_dir: Path, is_member: bool = False) -> None:
    """Raise UserError unless this is a run folder, or one that `export` wrote.

    `is_member`: it is named as RUN:WEIGHTS, and not by options of their own.
    """
    if _is_file(run_dir / "config.yaml"):
        return
    expected = "expected a run folder made by `train`"
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; {expected}")
    around = (*run_dir.parents, *run_dir.absolute().parents)
    run = next((path for path in around if isfile(path / "config.yaml") and isdir(path / "tokenizer")), None)
    if run is None:
        raise UserError(f"{run_dir}: holds no run; {expected}")
    name = run_dir.absolute().relative_to(run.absolute()).as_posix()
    weights = f":{name}" if is_member else f", and --weights {name} where the command has it"
    raise UserError(
        f"{run_dir}: holds no run but lies in one; give {run}{weights if _is_file(run_dir / MODEL) else ''}"
    )


def weights_folder(run_dir: Path, weights: str, is_member: bool = False) -> Path:
    """The folder inside a run folder that holds these weights; one that `export` wrote has them at its top.

    Raises: UserError that names what is there instead, as `check_is_run`.
    """
    option = f"{run_dir}:" if is_member else "--weights "
    if _is_file(run_dir / MODEL):
        name = weights_name(run_dir, weights)
        # `best` is what the commands take where nothing is given.
        if weights not in ("best", name, name.rpartition("/")[2]):
            remedy = f"give {option}{name}" if is_member else "leave --weights out"
            raise UserError(
                f"{option}{weights}: {run_dir} is an exported or imported model and holds the weights {name} alone; "
                f"{remedy}, or give the run folder"
            )
        return run_dir
    if _is_file(run_dir / weights / MODEL):
        return run_dir / weights
    found = [
        path.parent.relative_to(run_dir).as_posix()
        for pattern in ("[!.]*", "checkpoints/update_*", "validated/update_*")
        for path in sorted(run_dir.glob(f"{pattern}/{MODEL}"))
    ]
    if not found:
        raise UserError(f"{run_dir / weights}: holds no weights, nor does {run_dir}; has this run saved any yet?")
    newest = {kind: max(names) for kind in ("checkpoints", "validated") if (names := _below(kind, found))}
    if weights in _MADE_BY:
        there = newest.get("checkpoints", found[0])
        advice = f"{_MADE_BY[weights].format(run_dir=run_dir)} makes them, until then give {option}{there}"
    else:
        meant = next((name for name in found if name.endswith(f"/{weights}")), None) or nearest_of(weights, found)
        advice = f"did you mean {option}{meant}?"
    # Of many numbered ones the newest stands for all.
    shown = [*(name for name in found if "/" not in name), *newest.values()]
    raise UserError(f"{run_dir / weights}: holds no weights; {run_dir} has {', '.join(shown)}; {advice}")


def weights_name(run_dir: Path, weights: str) -> str:
    """What the run calls these weights: in a folder that `export` wrote, the name that is recorded there."""
    if not _is_file(run_dir / MODEL):
        return weights
    try:
        recorded = json.loads((run_dir / EXPORT_RECORD).read_text(encoding="utf-8"))["weights"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "best"
    return str(recorded)


def _is_file(path: Path) -> bool:
    """Raises: UserError where nobody can tell: in a folder that may not be entered, or for a name that is too long."""
    try:
        return path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a folder made by `train`") from None


def _below(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def load_scores(folder: Path) -> dict[str, Any]:
    """What a run wrote beside weights: the update, the hash of the data, the scores where it was validated.

    Raises: UserError where that is missing or damaged.
    """
    path = next((path for path in (folder / SCORES, folder / STATE) if _is_file(path)), None)
    if path is None:
        raise UserError(f"{folder}: holds no weights of a run; has it been validated yet?")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is damaged; give other weights, or copy the file again from where it is whole")
    for name, kind in _KINDS.items():
        if name in values and (isinstance(values[name], bool) or not isinstance(values[name], kind)):
            raise UserError(
                f"{path}: is damaged: {name} is {json.dumps(values[name])[:_LONGEST_SHOWN_CHARS]}; give other weights, "
                "or copy the file again from where it is whole"
            )
    return values


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises: OSError."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def recorded_sha256(folder: Path) -> str | None:
    """The SHA-256 that `model.safetensors` had when it was written; None where earlier versions recorded none.

    Raises: UserError where the file that tells it is damaged.
    """
    is_checkpoint = any((folder / name).exists() for name in (MANIFEST, STATE))
    path = folder / (MANIFEST if is_checkpoint else SCORES)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return str(values[MODEL]["sha256"]) if is_checkpoint else values.get("sha256")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if not is_checkpoint and not path.exists():
            return None
        raise UserError(f"{path}: is missing or damaged") from None


def is_as_written(folder: Path) -> bool:
    """Whether `model.safetensors` has the hash that is recorded for it, or none is. Raises: OSError, UserError."""
    recorded = recorded_sha256(folder)
    while recorded is not None and sha256_of(folder / MODEL) != recorded:
        # A training that runs may have put a new folder in the place of this one meanwhile.
        before, recorded = recorded, recorded_sha256(folder)
        if recorded == before:
            return False
    return True


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in `model.safetensors` of a folder of weights, on the host.

    Raises: UserError that names the file if it is missing, not what was written, or holds numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if not is_as_written(path.parent):
            raise UserError(
                f"{path}: is damaged: its bytes are not those that were written (SHA-256); give other weights, "
                "or copy the file again from where it is whole; `checkpoints --verify` tells which are"
            )
        weights = load_file(path)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as weights: {' '.join(str(error).split())[:300]}") from None
    _check_finite(weights, path)
    return weights


def load_weights(model: Transformer, path: Path) -> None:
    """Fill the model from `model.safetensors` of a folder of weights.

    Raises: UserError if it is missing, damaged, of another model, or holds numbers that are not finite.
    """
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: cannot be loaded into this model: {' '.join(str(error).split())[:300]}") from None


def _check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        # The extremes of a tensor with a NaN are NaN; to look at them is 30 times as fast as at each number.
        if tensor.numel() and not all(extreme.isfinite() for extreme in tensor.aminmax()):
            n_bad = tensor.numel() - int(tensor.isfinite().sum())
            raise UserError(
                f"{path}: {name} holds {n_bad:,} of {tensor.numel():,} numbers that are not finite (NaN or infinite); "
                "give other weights"
            )
