"""What the folder of a MarianMTModel of `transformers` holds: its config, vocabularies and weights.

`transformers` itself is not needed to read it. The files are those that `save_pretrained` writes, and that the models
Helsinki-NLP/opus-mt-* have on the Hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel_tx.config import UserError
from accel_tx.data.text_file import one_line

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer_config.json"
VOCABULARY, TARGET_VOCABULARY = "vocab.json", "target_vocab.json"
SOURCE_PIECES, TARGET_PIECES = "source.spm", "target.spm"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that is there is read."""
_EXPECTED = "expected the folder of a MarianMTModel, such as Helsinki-NLP/opus-mt-en-fr of the Hub"
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class MarianFolder:
    """The folder, with what its JSON files say."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    """What `generate` uses; models of earlier versions have it in `config`."""
    languages: tuple[str | None, str | None]
    """Of source and target, where the tokenizer says them."""
    src_ids: dict[str, int]
    """The row of each piece in the matrix of the source."""
    tgt_ids: dict[str, int]
    """The same for the target."""

    @classmethod
    def read(cls, path: Path) -> MarianFolder:
        """All but the weights. Raises: UserError for what is missing, damaged or of another kind of model."""
        config = _read_object(path / CONFIG)
        kind = config.get("model_type")
        if kind != "marian":
            raise UserError(f"{path / CONFIG}: model_type is {kind!r}; expected 'marian': {_EXPECTED}")
        generation = {**config, **(_read_object(path / GENERATION) if (path / GENERATION).exists() else {})}
        tokenizer = _read_object(path / TOKENIZER) if (path / TOKENIZER).exists() else {}
        src_ids = _read_ids(path / VOCABULARY)
        tgt_ids = _read_ids(path / TARGET_VOCABULARY) if tokenizer.get("separate_vocabs") else src_ids
        languages = tuple(_language(path / TOKENIZER, tokenizer, f"{side}_lang") for side in ("source", "target"))
        return cls(path, config, generation, languages, src_ids, tgt_ids)  # type: ignore[arg-type]

    @property
    def shares_matrix(self) -> bool:
        """Whether source and target have one matrix of embeddings."""
        return bool(self.config.get("share_encoder_decoder_embeddings", True))

    @property
    def ties_logits(self) -> bool:
        """Whether the logits have the target's matrix of embeddings."""
        return bool(self.config.get("tie_word_embeddings", True))

    def size(self, name: str) -> int:
        """A whole number from 0 on of `config.json`, or a list with one. Raises: UserError for anything else."""
        value = self.config.get(name)
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if type(value) is not int or value < 0:
            raise UserError(f"{self.path / CONFIG}: {name} is {value!r}; expected a whole number from 0 on")
        return value

    def number(self, name: str, default: float) -> float:
        """One of `generate` or of the config; `default` where there is none or null. Raises: UserError as `size`."""
        value = self.generation.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not abs(value) <= _LARGEST:  # NaN is not, either
            shown = repr(value)[:_LONGEST_SHOWN_CHARS]
            raise UserError(f"{self.path}: {name} of {GENERATION} or {CONFIG} is {shown}; expected a number")
        return float(value)

    def count(self, name: str, default: int) -> int:
        """The same for a whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise UserError(f"{self.path}: {name} of {GENERATION} or {CONFIG} is {value}; expected a whole number")
        return int(value)

    @property
    def weights_file(self) -> Path:
        """Raises: UserError where there is none."""
        for name in WEIGHTS:
            if (self.path / name).is_file():
                return self.path / name
        raise UserError(f"{self.path}: holds neither {' nor '.join(WEIGHTS)}; {_EXPECTED}")

    def weights(self) -> dict[str, Tensor]:
        """Every tensor by its name, in float32 (float64 stays). Raises: UserError for a file that is damaged."""
        path = self.weights_file
        if _begins_with(path, _LFS_POINTER):
            raise UserError(f"{path}: is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`")
        try:
            read = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read as weights ({error.strerror})") from None
        except Exception as error:  # of safetensors, zip and pickle; torch's own words advise to run what is in a file
            told = one_line(error) if path.suffix == ".safetensors" else type(error).__name__
            raise UserError(f"{path}: cannot be read as weights ({told}); expected a whole file of tensors") from None
        for name, x in read.items():
            if not x.is_floating_point():
                raise UserError(f"{path}: {name} is of type {x.dtype}; expected floating-point numbers")
        return {name: x if x.dtype == torch.float64 else x.float() for name, x in read.items()}


_LARGEST = 1e9
_LONGEST_SHOWN_CHARS = 50


def _begins_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError as error:
        raise UserError(f"{path}: cannot be read as weights ({error.strerror})") from None


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_pickled(path: Path) -> Mapping[str, Tensor]:
    # Tensors alone: nothing else in the file is made into an object, let alone run.
    read = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(read, Mapping) or not all(isinstance(x, Tensor) for x in read.values()):
        raise TypeError
    return read


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_EXPECTED}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_EXPECTED}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not a JSON object, or damaged; {_EXPECTED}")
    return found


def _read_ids(path: Path) -> dict[str, int]:
    found = _read_object(path)
    if not all(type(i) is int and i >= 0 for i in found.values()):
        raise UserError(f"{path}: has ids that are not whole numbers from 0 on; {_EXPECTED}")
    if any("\ud800" <= char <= "\udfff" for name in found for char in name):
        raise UserError(f"{path}: has a piece with half of a surrogate pair, which is no character; {_EXPECTED}")
    for token in ("<unk>", "</s>"):
        if token not in found:
            raise UserError(f"{path}: has no {token}; {_EXPECTED}")
    return found


def _language(path: Path, tokenizer: Mapping[str, Any], name: str) -> str | None:
    value = tokenizer.get(name)
    if value is not None and not (isinstance(value, str) and value.isprintable() and value.strip() == value != ""):
        raise UserError(f"{path}: {name} is {value!r}; expected a language, such as 'fr'")
    return value
