"""`translate` and `score` in a pipe: a line for every line, whatever it holds; answers while the input stays open."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY, TINY, run_cli
from tests.data.test_memory_of_data import peak_bytes

_PATIENCE_S = 60


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    from accel_tx.config import build_config

    folder = tmp_path_factory.mktemp("runs") / "run"
    train(build_config({**TINY, "data": {**TINY["data"], "cache_dir": str(cache_dir)}}), folder)
    return folder


def test_every_line_comes_out_as_one_line_and_what_was_replaced_is_named(run_dir: Path, tmp_path: Path) -> None:
    lines = [
        b"The old man reads.",
        b"the old man " * 3_334,
        b"",
        "🎉🎉 🐕 ❤️".encode(),
        b"The old \0 man.",
        b"The \xff\xfe man \xe2\x82.",
        "The man.\u2028We eat.\x85No.\x0b\x0c\x1c\rYes.".encode(),
        b"x" * 20_000,
        b"last, without an end",
    ]
    (tmp_path / "in").write_bytes(b"\n".join(lines))
    with (tmp_path / "in").open() as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir)],
            stdin=stdin,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "latin-1"},
            cwd=REPOSITORY,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    answers = done.stdout.decode("utf-8").splitlines()
    assert len(answers) == len(lines)
    assert [bool(answer) for answer in answers] == [bool(line) for line in lines]
    warnings = done.stderr.decode("utf-8", "replace")
    assert "standard input: line 5: 1 byte(s)" in warnings
    assert "standard input: line 6: 3 byte(s)" in warnings
    assert "line 7" not in warnings
    assert "2 line(s) longer than the model's 96 positions" in warnings
    assert answers[3] == "🎉🎉 🐕 ❤️"


@pytest.mark.parametrize(("closed", "name"), [("<&-", "standard input"), (">&-", "standard output")])
def test_a_closed_descriptor_is_one_line(closed: str, name: str, run_dir: Path) -> None:
    command = f'echo "We read." | ( "$0" -m accel_tx translate --run_dir "$1" {closed} )'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(run_dir)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"accel_tx: {name} is closed; expected")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("output", ["file", pytest.param("pipe", marks=pytest.mark.slow)])
def test_a_reader_of_the_warnings_who_goes_away_costs_no_work(output: str, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"We \xff read.\n" * 30)
    done, out = translate_with_stderr_gone(run_dir, tmp_path, output)
    assert done == 0
    assert out.count(b"\n") == 30


def test_the_status_of_bad_input_stands_where_nobody_reads_why(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\x1f\x8b\x08")
    assert translate_with_stderr_gone(run_dir, tmp_path, "file") == (2, b"")


def translate_with_stderr_gone(run_dir: Path, tmp_path: Path, output: str) -> tuple[int, bytes]:
    """The status and the output of `translate` whose standard error is a pipe that nobody reads."""
    files = ["--input", str(tmp_path / "in"), *(["--output", str(tmp_path / "out")] if output == "file" else [])]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir), "--beam_size", "1", *files],
            stdout=subprocess.PIPE,
            stderr=writer,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
    finally:
        os.close(writer)
    written = (tmp_path / "out").read_bytes() if (tmp_path / "out").exists() else b""
    return done.returncode, done.stdout + written


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_a_reader_of_standard_output_who_goes_away_is_no_failure(
    command: str, name: str, run_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("We read.\n" * 3)
    text = str(tmp_path / "text")
    given = {
        "score": ["--run_dir", str(run_dir), "--src", text, "--tgt", text, "--output", name],
        "evaluate": ["--hyp", text, "--ref", text, "--n_resamples", "0", "--json", name],
    }[command]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "accel_tx", command, *given],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            timeout=240,
        )
    assert done.returncode == 141
    assert "accel_tx: " not in done.stderr


def test_json_lines_come_with_n_best_and_notes_and_hand_other_values_on(run_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"id": 1, "source": "The old man reads."},
        {"id": 2, "source": "The\nman. " * 40, "translations": "older"},
        {"id": 3, "source": "\ud800 We\u2028eat.", "half": "\ud800"},
        {"id": 4, "source": " "},
        {"id": 5, "source": "🎉🎉"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    formats = ["--input_format", "jsonl", "--format", "jsonl", "--n_best", "2", "--beam_size", "3"]
    done = run_cli("translate", "--run_dir", str(run_dir), *files, *formats)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "line 3: 1 byte(s)" in done.stderr
    assert "1 line(s) longer than the model's 96 positions" in done.stderr
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(rows)
    found = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in found] == [1, 2, 3, 4, 5]
    assert found[1]["source"] == rows[1]["source"]
    assert [len(row["translations"]) for row in found] == [2, 2, 2, 1, 1]
    assert [row["notes"].get("parts") for row in found] == [None, 40, None, None, None]
    assert (found[2]["source"], found[2]["half"], found[2]["notes"]["replaced"]) == ("\ufffd We\u2028eat.", "\ud800", 1)
    assert found[3]["translations"] == [{"text": "", "log_prob": None, "score": None}]
    assert found[4]["translations"][0]["text"] == "🎉🎉"
    assert found[4]["translations"][0]["copied"] == found[4]["notes"]["unknown"]
    for row in found[:3]:
        first, second = row["translations"]
        assert first["score"] > second["score"] or second.get("cut")


def test_a_prefix_begins_the_translation_of_its_own_line(run_dir: Path) -> None:
    rows: list[dict[str, object]] = [
        {"source": "We read.", "begin": "Le jardin", "id": 1},
        {"source": "We read.", "begin": ""},
        {"source": "We read.", "begin": None},
        {"source": "The man. " * 40, "begin": "Elle"},
        {"source": "", "begin": "Elle"},
    ]
    done = translate_rows(run_dir, rows, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    texts = [row["translations"][0]["text"] for row in found]
    (plain,) = translate_rows(run_dir, rows[1:2]).stdout.splitlines()
    assert texts[0].startswith("Le jardin")
    assert (found[0]["begin"], found[0]["id"]) == ("Le jardin", 1)
    assert texts[1] == texts[2] == plain
    assert not plain.startswith("Le jardin")
    assert texts[3].startswith("Elle")
    assert texts[4] == ""


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (7, 'line 2 has "begin" 7; expected a text, or no such key'),
        ("a\0", 'line 2 has "begin" with bytes that are not UTF-8, NUL or half a surrogate pair; expected text'),
        ("le " * 200, 'line 2 has "begin" of 200 tokens; expected fewer than model.max_positions = 96'),
    ],
)
def test_a_prefix_that_cannot_begin_a_translation_is_told_by_its_line(
    prefix: object, message: str, run_dir: Path
) -> None:
    rows = [{"source": "No.", "begin": "Le"}, {"source": "We eat.", "begin": prefix}]
    done = translate_rows(run_dir, rows, "--block_lines", "1")
    assert done.returncode == 2
    assert done.stderr == f"accel_tx: standard input: {message}\n"
    assert done.stdout.startswith("Le")
    assert done.stdout.count("\n") == 1


def test_prefixes_want_json_lines(run_dir: Path) -> None:
    done = run_cli("translate", "--run_dir", str(run_dir), "--prefix_key", "begin", stdin="No.\n")
    assert done.returncode == 2
    assert "--prefix_key begin: the input has lines of text; add --input_format jsonl" in done.stderr


def test_a_prefix_key_that_no_line_has_is_told(run_dir: Path) -> None:
    done = translate_rows(run_dir, [{"source": "No.", "beginn": "Oui"}])
    assert done.returncode == 0, done.stderr
    told = 'accel_tx: no line has the key "begin" (--prefix_key), so no translation had to begin with anything\n'
    assert told in done.stderr
    assert told not in translate_rows(run_dir, [{"source": "No."}, {"source": "No.", "begin": None}]).stderr


def test_translations_that_reached_their_length_limit_are_told(run_dir: Path) -> None:
    short = ("--max_len_ratio", "0.01", "--max_len_extra", "1")
    done = run_cli("translate", "--run_dir", str(run_dir), *short, stdin="The old man reads.\n\nWe eat.\n")
    assert done.returncode == 0, done.stderr
    assert "accel_tx: 2 translation(s) reached their length limit and end there (max_len_ratio, " in done.stderr


def test_a_lack_of_memory_is_one_line(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")

    monkeypatch.setattr("accel_tx.inference.translator.search", lacks)
    (tmp_path / "in").write_text("No.\n")
    with pytest.raises(SystemExit) as ended:
        main(
            ["translate", "--run_dir", str(run_dir), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
        )
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "accel_tx: out of memory (CUDA out of memory. Tried to allocate 9 GiB); end other programs that hold memory, "
        "take a device with more, or give a lower --max_tokens or --beam_size\n"
    )
    assert not (tmp_path / "out").exists()


def translate_rows(run_dir: Path, rows: Sequence[Mapping[str, object]], *more: str) -> subprocess.CompletedProcess[str]:
    """`translate` with objects on standard input."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return run_cli(
        "translate", "--run_dir", str(run_dir), "--input_format", "jsonl", "--prefix_key", "begin", *more, stdin=text
    )


