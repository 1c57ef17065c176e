"""Text in, text out: order, empty lines, cut sources, batches that change nothing; run folders that load or do not."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from accel_tx.config import Config, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig, UserError, dump_yaml
from accel_tx.data.tokenizer import EOS_ID, SPECIAL_TOKENS, UNK_ID, Tokenizer, TokenizerPair, train_tokenizer
from accel_tx.inference import translator as translator_module
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.parts import parts_of
from accel_tx.inference.translator import Translation, Translator, load_run_config
from accel_tx.inference.weights import load_weights
from accel_tx.model.transformer import Transformer

LINES = [
    "the cat drinks water",
    "the old man and the sea",
    "it is late",
    "yes",
    "the children of the old man are playing with the cat in the garden by the sea",
    "where is the garden",
    "no",
    "water is in the garden and the sea is old",
    "the man drinks",
    "it is the cat of the children",
]
MAX_POSITIONS = 32
SIZES: dict[str, Any] = {
    "d_model": 16,
    "d_ff": 24,
    "n_heads": 2,
    "n_encoder_layers": 1,
    "n_decoder_layers": 1,
    "max_positions": MAX_POSITIONS,
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(LINES * 2), TokenizerConfig("bpe", vocab_size=340, min_frequency=2))


@torch.no_grad()
def make_model(tokenizer: Tokenizer, seed: int = 1) -> Transformer:
    """Untrained, in float64 (no near ties), with logits large and lively enough for sentences of many lengths."""
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**SIZES), tokenizer.vocab_size, tokenizer.vocab_size).double().eval()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    model.projection.mul_(3)
    model.output_bias[EOS_ID] += 2
    return model


def make_translator(
    tokenizer: Tokenizer, max_tokens: int = 8_192, seed: int = 1, beam_size: int = 1, **fields: Any
) -> Translator:
    decode = DecodeConfig(**{"max_tokens": max_tokens, "max_len_extra": 10, "beam_size": beam_size, **fields})
    return Translator(make_model(tokenizer, seed), TokenizerPair(tokenizer, tokenizer), decode)


class EchoSearch:
    """Gives each source back as its own translation, and notes what it was asked."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []
        self.sources: list[list[int]] = []
        self.limits: list[int] = []
        self.minima: list[int] = []
        self.prefixes: list[list[int]] = []
        self.allowed_unknown: list[bool] = []

    def __call__(
        self,
        model: Transformer,
        src_ids: Tensor,
        src_valid: Tensor | None,
        settings: DecodeConfig,
        max_len_tokens: list[int],
        min_len_tokens: list[int],
        prefixes: list[list[int]],
        poll: object,
        allow_unknown: bool,
    ) -> list[list[Hypothesis]]:
        self.shapes.append((src_ids.shape[0], src_ids.shape[1]))
        valid = torch.ones_like(src_ids, dtype=torch.bool) if src_valid is None else src_valid
        rows = [ids[real].tolist() for ids, real in zip(src_ids, valid)]
        assert all(row[-1] == EOS_ID for row in rows)
        echoes = [row[:-1] for row in rows]
        self.sources += echoes
        self.limits += max_len_tokens
        self.allowed_unknown.append(allow_unknown)
        self.minima += min_len_tokens
        self.prefixes += prefixes
        return [[Hypothesis(ids, -1.0, -0.5)] for ids in echoes]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> EchoSearch:
    search = EchoSearch()
    monkeypatch.setattr(translator_module, "search", search)
    return search


@pytest.mark.parametrize("max_tokens", [1, 20, 8_192])
def test_answers_come_in_the_order_asked(max_tokens: int, tokenizer: Tokenizer, echo: EchoSearch) -> None:
    lines = LINES * 2
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        assert make_translator(tokenizer, max_tokens).translate(lines) == lines


