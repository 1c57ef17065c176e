"""What an export has written is told from what a user put beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accel_tx.export.written import CARD, CARD_HASH, RECORD, is_card_edited, not_written
from accel_tx.inference.weights import sha256_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer").mkdir()
    for name in ("model.safetensors", "model[1].bin", "tokenizer/src.json", "README.md"):
        (tmp_path / name).touch()
    return tmp_path


def test_the_names_in_the_record_count(folder: Path) -> None:
    (folder / RECORD).write_text(json.dumps({"files": ["README.md", RECORD, "tokenizer/src.json"]}))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "onnx_greedy.cpython-311.pyc").touch()
    assert not_written(folder) == ["model.safetensors", "model[1].bin"]


def test_without_a_list_those_of_the_format_count(folder: Path) -> None:
    (folder / RECORD).write_text(json.dumps({"format": "safetensors"}))
    assert not_written(folder) == ["model[1].bin"]
    (folder / RECORD).write_text(json.dumps({"format": "onnx"}))
    assert not_written(folder) == ["model.safetensors", "model[1].bin", "tokenizer/src.json"]


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"files": 3}', '{"format": "other"}'])
def test_without_a_record_nothing_is_an_export(content: str | None, folder: Path) -> None:
    if content is not None:
        (folder / RECORD).write_text(content)
    assert set(not_written(folder)) >= {"README.md", "model.safetensors", "model[1].bin", "tokenizer/src.json"}


@pytest.mark.parametrize("content", [None, "", "[]", '{"files": ["README.md"]}'])
def test_without_a_hash_no_card_counts_as_edited(content: str | None, folder: Path) -> None:
    if content is not None:
        (folder / RECORD).write_text(content)
    assert not is_card_edited(folder)


def test_a_card_is_edited_when_its_bytes_are_others(folder: Path) -> None:
    (folder / RECORD).write_text(json.dumps({CARD_HASH: sha256_of(folder / CARD)}))
    assert not is_card_edited(folder)
    (folder / CARD).write_text("mine")
    assert is_card_edited(folder)
    (folder / CARD).unlink()
    assert not is_card_edited(folder)
    (folder / CARD).mkdir()
    assert is_card_edited(folder)