def test_more_than_one_translation_does_not_fit_a_line_of_text(run_dir: Path) -> None:
    done = run_cli("translate", "--run_dir", str(run_dir), "--n_best", "2", stdin="No.\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "add --format jsonl" in done.stderr


def test_an_answer_comes_while_the_input_stays_open(run_dir: Path) -> None:
    command = [sys.executable, "-m", "accel_tx", "translate", "--run_dir", str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for question in (b"The old man reads.\n", b"We eat.\nNo.\n"):
                process.stdin.write(question)
                answer = b""
                while answer.count(b"\n") < question.count(b"\n"):
                    assert select.select([process.stdout], [], [], _PATIENCE_S)[0], "no answer came"
                    answer += os.read(process.stdout.fileno(), 1 << 16)
                assert answer.count(b"\n") == question.count(b"\n")
            process.stdin.close()
            assert process.wait(_PATIENCE_S) == 0
        finally:
            process.kill()


def test_score_gives_a_line_for_each_pair_and_the_validation_loss_in_sum(
    run_dir: Path, tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    from accel_tx.data.dataset import prepare_data

    data = prepare_data(tiny_config())
    src, tgt = data.valid_src.to_pylist(), data.valid_tgt.to_pylist()
    (tmp_path / "src").write_text("\n".join([*src, "Non. " * 99, "\0"]) + "\n", encoding="utf-8")
    (tmp_path / "tgt").write_text("\n".join([*tgt, "Oui.", "Xyz."]) + "\n", encoding="utf-8")
    files = ["--src", str(tmp_path / "src"), "--tgt", str(tmp_path / "tgt")]
    done = run_cli("score", "--run_dir", str(run_dir), *files)
    assert done.returncode == 0, done.stderr
    rows = [[float(number) for number in line.split("\t")] for line in done.stdout.splitlines()]
    assert len(rows) == len(src) + 2
    recorded = json.loads((run_dir / "best" / "scores.json").read_text())["val_loss"]
    scored = rows[: len(src)]
    assert -sum(row[0] for row in scored) / sum(row[2] for row in scored) == pytest.approx(recorded, abs=1e-5)
    assert math.isnan(rows[-2][0])
    assert f"line {len(src) + 1}: is longer than the model's 96 positions" in done.stderr
    assert f"{len(src) + 1} of {len(src) + 2} pairs scored" in done.stderr
    assert "not in the vocabulary, scored as any such word" in done.stderr
    output = tmp_path / "out.jsonl"
    done = run_cli("score", "--run_dir", str(run_dir), *files, "--format", "jsonl", "--output", str(output))
    assert (done.returncode, done.stdout) == (0, "")
    values = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [value["source"] for value in values[:-1]] == [*src, "Non. " * 99]
    assert [value["log_prob"] for value in values[: len(src)]] == pytest.approx([row[0] for row in scored], abs=1e-6)
    assert [value["notes"] for value in values[-2:]] == [
        {"too_long": True, "unknown": 1},
        {"unknown": 1, "replaced": 1},
    ]
    assert values[-2]["log_prob"] is None


def test_score_refuses_files_of_unequal_length(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "src").write_text("a\n" * 5)
    (tmp_path / "tgt").write_text("a\n" * 3)
    output = tmp_path / "out.tsv"
    files = ["--src", str(tmp_path / "src"), "--tgt", str(tmp_path / "tgt"), "--output", str(output)]
    done = run_cli("score", "--run_dir", str(run_dir), *files)
    assert done.returncode == 2
    assert "src has 5 lines and" in done.stderr
    assert "tgt has 3; expected as many" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc")
def test_memory_does_not_grow_with_the_lines(run_dir: Path, tmp_path: Path) -> None:
    peaks = []
    for n_lines in (10_000, 100_000):
        (tmp_path / "in").write_text("".join(f"The old man reads {i} letters.\n" for i in range(n_lines)))
        translate = f"{sys.executable} -m accel_tx translate --run_dir {run_dir} --beam_size 1 --max_len_ratio 1"
        peaks.append(peak_bytes(["bash", "-c", f"cat {tmp_path / 'in'} | {translate} --output {tmp_path / 'out'}"]))
        assert (tmp_path / "out").read_bytes().count(b"\n") == n_lines
    assert peaks[1] - peaks[0] < 30 << 20, [peak >> 20 for peak in peaks]