def test_empty_and_blank_lines_give_empty_ones_without_being_searched(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    lines = ["", "yes", "   ", "\t", "no ", "\u00a0", "\n"]
    assert make_translator(tokenizer).translate(lines) == ["", "yes", "", "", "no", "", ""]
    assert len(echo.sources) == 2


@pytest.mark.parametrize("lines", [[], [""], ["", " "]])
def test_nothing_to_translate_runs_no_search(lines: list[str], tokenizer: Tokenizer, echo: EchoSearch) -> None:
    assert make_translator(tokenizer).translate(lines) == [""] * len(lines)
    assert echo.shapes == []


def test_blank_lines_are_empty_with_a_real_search_too(tokenizer: Tokenizer) -> None:
    translated = make_translator(tokenizer).translate(["", LINES[0], "  ", LINES[1]])
    assert [bool(text) for text in translated] == [False, True, False, True]


@pytest.mark.parametrize("max_tokens", [1, 20, 50, 8_192])
def test_padded_batches_stay_within_the_budget(max_tokens: int, tokenizer: Tokenizer, echo: EchoSearch) -> None:
    make_translator(tokenizer, max_tokens).translate(LINES)
    longest = max(len(source) + 1 for source in echo.sources)
    assert all(n_rows * width <= max(max_tokens, longest) for n_rows, width in echo.shapes)
    if max_tokens == 8_192:
        assert len(echo.shapes) == 1
    if max_tokens <= 20:
        assert len(echo.shapes) > 1


def test_limit_grows_with_the_source(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    translator = make_translator(tokenizer)
    translator.decode = DecodeConfig(max_len_ratio=1.5, max_len_extra=7)
    translator.translate(LINES)
    assert echo.limits == [len(source) * 3 // 2 + 7 for source in echo.sources]


def test_a_line_longer_than_the_positions_is_translated_in_parts_and_counted(
    tokenizer: Tokenizer, echo: EchoSearch
) -> None:
    translator = make_translator(tokenizer)
    n_words = MAX_POSITIONS - 1
    (ids,) = tokenizer.encode([" ".join(["cat"] * n_words)])
    assert len(ids) == n_words  # with EOS it just fits
    lines = [" ".join(["cat"] * n) for n in (n_words, n_words + 1, 1, 40 * n_words)]
    assert translator.translate(lines) == lines
    assert translator.n_split == 2
    assert max(len(source) for source in echo.sources) <= n_words
    assert translator.translate([f"{lines[0]}. Yes. No {lines[0]}"]) == [f"{lines[0]}. Yes. No {lines[0]}"]
    assert tokenizer.encode(["Yes."])[0] in echo.sources
    assert translator.n_split == 3


def test_numbers_of_a_line_in_parts_are_sums_over_them(tokenizer: Tokenizer) -> None:
    translator = make_translator(tokenizer)
    translator.decode = DecodeConfig(beam_size=3, n_best=3, max_len_extra=10)
    (found,) = translator.translate_lines([" ".join(LINES)])
    assert found.n_parts == found.n_searched > 1
    parts = [part.text for part in parts_of([" ".join(LINES)], tokenizer, MAX_POSITIONS)[0]]
    alone = [one.translations[0] for one in translator.translate_lines(parts)]
    assert found.translations[0].text == " ".join(one.text for one in alone if one.text)
    assert found.translations[0].log_prob == pytest.approx(sum(one.log_prob for one in alone))
    assert len(found.translations) == 3


def test_characters_that_end_a_line_elsewhere_become_spaces(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    assert make_translator(tokenizer).translate(["a\u2028cat\x85is\x0bin\x1c\rno"]) == ["a cat is in  no"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(iter(LINES), TokenizerConfig("wordlevel", vocab_size=100, min_frequency=1))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("copy", ["the Kim drinks 🎉 no", "no"]),
        ("mark", ["the <unk> drinks <unk> no", "no"]),
        ("drop", ["the drinks no", "no"]),
    ],
)
def test_unknown_words_are_treated_as_asked(mode: Any, expected: list[str], words: Tokenizer, echo: EchoSearch) -> None:
    translator = make_translator(words)
    translator.decode = DecodeConfig(unknown=mode)
    found = translator.translate_lines(["the Kim drinks 🎉 no", "no"])
    assert [one.unknown for one in found] == [["Kim", "🎉"], []]
    texts = [one.translations[0].text for one in found]
    if mode == "copy":  # an untrained model points anywhere, but each word has one place
        assert sorted(texts[0].split()) == sorted(expected[0].split())
        assert sorted(found[0].translations[0].copied) == ["Kim", "🎉"]
    else:
        assert texts[0] == expected[0]
    assert texts[1] == expected[1]
    assert echo.allowed_unknown == [False, True]


def test_a_line_of_unknown_words_alone_is_copied_without_the_model(words: Tokenizer, echo: EchoSearch) -> None:
    (found,) = make_translator(words).translate_lines(["🎉🎉 Kim"])
    assert found.translations[0].text == "🎉🎉 Kim"
    assert (found.n_parts, found.n_searched, echo.shapes) == (1, 0, [])


def test_unk_is_written_only_where_it_is_allowed(words: Tokenizer) -> None:
    translator = make_translator(words)
    with torch.no_grad():
        translator.model.output_bias[UNK_ID] += 50
    for mode, is_written in (("guess", False), ("mark", True)):
        translator.decode = DecodeConfig(unknown=mode, max_len_extra=3)
        known, unknown = translator.translate(["the cat", "the Kim"])
        assert "<unk>" not in known
        assert ("<unk>" in unknown) == is_written


def test_unknown_words_of_a_prefix_stand_as_they_were_given(words: Tokenizer) -> None:
    translator = make_translator(words)
    ((found,),) = translator.n_best(["the cat"], prefixes=["Monsieur Kim the"])
    assert found.text.startswith("Monsieur Kim the")
    assert found.copied == ()


@pytest.mark.parametrize(("seed", "beam_size"), [(1, 1), (2, 3)])
def test_batch_budget_changes_no_translation(seed: int, beam_size: int, tokenizer: Tokenizer) -> None:
    one_by_one = [make_translator(tokenizer, 8_192, seed, beam_size).translate([line])[0] for line in LINES]
    assert len(set(map(len, one_by_one))) > 3  # lively enough to show a difference
    for max_tokens in (1, 7, 20, 45, 8_192):
        assert make_translator(tokenizer, max_tokens, seed, beam_size).translate(LINES) == one_by_one


def test_a_larger_beam_takes_fewer_sentences_at_once(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    for fields in ({"beam_size": 4}, {"sampling": True, "n_best": 4}):
        echo.shapes.clear()
        make_translator(tokenizer, 200, **fields).translate(LINES)
        assert len(echo.shapes) > 1
        assert all(n_rows * width <= 50 for n_rows, width in echo.shapes)


def test_a_long_prefix_takes_fewer_sentences_at_once(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    translator = make_translator(tokenizer, 60)
    translator.n_best(["yes"] * 20, ["", " ".join(["sea"] * 12), *[""] * 18])
    assert max(n_rows for n_rows, _ in echo.shapes) > 4
    (beside,) = [n_rows for n_rows, _ in echo.shapes if n_rows <= 4]
    assert beside * 13 <= 60


def test_n_best_gives_texts_with_scores_best_first(tokenizer: Tokenizer) -> None:
    found = make_translator(tokenizer, beam_size=4, n_best=3).n_best(["", LINES[0], LINES[4]])
    assert found[0] == [Translation("", 0.0, 0.0)]
    for of_line in found[1:]:
        assert len({one.text for one in of_line}) == 3
        assert of_line == sorted(of_line, key=lambda one: (one.is_cut, -one.score))
        assert all(one.log_prob <= one.score < 0 for one in of_line)


def test_lengths_are_relative_to_the_source(tokenizer: Tokenizer, echo: EchoSearch) -> None:
    make_translator(tokenizer, min_len_ratio=0.5, max_len_ratio=2.0, max_len_extra=3).translate(LINES)
    assert echo.minima == [len(source) // 2 for source in echo.sources]
    assert echo.limits == [2 * len(source) + 3 for source in echo.sources]


def test_prefixes_begin_the_translations_of_their_own_lines(tokenizer: Tokenizer) -> None:
    translator = make_translator(tokenizer, beam_size=3)
    prefixes = ["the sea and", "", "where is the garden and the sea and the garden and the", "yes"]
    lines = [LINES[0], LINES[1], LINES[3], ""]
    found = [of_line[0].text for of_line in translator.n_best(lines, prefixes)]
    assert [text.startswith(prefix) for text, prefix in zip(found[:3], prefixes)] == [True] * 3
    assert found[1] == translator.translate([LINES[1]])[0]
    assert found[3] == ""
    with pytest.raises(UserError, match=r"the prefix of line 2 has \d+ tokens; expected fewer than model.max_pos"):
        translator.n_best(["no", "yes"], ["", " ".join(LINES)])


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_special_tokens_written_in_the_text_stay_text(special: str, tokenizer: Tokenizer, echo: EchoSearch) -> None:
    lines = [special, f"the cat {special} drinks water", f"{special}{special} yes", f"no {special}"]
    assert make_translator(tokenizer).translate(lines) == lines
    assert not {token for source in echo.sources for token in source} & set(range(4))


def test_padding_ids_of_the_batch_never_reach_the_text(tokenizer: Tokenizer) -> None:
    for text in make_translator(tokenizer).translate(LINES):
        assert not any(special in text for special in SPECIAL_TOKENS)


# Run folders


@pytest.fixture
def run_dir(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A run folder as training leaves it, with weights in `best`."""
    model = make_model(tokenizer).float()
    config = Config(train=TrainConfig(epochs=1, max_tokens=64), model=model.config)
    (tmp_path / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    TokenizerPair(tokenizer, tokenizer).save(tmp_path / "tokenizer")
    (tmp_path / "best").mkdir()
    save_file(model.state_dict(), tmp_path / "best" / "model.safetensors")
    return tmp_path


def test_run_folder_gives_the_translator_that_was_saved(run_dir: Path, tokenizer: Tokenizer) -> None:
    translator = Translator.from_run_dir(run_dir, "best", torch.device("cpu"))
    config = load_run_config(run_dir)
    saved = Translator(make_model(tokenizer).float(), TokenizerPair(tokenizer, tokenizer), config.decode)
    assert translator.model.config == saved.model.config
    assert not translator.model.training
    assert translator.translate(LINES) == saved.translate(LINES)


def test_what_does_not_fit_in_a_saved_config_is_told_with_its_file(run_dir: Path) -> None:
    path = run_dir / "config.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("clip_norm: 1.0", "clip_norm: .inf"), encoding="utf-8")
    assert load_run_config(run_dir).optim.clip_norm == math.inf
    path.write_text(text.replace("clip_norm: 1.0", "clip_norm: .nan"), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml: optim\.clip_norm is nan; expected a number"):
        load_run_config(run_dir)


def test_missing_parts_of_a_run_folder_are_named(run_dir: Path) -> None:
    device = torch.device("cpu")
    with pytest.raises(UserError, match=r"final: holds no weights; .* has best; the end of the training makes them"):
        Translator.from_run_dir(run_dir, "final", device)
    (run_dir / "tokenizer" / "tgt.json").unlink()
    with pytest.raises(UserError, match=r"tgt\.json: no such file"):
        Translator.from_run_dir(run_dir, "best", device)
    (run_dir / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds no run; expected a run folder"):
        Translator.from_run_dir(run_dir, "best", device)
    with pytest.raises(UserError, match="no such folder; expected a run folder"):
        Translator.from_run_dir(run_dir / "other", "best", device)


@pytest.mark.parametrize("damage", ["cut short", "empty", "no safetensors", "wider", "deeper", "tied"])
def test_damaged_or_foreign_weights_are_a_user_error(damage: str, run_dir: Path, tokenizer: Tokenizer) -> None:
    path = run_dir / "best" / "model.safetensors"
    other: dict[str, dict[str, Any]] = {
        "wider": {"d_model": 32},
        "deeper": {"n_encoder_layers": 2},
        "tied": {"tie_embeddings": "decoder"},
    }
    if damage in other:
        foreign = Transformer(ModelConfig(**{**SIZES, **other[damage]}), tokenizer.vocab_size, tokenizer.vocab_size)
        save_file(foreign.state_dict(), path)
    else:
        content = path.read_bytes()
        damaged = {"cut short": content[: len(content) // 2], "empty": b"", "no safetensors": b"weights" * 100}
        path.write_bytes(damaged[damage])
    with pytest.raises(
        UserError, match=r"model\.safetensors: cannot be (loaded into this model|read as weights)"
    ) as error:
        load_weights(make_model(tokenizer).float(), path)
    assert "\n" not in str(error.value)


def test_the_config_of_a_run_from_before_cleaning_had_a_section_is_understood(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "data: {max_src_words: 150, min_tgt_chars: null}\noptim: {betas: [0.9, 0.98]}\n"
        "train: {max_updates: 3, max_tokens: 2048}\n",
        encoding="utf-8",
    )
    config = load_run_config(tmp_path)
    assert (config.clean.max_src_words, config.clean.min_tgt_chars) == (150, None)


def test_a_long_line_does_not_lift_the_budget_of_the_others(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = EchoSearch()
    monkeypatch.setattr(translator_module, "search", echo)
    make_translator(tokenizer, max_tokens=40, sampling=True, n_best=4).translate([*LINES, LINES[4]])
    assert max(rows for rows, _ in echo.shapes) > 1
    assert all(rows * width <= 10 or rows == 1 for rows, width in echo.shapes)


def test_a_line_with_a_prefix_is_not_copied_for_want_of_known_words() -> None:
    tokenizer = train_tokenizer(iter(LINES * 2), TokenizerConfig("wordlevel", vocab_size=60, min_frequency=1))
    translator = make_translator(tokenizer)
    (alone,), (begun,) = translator.n_best(["😀"]), translator.n_best(["😀"], prefixes=["the cat"])
    assert alone[0].text == "😀"
    assert begun[0].text.startswith("the cat")
