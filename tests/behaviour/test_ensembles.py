"""`--ensemble` as a user types it: which models it names, what they answer together, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.inference.ensemble import Ensemble
from accel_tx.inference.translator import Translator
from accel_tx.train.loop import train
from tests.conftest import refusal, run_cli

LINES = ["The old man reads.", "We eat in the garden.", "", "The zebra is a queen.", "The queen is reading a letter."]
CHECKPOINT = "checkpoints/update_00000060"
OTHER: dict[str, dict[str, Any]] = {
    "model": {"d_model": 24, "n_decoder_layers": 2, "positions": "rotary", "norm": "pre", "max_positions": 64},
    "train": {"seed": 2, "max_updates": 120, "save_every_updates": 60},
    "validation": {"every_updates": 60},
}


@pytest.fixture(scope="module")
def intact_runs(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Config]) -> Path:
    """A folder with the runs `a` and `b`, which differ in size and kind, and `c`, which has other vocabularies."""
    folder = tmp_path_factory.mktemp("runs")
    train(tiny_config(train={"max_updates": 120, "save_every_updates": 60}), folder / "a")
    train(tiny_config(**OTHER), folder / "b")
    train(tiny_config(tokenizer={"vocab_size": 200}, train={"max_updates": 2}), folder / "c")
    return folder


@pytest.fixture
def runs(intact_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them in the current folder, with the file `text`."""
    shutil.copytree(intact_runs, tmp_path / "runs")
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def translations(*members: str, more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Of the file `text` by run a and these members."""
    ensemble = ["--ensemble", *members] if members else []
    output = ["--output", "out.jsonl", "--format", "jsonl", "--n_best", "3"]
    main(["translate", "--run_dir", "runs/a", *ensemble, "--input", "text", *output, *more])
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def test_the_commands_answer_with_the_mean_of_the_models_that_are_named(runs: Path) -> None:
    named = [("runs/a", "best"), ("runs/b", "final"), ("runs/a", CHECKPOINT)]
    alone = [Translator.from_run_dir(Path(run), weights, torch.device("cpu")) for run, weights in named]
    fields = {"n_best": 3}
    decode = Translator.from_run_dir(Path("runs/a"), "best", torch.device("cpu"), fields).decode
    together = Translator(Ensemble(tuple(one.transformer for one in alone)), alone[0].tokenizers, decode)
    expected = together.n_best(LINES)
    found = translations("runs/b:final", f"runs/a:{CHECKPOINT}")
    for row, of_line, line in zip(found, expected, LINES):
        assert [one["text"] for one in row["translations"]] == [one.text for one in of_line]
        if line:
            log_probs = [one["log_prob"] for one in row["translations"]]
            assert log_probs == pytest.approx([one.log_prob for one in of_line], abs=1e-4)
    assert found != translations()
    assert found != translations("runs/b:final")


def test_score_and_translate_agree_from_start_to_end(runs: Path) -> None:
    done = run_cli("translate", "--run_dir", str(runs / "a"), "--ensemble", str(runs / "b"), stdin="We read.\nNo.\n")
    assert (done.returncode, done.stdout.count("\n")) == (0, 2), done.stderr
    # Repeated full stops would become one token of the text.
    more = ("--beam_size", "20", "--unknown", "guess", "--no_repeat_ngram", "1", "--min_len_ratio", "0.5")
    pairs = [
        (row["source"], one["text"], one["log_prob"])
        for row in translations("runs/b", more=more)
        for one in row["translations"]
        if row["source"] and not one.get("cut")
    ]
    assert len(pairs) > 3
    for column, name in enumerate(("src", "tgt")):
        Path(name).write_text("".join(f"{pair[column]}\n" for pair in pairs), encoding="utf-8")
    files = ["--src", "src", "--tgt", "tgt", "--output", "scores.tsv"]
    main(["score", "--run_dir", "runs/a", "--ensemble", "runs/b", *files])
    found = [float(line.split("\t")[0]) for line in Path("scores.tsv").read_text().splitlines()]
    assert found == pytest.approx([log_prob for *_, log_prob in pairs], abs=1e-3)


def test_weights_name_those_of_every_member_that_names_none(runs: Path) -> None:
    (runs / "b" / "best").rename(runs / "b" / "none")
    found = translations("runs/b", more=("--weights", "final"))
    assert found == translations("runs/b:final", more=("--weights", "final"))
    assert found != translations(f"runs/b:{CHECKPOINT}", more=("--weights", "final"))


def test_a_run_folder_with_a_colon_in_its_name_and_an_exported_model_are_members(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "b", runs / "x:y")
    expected = translations("runs/b:best")
    assert translations("runs/x:y") == translations("runs/x:y:best") == expected
    options = ["--format", "safetensors", "--sentences", "text", "--output", "out"]
    main(["export", "--run_dir", "runs/b", *options])
    assert translations("out") == expected
    assert "out is an exported or imported model and holds the weights best alone; give out:best, or" in refusal(
        capsys, "translate", "--run_dir", "runs/a", "--ensemble", "out:final"
    )


@pytest.mark.parametrize(
    "how",
    [
        {"beam_size": "1", "n_best": "1"},
        {"sampling": "true", "sampling_seed": "3"},
        {"precision": "bfloat16"},
        {"no_repeat_ngram": "2", "min_len_ratio": "0.5"},
    ],
    ids=str,
)
def test_an_ensemble_searches_as_one_model_does(how: dict[str, str], runs: Path) -> None:
    found = translations("runs/b", more=tuple(word for name, value in how.items() for word in (f"--{name}", value)))
    assert len(found) == len(LINES)
    assert all(math.isfinite(one["log_prob"]) for row in found if row["source"] for one in row["translations"])


def test_a_prefix_is_forced_and_long_lines_are_split_for_the_shortest_member(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"source": "The man.", "begin": "Le jardin"}, {"source": "the man " * 40}]
    Path("in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = ["--input_format", "jsonl", "--prefix_key", "begin", "--input", "in.jsonl"]
    main(["translate", "--run_dir", "runs/a", "--ensemble", "runs/b", *options])
    printed = capsys.readouterr()
    assert printed.out.startswith("Le jardin")
    assert "1 line(s) longer than the model's 64 positions" in printed.err


def test_evaluate_says_who_translated_and_whether_a_member_may_know_the_text(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--n_resamples", "0", "--n_trials", "0", "--json", "runs/a/test.json", "--output", "hyp"]
    main(["evaluate", "--run_dir", "runs/a", "--ensemble", "runs/b", f"runs/a:{CHECKPOINT}", *few])
    values = json.loads(Path("runs/a/test.json").read_text())
    assert (values["weights"], values["ensemble"]) == ("best", ["runs/b:best", f"runs/a:{CHECKPOINT}"])
    assert "trained on other data" not in capsys.readouterr().err
    main(["report", "--run_dirs", "runs/a", "--output", "report.html"])
    assert f"best + runs/b:best + runs/a:{CHECKPOINT}, beam" in Path("report.html").read_text()
    against = ["--src", "text", "--ref", "text", "--against", "text", "--n_resamples", "0", "--n_trials", "0"]
    capsys.readouterr()
    main(["evaluate", "--run_dir", "runs/a", "--ensemble", "runs/b", *against])
    assert "runs/a best + 1 more" in capsys.readouterr().out

    scores = runs / "b" / "best" / "scores.json"
    scores.write_text(json.dumps({**json.loads(scores.read_text()), "data_sha256": "0"}))
    main(["evaluate", "--run_dir", "runs/a", "--ensemble", "runs/b", *few])
    assert "runs/b:best was trained on other data than runs/a:best, and the text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["runs/none"], "runs/none: no such folder; expected a run folder made by `train`"),
        (["runs/b:finel"], "runs/b/finel: holds no weights; runs/b has best, final"),
        (["runs/b:finel"], "did you mean runs/b:final?"),
        (["runs/b", "runs/b:average"], "makes them, until then give runs/b:checkpoints/update_00000120"),
        (["runs/b/best"], "runs/b/best: holds no run but lies in one; give runs/b:best\n"),
        (["runs/b:"], "--ensemble runs/b:: expected a run folder, or RUN:WEIGHTS such as runs/b:final"),
        ([":final"], "--ensemble :final: expected a run folder, or RUN:WEIGHTS"),
        ([""], "--ensemble is empty; expected a value"),
        ([], "expected at least one argument"),
        (["runs/a"], "--ensemble runs/a:best: holds the same weights as runs/a:best; expected each model once"),
        (["runs/b", "runs/../runs/b:best"], "holds the same weights as runs/b:best"),
        (["runs/b", "runs/twin"], "--ensemble runs/twin:best: holds the same weights as runs/b:best"),
        (["runs/c"], "--ensemble runs/c: its tokenizer/src.json is not that of runs/a (200 entries, there"),
        (["runs/c"], "such as one with --tokenizer.from_run runs/a"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_members_that_do_not_fit_are_refused_in_one_line(
    members: list[str], message: str, command: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "b", runs / "twin")
    files = {"translate": ["--input", "text"], "evaluate": ["--src", "text", "--ref", "text"]}
    assert message in refusal(capsys, command, "--run_dir", "runs/a", *files[command], "--ensemble", *members)


def test_a_tokenizer_of_as_many_other_entries_is_another(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "b" / "tokenizer" / "tgt.json"
    values = json.loads(path.read_text())
    vocab = values["model"]["vocab"]
    first, second = list(vocab)[10:12]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(values))
    error = refusal(capsys, "translate", "--run_dir", "runs/a", "--ensemble", "runs/b", "--input", "text")
    assert "--ensemble runs/b: its tokenizer/tgt.json is not that of runs/a" in error
    path.unlink()
    error = refusal(capsys, "translate", "--run_dir", "runs/a", "--ensemble", "runs/b", "--input", "text")
    assert "runs/b/tokenizer/tgt.json: no such file" in error


def test_a_member_given_twice_is_known_where_no_hash_is_recorded(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = runs / "b" / "best" / "scores.json"
    values = json.loads(scores.read_text())
    scores.write_text(json.dumps({name: value for name, value in values.items() if name != "sha256"}))
    files = ["translate", "--run_dir", "runs/a", "--input", "text"]
    assert "holds the same weights as runs/b:best" in refusal(capsys, *files, "--ensemble", "runs/b", "runs/b/")
    shutil.copytree(runs / "b", runs / "twin")
    main([*files, "--ensemble", "runs/b", "runs/twin"])  # nobody can tell


def test_a_damaged_member_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs / "b" / "best" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-400] + b"\0" * 400)
    for command in (["translate", "--input", "text"], ["score", "--src", "text", "--tgt", "text"]):
        error = refusal(capsys, *command, "--run_dir", "runs/a", "--ensemble", "runs/b")
        assert "runs/b/best/model.safetensors: is damaged" in error


def test_what_a_member_is_made_of_is_not_written_over_and_given_translations_need_none(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("final/model.safetensors", "config.yaml"):
        files = ["--input", "text", "--output", f"runs/b/{name}"]
        error = refusal(capsys, "translate", "--run_dir", "runs/a", "--ensemble", "runs/b:final", *files)
        assert f"--output runs/b/{name} is also a file of --ensemble" in error
    error = refusal(capsys, "evaluate", "--hyp", "text", "--ref", "text", "--ensemble", "runs/b")
    assert "--ensemble: --hyp is translated already; leave it out" in error
    error = refusal(capsys, "attention", "--run_dir", "runs/a", "--input", "We eat.", "--ensemble", "runs/b")
    assert "unknown option --ensemble" in error
