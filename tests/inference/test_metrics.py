"""The scores equal sacreBLEU's own command line and a plain Levenshtein table."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.inference.corpus_metrics import Bleu, CharacterErrorRate, ChrF, WordErrorRate
from accel_tx.inference.line_metrics import edit_distance
from accel_tx.inference.metrics import Scores, score_translations
from tests.conftest import REPOSITORY

HYPOTHESES = ["Un homme en chemise rouge court .", "", "Le chat est assis sur le tapis.", "C’est l'été, déjà ?"]
REFERENCES = ["Un homme en chemise bleue court.", "Il pleut.", "Le chat est sur le tapis.", "C’est déjà l'été !"]


def slow_edit_distance(a: str, b: str) -> int:
    """The table of Wagner and Fischer 1974, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("chat", "chat", 0),
        ("chat", "chats", 1),
        ("kitten", "sitting", 3),
        ("niche", "chien", 4),
        ("été", "ete", 2),
        ("x" * 200, "x" * 100 + "y" + "x" * 99, 1),  # wider than a machine word
    ],
)
def test_edit_distance_of_hand_counted_pairs(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance
    assert edit_distance(b, a) == distance


@given(st.text("abé ", max_size=90), st.text("abé ", max_size=90))
def test_edit_distance_equals_the_plain_table(a: str, b: str) -> None:
    assert edit_distance(a, b) == slow_edit_distance(a, b)


@pytest.mark.parametrize(
    ("hypotheses", "references", "cer", "wer"),
    [
        (["le chat dort"], ["le chat dort"], 0.0, 0.0),
        (["le chat"], ["le chat dort"], 5 / 12, 1 / 3),
        (["le  chat dort"], ["le chat dort"], 1 / 12, 0.0),  # spaces are characters, but no words
        ([""], ["le chat dort"], 1.0, 1.0),
        (["a b c d"], ["a"], 6.0, 3.0),
        # Over the corpus, not the mean over lines: (0 + 4) / (11 + 4) characters, (0 + 1) / (3 + 1) words.
        (["il fait bon", "oui"], ["il fait bon", "part"], 4 / 15, 1 / 4),
        (["rien", "deux mots"], ["", "deux mots"], 4 / 9, 1 / 2),
    ],
)
def test_error_rates_of_hand_counted_corpora(
    hypotheses: list[str], references: list[str], cer: float, wer: float
) -> None:
    scores = score_translations(hypotheses, references)

    assert (scores.cer, scores.wer) == pytest.approx((cer, wer), abs=1e-12)


@pytest.mark.parametrize("tokenize", ["13a", "none", "intl", "char"])
def test_bleu_and_chrf_equal_sacrebleus_command_line(tokenize: str, tmp_path: Path) -> None:
    (tmp_path / "hyp").write_text("\n".join(HYPOTHESES) + "\n", encoding="utf-8")
    (tmp_path / "ref").write_text("\n".join(REFERENCES) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "-tok", tokenize, "-w", "9"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    bleu, chrf = json.loads(printed)

    scores = score_translations(HYPOTHESES, REFERENCES, tokenize)

    assert 0 < scores.bleu < 100
    assert scores.bleu == pytest.approx(bleu["score"], abs=1e-8)
    assert scores.chrf == pytest.approx(chrf["score"], abs=1e-8)
    assert (scores.signature, scores.chrf_signature) == (bleu["signature"], chrf["signature"])
    assert f"tok:{tokenize}|" in scores.signature


def test_perfect_translations_get_the_best_scores() -> None:
    scores = score_translations(REFERENCES, REFERENCES)

    assert (scores.bleu, scores.chrf, scores.cer, scores.wer) == pytest.approx((100.0, 100.0, 0.0, 0.0))


def test_nothing_but_empty_hypotheses_gets_the_worst_scores() -> None:
    scores = score_translations([""] * len(REFERENCES), REFERENCES)

    assert (scores.bleu, scores.chrf, scores.cer, scores.wer) == (0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("hypotheses", "references", "tokenize", "message"),
    [
        (["a"], ["a", "b"], "13a", "1 hypotheses and 2 references"),
        ([], [], "13a", "no hypotheses and no references"),
        (["a", "b"], ["", ""], "13a", "all 2 references are empty"),
        (["a"], ["a"], "14a", "tokenize is '14a'; expected one of 13a, "),
    ],
)
def test_unusable_input_is_refused(hypotheses: list[str], references: list[str], tokenize: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_translations(hypotheses, references, tokenize)


def test_text_that_looks_tokenized_is_told_in_one_line_that_names_what_there_is_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lines = [f"le chat numéro {n} dort ." for n in range(150)]
    score_translations(lines, lines)
    (message,) = caplog.messages
    assert message.endswith("for text that is tokenized give --tokenize none, or validation.tokenize none")
    caplog.clear()
    score_translations(lines, lines, "none")
    assert caplog.messages == []


def test_scoring_takes_no_room_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = score_translations(HYPOTHESES, REFERENCES)
    monkeypatch.setattr(os, "mkdir", full)
    assert score_translations(HYPOTHESES, REFERENCES) == expected


def test_scores_are_ready_for_json() -> None:
    scores = score_translations(HYPOTHESES, REFERENCES)

    assert Scores(**json.loads(json.dumps(scores.to_dict()))) == scores


def test_a_validation_set_of_usual_size_takes_well_under_two_seconds() -> None:
    draw = random.Random(1)
    references = ["".join(draw.choices("abcdefgh ", k=60)) for _ in range(1_014)]
    hypotheses = ["".join(draw.choices("abcdefgh ", k=60)) for _ in range(1_014)]
    score_translations(["warm"], ["up"])

    started_at_s = time.process_time()
    score_translations(hypotheses, references)

    assert time.process_time() - started_at_s < 2


def test_the_classes_for_evaluate_give_the_same_numbers() -> None:
    hypotheses, references = ["a cat sat there", "two dogs"], ["a cat sits there", "two dogs ran"]

    scores = score_translations(hypotheses, references)

    found = {
        metric.key: metric(keep_in_memory=True).compute(predictions=hypotheses, references=references)
        for metric in (Bleu, ChrF, CharacterErrorRate, WordErrorRate)
    }
    assert found["bleu"] == {"score": scores.bleu, "signature": scores.signature}
    assert found["chrf"] == {"score": scores.chrf, "signature": scores.chrf_signature}
    assert (found["cer"]["score"], found["wer"]["score"]) == (scores.cer, scores.wer)


def test_scoring_leaves_nothing_behind_and_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "run.py").write_text(
        "import sys\n"
        "from accel_tx.inference.metrics import score_translations\n"
        "score_translations(['a'], ['b'])\n"
        # `evaluate` brings transformers where that is installed, for two seconds.
        "assert not {'torch', 'datasets', 'evaluate'} & set(sys.modules)\n"
    )
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    elsewhere = ("HF_HOME", "HF_METRICS_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")
    env = {k: v for k, v in os.environ.items() if k not in elsewhere} | places

    subprocess.run([sys.executable, tmp_path / "run.py"], check=True, env={**env, "PYTHONPATH": str(REPOSITORY)})

    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["run.py"]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "home/.cache/huggingface/metrics").exists()
