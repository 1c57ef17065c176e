"""`evaluate` as a user types it: a run or a file of translations, alone or against others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY
from tests.inference.system_texts import damaged, references

REFERENCES = references(40)
FEW = ["--n_resamples", "50", "--n_trials", "50"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files `ref`, `a`, `b` and `src`."""
    texts = {"ref": REFERENCES, "a": damaged(REFERENCES, 0.1, 1), "b": damaged(REFERENCES, 0.4, 2), "src": REFERENCES}
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_of_translations_is_scored_without_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--hyp", "a", "--ref", "ref", "--json", "out.json", *FEW])
    printed = capsys.readouterr().out.splitlines()
    values = json.loads((folder / "out.json").read_text())

    assert [line.split()[0] for line in printed[:6]] == ["BLEU", "chrF2", "chrF2++", "TER", "CER", "WER"]
    for line, key in zip(printed, ("bleu", "chrf", "chrfpp", "ter", "cer", "wer"), strict=False):
        _, score, low, high, signature = line.split()
        around = values["systems"][0][key]
        assert float(score) == pytest.approx(values[key], abs=0.006)
        assert (float(low[1:-1]), float(high[:-1])) == pytest.approx((around["low"], around["high"]), abs=0.006)
        assert signature == values["signatures"][key]
        assert "|bs:50|seed:12345|" in signature
    assert values["signature"].startswith("nrefs:1|case:mixed|")
    assert (values["n_sentences"], values["n_resamples"], values["weights"]) == (40, 50, None)


@pytest.mark.parametrize("source", [[], ["--src", "src"]])
def test_translations_may_come_through_a_pipe(source: list[str], folder: Path) -> None:
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(lambda: (folder / "pipe").write_bytes((folder / "a").read_bytes()))
        main(["evaluate", "--hyp", "pipe", "--ref", "ref", "--json", "out.json", *source, *FEW])
        writer.result()
    main(["evaluate", "--hyp", "a", "--ref", "ref", "--json", "expected.json", *FEW])
    found, expected = (json.loads((folder / name).read_text()) for name in ("out.json", "expected.json"))
    assert found["bleu"] == expected["bleu"] > 50


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_scores_on_standard_output_are_alone_there(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "--hyp", "a", "--ref", "ref", "--json", name, *FEW])
    printed = capfd.readouterr()
    assert json.loads(printed.out)["systems"][0]["bleu"]["score"] > 0
    assert printed.err.startswith("BLEU ")
    assert not (folder / "-").exists()


