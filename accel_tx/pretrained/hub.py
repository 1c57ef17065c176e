"""The folder that a model's name means: a local one, or what the Hub has under it."""

from __future__ import annotations

import re
from pathlib import Path

from accel_tx.config import UserError
from accel_tx.data.text_file import one_line
from accel_tx.pretrained import marian_folder as files

_NEEDED = (files.CONFIG, files.VOCABULARY, files.SOURCE_PIECES, files.TARGET_PIECES)
_OPTIONAL = (files.GENERATION, files.TOKENIZER, files.TARGET_VOCABULARY)


def folder_of(model: str) -> tuple[Path, str]:
    """A local folder by its path, else a model of the Hub, fetched into the Hub's own cache; and what it is called.

    Raises: UserError where it is neither.
    """
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return path, path.resolve().name
        is_there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, of a user who is not there
        told = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"--model {model!r}: is no path ({told}); expected a folder") from None
    if is_there:
        raise UserError(f"--model {model}: is a file; expected the folder of a MarianMTModel")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
        raise UserError(f"--model {model}: no such folder; expected one, or a name of the Hub such as owner/model")
    return _fetched(model), model


def _fetched(model: str) -> Path:
    config = _file(model, files.CONFIG)
    if config is None:
        raise UserError(f"--model {model}: the Hub has no {files.CONFIG} of it; expected a MarianMTModel")
    # All files of one state of the model, whatever is uploaded meanwhile: a folder of the cache bears its name.
    revision = config.parent.name
    for name in _NEEDED:
        if _file(model, name, revision) is None:
            raise UserError(f"--model {model}: the Hub has no {name} of it; expected a MarianMTModel with {name}")
    for name in _OPTIONAL:
        _file(model, name, revision)
    if not any(_file(model, name, revision) for name in files.WEIGHTS):
        raise UserError(f"--model {model}: the Hub has neither {' nor '.join(files.WEIGHTS)} of it")
    return config.parent


def _file(model: str, name: str, revision: str | None = None) -> Path | None:
    """In the cache; None where the model has no such file. Raises: UserError where nobody can tell."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = None if revision is None else try_to_load_from_cache(model, name, revision=revision)
    if known is not None:  # a path, or a mark that says: none
        return Path(known) if isinstance(known, str) else None
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except Exception as error:  # of the network, of the Hub's answers and of the disk
        # Offline, what was not fetched with the rest of this state is taken for what the model does not have.
        is_local = isinstance(error, LocalEntryNotFoundError)
        if isinstance(error, EntryNotFoundError) and (not is_local or (revision and constants.HF_HUB_OFFLINE)):
            return None
        raise UserError(
            f"--model {model}: no such folder here, and {name} could not be had from the Hub "
            f"({type(error).__name__}: {one_line(error)}); check the name and the network, give a local folder, or "
            "HF_HUB_OFFLINE=1 to take what was fetched before"
        ) from None
