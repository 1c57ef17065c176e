"""The `bench` command as a user types it, on a model and a corpus so small that it takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, run_cli

CONFIG = "configs/multi30k_en_fr.yaml"
SMALL = [
    *("--synthetic", "300", "--vocab", "120", "--threads", "1", "--train.max_tokens", "512"),
    *("--model.d_model", "16", "--model.d_ff", "32", "--model.n_encoder_layers", "1", "--model.n_decoder_layers", "1"),
]
# Stands in front of the program: these packages cannot be imported, and look as if they were not installed.
BLOCKER = """
import sys
for name in ("datasets", "evaluate", "tensorboard", "transformers", "pyarrow"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What the command printed and the JSON that it wrote."""
    path = tmp_path_factory.mktemp("bench") / "found.json"
    options = ["--systems", "ours,original", "--workers", "0", "--precision", "no", "--seconds", "0.2", "--rounds", "2"]
    options += ["--train.tf32", "true"]
    done = run_cli("bench", "--config", CONFIG, *SMALL, *options, "--json", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_it_prints_one_table_and_writes_every_round(found: tuple[str, dict]) -> None:
    text, values = found
    rows = [line for line in text.splitlines() if line.startswith("|")]

    assert text.startswith("| system |")
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["ours (float32)", "original (float32)"]
    assert len({row.count("|") for row in rows}) == 1
    assert [len(system["rounds"]) for system in values["systems"]] == [2, 2]
    assert values["settings"]["vocabularies"] == [120, 120]
    assert values["machine"]["threads"] == 1
    remarks = ("float32 matrix products in TF32.", "train.tf32 has no effect: only NVIDIA GPUs")
    assert sum(f"- All systems and the peak: {remark}" in text for remark in remarks) == 1


@pytest.mark.slow
def test_its_numbers_fit_together(found: tuple[str, dict]) -> None:
    _, values = found
    ours, original = values["systems"]

    for system in (ours, original):
        assert all(turn["n_updates"] > 0 and turn["model_flops"] > 0 for turn in system["rounds"])
        assert sum(system["time_shares"].values()) == pytest.approx(1)
        assert min(system["time_shares"].values()) >= 0
        assert system["computed_flops_per_s"] > system["model_flops_per_s"]
        assert 0 < system["share_of_matmul_peak"] < 1
        assert 0 <= system["padding_share"] < 1
    assert ours["n_parameters"] == original["n_parameters"]
    assert ours["padding_share"] < 0.15 < 0.6 < original["padding_share"]
    assert values["ratios"][0]["ratio"] == pytest.approx(ours["tgt_tokens_per_s"] / original["tgt_tokens_per_s"])


@pytest.mark.slow
def test_synthetic_lengths_need_no_package_for_corpora_scores_or_curves() -> None:
    program = f"""{BLOCKER}
import accel_tx.bench.command, accel_tx.bench.peer_hf, accel_tx.bench.original, accel_tx.bench.loss
from accel_tx.bench.ours import train_ours
from accel_tx.bench.turns import Turns
from accel_tx.bench.workload import load_workload
from accel_tx.config import build_config
import torch
from multiprocessing import Pipe
train = {{"epochs": 1, "max_tokens": 1024}}
config = build_config({{"model": {{"d_model": 16, "d_ff": 16, "n_heads": 2}}, "train": train}})
workload = load_workload(config, 200, 100)
ours, theirs = Pipe()
for order in (0.0, 0.0, None):
    ours.send(order)
train_ours(config, workload, Turns(theirs, torch.device("cpu"), config.model, workload))
answers = [ours.recv() for _ in range(3)]
assert answers[0]["n_parameters"] > 0 and [a["turn"].n_updates for a in answers[1:]] == [1, 1], answers
print("trained")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)

    assert done.stdout == "trained\n", done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "ours,theirs"], "--systems theirs: expected some of ours, original, original-before, hf"),
        (["--precision", "int8"], "--precision int8: expected some of auto, no, bf16, fp16"),
        (["--precision", "fp16"], "train.precision is fp16 but there is no GPU"),
        (["--rounds", "0"], "--rounds 0: expected 1 to 10,000"),
        (["--vocab", "5000000000"], "--vocab 5000000000: expected 10 to 16,777,216"),
        (["--synthetic", "1000000000000"], "--synthetic 1000000000000: expected 64 to 100,000,000"),
        (["--threads", "1000000"], "--threads 1000000: expected 1 to 1,024"),
        (["--workers", "0,5000"], "--workers 5000: expected 0 to 1,024"),
        (["--optim.name", "muon"], "bench: optim.name is muon, which original and original-before cannot do; expected"),
        (["--train.gradient_checkpointing", "true"], "bench: train.gradient_checkpointing is True, which original"),
        (["--measure", "loss", "--rounds", "7"], "--rounds: --measure loss does not look at it; expected it with"),
        (["--run_dir", "runs/x"], "--run_dir: --measure speed does not look at it; expected it with --measure decode"),
        (["--seconds", "-1"], "--seconds -1.0: expected more than 0"),
        (["--workers", "two"], "--workers two: expected numbers such as 0,2"),
        (["--peer", "joey"], "--peer"),
        (
            ["--model.positions", "rotary"],
            "bench: model.positions is rotary, which original and original-before cannot",
        ),
        (["--model.quantization", "int8"], "bench: model.quantization is int8, which original and"),
        (["--optim.r_drop", "5", "--systems", "ours,original"], "bench: optim.r_drop is 5.0, which original cannot do"),
    ],
)
def test_bad_options_get_one_line_and_status_2(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from accel_tx.cli import main

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--config", str(REPOSITORY / CONFIG), *SMALL, *options])

    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("accel_tx: ")
    assert message in line


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from accel_tx.bench import command
    from accel_tx.cli import main

    def run_bench(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(command, "run_bench", run_bench)
    path = tmp_path / "missing" / "found.json"
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--config", str(REPOSITORY / CONFIG), *SMALL, "--json", str(path)])

    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"accel_tx: {path}: cannot be written (No such file or directory)\n"


def test_a_missing_peer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from accel_tx.cli import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--config", str(REPOSITORY / CONFIG), *SMALL, "--peer", "hf"])

    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("accel_tx: --peer hf needs transformers>=5.0 (not installed here): pip ")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_no_system_trains_on_when_the_command_is_killed() -> None:
    options = [*SMALL, "--systems", "ours", "--workers", "0", "--precision", "no", "--seconds", "3000"]
    command = subprocess.Popen(
        [sys.executable, "-m", "accel_tx", "bench", "--config", CONFIG, *options],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    with command.stderr:
        # Its warm-up alone would take minutes.
        assert command.stderr.readline() == "warm-up: ours (no)\n"
        listed = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text(encoding="utf-8")
        command.kill()
    command.wait()
    children = [Path(f"/proc/{pid}") for pid in listed.split()]
    until_s = time.monotonic() + 60
    while any(child.exists() for child in children) and time.monotonic() < until_s:
        time.sleep(0.05)

    assert len(children) >= 2
    assert not any(child.exists() for child in children)
