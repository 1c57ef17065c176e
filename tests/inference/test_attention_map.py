"""Pieces and weights of a sentence, and the picture of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from accel_tx.cli import main
from accel_tx.config import Config, TokenizerConfig
from accel_tx.data.tokenizer import train_tokenizer
from accel_tx.inference import attention_picture
from accel_tx.inference.attention_map import AttentionMap
from accel_tx.inference.attention_picture import as_file, as_pixels, draw
from accel_tx.inference.translator import load_run_config
from accel_tx.train.loop import train

WEIGHTS = np.random.default_rng(1).dirichlet(np.ones(3), size=(2, 4, 5)).astype(np.float32)
MAP = AttentionMap(["un", "$x_1$", "<eos>"], ["a", "b", "c", "d", "<eos>"], WEIGHTS)


def test_a_layer_and_a_head_are_chosen_and_told() -> None:
    assert np.array_equal(MAP.of(1, 3), WEIGHTS[0, 2])
    assert MAP.of() == pytest.approx(WEIGHTS[1].mean(0))
    assert MAP.title(1, 3) == "cross-attention, decoder layer 1 of 2, head 3 of 4"
    assert MAP.title() == "cross-attention, decoder layer 2 of 2, mean of 4 heads"


def test_the_picture_has_a_cell_for_each_pair_of_pieces_dark_where_the_weight_is() -> None:
    weights = np.zeros((1, 1, 2, 3), np.float32)
    weights[0, 0, 0, 2] = weights[0, 0, 1, 0] = 1.0
    figure = draw(AttentionMap(["x", "y", "<eos>"], ["$z$", "<eos>"], weights))
    axes = figure.axes[0]
    pixels = as_pixels(figure)

    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "<eos>"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$z$", "<eos>"]
    for row in range(2):
        for column in range(3):
            x, y = axes.transData.transform((column, row))
            darkness = 255 - int(pixels[pixels.shape[0] - round(y), round(x)].sum()) // 3
            assert (darkness > 120) == bool(weights[0, 0, row, column]), (row, column, darkness)


def test_characters_that_the_font_lacks_are_told_and_no_warning() -> None:
    content, remark = as_file(
        draw(AttentionMap(["日本", "<eos>"], ["<eos>"], np.ones((1, 1, 1, 2), np.float32) / 2)), "png"
    )

    assert content.startswith(b"\x89PNG")
    assert "lacks some of the characters" in (remark or "")
    assert as_file(draw(MAP), "svg")[1] is None


def test_pieces_that_cannot_be_printed_are_shown_escaped() -> None:
    pieces = ["a\x01", "\x1b[0m", "\x85é", "<eos>"]
    figure = draw(AttentionMap(pieces, pieces, np.full((1, 1, 4, 4), 0.25, np.float32)))
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["a\\x01", "\\x1b[0m", "\\x85é", "<eos>"]
    content, remark = as_file(figure, "svg")
    ElementTree.fromstring(content)  # raises for what is no XML
    assert remark is None


def test_a_very_long_sentence_is_cut_and_the_title_says_so() -> None:
    long = AttentionMap(["x"] * 400, ["y"] * 300, np.full((1, 1, 300, 400), 1 / 400, np.float32))
    figure = draw(long)

    assert figure.axes[0].images[0].get_array().shape == (80, 80)
    assert "the first 80 pieces" in figure.get_suptitle()


def test_pieces_of_every_kind_of_vocabulary_can_be_read() -> None:
    texts = ["le thé est prêt", "les thés sont prêts"] * 4
    for kind, expected in (("wordlevel", ["le", "thé"]), ("bpe", ["▁le", "▁thé"]), ("unigram", ["▁le", "▁thé"])):
        size = 300 if kind == "bpe" else 30
        tokenizer = train_tokenizer(iter(texts), TokenizerConfig(kind=kind, vocab_size=size, min_frequency=1))
        pieces = [tokenizer.piece(i) for i in tokenizer.encode(["le thé"])[0]]
        assert "".join(pieces) == "".join(expected), kind
    assert tokenizer.piece(3) == "<eos>"


def test_a_sentence_is_drawn_by_command_and_by_validation(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    config = tiny_config(
        train={"max_updates": 4},
        validation={"draw_attention": True, "every_updates": 2},
        model={"n_decoder_layers": 2},
    )
    train(config, run)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    pictures = events.Images("attention")
    assert [picture.step for picture in pictures] == [2, 4]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert min(pictures[0].width, pictures[0].height) > 200
    capsys.readouterr()

    call = ["attention", "--run_dir", str(run), "--input", "The old man reads.", "--output", str(tmp_path / "a.png")]
    main([*call, "--target", "Le livre est zyx.", "--json", str(tmp_path / "a.json")])
    assert capsys.readouterr().out.startswith("Le livre est zyx.\ncross-attention, decoder layer 2 of 2, mean of 2")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["tgt_pieces"] == ["Le", "livre", "est", "<unk>", ".", "<eos>"]
    assert np.array(values["weights"]).shape == (2, 2, 6, 6)
    main([*call, "--target", "Le livre " * 99, "--json", str(tmp_path / "cut.json")])
    positions = load_run_config(run).model.max_positions
    assert capsys.readouterr().err == (
        f"accel_tx: the target is longer than the model's {positions} positions, and cut in the picture\n"
    )
    cut = json.loads((tmp_path / "cut.json").read_text())
    assert cut["tgt_pieces"] == (["Le", "livre"] * 99)[: positions - 1]
    assert np.array(cut["weights"]).shape == (2, 2, positions - 1, 6)

    for arguments, message in (
        (["--layer", "3"], "--layer is 3; expected 1 to 2: the model has 2 decoder layers of 2 heads"),
        (["--head", "0"], "--head is 0; expected 1 to 2"),
        (["--output", "a.gif"], "--output a.gif: expected a name that ends with .png, .svg, .pdf"),
        (["--input", " "], "--input is empty"),
    ):
        with pytest.raises(SystemExit):
            main([*call, *arguments])
        assert message in capsys.readouterr().err
    monkeypatch.setattr(attention_picture, "can_draw", lambda: False)
    with pytest.raises(SystemExit):
        main(call)
    assert "attention needs matplotlib, which is not installed: pip install matplotlib" in capsys.readouterr().err


def test_without_matplotlib_validation_says_once_that_pictures_are_missing(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from accel_tx.train import tracking

    monkeypatch.setattr(tracking, "can_draw", lambda: False)
    train(
        tiny_config(train={"max_updates": 4}, validation={"draw_attention": True, "every_updates": 2}), tmp_path / "run"
    )

    assert (
        capsys.readouterr().out.count("matplotlib is not installed, so TensorBoard gets no picture of attention") == 1
    )
