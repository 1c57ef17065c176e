"""A vocabulary of SentencePiece through the command line: prepared, trained with, gone on with, translated with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from accel_tx.cli import main
from tests.conftest import TINY, refusal
from tests.run_folder import weights
from tests.spm_models import write_model

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
pytest.importorskip("google.protobuf", reason="protobuf is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.yaml`, `own.model`, and a run of 6 updates, `run`, that was not stopped."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    write_model(folder / "own.model", "unigram", "plain")
    sections = {
        **TINY,
        "data": {"phrasebook_train_pairs": 200, "phrasebook_valid_pairs": 8, "cache_dir": str(folder / "cache")},
        "tokenizer": {"kind": "unigram", "sentencepiece": [str(folder / "own.model")]},
        "train": {**TINY["train"], "max_updates": 6, "save_every_updates": 3},
        "validation": {"every_updates": 6, "draw_attention": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    main(["train", "--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")])
    return folder


def test_data_tells_how_many_sentences_have_the_ids_of_sentencepiece(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["data", "--config", str(place / "config.yaml"), "--report", str(tmp_path / "report.json")])
    line = f"vocabulary of {place}/own.model: 400 of 400 sentences get the ids of SentencePiece"
    assert line in capsys.readouterr().out.splitlines()
    assert line in json.loads((tmp_path / "report.json").read_text())["notes"]


def test_a_run_goes_on_to_the_same_bytes_after_the_file_is_gone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copy(place / "own.model", tmp_path / "moved.model")
    options = ["--config", str(place / "config.yaml"), "--run_dir", str(tmp_path / "run")]
    options += ["--tokenizer.sentencepiece", f"[{path}]"]
    main(["train", *options, "--train.stop_at_update", "3"])
    (tmp_path / "moved.model").unlink()
    main(["train", *options])
    assert weights(tmp_path / "run") == weights(place / "run")
    # Another file is another vocabulary, whatever its name.
    write_model(tmp_path / "moved.model", "unigram", "all folded")
    assert "was made with another training or validation data" in refusal(capsys, "train", *options)


def test_another_run_takes_the_vocabulary_over_and_a_flag_takes_its_place(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(place / "config.yaml"), "--run_dir", str(tmp_path / "run")]
    options += ["--tokenizer.from_run", str(place / "run"), "--init_from", str(place / "run")]
    main(["train", *options, "--train.stop_at_update", "1"])
    assert f"tokenizer.sentencepiece ['{place}/own.model'] of {place}/config.yaml does not count" in (
        capsys.readouterr().err
    )
    name = "tokenizer/src.json"
    assert (tmp_path / "run" / name).read_bytes() == (place / "run" / name).read_bytes()


def test_text_is_translated_scored_and_exported(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--run_dir", str(place / "run")]
    (tmp_path / "in.en").write_text("The old man ☃ reads.\n<eos>  e\u0301 \n\n☃☄\n", encoding="utf-8")
    (tmp_path / "in.fr").write_text("Le vieil homme lit.\né\nx\n☃☄\n", encoding="utf-8")
    for unknown in ("copy", "mark", "drop", "guess"):
        main(["translate", *run, "--unknown", unknown, "--input", str(tmp_path / "in.en")])
        told = capsys.readouterr()
        assert told.out.count("\n") == 4
        assert told.out.endswith("☃☄\n") == (unknown == "copy")
        assert "2 line(s) with 2 word(s) that the vocabulary lacks" in told.err
    main(["evaluate", *run, "--src", str(tmp_path / "in.en"), "--ref", str(tmp_path / "in.fr")])
    assert "4 sentences" in capsys.readouterr().out
    main(["export", *run, "--format", "safetensors", "--output", str(tmp_path / "out")])
    assert "identical: 8 of 8 translations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tokenizer.sentencepiece", "[none.model]"], "tokenizer.sentencepiece none.model: no such file; expected"),
        (["--tokenizer.kind", "bpe"], "is a unigram model, but tokenizer.kind is bpe; expected the same, so add --tok"),
        (
            ["--tokenizer.joint", "false"],
            "has 1 file, but tokenizer.joint is false; expected two, or --tokenizer.joint",
        ),
        (["--tokenizer.sentencepiece", "['']"], "command line: --tokenizer.sentencepiece is empty; expected a value"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, "data", "--config", str(place / "config.yaml"), *options)
