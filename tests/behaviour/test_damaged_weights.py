"""Weights that are damaged, not finite or not there: every command that reads them refuses in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.train.checkpoint_writer import save_weights
from accel_tx.train.loop import train
from tests.conftest import as_options

SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 4, "max_tokens": 96, "save_every_updates": 4},
    "validation": {"every_updates": 2, "average_last": 2, "n_samples": 0},
}
CHECKPOINT, VALIDATED = "checkpoints/update_00000004", "validated/update_00000004"


@pytest.fixture
def run_dir(intact: Path, tiny_config: Callable[..., Config], tmp_path: Path) -> Path:
    """A copy of a complete run with an average."""
    if not intact.exists():
        train(tiny_config(**SMALL), intact)
        main(["average", "--run_dir", str(intact), "--last", "2"])
    shutil.copytree(intact, tmp_path / "run")
    (tmp_path / "text").write_text("The old man reads.\nWe eat.\n")
    return tmp_path / "run"


def zero(path: Path) -> None:
    """As a copy does that was cut off after the size was set: the header is whole, the second half is zeros."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))


def plant(run_dir: Path, tensor: str, value: float) -> None:
    """Write weights of which one number is this into `best/`, as a training would."""
    weights = load_file(run_dir / "best" / "model.safetensors")
    weights[tensor].view(-1)[3] = value
    assert save_weights(weights, run_dir / "best", json.loads((run_dir / "best" / "scores.json").read_text())) is None


def calls(run_dir: Path, config: Config) -> dict[str, list[str]]:
    """The commands that read the weights of a run, but for which ones."""
    text, run = str(run_dir.parent / "text"), ["--run_dir", str(run_dir)]
    out = run_dir.parent / "out"
    decode = ["--config", str(run_dir / "config.yaml"), *as_options(config), "--rounds", "1", "--precision", "no"]
    return {
        "translate": ["translate", *run, "--input", text, "--output", f"{out}.txt"],
        "evaluate": ["evaluate", *run, "--src", text, "--ref", text],
        "score": ["score", *run, "--src", text, "--tgt", text, "--output", f"{out}.tsv"],
        "attention": ["attention", *run, "--input", "We eat.", "--output", f"{out}.png"],
        "export": ["export", *run, "--sentences", text, "--format", "safetensors", "--output", str(out)],
        "bench": ["bench", *run, "--measure", "decode", *decode],
    }


COMMANDS = ["translate", "evaluate", "score", "attention", "export", "bench"]


