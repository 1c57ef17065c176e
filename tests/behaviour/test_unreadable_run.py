"""A run folder that cannot be looked into is one line, whatever the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_tx.cli import main
from accel_tx.config import UserError
from accel_tx.inference.weights import check_is_run, load_scores, weights_folder

TOO_LONG = "x" * 300
COMMANDS: dict[str, list[str]] = {
    "evaluate": ["--json", "out.json"],
    "translate": ["--output", "out"],
    "score": ["--src", "text", "--tgt", "text"],
    "attention": ["--input", "We eat."],
    "export": ["--format", "safetensors", "--output", "out"],
    "checkpoints": [],
    "average": ["--last", "2"],
}


@pytest.mark.parametrize("command", [*COMMANDS, "report"])
def test_a_name_that_is_too_long_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("We eat.\n")
    given = ["--run_dirs", TOO_LONG] if command == "report" else ["--run_dir", TOO_LONG, *COMMANDS[command]]
    with pytest.raises(SystemExit) as ended:
        main([command, *given])
    assert ended.value.code == 2
    told = f"{TOO_LONG}/config.yaml: cannot be read (File name too long); expected a folder made by `train`"
    assert capsys.readouterr() == ("", f"accel_tx: {told}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_weights_that_may_not_be_looked_at_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # root may look everywhere
        patch.setattr(Path, "stat", refuse)
        for check in (check_is_run, load_scores, lambda folder: weights_folder(folder, "best")):
            with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); expected a folder made by"):
                check(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read \(File name too long\); expected a folder made by"):
        weights_folder(tmp_path, TOO_LONG)
