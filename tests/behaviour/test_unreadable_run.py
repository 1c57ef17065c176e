"""A run folder that cannot be looked into is one line, whatever the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.tokenizers import tokenizer_ja_mecab

from accel_tx.cli import main
from accel_tx.config import Config, UserError
from accel_tx.inference.weights import check_is_run, load_scores, weights_folder
from accel_tx.train import loop
from accel_tx.train.average_saved import saved_weights
from accel_tx.train.checkpoint_table import list_entries
from tests.conftest import REPOSITORY, as_options

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


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--run_dir", "/proc/x", r"/proc/x: cannot be (made|written) .*/proc.*; give another --run_dir"),
        (
            "--train.mirror_dir",
            "/proc/x",
            r"/proc/x: cannot be (made|written) .*/proc.*; give another train.mirror_dir",
        ),
        ("--validation.tokenize", "ja-mecab", r"validation.tokenize ja-mecab: sacreBLEU cannot use it here .*"),
    ],
)
def test_what_a_training_cannot_write_or_score_is_told_before_the_data_is_prepared(
    option: str,
    value: str,
    told: str,
    tmp_path: Path,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "prepare_data", None)
    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    given = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml"), *as_options(tiny_config())]
    with pytest.raises(SystemExit) as ended:
        main(["train", *given, "--run_dir", str(tmp_path / "above" / "run"), option, value])
    assert ended.value.code == 2
    assert re.fullmatch(f"accel_tx: {told}\n", capsys.readouterr().err)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("below", ["", "/run"])
@pytest.mark.parametrize(
    ("command", "option"),
    [("train", "--run_dir"), ("train", "--train.mirror_dir"), ("check", "--run_dir"), ("find-lr", "--run_dir")],
)
def test_links_that_lead_in_a_circle_or_nowhere_are_one_line(
    command: str,
    option: str,
    below: str,
    tmp_path: Path,
    tiny_config: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "loop").symlink_to("back")
    (tmp_path / "back").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    given = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml"), *as_options(tiny_config())]
    for name, told in (
        ("loop", "cannot be used (Too many levels of symbolic links)"),
        ("gone", "is a link to a folder"),
    ):
        path = f"{tmp_path / name}{below if name == 'loop' else ''}"
        run_dir = [] if option == "--run_dir" else ["--run_dir", str(tmp_path / "run")]
        with pytest.raises(SystemExit) as ended:
            main([command, *given, *run_dir, option, path])
        assert ended.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert {f"accel_tx: {path}" in line and told in line for line in lines} == {True}
        assert not (tmp_path / "run").exists()


def test_the_home_of_the_user_may_be_written_short(
    tmp_path: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text("train: {mirror_dir: ~/mirror}\n")
    options = [word for word in as_options(tiny_config(train={"max_updates": 1})) if "mirror_dir" not in word]
    main(["train", *options, "--config", str(config), "--run_dir=~/run"])
    assert (tmp_path / "run" / "final").is_dir()
    assert (tmp_path / "mirror" / "final").is_dir()
    main(["checkpoints", "--run_dir=~/run"])


@pytest.mark.parametrize("command", ["train", "check", "find-lr"])
@pytest.mark.parametrize("option", ["--run_dir", "--init_from", "--train.mirror_dir"])
def test_a_name_that_is_too_long_for_a_training_is_one_line(
    command: str,
    option: str,
    tmp_path: Path,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "find-lr" and option == "--train.mirror_dir":
        pytest.skip("it neither reads nor writes the mirror")
    monkeypatch.chdir(tmp_path)
    given = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml"), *as_options(tiny_config())]
    run_dir = [] if option == "--run_dir" else ["--run_dir", "run"]
    with pytest.raises(SystemExit) as ended:
        main([command, *given, *run_dir, option, TOO_LONG])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert all(line.startswith("accel_tx: ") for line in told)
    of_it = [line for line in told if TOO_LONG in line]
    assert len(of_it) == 1 or command == "check"  # which lists all that is in the way
    assert all(": cannot be used (File name too long); expected a folder that" in line for line in of_it)
    assert not Path("run").exists()


def test_checkpoints_that_may_not_be_listed_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("{}")

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    with monkeypatch.context() as patch:  # root may list everything
        patch.setattr(Path, "iterdir", refuse)
        for listed in (lambda folder: list_entries(folder, verify=False), saved_weights):
            with pytest.raises(UserError, match=r"cannot be used \(Permission denied\); expected a folder that"):
                listed(tmp_path)


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


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"update": "abc", "bleu": None}, 'update is "abc"'),
        ({"update": 3, "bleu": None}, "bleu is null"),
        ({"update": True}, "update is true"),
        ({"update": 3.5}, "update is 3.5"),
        ({"chrf": [1] * 99}, r"chrf is \[1, 1"),
        ({"signature": 1}, "signature is 1"),
        ({"trained_s": "long"}, 'trained_s is "long"'),
        ({"update": 3, "bleu": 1, "chrf": 2.5, "val_loss": None, "signature": "x"}, None),
    ],
)
def test_scores_that_somebody_edited_are_one_line(values: dict[str, Any], told: str | None, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps(values))
    if told is None:
        assert load_scores(tmp_path) == values
        return
    with pytest.raises(UserError, match=rf"scores\.json: is damaged: {told}.*; give other weights, or copy") as caught:
        load_scores(tmp_path)
    assert "\n" not in str(caught.value)
