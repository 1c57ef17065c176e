"""What of a folder an export has written, and left as it was: only that may go when another export replaces it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from accel_tx.inference.weights import EXPORT_RECORD, sha256_of
from accel_tx.train.file_system import read_json

RECORD, CARD = EXPORT_RECORD, "README.md"
CARD_HASH = "card_sha256"
"""In the record: the SHA-256 of the card as it was written."""
# What the formats wrote into folders whose record has no list, as earlier versions left them.
_OF_FORMAT = {
    "safetensors": ("config.yaml", "model.safetensors", "scores.json", "tokenizer/src.json", "tokenizer/tgt.json"),
    "transformers": (
        *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
        *(f"{side}{name}.json" for side in ("", "target_tokenizer/") for name in ("tokenizer", "tokenizer_config")),
        *(f"{side}special_tokens_map.json" for side in ("", "target_tokenizer/")),
    ),
    "ctranslate2": ("config.json", "model.bin", "*_vocabulary.json", "*_tokenizer.json"),
    "onnx": ("encoder.onnx*", "decoder.onnx*", "onnx_greedy.py", "*_tokenizer.json"),
}


def names_in(folder: Path) -> list[str]:
    """Every file below a folder, and every folder that holds none, by its path inside; links are not followed."""
    below = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink() or not any(path.iterdir())]
    return sorted(path.relative_to(folder).as_posix() for path in below)


def not_written(folder: Path) -> list[str]:
    """The names in a folder that no export has written; all of them where none has written there."""
    patterns = _patterns(folder / RECORD)
    # Python leaves __pycache__ where `onnx_greedy` was imported.
    names = [name for name in names_in(folder) if not name.startswith("__pycache__/")]
    return [name for name in names if not any(_fits(name, pattern) for pattern in patterns)]


def _fits(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def is_card_edited(folder: Path) -> bool:
    """Whether the card in a folder is no longer what the export wrote; False where its record has no hash of it."""
    written = read_json(folder / RECORD).get(CARD_HASH)
    try:
        return written is not None and sha256_of(folder / CARD) != written
    except FileNotFoundError:
        return False
    except OSError:
        return True  # nobody can tell


def _patterns(record: Path) -> list[str]:
    found = read_json(record)
    try:
        files = found["files"] if "files" in found else [*_OF_FORMAT[found["format"]], CARD, RECORD]
        return [str(name) for name in files]
    except (TypeError, KeyError):
        return []