def one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int = 2) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == status, error
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_uses_weights_whose_bytes_are_not_those_that_were_written(
    run_dir: Path, command: str, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (CHECKPOINT, "best", "final", "average", VALIDATED)[: None if command == "translate" else 2]:
        path = run_dir / folder / "model.safetensors"
        zero(path)
        said = one_line(capsys, [*calls(run_dir, tiny_config(**SMALL))[command], "--weights", folder])
        assert f"{path}: is damaged" in said
        assert "give other weights" in said
    assert {path.name for path in run_dir.parent.iterdir()} == {"run", "text"}


def test_neither_an_average_nor_another_training_is_made_of_damaged_weights(
    run_dir: Path, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_dir / CHECKPOINT)
    for folder in ("best", VALIDATED):
        zero(run_dir / folder / "model.safetensors")
    said = one_line(capsys, ["average", "--run_dir", str(run_dir), "--last", "2", "--output", f"{run_dir}/new"])
    assert f"{VALIDATED}/model.safetensors: is damaged" in said
    begin = ["train", "--config", str(run_dir / "config.yaml"), "--run_dir", str(run_dir.parent / "new")]
    said = one_line(capsys, [*begin, "--init_from", str(run_dir), *as_options(tiny_config(**SMALL))])
    assert "best/model.safetensors: is damaged" in said
    assert not (run_dir / "new").exists()


def test_no_average_is_made_of_numbers_that_are_not_finite(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(run_dir / VALIDATED / "model.safetensors")
    weights[next(iter(weights))].view(-1)[0] = torch.nan
    kept = json.loads((run_dir / VALIDATED / "scores.json").read_text())
    assert save_weights(weights, run_dir / VALIDATED, kept) is None
    shutil.rmtree(run_dir / CHECKPOINT)
    said = one_line(capsys, ["average", "--run_dir", str(run_dir), "--last", "2", "--output", f"{run_dir}/new"])
    assert "holds 1 of" in said
    assert not (run_dir / "new").exists()


def test_folders_of_earlier_versions_have_no_hash_and_are_read(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = run_dir / "best" / "scores.json"
    scores.write_text(json.dumps({k: v for k, v in json.loads(scores.read_text()).items() if k != "sha256"}))
    main(["translate", "--run_dir", str(run_dir), "--input", str(run_dir.parent / "text")])
    main(["checkpoints", "--run_dir", str(run_dir), "--verify"])
    lines = capsys.readouterr().out.splitlines()
    ends = {line.split()[0]: line for line in lines if line.rstrip().endswith(("whole", "no hash is recorded"))}
    assert ends["best"].rstrip().endswith("sizes fit, no hash is recorded")
    assert ends["final"].rstrip().endswith("whole")
    scores.write_text("{")
    said = one_line(capsys, ["translate", "--run_dir", str(run_dir), "--input", str(run_dir.parent / "text")])
    assert f"{scores}: is missing or damaged" in said


def test_the_hash_of_an_export_is_that_of_its_own_file(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, out = str(run_dir.parent / "text"), run_dir.parent / "out"
    options = ["--sentences", text, "--format", "safetensors", "--output", str(out)]
    main(["export", "--run_dir", str(run_dir), "--weights", CHECKPOINT, *options])
    main(["translate", "--run_dir", str(out), "--input", text])
    zero(out / "model.safetensors")
    assert "model.safetensors: is damaged" in one_line(capsys, ["translate", "--run_dir", str(out), "--input", text])


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_not_finite_are_refused_with_the_name_of_the_tensor(
    run_dir: Path, command: str, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (float("nan"), float("-inf")):
        plant(run_dir, "output_bias", value)
        said = one_line(capsys, calls(run_dir, tiny_config(**SMALL))[command])
        assert f"{run_dir}/best/model.safetensors: output_bias holds 1 of" in said


@pytest.mark.parametrize("command", ["translate", "evaluate", "score", "attention", "export"])
def test_activations_that_overflow_end_a_command_in_one_line(
    run_dir: Path, command: str, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(run_dir / "best" / "model.safetensors")
    embedding = next(name for name in weights if "embed" in name)
    weights[embedding] = torch.full_like(weights[embedding], 3e38)
    assert save_weights(weights, run_dir / "best", {"update": 4, "data_sha256": "", "run": ""}) is None
    said = one_line(capsys, calls(run_dir, tiny_config(**SMALL))[command], status=1)
    assert "scores are not finite: its activations overflow in float32" in said


def test_a_sample_is_not_drawn_from_scores_that_are_not_finite(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(run_dir / "best" / "model.safetensors")
    embedding = next(name for name in weights if "embed" in name)
    weights[embedding] = torch.full_like(weights[embedding], 3e38)
    assert save_weights(weights, run_dir / "best", {"update": 4}) is None
    options = ["--input", str(run_dir.parent / "text"), "--sampling", "true", "--precision", "bfloat16"]
    said = one_line(capsys, ["translate", "--run_dir", str(run_dir), *options], status=1)
    assert "its activations overflow in bfloat16" in said


def test_weights_that_are_not_there_are_answered_with_those_that_are(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(weights: str) -> str:
        return one_line(capsys, ["translate", "--run_dir", str(run_dir), "--input", "-", "--weights", weights])

    assert f"has average, best, final, {CHECKPOINT}, {VALIDATED}" in said("bestt")
    assert "did you mean --weights best?" in said("bestt")
    assert f"did you mean --weights {CHECKPOINT}?" in said("update_00000004")
    for name in ("average", "best"):
        shutil.rmtree(run_dir / name)
    assert f"`python -m accel_tx average --run_dir {run_dir} --last 2` makes them" in said("average")
    assert "the first validation makes them" in said("best")


def test_an_empty_option_and_a_folder_inside_a_run_are_answered_in_one_clear_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--run_dir is empty; expected" in one_line(capsys, ["translate", "--run_dir", ""])
    assert "--run_dir is empty; expected" in one_line(capsys, ["checkpoints", "--run_dir", ""])
    assert "--input is empty; expected" in one_line(capsys, ["translate", "--run_dir", str(run_dir), "--input", ""])
    assert "--ref is empty" in one_line(capsys, ["evaluate", "--run_dir", str(run_dir), "--src", "a", "--ref", ""])
    for command in (["translate"], ["checkpoints"], ["average", "--last", "2"]):
        said = one_line(capsys, [*command, "--run_dir", str(run_dir / "best")])
        assert f"{run_dir / 'best'}: holds no run but lies in one; give {run_dir}, and --weights best" in said
    monkeypatch.chdir(run_dir / "checkpoints")
    said = one_line(capsys, ["translate", "--run_dir", "."])
    assert said.rstrip().endswith(f"give {run_dir}")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("best/scores.json", b'{"update": 4, "data_sh', "best/scores.json: is damaged; give other weights, or copy"),
        ("best/scores.json", b"\xff\xfe", "best/scores.json: is damaged; give other weights, or copy"),
        ("best/scores.json", b"[4]", "best/scores.json: is damaged; give other weights, or copy"),
        (f"{CHECKPOINT}/trainer_state.json", b"", f"{CHECKPOINT}/trainer_state.json: is damaged; give other weights"),
        ("best/scores.json", b'{"update": 4}', "best: does not say what its weights were trained on (data_sha256)"),
    ],
)
def test_what_stands_beside_weights_is_named_where_it_does_not_tell_their_data(
    file: str, content: bytes, message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / file).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--run_dir", str(run_dir), "--weights", str(Path(file).parent)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"accel_tx: {run_dir}/{message}")
