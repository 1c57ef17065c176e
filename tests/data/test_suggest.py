from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from accel_tx.config import CleanConfig, TrainConfig, build_config, load_yaml
from accel_tx.data.characters import TextBatch
from accel_tx.data.histogram import Histogram
from accel_tx.data.rules import PairBatch, objections, pair_rules
from accel_tx.data.statistics import describe_text
from accel_tx.data.suggest import Proposal, as_yaml, suggest, weighted_median

TRAIN = TrainConfig(epochs=1, max_tokens=4096)
WORDS = "the a cat dog house sees near under quickly old".split()


def corpus() -> list[tuple[str, str]]:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, n)) for n in rng.integers(3, 40, 2_000)]
    pairs = [(text, f"{text} {' '.join(rng.choice(WORDS, len(text) // 40))}".strip()) for text in texts]
    pairs += [("one " * 20, "one " * 150), ("x" * 300, "x" * 300), ("12 34 56 78 --", "12 34 56 78 --")]
    return pairs


@pytest.fixture(scope="module")
def statistics() -> dict[str, Any]:
    data = datasets.Dataset.from_dict(dict(zip(("src", "tgt"), zip(*corpus(), strict=True), strict=True)))
    lengths = {"src": Histogram.of("count", [5, 90, 41]).to_dict(), "tgt": Histogram.of("count", [7, 97, 40]).to_dict()}
    longer = {**lengths, "src": Histogram.of("count", [130]).to_dict()}
    return {**describe_text(["c"], [data], [data], 1), "tokens": {"train": lengths, "valid": longer}}


def test_the_counts_are_those_of_the_rules_alone(statistics: dict[str, Any]) -> None:
    src, tgt = (pa.array(side) for side in zip(*corpus(), strict=True))
    proposals = [p for p in suggest(statistics, CleanConfig(preset="none"), TRAIN) if p.section == "clean"]
    assert [p.field for p in proposals] == [
        "max_words",
        "max_chars",
        "max_word_ratio",
        "max_char_ratio",
        "max_word_chars",
        "min_letter_share",
    ]
    for proposal in proposals:
        rules = pair_rules({proposal.field: proposal.value})
        bits = objections(PairBatch(TextBatch(src), TextBatch(tgt), "en", "fr"), rules)
        assert proposal.n_dropped == ((bits >> 1) & 1).sum(), proposal
    assert sum(p.n_dropped or 0 for p in proposals) > 0


