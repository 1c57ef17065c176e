"""The bench of decoding: its peer computes what ours computes, and its table says what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from accel_tx.bench import command, decode
from accel_tx.bench.speed import SpeedOptions
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


def test_the_peer_gets_weights_that_are_not_rounded(
    run_dir: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(decode={"beam_size": 2, "precision": "bfloat16"})
    (run_dir / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    given: list[Transformer] = []

    class Peer:
        def __init__(self, model: Transformer, *_: object) -> None:
            given.append(model)
            self.model = model

        def translate(self, lines: list[str]) -> list[str]:
            return lines

    monkeypatch.setattr("accel_tx.bench.peer_hf.check_installed", lambda: None)
    monkeypatch.setattr("accel_tx.bench.peer_hf_decode.HfTranslator", Peer)
    decode._hf(config, run_dir, "best", "no", ["A line."])
    written = load_file(run_dir / "best" / "model.safetensors")
    assert all(torch.equal(tensor.cpu(), written[name]) for name, tensor in given[0].state_dict().items())


@pytest.mark.parametrize(
    ("option", "of_config", "measured", "note"),
    [
        (
            None,
            "auto",
            ("no",),
            "translating knows no fp16, which train.precision auto is",
        ),
        (
            "auto,no",
            "auto",
            ("no",),
            "translating knows no fp16, which --precision auto is",
        ),
        (
            None,
            "fp16",
            ("no",),
            "translating knows no fp16, which train.precision fp16 is",
        ),
        ("bf16,auto", "auto", ("bf16", "no"), "which --precision auto is"),
        ("bf16", "auto", ("bf16",), None),
    ],
)
def test_where_auto_is_fp16_translating_is_measured_in_float32_and_that_is_told(
    option: str | None,
    of_config: str,
    measured: tuple[str, ...],
    note: str | None,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a V100 or a T4."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("accel_tx.train.device.resolve_precision", lambda name: "fp16" if name == "auto" else name)
    monkeypatch.setattr(decode, "measure_decode", lambda *given: asked.append(given[3]) or {})
    monkeypatch.setattr(decode, "decode_markdown", lambda found: "- a note.")
    options = SimpleNamespace(run_dir="run", weights="best", peer=None, precision=option)
    precisions = tuple((option or of_config).split(","))
    text, _ = command._decode(tiny_config(), SpeedOptions(precisions=precisions, n_threads=1), options)
    assert asked == [measured]
    notes = text.splitlines()[1:]
    assert [note in line for line in notes] == ([] if note is None else [True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--measure decode: --run_dir is missing; expected a run whose weights translate"),
        (
            ["--run_dir", "RUN", "--peer", "hf", "--decode.length_penalty", "gnmt"],
            "--peer hf: decode.length_penalty is gnmt, which generate does not have; expected beam search",
        ),
        (
            ["--run_dir", "RUN", "--peer", "hf", "--decode.min_len_ratio", "0.5"],
            "--peer hf: decode.min_len_ratio is 0.5, which generate does not have",
        ),
        (["--run_dir", "RUN", "--weights", "final"], "final: holds no weights"),
        (["--run_dir", "RUN", "--precision", "fp16"], "--precision fp16: expected no or bf16; translating knows no"),
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
