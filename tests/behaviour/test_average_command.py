"""`average`: what it takes, what it refuses, and that its weights can be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from accel_tx.cli import main
from accel_tx.config import build_config
from accel_tx.train.loop import train
from tests.conftest import TINY

SMALL: dict[str, dict[str, Any]] = {
    "data": {"phrasebook_train_pairs": 90, "phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "save_every_updates": 4, "keep_checkpoints": 2},
    "validation": {"every_updates": 2, "average_last": 3, "n_samples": 0},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> dict[int, Path]:
    """A run of each of two seeds."""
    found = {}
    for seed in (1, 2):
        values: dict[str, dict[str, Any]] = {
            name: {**TINY.get(name, {}), **SMALL.get(name, {})} for name in {*TINY, *SMALL}
        }
        values["data"]["cache_dir"] = str(cache_dir)
        values["train"]["seed"] = seed
        found[seed] = tmp_path_factory.mktemp("runs") / str(seed)
        train(build_config(values), found[seed])
    return found


def averaged(run_dir: Path, name: str = "average") -> list[str]:
    return json.loads((run_dir / name / "scores.json").read_text())["averaged"]  # type: ignore[no-any-return]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["average", *map(str, arguments)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_the_last_ones_are_averaged_and_can_be_evaluated(
    runs: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = runs[1]
    main(["average", "--run_dir", str(run_dir), "--last", "3"])
    names = ["checkpoints/update_00000004", "validated/update_00000006", "checkpoints/update_00000008"]
    assert averaged(run_dir) == names
    printed = capsys.readouterr().out
    assert f"the mean of 3: {', '.join(names)}" in printed
    mean = load_file(run_dir / "average" / "model.safetensors")
    parts = [load_file(run_dir / name / "model.safetensors") for name in names]
    for name, tensor in mean.items():
        assert torch.equal(tensor, torch.stack([part[name].double() for part in parts]).mean(0).float())
    main(["evaluate", "--run_dir", str(run_dir), "--weights", "average"])
    assert "BLEU" in capsys.readouterr().out
    main(["checkpoints", "--run_dir", str(run_dir)])
    assert "average" in capsys.readouterr().out


def test_the_best_ones_go_by_the_metric_of_the_run(runs: dict[int, Path], tmp_path: Path) -> None:
    run_dir = runs[1]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    invented = {2: 9.0, 4: 1.0, 6: 5.0, 8: 3.0}
    for line in lines:
        if "val_loss" in line:
            line["bleu"] = invented[line["update"]]
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"upd')
    main(["average", "--run_dir", str(copy), "--best", "2"])
    assert averaged(copy) == ["validated/update_00000002", "validated/update_00000006"]


def test_named_ones_of_one_run_are_taken_from_anywhere(runs: dict[int, Path], tmp_path: Path) -> None:
    run_dir = runs[1]
    path = run_dir / "validated" / "update_00000002"
    output = tmp_path / "mean"
    main(
        [
            "average",
            "--run_dir",
            str(run_dir),
            "--checkpoints",
            "update_00000008",
            str(path),
            "final",
            "--output",
            str(output),
        ]
    )
    assert averaged(tmp_path, "mean") == ["checkpoints/update_00000008", "validated/update_00000002", "final"]


def test_what_does_not_belong_together_is_refused_in_one_line(
    runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = runs[1], runs[2]
    given = ("--run_dir", first, "--output", tmp_path / "mean", "--checkpoints", "update_00000008")
    for foreign in (other / "checkpoints" / "update_00000004", other / "validated" / "update_00000004", other / "best"):
        assert "is of another run than" in refusal(capsys, *given, foreign)
    both = [other / "checkpoints" / f"update_{update:08d}" for update in (4, 8)]
    assert "is of another run than" in refusal(capsys, "--run_dir", first, "--checkpoints", *both)
    (tmp_path / "odd").mkdir()
    save_file({"w": torch.zeros(1)}, tmp_path / "odd" / "model.safetensors")
    assert "does not say which run it is of" in refusal(capsys, *given, tmp_path / "odd")
    scores = json.loads((first / "final" / "scores.json").read_text())
    del scores["sha256"]
    (tmp_path / "odd" / "scores.json").write_text(json.dumps(scores))
    assert "expected the weights of one model" in refusal(capsys, *given, tmp_path / "odd")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "none given; expected one, such as --last 2"),
        (["--last", "2", "--best", "2"], "last and best given; expected one"),
        (["--last", "1"], "--last is 1; expected at least 2"),
        (["--last", "9"], "saved weights: "),
        (["--best", "9"], "saved weights that were validated: "),
        (["--checkpoints", "update_00000008"], "names 1 folder; expected at least 2"),
        (["--checkpoints", "update_00000008", "update_00000008"], "is given twice"),
        (["--checkpoints", "update_00000008", "update_00000003"], "update_00000003: no weights there"),
        (["--last", "2", "--output", "/nowhere/mean"], "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(
    arguments: list[str], message: str, runs: dict[int, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "--run_dir", runs[1], *arguments)


def test_other_folders_and_damaged_checkpoints_are_left_alone(
    runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs[1], copy)
    best = (copy / "best" / "model.safetensors").read_bytes()
    error = refusal(capsys, "--run_dir", copy, "--last", 2, "--output", copy / "best")
    assert "is there and holds no average" in error
    assert (copy / "best" / "model.safetensors").read_bytes() == best
    file = copy / "checkpoints" / "update_00000008" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "is damaged: model.safetensors is damaged" in refusal(capsys, "--run_dir", copy, "--last", 2)
    shutil.rmtree(copy / "validated")
    for path in (copy / "checkpoints").glob("update_*/trainer_state.json"):
        path.write_text("{")
    main(["average", "--run_dir", str(copy), "--checkpoints", "best", "final"])
    assert averaged(copy) == ["best", "final"]
    capsys.readouterr()
    assert "holds no run" in refusal(capsys, "--run_dir", tmp_path, "--last", 2)


def test_what_is_averaged_is_not_replaced(
    runs: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["average", "--run_dir", str(runs[1]), "--last", "2", "--output", str(tmp_path / "mean")])
    capsys.readouterr()
    (tmp_path / "link").symlink_to("mean")
    given = ["--checkpoints", str(tmp_path / "mean"), "update_00000008", "--output", str(tmp_path / "link")]
    told = refusal(capsys, "--run_dir", runs[1], *given)
    assert told == f"accel_tx: --output {tmp_path}/link is also a folder that is averaged; give another name\n"
