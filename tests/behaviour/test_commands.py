"""The commands as a user types them: data, train, evaluate, translate; and what bad input gets."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import accel_tx
from accel_tx import options as opt
from accel_tx.cli import _COMMANDS, main
from accel_tx.config import Config, build_config
from accel_tx.data.dataset import prepare_data
from accel_tx.inference.metrics import score_translations
from accel_tx.train.loop import train
from tests.cli_parsers import parser_of
from tests.conftest import REPOSITORY, as_options, run_cli
from tests.ranks import start_ranks

CONFIG = "configs/quickstart.yaml"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run, made by the command itself."""
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("runs") / "short"
    options = [f"--{section}.{name}={value}" for section, fields in TINY.items() for name, value in fields.items()]
    options += [f"--data.cache_dir={folder.parent / 'cache'}"]
    done = run_cli("train", "--config", CONFIG, "--run_dir", str(folder), *options)
    assert done.returncode == 0, done.stderr
    assert "complete after update 40" in done.stdout
    return folder


def test_a_run_leaves_what_the_readme_says(run_dir: Path) -> None:
    assert {path.name for path in run_dir.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "starts.jsonl",
        "tensorboard",
        "tokenizer",
        "clean_report.json",
        "checkpoints",
        "best",
        "final",
    }
    first = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert {"update", "epoch", "loss", "lr", "grad_norm", "tgt_tokens_per_s", "padding_share"} <= first.keys()
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"update", "val_loss", "bleu", "chrf", "cer", "wer", "signature"} <= last.keys()
    assert list((run_dir / "tensorboard").glob("events.*"))


def test_tensorboard_holds_the_curves_and_the_samples(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "validation/bleu", "validation/val_loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == list(range(5, 41, 5))
    assert any("samples" in tag for tag in events.Tags()["tensors"])


def test_translate_keeps_the_order_and_the_empty_lines(run_dir: Path, tmp_path: Path) -> None:
    lines = ["The old man reads.", "", "My sister is tired.", "   ", "We eat.\r"]
    done = run_cli("translate", "--run_dir", str(run_dir), stdin="".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("\n")
    assert len(answers) == 6
    assert answers[1] == answers[3] == answers[5] == ""
    alone = run_cli("translate", "--run_dir", str(run_dir), stdin=lines[2])
    assert alone.stdout == answers[2] + "\n"
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")]
    assert run_cli("translate", "--run_dir", str(run_dir), *arguments).returncode == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == done.stdout


def test_evaluate_scores_a_file_like_sacrebleu_and_the_validation_set_like_the_training(
    run_dir: Path, tmp_path: Path
) -> None:
    recorded = json.loads((run_dir / "best" / "scores.json").read_text())
    greedy = ["--beam_size", "1"]  # as the training validates
    done = run_cli("evaluate", "--run_dir", str(run_dir), *greedy, "--json", str(tmp_path / "valid.json"))
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "valid.json").read_text())
    assert scores["n_sentences"] == 23
    assert [scores[name] for name in ("bleu", "chrf", "cer", "wer")] == pytest.approx(
        [recorded[name] for name in ("bleu", "chrf", "cer", "wer")]
    )
    assert scores["signatures"]["bleu"] in done.stdout
    (tmp_path / "src").write_text("The old man reads.\nWe eat.\n", encoding="utf-8")
    (tmp_path / "ref").write_text("Le vieil homme lit.\nNous mangeons.\n", encoding="utf-8")
    files = ["--src", str(tmp_path / "src"), "--ref", str(tmp_path / "ref"), "--json", str(tmp_path / "file.json")]
    assert run_cli("evaluate", "--run_dir", str(run_dir), *files).returncode == 0
    hypotheses = run_cli("translate", "--run_dir", str(run_dir), "--input", str(tmp_path / "src")).stdout.splitlines()
    expected = score_translations(hypotheses, ["Le vieil homme lit.", "Nous mangeons."])
    assert json.loads((tmp_path / "file.json").read_text())["chrf"] == pytest.approx(expected.chrf)


