"""`export`: what it leaves, what the rest of the program makes of it, and that a failed proof leaves nothing."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from accel_tx.cli import main
from accel_tx.config import UserError
from accel_tx.export import safetensors_format
from tests.export.runs import SCORES, make_run, sentences


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is enough where the speeds are not looked at."""
    monkeypatch.setattr("accel_tx.export.proof._N_ROUNDS", 1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return make_run(tmp_path / "run")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of 10 sentences, an empty line, and one that is too long for the model."""
    path = tmp_path / "text.en"
    path.write_text("\n".join([*sentences(10), "", "word " * 100]) + "\n", encoding="utf-8")
    return path


def export(run_dir: Path, text: Path | None, output: Path, *options: str) -> None:
    given = [] if text is None else ["--sentences", str(text)]
    main(["export", "--run_dir", str(run_dir), "--format", "safetensors", "--output", str(output), *given, *options])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        export(*arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_a_model_that_every_command_takes(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    export(run_dir, text, output)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "identical: 10 of 10 translations (greedy; text.en)"
    assert second.startswith("sentences/s: accel_tx ")
    assert third.startswith(f"{output}: 0.")
    assert files_in(output) == {
        "README.md",
        "config.yaml",
        "export.json",
        "model.safetensors",
        "scores.json",
        "tokenizer/src.json",
        "tokenizer/tgt.json",
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in output.rglob("*") if path.is_file())
    answers = []
    for folder in (run_dir, output):
        main(["translate", "--run_dir", str(folder), "--input", str(text)])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[0].count("\n") == 12
    options = ["--src", str(text), "--ref", str(text), "--n_resamples", "0"]
    main(["evaluate", "--run_dir", str(output), *options])
    assert "BLEU" in capsys.readouterr().out


def test_training_starts_from_an_exported_folder_but_not_in_it(run_dir: Path, text: Path, tmp_path: Path) -> None:
    from accel_tx.inference.translator import load_run_config
    from accel_tx.train.run_dir import check_run_dir
    from accel_tx.train.warm_start import find_source

    out = tmp_path / "out"
    export(run_dir, text, out)
    source = find_source(out)
    assert (source.run_dir, source.weights) == (out, out)
    with pytest.raises(UserError, match="holds an exported or imported model; give another --run_dir, and --init_from"):
        check_run_dir(load_run_config(out), out, "auto")


def test_an_exported_folder_keeps_the_name_of_its_weights_and_takes_no_other(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "checkpoints/update_00000012"
    (run_dir / "checkpoints").mkdir()
    (run_dir / "best").rename(run_dir / name)
    out = tmp_path / "out"
    export(run_dir, text, out, "--weights", name)
    for given in ([], ["--weights", name], ["--weights", "update_00000012"]):
        again = tmp_path / "again"
        export(out, text, again, *given)
        assert json.loads((again / "export.json").read_text())["weights"] == name
    told = refusal(capsys, out, text, tmp_path / "other", "--weights", "nonsense")
    assert (
        f"--weights nonsense: {out} is an exported or imported model and holds the weights {name} alone; leave" in told
    )


def test_what_was_proved_is_recorded(run_dir: Path, text: Path, tmp_path: Path) -> None:
    export(run_dir, text, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["sentences"] == {"from": "text.en", "n": 10, "identical": 10}
    assert (record["format"], record["quantization"], record["weights"], record["update"]) == (
        "safetensors",
        "float32",
        "best",
        12,
    )
    assert record["sentences_per_s"]["threads"] == 1
    speeds = record["sentences_per_s"]
    assert speeds["ratio"] == pytest.approx(speeds["exported"] / speeds["accel_tx"], rel=0.05)


def test_the_card_has_a_header_for_the_hub_and_names_no_folder_of_this_machine(
    run_dir: Path, text: Path, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("corpus: phrasebook", f"corpus: {tmp_path}/hidden/books", 1))
    export(run_dir, text, tmp_path / "out")
    content = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in content
    assert "Corpus: books. 300 of 320 pairs were kept" in content
    assert "# license: put the licence" in content
    data = ModelCard(content).data
    assert data.language == ["en", "fr"]
    assert data.license is None
    assert data.pipeline_tag == "translation"
    assert {(result.metric_type, result.metric_value) for result in data.eval_results or []} == {
        ("bleu", round(SCORES["bleu"], 2)),
        ("chrf", 34.5),
    }
    for heading in ("How to load it", "Data", "Training", "Scores", "Limits"):
        assert f"\n## {heading}\n" in content
    assert SCORES["signature"] in content
    # tokens as `train.max_tokens` counts them
    assert " of 512 tokens (the longer side of each pair) an update |" in content


def test_the_card_tells_what_the_run_began_with_and_the_precision_in_effect(
    run_dir: Path, text: Path, tmp_path: Path
) -> None:
    export(run_dir, text, tmp_path / "plain")
    plain = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert "began with" not in plain
    assert "| precision | float32 |" in plain
    assert "| longest text | 127 tokens |" in plain  # and EOS
    assert "A text of more than 127 tokens does not fit" in plain
    origin = {"weights": f"{tmp_path}/hidden/first/checkpoints/update_00000040", "update": 40, "sha256": "ab12"}
    (run_dir / "init_from.json").write_text(json.dumps(origin))
    start = {"n_updates": 40, "n_parameters": 1}
    starts = [{"update": at, **start, "precision": kind} for at, kind in ((0, "bf16"), (6, "bf16"), (12, "fp16"))]
    (run_dir / "starts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in starts))
    export(run_dir, text, tmp_path / "out")
    content = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    name = "`first/checkpoints/update_00000040` (update 40, SHA-256 ab12)"
    assert f"Training began with the weights {name}; what those were trained on is not known here." in content
    assert f"| began with the weights | {name} |" in content
    assert "| precision | bf16 |" in content
    assert str(tmp_path) not in content
    assert "hidden" not in content


def test_as_many_threads_as_before_compute_afterwards(run_dir: Path, text: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        export(run_dir, text, tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


class _Wrong(safetensors_format.Runtime):
    """Translates the first sentences otherwise."""

    n_wrong = 1

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        right = super().translate(lines, limits)
        return [f"{line}!" for line in right[: self.n_wrong]] + right[self.n_wrong :]


def test_a_failed_proof_is_one_line_with_the_number_and_leaves_nothing(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_format, "Runtime", _Wrong)
    before = {path.name for path in tmp_path.iterdir()}
    error = refusal(capsys, run_dir, text, tmp_path / "out")
    assert "translates 9 of 10 sentences as this program does; expected at least 100.0% (--least_identical)" in error
    assert sentences(1)[0] in error
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_failed_proof_leaves_an_earlier_export_as_it_was(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export(run_dir, text, output)
    (output / "scores.json").write_text("older")
    monkeypatch.setattr(safetensors_format, "Runtime", _Wrong)
    refusal(capsys, run_dir, text, output)
    assert (output / "scores.json").read_text() == "older"
    monkeypatch.undo()
    export(run_dir, text, output)
    assert (output / "scores.json").read_text() != "older"


def test_a_card_that_the_user_changed_is_not_replaced(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export(run_dir, text, output)
    card = output / "README.md"
    mine = card.read_text().replace("# license: put the licence", "license: mit #")
    card.write_text(mine)
    monkeypatch.setattr("accel_tx.export.source.Trained.load", None)  # nothing is loaded before it is refused
    told = refusal(capsys, run_dir, text, output)
    assert f"--output {output}: README.md there was changed since it was exported; expected it as it was" in told
    assert card.read_text() == mine
    monkeypatch.undo()
    card.rename(tmp_path / "mine.md")
    export(run_dir, text, output)
    assert card.is_file()


@pytest.mark.parametrize(
    ("name", "has_list"),
    [("notes.txt", True), ("mine/notes.txt", True), ("empty", True), ("link", False), ("tokenizer/other.json", False)],
)
def test_an_earlier_export_with_anything_else_in_it_is_not_replaced(
    name: str, has_list: bool, run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    export(run_dir, text, output)
    if not has_list:
        record = json.loads((output / "export.json").read_text())
        assert set(record.pop("files")) == files_in(output)
        (output / "export.json").write_text(json.dumps(record))
    place = output / name
    place.parent.mkdir(exist_ok=True)
    if name == "empty":
        place.mkdir()
    elif name == "link":
        place.symlink_to(run_dir)
    else:
        place.write_text("mine")
    told = refusal(capsys, run_dir, text, output)
    assert f"--output {output}: holds {name} that no export has written; expected a new folder" in told
    assert os.path.lexists(place)


def test_what_is_put_into_the_folder_meanwhile_stays(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(safetensors_format.Runtime):
        def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
            (tmp_path / "out" / "notes.txt").write_text("mine")
            return super().translate(lines, limits)

    monkeypatch.setattr(safetensors_format, "Runtime", Slow)
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "out").mkdir()
    assert "holds notes.txt that no export has written" in refusal(capsys, run_dir, text, tmp_path / "out")
    assert files_in(tmp_path / "out") == {"notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {*before, "out"}


def test_a_user_may_accept_fewer(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_format, "Runtime", _Wrong)
    export(run_dir, text, tmp_path / "out", "--least_identical", "0.9")
    assert "identical: 9 of 10 translations" in capsys.readouterr().out
    assert "9 of 10 sentences (text.en)" in (tmp_path / "out" / "README.md").read_text()
    assert "expected at least 91.0%" in refusal(capsys, run_dir, text, tmp_path / "2", "--least_identical", "0.91")


@pytest.mark.parametrize(("n_wrong", "passes"), [(1, True), (2, False)])
def test_rounded_weights_may_change_one_sentence_in_a_hundred(
    n_wrong: int,
    passes: bool,
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(safetensors_format, "QUANTIZATIONS", ("float32", "int8"))
    monkeypatch.setattr(_Wrong, "n_wrong", n_wrong)
    monkeypatch.setattr(safetensors_format, "Runtime", _Wrong)
    (tmp_path / "text").write_text("We eat.\n" * 100)
    if passes:
        export(run_dir, tmp_path / "text", tmp_path / "out", "--quantization", "int8")
    else:
        with pytest.raises(SystemExit):
            export(run_dir, tmp_path / "text", tmp_path / "out", "--quantization", "int8")
        assert "(--least_identical, or train for it: model.quantization int8)" in capsys.readouterr().err
    assert (tmp_path / "out").exists() == passes


def test_no_more_than_200_sentences_are_translated(run_dir: Path, tmp_path: Path) -> None:
    from accel_tx.export.proof import Sentences
    from accel_tx.export.source import Trained

    src = ["", *(f"We eat {i}." for i in range(300)), "  "]
    fitting = Sentences("test", src, [line.upper() for line in src]).fitting(Trained.load(run_dir, "best").greedy())
    assert fitting.src == src[1:201]
    assert fitting.references == [line.upper() for line in src[1:201]]


def test_without_sentences_the_validation_text_is_translated(
    run_dir: Path, tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("cache_dir: ~/.cache/accel_tx", f"cache_dir: {cache_dir}"))
    export(run_dir, None, tmp_path / "out")
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "identical: 23 of 23 translations (greedy; the run's validation text)"
    assert re.fullmatch(r"BLEU on them: accel_tx (\d+\.\d\d), accel_tx 0\S+ \1", second)


def test_bad_input_is_one_line(
    run_dir: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert "no such folder" in refusal(capsys, tmp_path / "none", text, out)
    assert "final: holds no weights" in refusal(capsys, run_dir, text, out, "--weights", "final")
    assert "cannot be read" in refusal(capsys, run_dir, tmp_path / "none.txt", out)
    (tmp_path / "blank.txt").write_text("\n \n")
    assert "blank.txt: has no sentence that fits" in refusal(capsys, run_dir, tmp_path / "blank.txt", out)
    assert "is a file; expected a folder" in refusal(capsys, run_dir, text, text)
    assert "more that no export has written; expected a new folder" in refusal(capsys, run_dir, text, run_dir)
    assert "expected from 0 to 1" in refusal(capsys, run_dir, text, out, "--least_identical", "99")
    assert "format safetensors has float32" in refusal(capsys, run_dir, text, out, "--quantization", "int8")
    assert f"there is no folder {text}; expected one" in refusal(capsys, run_dir, text, text / "below")
    assert f"there is no folder {tmp_path}/deep; expected one" in refusal(capsys, run_dir, text, tmp_path / "deep/out")
    assert not (tmp_path / "deep").exists()
    for n_chars in (300, 240):  # the second fits, but not the name of the folder that is written first
        told = refusal(capsys, run_dir, text, tmp_path / ("x" * n_chars))
        assert "cannot be written (File name too long); give another folder" in told
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop: is a symbolic link that leads back to itself" in refusal(capsys, run_dir, text, tmp_path / "loop")
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("corpus: phrasebook", f"corpus: {tmp_path}/gone", 1))
    assert "or give --sentences FILE" in refusal(capsys, run_dir, None, out)
    assert not out.exists()