@pytest.mark.parametrize("tgt_lang", ["zh", "ko"])
def test_the_counts_are_those_of_the_rules_also_where_characters_are_wide(
    statistics: dict[str, Any], tgt_lang: str
) -> None:
    rng = np.random.default_rng(5)
    letters = {"zh": "我们今天去学校", "ko": "가 나다 라마"}[tgt_lang]
    src = [" ".join(rng.choice(WORDS, n)) for n in rng.integers(5, 60, 500)]
    tgt = ["".join(rng.choice(list(letters), max(1, len(text) // rng.integers(2, 12)))) for text in src]
    tgt = [text.strip() or "x" for text in tgt]
    data = datasets.Dataset.from_dict({"src": src, "tgt": tgt})
    text = describe_text(["c"], [data], [data], 1)
    proposals = suggest({**statistics, **text}, CleanConfig(preset="none"), TRAIN)
    for proposal in (p for p in proposals if p.section == "clean"):
        rules = pair_rules({proposal.field: proposal.value})
        bits = objections(PairBatch(TextBatch(pa.array(src)), TextBatch(pa.array(tgt)), "en", tgt_lang), rules)
        assert proposal.n_dropped == ((bits >> 1) & 1).sum(), proposal
    widths = [sum(2 if c in letters and c != " " else 1 for c in text) for text in tgt]
    expected = np.median([w / len(s) for w, s in zip(widths, src, strict=True)])
    assert Histogram.from_dict(text["text"]["before"]["char_ratio"]).quantile(0.5) == pytest.approx(expected, rel=0.05)
    if tgt_lang == "zh":
        assert Histogram.from_dict(text["text"]["before"]["word_excess"]).largest == 1


def test_ratios_reach_as_far_as_six_robust_deviations(statistics: dict[str, Any]) -> None:
    ratios = Histogram.of("ratio", [2 ** (-i / 4) for i in range(5)])
    excess = Histogram.of("ratio", [1, 6.5, 6.6, 6.9, 9, 200])
    before = {**statistics["text"]["before"], "char_ratio": ratios.to_dict(), "char_excess": excess.to_dict()}
    found = suggest({**statistics, "text": {"before": before}}, CleanConfig(), TRAIN)
    proposal = next(p for p in found if p.field == "max_char_ratio")
    # Median half an octave below 1, median distance from it a quarter: 2 ** (0.5 + 6 * 1.4826 * 0.25) = 6.61, and the
    # next edge of a bin is 2 ** (44.5 / 16) = 6.87.
    assert (proposal.value, proposal.n_dropped) == (6.87, 3)


def test_lengths_go_half_as_far_again_as_all_but_a_thousandth(statistics: dict[str, Any]) -> None:
    words = Histogram.of("count", [4] * 5_000 + [30] * 4_000 + [31] * 995 + [46, 47, 47, 48, 100])
    before = {**statistics["text"]["before"], "longer_words": words.to_dict()}
    found = suggest({**statistics, "text": {"before": before}}, CleanConfig(), TRAIN)
    assert (found[0].field, found[0].value, found[0].n_dropped) == ("max_words", 46, 4)


@pytest.mark.parametrize("preset", ["none", "original", "light", "strict"])
def test_the_fragment_loads_as_part_of_a_config(tmp_path: Path, statistics: dict[str, Any], preset: Any) -> None:
    proposals = suggest(statistics, CleanConfig(preset=preset), TRAIN)
    path = tmp_path / "fragment.yaml"
    path.write_text(as_yaml(proposals, 2_003), encoding="utf-8")
    values = load_yaml(path)
    values["clean"]["preset"] = preset
    values["train"]["epochs"] = 1
    config = build_config(values)
    for proposal in proposals:
        assert getattr(getattr(config, proposal.section), proposal.field) == proposal.value
    assert config.model.max_positions == 200  # half as much again as 130, and a multiple of 8
    assert config.train.max_tokens == 8192  # 32 pairs of 130 tokens


def test_what_the_config_excludes_is_not_proposed(statistics: dict[str, Any]) -> None:
    by_pairs = TrainConfig(epochs=1, batch_size=8)
    fields = [p.field for p in suggest(statistics, CleanConfig(without="max_words,max_char_ratio"), by_pairs)]
    assert fields == ["max_chars", "max_word_ratio", "max_word_chars", "min_letter_share", "max_positions"]


def test_every_field_has_its_reason_and_its_cost_beside_it() -> None:
    proposals = [
        Proposal("clean", "max_words", 1_234_567, "because", 25),
        Proposal("clean", "max_char_ratio", 2.5, "so", 0),
        Proposal("train", "max_tokens", 4096, "why", None),
    ]
    assert as_yaml(proposals, 1_000).splitlines()[1:] == [
        "clean:",
        "  # because; drops 25 (2.50%)",
        "  max_words: 1234567",
        "  # so; drops 0 (0.00%)",
        "  max_char_ratio: 2.5",
        "train:",
        "  # why",
        "  max_tokens: 4096",
    ]


def test_the_median_weighs_each_value_by_its_count() -> None:
    rng = np.random.default_rng(1)
    values, counts = rng.normal(size=9), rng.integers(0, 5, 9)
    assert weighted_median(values, counts) in np.repeat(values, counts)
    half = counts.sum() / 2
    median = weighted_median(values, counts)
    assert counts[values <= median].sum() >= half
    assert counts[values < median].sum() < half
    assert weighted_median(values, np.zeros(9, dtype=np.int64)) == 0