def test_others_stand_in_a_table_with_difference_and_p_values(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comet = f"{sys.executable} -c 'import sys; print(len(open(sys.argv[1]).read()))' {{hyp}} {{ref}}"
    main(
        [
            "evaluate",
            "--hyp",
            "a",
            "--ref",
            "ref",
            "--against",
            "b",
            "ref",
            "--json",
            "out.json",
            "--comet",
            comet,
            *FEW,
        ]
    )
    printed = capsys.readouterr().out
    systems = json.loads((folder / "out.json").read_text())["systems"]

    assert [system["file"] for system in systems] == ["a", "b", "ref"]
    assert systems[1]["bleu"]["difference"] == systems[1]["bleu"]["score"] - systems[0]["bleu"]["score"] < 0
    assert systems[2]["bleu"]["score"] == pytest.approx(100)
    assert [system["comet"]["score"] for system in systems] == [
        len((folder / f).read_text()) for f in ("a", "b", "ref")
    ]
    row = re.search(r"BLEU +a .*\n +b +(\S+) +\[\S+ \S+\] +(\S+) +(\S+) +(\S+)", printed)
    assert row is not None
    assert float(row[2]) == pytest.approx(systems[1]["bleu"]["difference"], abs=0.006)
    assert float(row[3]) == pytest.approx(systems[1]["bleu"]["p_bootstrap"], abs=6e-5)
    assert float(row[4]) == pytest.approx(systems[1]["bleu"]["p_randomization"], abs=6e-5)


def test_a_run_is_scored_against_the_file_that_it_wrote_itself(
    folder: Path, tiny_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(train={"max_updates": 2}), folder / "run")
    greedy = ["--run_dir", "run", "--beam_size", "1"]  # as the training validates
    main(["evaluate", *greedy, "--output", "own", "--json", "whole.json", *FEW])
    main(["evaluate", *greedy, "--against", "own", "--json", "compared.json", *FEW])
    best = json.loads((folder / "run/best/scores.json").read_text())
    whole, compared = (json.loads((folder / name).read_text()) for name in ("whole.json", "compared.json"))

    assert whole["decode"]["beam_size"] == 1
    assert len((folder / "own").read_text().splitlines()) == whole["n_sentences"] == 23
    for key in ("bleu", "chrf", "cer", "wer", "signature", "chrf_signature"):
        assert whole[key] == best[key]
    for own, other in zip(*(system.items() for system in compared["systems"]), strict=True):
        assert own[0] == "file" or other[1]["difference"] == 0


BAD: dict[str, tuple[list[str], str]] = {
    "neither run nor file": (["--ref", "ref"], "--run_dir and --hyp: neither given"),
    "run and file": (["--run_dir", "run", "--hyp", "a", "--ref", "ref"], "--run_dir and --hyp: both given"),
    "no reference": (["--hyp", "a"], "--ref is missing"),
    "no source for a metric that wants it": (
        ["--hyp", "a", "--ref", "ref", "--comet", "x {src} {hyp}"],
        "--comet: --src is missing",
    ),
    "a file of another length": (["--hyp", "a", "--ref", "ref", "--against", "short"], "has 40 lines and short has 1"),
    "a reference of another length": (["--hyp", "a", "--ref", "ref", "short"], "has 40 lines and short has 1"),
    "a search for what is there": (
        ["--hyp", "a", "--ref", "ref", "--beam_size", "2"],
        "--beam_size: --hyp is translated",
    ),
    "translations of another length": (
        ["--hyp", "short", "--src", "src", "--ref", "ref"],
        "src has 40 lines and short has 1",
    ),
    "one stream for two": (
        ["--hyp", "-", "--ref", "ref", "-"],
        "--hyp and --ref: all are standard input; expected files for all but one of them",
    ),
    "a missing file": (["--hyp", "a", "--ref", "ref", "--against", "none"], "none: cannot be read"),
    "less than no resamples": (["--hyp", "a", "--ref", "ref", "--n_resamples", "-1"], "--n_resamples is -1"),
    "an unknown tokenizer": (["--hyp", "a", "--ref", "ref", "--tokenize", "14a"], "--tokenize 14a: expected one of"),
    **{
        f"a time-out of {given} s": (
            ["--hyp", "a", "--ref", "ref", "--comet_timeout_s", given],
            f"--comet_timeout_s is {shown}; expected seconds above 0 and up to 2,147,483",
        )
        for given, shown in (("0", "0"), (".nan", "nan"), (".inf", "inf"), ("1e7", "1e+07"), ("2147484", "2.14748e+06"))
    },
    # Whether the parser takes these for numbers depends on what it read before.
    **{
        f"a time-out of {given} s": (
            ["--hyp", "a", "--ref", "ref", "--comet_timeout_s", given],
            f"--comet_timeout_s is {given}; expected ",
        )
        for given in ("nan", "inf")
    },
    "a failing command": (
        ["--hyp", "a", "--ref", "ref", "--comet", "/no_such_place {ref} {hyp}"],
        "/no_such_place is no program that can be started",
    ),
}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_not_utf8_is_told_and_written(encoding: str, folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    shutil.copy("a", name)
    given = ["evaluate", "--hyp", name, "--ref", "ref", "--against", "b", "--json", "out.json", *FEW]
    done = subprocess.run(
        [sys.executable, "-m", "accel_tx", *given],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\udce9" in done.stdout
    assert json.loads((folder / "out.json").read_text("utf-8"))["systems"][0]["file"] == name


@pytest.mark.parametrize("others", [[], ["--against", "b"]])
def test_a_metric_of_another_program_that_fails_costs_no_other_score(
    others: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comet = f"{sys.executable} -c 'import sys; sys.exit(\"no such model\")' {{hyp}} {{ref}}"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--hyp", "a", "--ref", "ref", *others, "--json", "out.json", "--comet", comet, *FEW])
    told = capsys.readouterr()
    values = json.loads((folder / "out.json").read_text())

    assert ended.value.code == 2
    assert told.err == f"accel_tx: --comet: {sys.executable} ended with status 1: no such model\n"
    assert "BLEU" in told.out
    assert "COMET" not in told.out
    assert values["bleu"] > 50
    assert "comet" not in values


def test_another_program_gets_the_first_of_several_references(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = "import sys; print(float(open(sys.argv[1]).read() == open(sys.argv[2]).read()))"
    comet = f"{sys.executable} -c '{same}' {{src}} {{ref}} {{hyp}}"
    given = ["--hyp", "a", "--src", "src", "--comet", comet, "--json", "out.json", *FEW]
    for names, expected in ((["src", "b"], 1.0), (["b", "src"], 0.0)):
        main(["evaluate", "--ref", *names, *given])
        assert json.loads((folder / "out.json").read_text())["comet"] == expected
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "of several files after --ref it gets the first" in " ".join(capsys.readouterr().out.split())


def test_a_metric_that_cannot_be_had_is_told_before_the_translating(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(**_: object) -> None:
        raise RuntimeError("Please install it")

    monkeypatch.setattr("accel_tx.inference.line_metrics.BLEU", lacks)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--run_dir", "no such run", "--src", "src", "--ref", "ref", "--tokenize", "ja-mecab"])
    assert ended.value.code == 2
    told = "tokenize ja-mecab: sacreBLEU cannot use it here (Please install it)"
    assert capsys.readouterr() == ("", f"accel_tx: {told}\n")


def test_files_that_cannot_be_written_are_told_before_anything_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--json", "--output"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "--run_dir", "no such run", option, "missing/out"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == "accel_tx: missing/out: cannot be written (No such file or directory)\n"


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = BAD[case]
    (folder / "short").write_text("un\n")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *FEW, *arguments, "--json", "out.json"])

    told = capsys.readouterr()
    assert ended.value.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not (folder / "out.json").exists()
