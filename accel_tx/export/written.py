"""Which files of a folder an export has written: only those may go when another export replaces it."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

RECORD, CARD = "export.json", "README.md"
# What the formats write, for folders whose record has no list.
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


def _patterns(record: Path) -> list[str]:
    try:
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        files = found["files"] if "files" in found else [*_OF_FORMAT[found["format"]], CARD, RECORD]
        return [str(name) for name in files]
    except (OSError, ValueError, TypeError, KeyError):
        return []
