"""The config: what is refused, and that what is saved is what was meant."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.config import (
    PRESETS,
    SECTIONS,
    CleanConfig,
    Config,
    UserError,
    build_config,
    dump_yaml,
    load_yaml,
    what_is_learned,
)
from accel_tx.options import config_parser, parse, parse_with_config, plain_parser
from tests.conftest import REPOSITORY

MINIMAL: dict[str, dict[str, Any]] = {"train": {"max_updates": 10, "batch_size": 8}}


def config_with(**sections: dict[str, Any]) -> Config:
    return build_config({**MINIMAL, **sections})


def parsed(*argv: str) -> Config:
    return parse_with_config(config_parser("train", ""), list(argv))[0]


BASE = str(REPOSITORY / "configs" / "transformer_base.yaml")
SMALL = str(REPOSITORY / "configs" / "multi30k_en_fr.yaml")
BOTH = str(REPOSITORY / "configs" / "multi30k_lc_both_directions.yaml")


@pytest.mark.parametrize(
    ("file", "option", "out_of_use"),
    [
        (BASE, {"train.epochs": 3}, {"train.max_updates": None}),
        (SMALL, {"train.max_updates": 3}, {"train.epochs": None}),
        (SMALL, {"train.batch_size": 32}, {"train.max_tokens": None}),
        (BASE, {"train.batch_size": 32}, {"train.max_tokens": None, "train.tokens_per_update": None}),
        (SMALL, {"optim.schedule": "linear"}, {"optim.pct_start": 0.3}),
        (BOTH, {"optim.schedule": "one_cycle"}, {"optim.warmup_updates": None}),
    ],
)
def test_an_option_makes_room_for_itself_in_the_file_and_tells(
    file: str, option: dict[str, Any], out_of_use: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = parsed("--config", file)
    assert not capsys.readouterr().err
    config = parsed("--config", file, *(word for key, value in option.items() for word in (f"--{key}", str(value))))

    def value_in(config: Config, key: str) -> Any:
        section, name = key.split(".")
        return getattr(getattr(config, section), name)

    (given,) = option
    told = capsys.readouterr().err.splitlines()
    assert {key: value_in(config, key) for key in (given, *out_of_use)} == {**option, **out_of_use}
    assert told == [
        f"accel_tx: --{given} {option[given]}: {key} {load_yaml(Path(file))[key.split('.')[0]][key.split('.')[1]]} "
        f"of {file} does not count"
        for key in out_of_use
    ]
    assert dataclasses.replace(config, optim=before.optim, train=before.train) == before


def test_two_options_that_exclude_each_other_are_refused_and_only_one_process_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"train\.max_updates and train\.epochs: both given"):
        parsed("--config", BASE, "--train.epochs", "3", "--train.max_updates", "9")
    with pytest.raises(UserError, match=r"expected --optim\.pct_start 0\.3"):
        parsed("--config", SMALL, "--optim.schedule", "linear", "--optim.pct_start", "0.2")
    monkeypatch.setenv("RANK", "1")
    assert parsed("--config", BASE, "--train.epochs", "3").train.max_updates is None
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["transformer_base", "transformer_big"])
def test_less_memory_makes_more_micro_batches_of_the_same_update(name: str) -> None:
    def sizes(*argv: str) -> tuple[Any, ...]:
        train = parsed("--config", str(REPOSITORY / "configs" / f"{name}.yaml"), *argv).train
        return train.max_tokens, train.micro_batches_per_update, train.tokens_per_update

    assert sizes() == ("auto", 1, 32768)
    assert sizes("--train.max_tokens=4096") == (4096, 8, None)
    assert sizes("--train.max_tokens=8192", "--train.tokens_per_update=null") == (8192, 1, None)
    by_number = "--train.max_tokens=8192", "--train.tokens_per_update=null", "--train.micro_batches_per_update=3"
    assert sizes(*by_number) == (8192, 3, None)
    for n in (1, 16):
        with pytest.raises(UserError, match=rf"micro_batches_per_update is {n}, but train.tokens_per_update, 32768,"):
            sizes(f"--train.micro_batches_per_update={n}")
    with pytest.raises(UserError, match=r"train.tokens_per_update is 3276; .* model.max_positions = 4096"):
        sizes("--train.tokens_per_update=3276", "--train.max_tokens=4096", "--model.max_positions=4096")


@given(st.integers(8, 3_000), st.integers(8, 3_000))
def test_tokens_of_an_update_become_equal_micro_batches_within_the_budget(per_update: int, most: int) -> None:
    train = {"max_updates": 1, "max_tokens": most, "tokens_per_update": per_update}
    config = build_config({"train": train, "model": {"max_positions": 8}})
    size, n = config.train.max_tokens, config.train.micro_batches_per_update
    assert config.train.tokens_per_update is None
    assert isinstance(size, int)
    assert 8 <= size <= most
    assert n == -(-per_update // most)
    assert per_update <= n * size
    assert n * size < per_update + n or size == 8  # the longest pair
    assert dataclasses.replace(config, train=config.train) == config


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("train", {"max_updates": 10}, "train.max_tokens and train.batch_size: neither given"),
        ("train", {"max_updates": 10, "epochs": 1, "batch_size": 8}, "train.max_updates and train.epochs: both given"),
        ("train", {"max_updates": 0, "batch_size": 8}, "train.max_updates is 0; expected at least 1"),
        ("train", {"max_updates": 10, "max_tokens": 512}, "expected at least model.max_positions = 1024"),
        ("model", {"d_model": 10, "n_heads": 4}, "expected a divisor of model.d_model = 10"),
        ("model", {"d_model": 7, "n_heads": 7}, "expected an even number"),
        ("model", {"dropout": 1.0}, "model.dropout is 1.0; expected from 0.0 to below 1.0"),
        ("model", {"encoder_sharing": "zigzag"}, "model.encoder_sharing is 'zigzag'"),
        ("model", {"decoder_sharing": [1, 2, 3]}, "model.decoder_sharing has 3 entries; expected 6"),
        ("model", {"decoder_sharing": [1, 1, 3, 3, 1, 1]}, "expected every number from 1 to 3 to occur"),
        ("model", {"encoder_sharing": "cycle", "n_unique_encoder_layers": 7}, "expected 1 to 6"),
        ("model", {"n_unique_decoder_layers": 3}, "decoder_sharing is 'none'; expected a sharing order"),
        (
            "model",
            {"decoder_sharing": [1, 2, 2, 1, 1, 2], "n_unique_decoder_layers": 5},
            "model.n_unique_decoder_layers is 5 but model.decoder_sharing names the layers; leave one of them out",
        ),
        ("optim", {"pct_start": 0.6, "three_phase": True}, "optim.pct_start is 0.6; expected from 0.0 to below 0.5"),
        (
            "optim",
            {"schedule": "linear", "pct_start": 0.2},
            "of use to one_cycle only; with optim.schedule linear expected --op",
        ),
        (
            "optim",
            {"schedule": "inverse_sqrt", "warmup_updates": 9, "min_lr": 1e-5},
            "optim.min_lr is 1e-05, of use to cosine, linear only",
        ),
        (
            "optim",
            {"warmup_updates": 100},
            "only; with optim.schedule one_cycle expected --optim.warmup_updates null",
        ),
        ("optim", {"schedule": "inverse_sqrt"}, "optim.warmup_updates is null; optim.schedule inverse_sqrt needs it"),
        ("optim", {"schedule": "cosine", "warmup_updates": 0}, "optim.warmup_updates is 0; expected at least 1"),
        ("optim", {"schedule": "cosine", "min_lr": 1.0}, "expected from 0 to below optim.max_lr = 0.001"),
        ("optim", {"max_lr": 0.0}, "optim.max_lr is 0.0; expected a finite number above 0"),
        ("optim", {"max_lr": math.inf}, "optim.max_lr is inf; expected a finite number above 0"),
        ("optim", {"betas": (0.9, math.nan)}, "optim.betas is (0.9, nan); expected a number"),
        (
            "train",
            {"max_updates": 1, "batch_size": 1, "spike_factor": math.nan},
            "train.spike_factor is nan; expected a number",
        ),
        (
            "train",
            {"max_updates": 1, "batch_size": 1, "seed": 2**64},
            "train.seed is 18446744073709551616; expected at most 18446744073709551615",
        ),
        ("validation", {"min_delta": math.nan}, "validation.min_delta is nan; expected a number"),
        ("decode", {"length_exponent": math.nan}, "decode.length_exponent is nan; expected a number"),
        ("model", {"dropout": math.nan}, "model.dropout is nan; expected a number"),
        ("data", {"valid_fraction": math.nan}, "data.valid_fraction is nan; expected a number"),
        ("optim", {"clip_norm": 0.0}, "or null for no clipping"),
        ("tokenizer", {"vocab_size": 100}, "expected at least 300 for bpe"),
        ("tokenizer", {"symbols": ["<2de>", "a b"]}, "tokenizer.symbols has 'a b'; expected ASCII without spaces"),
        ("tokenizer", {"symbols": [""]}, "tokenizer.symbols has ''; expected ASCII without spaces"),
        ("tokenizer", {"symbols": ["<eos>"]}, "tokenizer.symbols has <eos>, which every vocabulary has"),
        ("tokenizer", {"symbols": ["<fran\u00e7ais>"]}, "expected ASCII"),
        ("tokenizer", {"symbols": ["BT"]}, "neither a letter nor a digit at its ends"),
        ("tokenizer", {"symbols": ["<2"]}, "neither a letter nor a digit at its ends"),
        ("tokenizer", {"symbols": ["<b>", "<b>"]}, "expected each only once"),
        ("tokenizer", {"symbols": ["<b>"], "vocab_size": 300}, "expected 300 more than symbols"),
        ("tokenizer", {"vocab_size": 2**32}, "tokenizer.vocab_size is 4294967296; expected at most 16777216"),
        ("clean", {"overlap": 10**20}, "clean.overlap is 100000000000000000000; expected from -90"),
        ("clean", {"max_tgt_extra_chars": 2**53 + 1}, "is 9007199254740993; expected from -9007199254740992 to 90071"),
        ("model", {"n_encoder_layers": 1_001}, "model.n_encoder_layers is 1001; expected at most 1000"),
        ("model", {"encoder_sharing": [1, 10**12, 1, 1, 1, 1]}, "every number from 1 to 1000000000000 to occur"),
        ("data", {"train_src": "a.en"}, "data.train_src and data.train_tgt: only one is given"),
        ("data", {"src_lang": "fr"}, "expected two languages"),
        ("data", {"valid_fraction": 0.0}, "data.valid_fraction is 0.0"),
        ("decode", {"beam_size": 0}, "decode.beam_size is 0; expected at least 1"),
        ("decode", {"n_best": 6}, "decode.n_best is 6; expected at most decode.beam_size = 5, or decode.sampling true"),
        ("decode", {"top_k": 10}, "decode.top_k is 10 but decode.sampling is false"),
        ("decode", {"sampling": True, "temperature": 0.0}, "decode.temperature is 0.0"),
        ("decode", {"sampling": True, "top_p": 1.5}, "decode.top_p is 1.5; expected above 0 and up to 1"),
        ("decode", {"min_len_ratio": 2.0}, "expected from 0 to decode.max_len_ratio = 1.5"),
        ("decode", {"length_exponent": -1.0}, "decode.length_exponent is -1.0"),
        ("decode", {"length_exponent": 10.0}, "decode.length_exponent is 10.0; expected from 0.0 to below 10.0"),
        ("validation", {"beam_size": 0}, "validation.beam_size is 0; expected at least 1"),
        ("clean", {"without": "langage"}, "clean.without names 'langage', which is no rule; did you mean language?"),
        ("clean", {"without": ["preset"]}, "'preset', which is no rule"),
        ("clean", {"without": "numbers", "numbers": True}, "clean.without switches numbers off, but clean.numbers is"),
        ("clean", {"max_word_ratio": 0.5}, "clean.max_word_ratio is 0.5; expected at least 1"),
        ("clean", {"min_letter_share": 1.5}, "clean.min_letter_share is 1.5; expected from 0 to 1"),
        ("clean", {"preset": "strict", "max_words": 2}, "clean.min_words is 3; expected at most clean.max_words = 2"),
    ],
)
def test_impossible_values_and_pairs_are_refused(section: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        config_with(**{section: fields})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_validation_searches_for_one_translation_with_a_beam_of_its_own() -> None:
    sampling = config_with(decode={"sampling": True, "n_best": 8, "top_k": 5, "no_repeat_ngram": 3}).decode
    for beam_size in (1, 4):
        found = sampling.for_validation(beam_size)
        assert (found.beam_size, found.n_best, found.sampling, found.top_k) == (beam_size, 1, False, 0)
        assert found.no_repeat_ngram == 3


def test_tying_all_embeddings_needs_a_joint_vocabulary() -> None:
    with pytest.raises(UserError, match="expected a joint vocabulary"):
        config_with(model={"tie_embeddings": "all"}, tokenizer={"joint": False})


def test_both_directions_need_a_joint_vocabulary() -> None:
    model = {"tie_embeddings": "decoder"}
    with pytest.raises(UserError, match=r"data\.both_directions is true but tokenizer\.joint is false"):
        config_with(model=model, data={"both_directions": True}, tokenizer={"joint": False})
    config_with(model=model, data={"both_directions": True})
    config_with(model=model, tokenizer={"joint": False})


def test_rotary_positions_need_heads_of_even_width() -> None:
    with pytest.raises(
        UserError, match=r"rotary, but a head is 3 channels wide \(model\.d_model 12 / model\.n_heads 4\)"
    ):
        config_with(model={"d_model": 12, "n_heads": 4, "positions": "rotary"})
    config_with(model={"d_model": 12, "n_heads": 2, "positions": "rotary"})


def test_r_drop_needs_dropout() -> None:
    with pytest.raises(UserError, match=r"^optim\.r_drop is 5 but model\.dropout and model\.attention_dropout are 0"):
        config_with(model={"dropout": 0.0}, optim={"r_drop": 5.0})
    for field in ("dropout", "attention_dropout"):
        config_with(model={"dropout": 0.0, field: 0.1}, optim={"r_drop": 5.0})
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"^optim\.r_drop is (-1\.0|nan|inf); expected (from 0|a number)"):
            config_with(optim={"r_drop": value})


@pytest.mark.parametrize(
    ("sharing", "n_unique", "order"),
    [
        ("none", None, [0, 1, 2, 3, 4, 5]),
        ("palindrome", 3, [0, 1, 2, 2, 1, 0]),
        ("palindrome", None, [0, 1, 2, 2, 1, 0]),
        ("palindrome", 2, [0, 1, 1, 0, 0, 1]),
        ("cycle", 3, [0, 1, 2, 0, 1, 2]),
        ("sequence", 3, [0, 0, 1, 1, 2, 2]),
        ("sequence", 4, [0, 0, 1, 2, 2, 3]),
        ([1, 2, 2, 2, 2, 3], None, [0, 1, 1, 1, 1, 2]),
    ],
)
def test_layer_orders(sharing: str | list[int], n_unique: int | None, order: list[int]) -> None:
    model = config_with(model={"encoder_sharing": sharing, "n_unique_encoder_layers": n_unique}).model
    assert model.encoder_layer_order() == order
    assert model.decoder_layer_order() == [0, 1, 2, 3, 4, 5]


def test_the_saved_config_is_read_back_as_the_same(tmp_path: Path) -> None:
    config = config_with(model={"encoder_sharing": [1, 1, 1, 2, 2, 2]}, optim={"betas": (0.8, 0.9)})
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    values = load_yaml(path)
    assert {f"{s}.{f.name}" for s, cls in SECTIONS.items() for f in dataclasses.fields(cls)} == {
        f"{s}.{name}" for s, fields in values.items() for name in fields
    }
    assert parsed("--config", str(path)) == config


def test_cleaning_rules_are_those_of_the_preset_with_what_is_given_and_without_what_is_switched_off() -> None:
    options = ["--clean.preset", "standard", "--clean.without", "language,mojibake", "--clean.max_words", "70"]
    file = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml")]
    rules = parsed(*file, *options, "--clean.urls", "false").clean.rules()
    standard = PRESETS["standard"]
    assert rules == {
        **{name: standard[name] for name in standard if name not in ("language", "mojibake", "urls")},
        "max_words": 70,
    }
    assert parsed(*file, "--clean.without", '["overlap", "max_words"]').clean.switched_off() == ["overlap", "max_words"]
    assert parsed(*file, "--clean.without", "overlap").clean.rules().keys() == PRESETS["light"].keys() - {"overlap"}
    names = [f.name for f in dataclasses.fields(CleanConfig)]
    assert all(preset.keys() <= set(names) for preset in PRESETS.values())


def test_the_table_of_presets_in_the_readme_is_the_one_in_force() -> None:
    text = (REPOSITORY / "configs" / "README.md").read_text(encoding="utf-8")
    lines = text.split("\n## Cleaning\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    shown: dict[str, dict[str, Any]] = {preset: {} for preset in ("original", "light", "standard", "strict")}
    names = []
    for fields, _, *values in rows:
        for name in fields.replace("`", "").split(", "):
            names.append(name)
            for preset, value in zip(shown, values, strict=True):
                if value:
                    shown[preset][name] = True if value == "on" else float(value.replace(",", ""))
    assert shown == {preset: rules for preset, rules in PRESETS.items() if preset != "none"}
    assert names == [f.name for f in dataclasses.fields(CleanConfig)[2:]]


def test_fields_that_only_say_where_and_how_long_may_differ_on_resume() -> None:
    free = {"max_hours": 1.0, "stop_at_update": 5, "cpu_threads": 1, "loader_workers": 2, "save_every_updates": 7}
    assert what_is_learned(config_with(train={**MINIMAL["train"], **free})) == what_is_learned(config_with())
    assert what_is_learned(config_with(train={**MINIMAL["train"], "seed": 2})) != what_is_learned(config_with())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_file_loads(path: Path) -> None:
    assert parsed("--config", str(path)).model.d_model >= 128


def test_flags_beat_the_file_wherever_they_stand() -> None:
    file = ["--config", str(REPOSITORY / "configs" / "quickstart.yaml")]
    flags = ["--model.dropout", "0.42", "--optim.betas", "[0.8,0.9]", "--model.encoder_sharing=[1,1]"]
    for argv in ([*file, *flags], [*flags, *file], [*flags[:2], *file, *flags[2:]]):
        config = parsed(*argv)
        assert config.model.dropout == 0.42
        assert config.optim.betas == (0.8, 0.9)
        assert config.model.encoder_sharing == [1, 1]


def test_another_corpus_than_the_files_of_a_config_takes_these_back() -> None:
    config = str(REPOSITORY / "configs/multi30k_lc_en_fr.yaml")
    with pytest.raises(UserError, match=r"add --data\.train_src null --data\.train_tgt null"):
        parsed("--config", config, "--data.corpus", "mine")
    back = ["--data.train_src", "null", "--data.train_tgt", "null"]
    assert parsed("--config", config, "--data.corpus", "mine", *back).data.entries()[0].corpus == "mine"
    files = ["--data.train_src", "a", "--data.train_tgt", "b"]
    assert parsed("--config", str(REPOSITORY / "configs/multi30k_en_fr.yaml"), *files).data.train_src == "a"


def test_fields_of_another_schedule_are_told_how_to_take_them_back() -> None:
    given = ["--config", str(REPOSITORY / "configs/opus_books_en_fr.yaml"), "--optim.schedule", "inverse_sqrt"]
    given += ["--optim.warmup_updates", "3", "--optim.pct_start", "0.2", "--optim.div_factor", "9"]
    with pytest.raises(UserError, match=r"with optim\.schedule inverse_sqrt expected --") as found:
        parsed(*given)
    options = str(found.value).partition(" expected ")[2].split()
    assert parsed(*given, *options).optim.schedule == "inverse_sqrt"


def test_of_two_config_files_the_last_is_read_as_of_every_other_option() -> None:
    first, last = (str(REPOSITORY / "configs" / name) for name in ("quickstart.yaml", "opus_books_en_fr.yaml"))
    expected = parsed("--config", last)
    assert parsed("--config", first) != expected
    for argv in (["--config", first, "--config", last], [f"--config={first}", f"--config={last}"]):
        assert parsed(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.d_mode", "3"], "command line: unknown key model.d_mode; did you mean model.d_model?"),
        (["--model.d_model", "wide"], "command line: model.d_model is wide; expected int"),
        (["--train.precision", "fp8"], "train.precision is fp8; expected Literal['auto', 'no', 'bf16', 'fp16']"),
        (["--train.max_updates", "many"], "train.max_updates is many; expected int | None"),
        (["--max_updates", "1"], "command line: unknown option --max_updates; did you mean --train.max_updates?"),
        (["--config-file=x"], "command line: unknown option --config-file; did you mean --config?"),
        (["--train.cpu_threads", "100000"], "train.cpu_threads is 100000; expected at most 1024"),
        (["--decode.beam_size", "100000"], "decode.beam_size is 100000; expected at most 1000"),
        (["--validation.beam_size", "1001"], "command line: validation.beam_size is 1001; expected at most 1000"),
        (["--model.n_heads", "7"], "command line: model.n_heads is 7"),
        (["--clean", "none"], "command line: --clean is a section; expected one of its fields, as --clean.preset"),
        (['--data={"corpus": "x"}'], "command line: --data is a section; expected one of its fields, as --data.corpus"),
        (["--train.precision"], "command line: argument --train.precision: expected one argument"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_in_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed("--config", str(REPOSITORY / "configs" / "quickstart.yaml"), *argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_text_that_looks_like_something_else_is_saved_as_text_and_fields_can_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config_with(data={"subset": "1e5", "src_lang": "no", "corpus": "1_0"})))
    data = load_yaml(path)["data"]
    assert (data["subset"], data["src_lang"], data["corpus"]) == ("1e5", "no", "1_0")
    path.write_text("model: &small {d_model: 8}\ntokenizer: {<<: {vocab_size: 9}}\n")
    assert load_yaml(path) == {"model": {"d_model": 8}, "tokenizer": {"vocab_size": 9}}


def test_words_and_numbers_of_a_config_file_are_what_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "train: {precision: no, max_updates: 1_000, max_tokens: 4096, tf32: true, cpu_threads: ~}\n"
        "optim: {max_lr: 5e-3, div_factor: 1.5e+1, min_lr: .0}\ndata: {src_lang: no, tgt_lang: on}\n"
    )
    config = parsed("--config", str(path))
    assert (config.train.precision, config.train.max_updates, config.train.tf32) == ("no", 1000, True)
    assert (config.optim.max_lr, config.optim.div_factor, config.optim.min_lr) == (0.005, 15.0, 0.0)
    assert (config.data.src_lang, config.data.tgt_lang, config.train.cpu_threads) == ("no", "on", None)


def test_the_type_of_an_option_that_is_no_field_is_named() -> None:
    parser = plain_parser("try", "Try it.")
    parser.add_argument("--share", type=float | None, default=None)
    with pytest.raises(UserError, match=r"^command line: --share is nan; expected float \| None$"):
        parse(parser, ["--share", "nan"])
    parser.add_argument("--run_dir", type=str, required=True)
    with pytest.raises(UserError, match=r"^command line: missing: --run_dir$"):
        parse(parser, ["--share", "0.5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {d_modle: 8}", "unknown key model.d_modle; did you mean model.d_model?"),
        ("modle: {d_model: 8}", "unknown key modle; did you mean model?"),
        ("model: 8", "model is 8; expected fields below it"),
        ("- a\n- b", "holds list; expected sections"),
        ("model: {d_model: [", "is not valid YAML"),
        ("train: {seed: 1}\nmodel: {}\ntrain: {seed: 2}", "line 3: is not valid YAML: `train` stands twice"),
        ("train:\n  seed: 1\n  seed: 2", "line 3: is not valid YAML: `seed` stands twice"),
        ("model: {d_model: wide}", "model.d_model is wide; expected int"),
        ("train: {max_updates: 3}", "train.max_tokens and train.batch_size: neither given"),
    ],
)
def test_a_config_file_that_does_not_fit_is_named_with_its_fault(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        parsed("--config", str(path))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_null_is_refused_where_a_field_needs_a_value(section: str) -> None:
    hints = get_type_hints(SECTIONS[section])
    needed = [f.name for f in dataclasses.fields(SECTIONS[section]) if type(None) not in get_args(hints[f.name])]
    assert needed
    for name in needed:
        with pytest.raises(UserError, match=rf"^{section}\.{name} is null; expected a value, or leave it out$"):
            config_with(**{section: {name: None}})


@pytest.mark.parametrize("option", ["data.test_corpus", "data.train_src", "data.cache_dir"])
def test_an_empty_value_is_refused_on_the_command_line_and_in_the_file(option: str, tmp_path: Path) -> None:
    quickstart = str(REPOSITORY / "configs" / "quickstart.yaml")
    parser = config_parser("train", "")
    with pytest.raises(UserError, match=rf"^command line: --{option} is empty; expected a value \(is a shell variable"):
        parse_with_config(parser, ["--config", quickstart, f"--{option}="])
    section, _, name = option.partition(".")
    path = tmp_path / "empty.yaml"
    path.write_text(f"{section}:\n  {name}: ''\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"empty\.yaml: {option} is empty; expected a value, or leave it out$"):
        parse_with_config(parser, ["--config", str(path)])
    config, _ = parse_with_config(parser, ["--config", quickstart, "--clean.without="])
    assert config.clean.without == ""
