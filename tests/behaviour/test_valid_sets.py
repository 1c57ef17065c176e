"""A training with several validation sets scores each, and may choose by any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.data.phrasebook import iter_pairs
from accel_tx.train.loop import train
from tests.run_folder import read_lines

NUMBERS = ("val_loss", "bleu", "chrf", "cer", "wer")


def test_every_set_is_scored_at_every_validation_and_one_of_them_chooses(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pairs = {"same": iter_pairs("validation", 23, 1), "other": iter_pairs("validation", 40, 2)}
    for name, rows in pairs.items():
        text = "".join(f"{en}\t{fr}\n" for en, fr in [("en", "fr"), *islice(rows, 23)])
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    sets = [{"name": name, "corpus": str(tmp_path / f"{name}.tsv")} for name in pairs]
    config = tiny_config(
        data={"valid_sets": sets, "test_corpus": str(tmp_path / "other.tsv")},
        validation={"best_metric": "val_loss/other", "every_updates": 10, "tokenize": "char"},
    )
    train(config, tmp_path / "run")
    lines = [line for line in read_lines(tmp_path / "run") if "val_loss" in line]

    assert len(lines) == 4
    for line in lines:
        assert [line[f"{key}/same"] for key in NUMBERS] == [line[key] for key in NUMBERS]
        assert "tok:char|" in line["signature"]
        assert line["val_loss/other"] != line["val_loss"]
    best = json.loads((tmp_path / "run/best/scores.json").read_text())
    assert best["val_loss/other"] == min(line["val_loss/other"] for line in lines)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("validation/val_loss/other")] == pytest.approx(
        [line["val_loss/other"] for line in lines]
    )
    capsys.readouterr()
    arguments = ["evaluate", "--run_dir", str(tmp_path / "run"), "--beam_size", "1", "--n_resamples", "0", "--json"]
    main([*arguments, str(tmp_path / "other.json"), "--valid_set", "other"])
    main([*arguments, str(tmp_path / "main.json")])
    main([*arguments, str(tmp_path / "test.json"), "--test"])
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("main", "other", "test")}
    assert found["test"] == {**found["other"], "text": "test text"}
    assert (found["other"]["text"], found["main"]["text"]) == ("validation set other", "validation set")
    assert [found["other"][key] for key in NUMBERS[1:]] == [best[f"{key}/other"] for key in NUMBERS[1:]]
    assert [found["main"][key] for key in NUMBERS[1:]] == [best[key] for key in NUMBERS[1:]]
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path / "x.json"), "--valid_set", "none"])
    assert "--valid_set none: the run has same, other" in capsys.readouterr().err
    (tmp_path / "other.tsv").write_text("en\tfr\na dog\tun chat\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path / "x.json"), "--test"])
    assert "its corpus has changed since the training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], " has no test text (data.test_corpus, data.test_src and "),
        (["--valid_set", "news"], "--valid_set and --test: both are given; expected one of them"),
        (["--src", "s", "--ref", "r"], "--test: files are given as well; expected a run's own set, or files"),
    ],
)
def test_what_test_text_cannot_be_is_refused(
    more: list[str],
    message: str,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tiny_config(train={"max_updates": 1}), tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", "--run_dir", str(tmp_path), "--test", *more])
    assert message in capsys.readouterr().err
