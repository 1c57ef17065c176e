"""The bench of decoding: its peer computes what ours computes, and its table says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from accel_tx.cli import main
from accel_tx.config import Config, dump_yaml
from accel_tx.data.dataset import prepare_data
from accel_tx.model.transformer import Transformer
from tests.conftest import as_options


@pytest.fixture
def run_dir(tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    """A run folder with untrained weights."""
    config = tiny_config(decode={"beam_size": 2})
    tokenizers = prepare_data(config).tokenizers
    torch.manual_seed(1)
    model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    (tmp_path / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    tokenizers.save(tmp_path / "tokenizer")
    (tmp_path / "best").mkdir()
    save_file(model.state_dict(), tmp_path / "best" / "model.safetensors")
    return tmp_path


def test_the_table_and_the_json_say_what_was_measured(
    run_dir: Path, capsys: pytest.CaptureFixture[str], tiny_config: Callable[..., Config]
) -> None:
    pytest.importorskip("transformers")
    options = [*as_options(tiny_config(decode={"beam_size": 2})), "--run_dir", str(run_dir), "--peer", "hf"]
    options += ["--precision", "no,bf16", "--rounds", "2", "--threads", "1", "--json", str(run_dir / "found.json")]
    main(["bench", "--measure", "decode", "--config", str(run_dir / "config.yaml"), *options])
    found = json.loads((run_dir / "found.json").read_text(encoding="utf-8"))["decode"]
    assert [row["system"].split(".")[0] for row in found["systems"]] == [
        "ours (float32)",
        "ours (bfloat16)",
        "PegasusForConditionalGeneration",
        "PegasusForConditionalGeneration",
    ]
    assert found["n_sentences"] == 23
    for row in found["systems"]:
        assert len(row["seconds"]) == 2
        assert row["range"][0] <= row["sentences_per_s"] <= row["range"][1]
        assert row["signature"].startswith("nrefs:1")
    assert found["systems"][0]["same_lines"] == found["systems"][2]["ratio"] == 1
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert table[2].startswith("| ours (float32) | ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--measure decode: --run_dir is missing; expected a run whose weights translate"),
        (
            ["--run_dir", "RUN", "--peer", "hf", "--decode.length_penalty", "gnmt"],
            "--peer hf: compares beam search with",
        ),
        (["--run_dir", "RUN", "--weights", "final"], "final: holds no weights"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    options: list[str], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--peer" in options:
        pytest.importorskip("transformers")
    options = [str(run_dir) if option == "RUN" else option for option in options]
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--measure", "decode", "--config", str(run_dir / "config.yaml"), "--precision", "no", *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