def test_data_prints_the_report_and_finds_its_cache_the_second_time(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    options = as_options(tiny_config(data={"cache_dir": str(tmp_path / "cache")}, clean={"min_src_chars": 20}))
    files = ["--report", str(tmp_path / "report.json"), "--html", str(tmp_path / "report.html")]
    first = run_cli("data", "--config", CONFIG, *options, *files)
    assert first.returncode == 0, first.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n_read"] == 600
    assert report["n_read"] == report["n_kept"] + sum(report["dropped"].values())
    assert report["dropped"]["min_src_chars"] > 0
    assert report["notes"] == []
    assert "written to" in first.stdout
    assert max(len(line) for line in first.stdout.splitlines()[:-1]) <= 100
    assert f"{report['forecast']['n_parameters']:,}" in first.stdout
    assert report["statistics"]["text"]["before"]["src_chars"]["n"] == 600
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    second = run_cli("data", "--config", CONFIG, *options)
    assert "found in" in second.stdout
    assert "tokenize" not in second.stderr


def test_data_refuses_a_report_that_it_could_not_write_before_it_prepares_anything(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    options = as_options(tiny_config(data={"cache_dir": str(tmp_path / "cache")}))
    page = tmp_path / "missing" / "report.html"
    done = run_cli("data", "--config", CONFIG, *options, "--html", str(page))
    assert done.returncode == 2
    assert done.stderr == f"accel_tx: {page}: cannot be written (No such file or directory)\n"
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_one_tells_what_both_prepared(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    options = as_options(tiny_config(data={"cache_dir": str(tmp_path / "cache")}))
    command = ["data", "--config", CONFIG, *options, "--report", str(tmp_path / "report.json")]
    printed = start_ranks(2, tmp_path / "log", main, command).wait()
    assert printed.count("Cleaning:") == printed.count("written to") == 1
    assert json.loads((tmp_path / "report.json").read_text())["n_read"] == 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "log", "report.json"]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_data_suggests_thresholds_that_a_config_can_take(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    options = as_options(tiny_config(clean={"max_words": None}))
    done = run_cli("data", "--config", CONFIG, *options, "--suggest")
    assert done.returncode == 0, done.stderr
    fragment = yaml.safe_load(done.stdout)
    tiny = tiny_config()
    fields = {name: {**dataclasses.asdict(tiny)[name], **fragment.get(name, {})} for name in dataclasses.asdict(tiny)}
    config = build_config(fields)
    assert config.clean.max_words == fragment["clean"]["max_words"]
    assert config.train.max_tokens == fragment["train"]["max_tokens"]


def test_help_is_at_hand_for_every_command() -> None:
    top = run_cli("--help")
    assert top.returncode == 0
    for command in ("data", "train", "checkpoints", "evaluate", "translate", "score", "attention"):
        assert f"  {command} " in top.stdout
        done = run_cli(command, "--help")
        assert done.returncode == 0
        assert f"python -m accel_tx {command}" in done.stdout
    assert "--model.encoder_sharing" in run_cli("train", "--help").stdout


def test_help_is_a_command_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    expected = capsys.readouterr()
    main(["help"])
    assert capsys.readouterr() == expected


def test_the_versions_are_one_line_and_import_nothing_heavy() -> None:
    program = (
        "import sys; from accel_tx.cli import main; main(['--version']); "
        "sys.exit(str([name for name in ('torch', 'accelerate', 'numpy') if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    versions = {name: metadata.version(name) for name in ("torch", "accelerate")}
    told = f"accel_tx {accel_tx.__version__}, torch {versions['torch']}, accelerate {versions['accelerate']}\n"
    assert (done.stdout, done.stderr.strip()) == (told, "")


@pytest.mark.parametrize(
    "word", ["null", "~", "# Homme", "&word", "null ", "Null", "[a", "*x", "a: b", "1e3", " a", "'q'"]
)
@pytest.mark.parametrize("command", _COMMANDS)
def test_a_text_stays_what_was_given(command: str, word: str) -> None:
    """And is not read as YAML, where some of these mean nothing at all. A field of the config may be null."""
    parser = parser_of(command)
    needed = {a.option_strings[-1]: str(a.choices[0] if a.choices else "x") for a in parser._actions if a.required}
    texts = [a for a in parser._actions if opt._hint(a) in (str, str | None) and "." not in a.dest and not a.choices]
    assert texts or command == "checkpoints"
    for option in texts:
        given = {**needed, option.option_strings[-1]: word}
        found = parser.parse_args([f"{name}={value}" for name, value in given.items()])[option.dest]
        assert found in (word, [word]), option.dest


@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_help_names_the_runs_config_as_the_default_of_search_options(command: str) -> None:
    above, _, search = run_cli(command, "--help").stdout.partition("Search (default of each: the run's config.yaml):\n")
    assert "--beam_size" in search
    assert "default" not in search
    assert "default: best" in above


def one_line(stderr: str) -> str:
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("accel_tx: ")]
    assert len(lines) == 1, stderr
    return lines[0]


BAD_CALLS: dict[str, tuple[list[str], str]] = {
    "an unknown command": (
        ["trian"],
        "unknown command 'trian'; did you mean train? There are data, check, find-lr, train, ",
    ),
    "an unknown key": (["train", "--config", CONFIG, "--run_dir", "RUN", "--model.dmodel", "3"], "model.d_model?"),
    "no config": (["train", "--run_dir", "RUN"], "--config is missing"),
    "no run folder": (["train", "--config", CONFIG], "--run_dir is missing"),
    "a missing config": (["train", "--config", "none.yaml", "--run_dir", "RUN"], "none.yaml: cannot be read"),
    "a missing corpus": (
        ["train", "--config", CONFIG, "--run_dir", "RUN", "--data.corpus", "none.tsv"],
        "data.corpus none.tsv: no such file",
    ),
    "fp16 without a GPU": (
        ["train", "--config", CONFIG, "--run_dir", "RUN", "--train.precision", "fp16"],
        "train.precision is fp16 but there is no GPU",
    ),
    "translating without a run": (["translate", "--run_dir", "RUN"], "no such folder; expected a run folder"),
    "a sentence that is no text": (
        ["attention", "--run_dir", "RUN", "--input", "caf\udce9", "--output", "a.png"],
        "--input holds bytes that are not UTF-8",
    ),
    "half a test set": (["evaluate", "--run_dir", "RUN", "--src", "a"], "--src and --ref: only one is given"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_gets_one_line_and_status_2_and_writes_nothing(case: str, tmp_path: Path) -> None:
    arguments, message = BAD_CALLS[case]
    run = tmp_path / "run"
    done = run_cli(*(str(run) if a == "RUN" else a for a in arguments), env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert message in one_line(done.stderr)
    assert not run.exists()


BAD_TEXT: dict[str, tuple[dict[str, bytes], str]] = {
    "invalid UTF-8": ({"train.en": b"good\nb\xe9d\n", "train.fr": b"bon\nmal\n"}, "line 2"),
    "unequal length": ({"train.en": b"one\ntwo\n", "train.fr": b"un\n"}, "1"),
    "nothing left": ({"train.en": b"one\ntwo\n", "train.fr": b"un\ndeux\n"}, "min_src_chars 2"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_gets_one_line_with_its_place(case: str, tmp_path: Path) -> None:
    files, message = BAD_TEXT[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    options = [
        "--data.corpus",
        str(tmp_path),
        "--data.cache_dir",
        str(tmp_path / "cache"),
        "--clean.min_src_chars",
        "20",
    ]
    done = run_cli("train", "--config", CONFIG, "--run_dir", str(tmp_path / "run"), *options)
    assert done.returncode == 2
    line = one_line(done.stderr)
    assert message in line
    assert str(tmp_path) in line
    assert not (tmp_path / "run").exists()


def test_bad_lines_to_score_are_named(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    (tmp_path / "short").write_text("one\n")
    (tmp_path / "long").write_text("un\ndeux\n")
    for src, message in (("bad.txt", "bad.txt: line 2 is not valid UTF-8"), ("short", "has 1 lines and")):
        files = ["--src", str(tmp_path / src), "--ref", str(tmp_path / "long")]
        done = run_cli("evaluate", "--run_dir", str(run_dir), *files)
        assert done.returncode == 2
        assert message in one_line(done.stderr)


def test_a_run_without_validation_is_answered_with_the_weights_that_it_has(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_config(train={"max_updates": 5, "save_every_updates": 2, "stop_at_update": 4}), run)
    done = run_cli("translate", "--run_dir", str(run), stdin="Hello.\n")
    assert done.returncode == 2
    told = one_line(done.stderr)
    assert told.startswith(f"accel_tx: {run}/best: holds no weights")
    weights = told.split("--weights ")[1].split()[0]
    assert weights == "checkpoints/update_00000004"
    assert run_cli("translate", "--run_dir", str(run), "--weights", weights, stdin="Hello.\n").returncode == 0


def test_damaged_weights_are_one_line(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    train(tiny_config(train={"max_updates": 5, "save_every_updates": 5}), tmp_path / "run")
    weights = tmp_path / "run" / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run_cli("translate", "--run_dir", str(tmp_path / "run"), stdin="Hello.\n")
    assert done.returncode == 2
    assert "best/model.safetensors: is damaged" in one_line(done.stderr)
    assert prepare_data(tiny_config()).sha256
