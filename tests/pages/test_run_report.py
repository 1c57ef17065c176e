"""The page that compares runs: what stands in it, of whole runs, unfinished ones and ones with names like HTML."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.cli import main
from accel_tx.config import Config
from accel_tx.pages.run_report import run_report, short_names
from accel_tx.train.run_history import read_run
from tests.outline import Outline, outline
from tests.pages.fake_run import SIGNATURE, fake_run, training_line, validation_line, write_lines

MEAN = '<script>alert("&amp;")</script> | and'


def evaluation(bleu: float, references: str = "same", signature: str = f"{SIGNATURE}|bs:1000|seed:1") -> dict[str, Any]:
    interval = {"score": bleu, "mean": bleu, "low": bleu - 1.5, "high": bleu + 2.25, "half_width": 1.9}
    return {
        "systems": [{"file": None, "bleu": interval, "cer": {"score": 0.25}}],
        "signatures": {"bleu": signature},
        "references_sha256": references,
        "n_sentences": 1_014,
        "weights": "best",
        "decode": {"beam_size": 5},
    }


@pytest.fixture
def runs(tmp_path: Path, tiny_config: Callable[..., Config]) -> list[Path]:
    """Two runs of the same name that differ in two fields, and one without a validation whose last line is cut."""
    found = []
    for folder, bleu, fields in (("a", 30.5, {}), ("b", 31.25, {"dropout": 0.1})):
        lines = [line for u in (10, 20, 30) for line in (training_line(u), validation_line(u, bleu - 30 + u))]
        samples = {20: [(MEAN, "the reference", f"of {folder}")], 30: [("other", "at 30", "later")]}
        best = {"update": 20, "bleu": bleu, "chrf": 50.0, "val_loss": 2.5, "signature": SIGNATURE, "data_sha256": "1"}
        config = tiny_config(model=fields, optim={"max_lr": 1e-3 if fields else 5e-3})
        found.append(fake_run(tmp_path / folder / "same", config, lines, samples, best))
        (found[-1] / "test.json").write_text(json.dumps(evaluation(bleu)), encoding="utf-8")
    start = {"n_updates": 40, "n_parameters": 1_500_000, "device": "cpu", "processor": "An invented one (2 cores)"}
    write_lines(found[0] / "starts.jsonl", [{"update": at, **start, "n_processes": 2} for at in (0, 20)])
    young = fake_run(tmp_path / "<b>&", tiny_config(), [training_line(10), training_line(20)])
    path = young / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    return [*found, young]


def page_of(runs: list[Path]) -> tuple[str, Outline]:
    page = run_report([read_run(path) for path in runs])
    return page, outline(page)


def row_of(page: str, first: str) -> list[str]:
    """The cells of the row that begins with this text, without markup."""
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    plain = [[re.sub(r"<[^>]*>", "", cell).strip() for cell in cells] for cells in rows]
    return next(cells for cells in plain if cells and cells[0] == first)


def test_the_page_needs_nothing_from_elsewhere_and_text_stays_text(runs: list[Path]) -> None:
    page, found = page_of(runs)
    assert found.addresses == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert not {"script", "b>&", "iframe", "img", "link"} & set(found.tags)
    assert MEAN in found.text
    assert any("<b>&" in text for text in found.text)


def test_the_best_scores_stand_beside_each_other_and_the_better_one_is_bold(runs: list[Path]) -> None:
    page, _ = page_of(runs)
    assert row_of(page, "1 a/same") == ["1 a/same", "bleu", "20", "2.500", "30.50", "50.00", "–", "–"]
    assert row_of(page, "3 &lt;b&gt;&amp;")[1:] == ["–"] * 7
    assert "<b>31.25</b>" in page
    assert "<b>30.50</b>" not in page
    assert SIGNATURE in page
    best = json.loads((runs[1] / "best" / "scores.json").read_text())
    folded = SIGNATURE.replace("case:mixed", "case:lc")
    (runs[1] / "best" / "scores.json").write_text(json.dumps({**best, "bleu": 41.25, "signature": folded}))
    page, _ = page_of(runs)
    assert row_of(page, "2 b/same")[4:6] == ["41.25", "50.00"]
    assert "<b>41.25</b>" not in page
    assert page.count("<b>50.00</b>") == 2


def test_intervals_come_from_evaluate_and_other_texts_have_a_table_of_their_own(runs: list[Path]) -> None:
    page, _ = page_of(runs)
    assert "[29.00, 32.75]" in page
    assert page.count("1,014 sentences") == 1
    (runs[1] / "test.json").write_text(json.dumps(evaluation(31.25, "another")), encoding="utf-8")
    assert page_of(runs)[0].count("1,014 sentences") == 2


def test_the_members_of_an_ensemble_stand_beside_the_weights(runs: list[Path]) -> None:
    values = {**evaluation(31.25), "ensemble": ["runs/c:final", "<b>:best"]}
    (runs[1] / "test.json").write_text(json.dumps(values), encoding="utf-8")
    page = page_of(runs)[0]
    assert "best + runs/c:final + &lt;b&gt;:best, beam 5" in page
    assert "<td>best, beam 5" in page


def test_scores_of_other_signatures_are_not_compared_and_the_signatures_are_shown(runs: list[Path]) -> None:
    def with_signature(signature: str) -> str:
        (runs[1] / "test.json").write_text(json.dumps(evaluation(41.25, signature=signature)), encoding="utf-8")
        return page_of(runs)[0]

    folded = SIGNATURE.replace("case:mixed", "case:lc").replace("tok:13a", "tok:none")
    page = with_signature(f"{folded}|bs:1000|seed:1")
    assert page.count("1,014 sentences") == 1
    assert "41.25" in page
    assert "<b>41.25</b>" not in page
    assert page.count("<details open><summary>signatures</summary>") == 1
    # The resampling has no say in the score.
    page = with_signature(SIGNATURE.replace("|case", "|ar:10|case") + "|bs:50|seed:2")
    assert page.count("1,014 sentences") == 1
    assert "<b>41.25</b>" in page
    assert "<details open>" not in page


def test_every_curve_is_drawn_over_updates_and_over_minutes(runs: list[Path]) -> None:
    page, found = page_of(runs)
    assert found.tags.count("svg") == 8
    assert page.count('class="curve c0"') == page.count('class="curve c1"') == 8
    labels = re.findall(r'aria-label="([^"]*)"', page)
    assert "BLEU, validation over minutes of training: a/same ends at 30.5; b/same ends at 31.25" in labels
    minutes = page[page.index("BLEU, validation over minutes") :]
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', minutes[: minutes.index("</svg>")]) == ["0.0", "0.5", "1.0", "1.5"]
    assert sum("&lt;b&gt;&amp; ends at 0.8" in label for label in labels) == 2  # the cut line is left out


def test_translations_are_those_of_the_best_update(runs: list[Path]) -> None:
    _, found = page_of(runs)
    assert {"of a", "of b"} <= set(found.text)
    assert "later" not in found.text
    assert "At the update that validated best: a/same at 20, b/same at 20." in found.text


def test_translations_of_another_update_say_so(runs: list[Path]) -> None:
    best = json.loads((runs[1] / "best" / "scores.json").read_text())
    (runs[1] / "best" / "scores.json").write_text(json.dumps({**best, "update": 25}))
    _, found = page_of(runs)
    note = "At the update that validated best: a/same at 20. At the last update that has samples: b/same at 30."
    assert note in found.text


def test_only_the_settings_that_differ_are_shown(runs: list[Path]) -> None:
    page, _ = page_of(runs)
    assert row_of(page, "model.dropout") == ["model.dropout", "0.3", "0.1", "0.3"]
    assert row_of(page, "optim.max_lr")[1:] == ["0.005", "0.001", "0.005"]
    assert "model.d_model" not in re.sub(r"<[^>]*>", "", page)
    assert "configs are the same" in page_of([runs[0], runs[2]])[0]
    assert "one run alone" in page_of(runs[:1])[0]


def test_hardware_and_speed_are_told_where_they_are_known(runs: list[Path]) -> None:
    page, _ = page_of(runs)
    assert row_of(page, "device")[1:] == ["An invented one (2 cores)", "–", "–"]
    assert row_of(page, "starts")[1:] == ["2, again from 20", "–", "–"]
    assert row_of(page, "updates")[1:] == ["30 of 40", "30 of 40", "10 of 40"]
    assert row_of(page, "target tokens/s, median")[1:] == ["1,000"] * 3
    assert row_of(page, "minutes of training")[1:] == ["1.5", "1.5", "0.5"]


def test_what_makes_numbers_no_match_is_said(runs: list[Path]) -> None:
    _, found = page_of(runs)
    assert "<b>&: has not been validated yet." in found.text
    best = json.loads((runs[1] / "best" / "scores.json").read_text())
    (runs[1] / "best" / "scores.json").write_text(json.dumps({**best, "data_sha256": "2"}))
    assert "different data" in " ".join(page_of(runs)[1].text)


@pytest.mark.parametrize(("field", "text"), [("label_smoothing", "smooth labels"), ("r_drop", "differ in R-Drop")])
def test_training_losses_of_other_formulas_are_told_apart(
    field: str, text: str, tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    configs = tiny_config(), tiny_config(optim={field: 0.5})
    runs = [fake_run(tmp_path / str(i), config, [training_line(10)]) for i, config in enumerate(configs)]
    found = " ".join(page_of(runs)[1].text)
    assert f"The runs {text}" in found
    assert found.count("not the training losses") == 1


def test_names_are_as_long_as_they_must_be() -> None:
    paths = [Path(name) for name in ("/x/a/run", "/x/b/run", "/x/c/other", "/y/a/run", "/run")]
    assert short_names(paths) == ["x/a/run", "b/run", "other", "y/a/run", "/run"]


def test_the_command_writes_the_page_and_tells_its_size(runs: list[Path], tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "report.html"
    main(["report", "--run_dirs", *map(str, runs), "--output", str(output)])
    assert capsys.readouterr().out.startswith(f"{output}: 3 run(s), ")
    assert output.read_text(encoding="utf-8") == f"{page_of(runs)[0]}\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["{a}", "{tmp}"], "holds no run; expected a run folder"),
        (["{a}", "{a}/../same"], "is given twice"),
        (
            ["{a}", "{tmp}/exported"],
            "exported: holds an exported or imported model; expected the folder of a training run",
        ),
        (["{a}", "{tmp}/loop"], "loop: no such folder; expected a run folder"),
        (["{a}", "{tmp}/" + "x" * 300], "cannot be read (File name too long)"),
        (["{tmp}", "--output", "{tmp}/none/x.html"], "x.html: cannot be written"),  # said before runs are read
        (["{a}", "--output", "{tmp}"], "is a folder"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    options: list[str], expected: str, runs: list[Path], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported").mkdir()
    shutil.copy(runs[0] / "config.yaml", tmp_path / "exported")
    (tmp_path / "exported" / "model.safetensors").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SystemExit) as ended:
        main(["report", "--run_dirs", *(text.format(a=runs[0], tmp=tmp_path) for text in options)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
    assert not list(tmp_path.glob("*.html"))
