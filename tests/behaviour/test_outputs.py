"""No command writes over what it reads, nor one of its outputs over another: one line before any work, status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel_tx.cli import main
from accel_tx.cli.outputs import files_of_run
from tests.conftest import REPOSITORY

CORPUS = ("--config", "quick.yaml", "--data.corpus", "corpus", "--data.cache_dir", "cache")
OF_RUN = ("--run_dir", "run")
CASES: dict[str, tuple[list[str], str]] = {
    "the reference": (
        ["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "c", "--output", "./c"],
        "--output ./c is also --ref",
    ),
    "the source, by a link": (
        ["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "--json", "link"],
        "--json link is also --src",
    ),
    "the other output": (
        ["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "--output", "new", "--json", "./new"],
        "--json ./new is also --output",
    ),
    "the translations": (["evaluate", "--hyp", "a", "--ref", "b", "--json", "a"], "--json a is also --hyp"),
    "another system": (
        ["evaluate", "--hyp", "a", "--ref", "b", "--against", "b", "c", "--json", "hard"],
        "--json hard is also --against",
    ),
    "the weights": (
        ["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "--json", "run/best/scores.json"],
        "--json run/best/scores.json is also a file of --run_dir",
    ),
    "the text": (["translate", *OF_RUN, "--input", "a", "--output", "a"], "--output a is also --input"),
    "the text, by a link": (["translate", *OF_RUN, "--input", "link", "--output", "a"], "--output a is also --input"),
    "one side": (["score", *OF_RUN, "--src", "a", "--tgt", "b", "--output", "b"], "--output b is also --tgt"),
    "the picture": (
        ["attention", *OF_RUN, "--input", "We eat.", "--output", "x.pdf", "--json", "x.pdf"],
        "--json x.pdf is also --output",
    ),
    "the config": (["data", *CORPUS, "--report", "quick.yaml"], "--report quick.yaml is also --config"),
    "the corpus": (
        ["data", *CORPUS, "--html", "corpus/train.fr"],
        "--html corpus/train.fr is also a file of the corpus",
    ),
    "both reports": (["data", *CORPUS, "--report", "x", "--html", "x"], "--html x is also --report"),
    "the corpus that is measured": (
        ["bench", *CORPUS, "--measure", "padding", "--json", "corpus/train.en"],
        "--json corpus/train.en is also a file of the corpus",
    ),
    "the curve": (
        ["report", "--run_dirs", "run", "--output", "run/metrics.jsonl"],
        "--output run/metrics.jsonl is also a file of --run_dirs",
    ),
    "the exported model": (
        ["export", "--run_dir", "model", "--format", "safetensors", "--output", "model"],
        "--output model is also --run_dir",
    ),
    "the sentences": (
        ["export", *OF_RUN, "--format", "safetensors", "--output", "model", "--sentences", "model/README.md"],
        "--output model is also --sentences",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the cases name; the run and the model cannot be loaded."""
    for name in ("run/best", "corpus", "model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "quick.yaml").write_text(Path("configs/quickstart.yaml").read_text())
    names = ("a", "b", "c", "corpus/train.en", "corpus/train.fr", "run/metrics.jsonl", "run/best/scores.json")
    for name in (*names, "model/README.md"):
        (tmp_path / name).write_text("We eat.\n")
    (tmp_path / "model" / "export.json").write_text('{"files": ["README.md", "export.json"]}')
    (tmp_path / "link").symlink_to("a")
    os.link(tmp_path / "c", tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_or_written_already_is_refused(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = CASES[case]
    before = content(folder)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"accel_tx: {message}; give another name\n")
    assert content(folder) == before


def test_the_file_that_standard_input_comes_from_is_an_input(folder: Path) -> None:
    before = content(folder)
    command = [sys.executable, "-m", "accel_tx", "translate", "--run_dir", "run", "--output", str(folder / "a")]
    with (folder / "a").open() as file:
        done = subprocess.run(command, stdin=file, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (2, f"accel_tx: --output {folder}/a is also --input; give another name\n")
    assert content(folder) == before


def test_devices_and_pipes_may_be_named_more_than_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    for name in ("/dev/null", "/dev/stderr", "pipe"):
        with pytest.raises(SystemExit):
            main(["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "--output", name, "--json", name])
        assert "run: holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("names", [("-", "-"), ("/dev/stdout", "-")])
def test_two_outputs_are_not_both_standard_output(
    names: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *OF_RUN, "--src", "a", "--ref", "b", "--output", names[0], "--json", names[1]])
    assert ended.value.code == 2
    told = "--output and --json: both are standard output; expected a file for one of them"
    assert capsys.readouterr() == ("", f"accel_tx: {told}\n")


@pytest.mark.parametrize("option", ["--json", "--hyp"])
def test_a_link_to_itself_is_one_line(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "loop").symlink_to("loop")
    given = {"--hyp": "a", "--json": "out.json", option: "loop"}
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--ref", "b", *(word for pair in given.items() for word in pair)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("accel_tx: loop: cannot be ")
    assert told.count("\n") == 1
    assert (folder / "loop").is_symlink()


def test_of_a_run_only_what_train_writes_is_an_input(folder: Path) -> None:
    for name in ("run/scores_of_a.jsonl", "run/best/map.png", "run/tokenizer/src.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    found = [path.relative_to("run").as_posix() for path in files_of_run("run", "best")]
    assert found == ["metrics.jsonl", "tokenizer/src.json", "best/scores.json"]


def test_an_earlier_output_is_replaced(folder: Path) -> None:
    for _ in range(2):
        main(["evaluate", "--hyp", "a", "--ref", "b", "--json", "run/scores_of_a.json", "--n_resamples", "0"])
    assert (folder / "run" / "scores_of_a.json").read_text().startswith("{")
