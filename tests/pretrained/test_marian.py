"""A MarianMTModel of `transformers` taken over: its vocabularies, its weights, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from accel_tx.config import UserError
from accel_tx.data.phrasebook import iter_pairs
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, SPECIAL_TOKENS
from accel_tx.export.hf_format import Runtime
from accel_tx.pretrained.marian_folder import MarianFolder
from accel_tx.pretrained.marian_vocabulary import Vocabularies
from accel_tx.pretrained.marian_weights import load_marian, model_config
from tests.marian_folders import names_of, pieces, write_marian

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
pytest.importorskip("google.protobuf", reason="protobuf is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*sacremoses")

TAGS = (">>fra<<", ">>por<<", ">>pt_BR<<")
KINDS: dict[str, dict[str, Any]] = {
    "as opus-mt": {},
    "several targets": {"tags": TAGS},
    "several targets, in the file too": {"tags": TAGS, "symbols": TAGS[:2]},
    "vocabularies of their own": {"separate": True},
    "logits of their own": {"tied": False},
    "one vocabulary, relu": {"same": True, "activation_function": "relu"},
    "bpe, gelu, one head": {
        "kind": "bpe",
        "activation_function": "gelu",
        "encoder_attention_heads": 1,
        "decoder_attention_heads": 1,
    },
}
SENTENCES = [
    *(src for src, _ in iter_pairs("validation", 40, seed=1)),
    *("", "  Two  spaces. ", "Ünknown çharacters 漢字 🙂", "<unk> </s> <pad> >> <<", "a" * 300),
]


def taken_over(folder: Path) -> tuple[MarianFolder, Vocabularies, Any]:
    read = MarianFolder.read(folder)
    vocabularies = Vocabularies.of(read)
    return read, vocabularies, load_marian(read, vocabularies, model_config(read, vocabularies))


@pytest.mark.parametrize("kind", KINDS)
def test_ids_stand_for_the_rows_of_their_ids(kind: str, tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model", **KINDS[kind])
    vocabularies = Vocabularies.of(MarianFolder.read(folder))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [line for line in SENTENCES if not any(token in line for token in ("<unk>", "</s>"))]
    if "tags" in KINDS[kind]:
        texts += [f"{tag}{space}{line}" for tag in TAGS for space in ("", " ") for line in texts[:5]]
    assert vocabularies.tags == list(KINDS[kind].get("tags", ()))
    for side, rows in (("src", vocabularies.src_rows), ("tgt", vocabularies.tgt_rows)):
        if side == "tgt":
            texts = [line for line in texts if not line.startswith(">>")]
        expected = (theirs(texts) if side == "src" else theirs(text_target=texts))["input_ids"]
        ids = getattr(vocabularies.tokenizers, side).encode(texts)
        found = [[rows[i] for i in [*of_text, EOS_ID]] for of_text in ids]
        assert [three for three in zip(texts, expected, found, strict=True) if three[1] != three[2]] == []


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model", **KINDS[kind])
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).double().eval()
    in_float64 = {name: x.double() for name, x in theirs.state_dict().items() if "embed_positions" not in name}
    save_file({name: x.clone() for name, x in in_float64.items()}, folder / "model.safetensors")
    _, vocabularies, ours = taken_over(folder)
    assert (vocabularies.is_joint, ours.config.tie_embeddings) == {
        "logits of their own": (False, "none"),
        "one vocabulary, relu": (True, "all"),
    }.get(kind, (False, "decoder"))

    src_ids = torch.randint(4, vocabularies.tokenizers.src.vocab_size, (3, 9))
    tgt_ids = torch.randint(4, vocabularies.tokenizers.tgt.vocab_size, (3, 7))
    tgt_in = torch.cat([torch.full((3, 1), BOS_ID), tgt_ids], 1)
    valid = torch.arange(9) < torch.tensor([9, 5, 1])[:, None]
    src_rows, tgt_rows = torch.tensor(vocabularies.src_rows), torch.tensor(vocabularies.tgt_rows)
    with torch.no_grad():
        hidden = ours.decode(tgt_in, ours.encode(src_ids, valid), valid)
        logits = hidden @ ours.projection.T + ours.output_bias
        expected = theirs(
            input_ids=src_rows[src_ids], attention_mask=valid.long(), decoder_input_ids=tgt_rows[tgt_in]
        ).logits

    assert logits.std() > 0.5
    torch.testing.assert_close(logits, expected[..., tgt_rows], rtol=0, atol=2e-6)


def test_a_pickled_file_is_read_as_tensors_and_never_run(tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model")
    _, _, expected = taken_over(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = {name: x.half() if "fc1" in name else x for name, x in state.items()}
    for is_new in (True, False):  # the models of 2020 are in the old form
        torch.save(half, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_new)
        found = dict(taken_over(folder)[2].named_parameters())
        torch.testing.assert_close(found, dict(expected.named_parameters()), rtol=1e-3, atol=1e-3)

    touched = tmp_path / "touched"
    torch.save({"weight": _Runs(touched)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: cannot be read as weights"):
        taken_over(folder)
    assert not touched.exists()


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"])
def test_a_matrix_that_is_tied_is_found_under_any_of_its_names(name: str, tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    expected = taken_over(folder)[2].state_dict()
    save_file(
        {f"{name}.weight" if key == "model.shared.weight" else key: x for key, x in state.items()},
        folder / "model.safetensors",
    )
    torch.testing.assert_close(taken_over(folder)[2].state_dict(), expected)


def test_the_matrix_of_the_source_never_stands_in_for_one_of_the_target(tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model", separate=True)
    state = load_file(folder / "model.safetensors")
    expected = taken_over(folder)[2].state_dict()
    kept = {name: x for name, x in state.items() if name not in ("lm_head.weight", "model.decoder.embed_tokens.weight")}
    assert "model.encoder.embed_tokens.weight" in kept
    save_file({**kept, "lm_head.weight": state["model.decoder.embed_tokens.weight"]}, folder / "model.safetensors")
    torch.testing.assert_close(taken_over(folder)[2].state_dict(), expected)
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has no model\.decoder\.embed_tokens\.weight"):
        taken_over(folder)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces_that_the_vocabulary_lacks_are_unknown_in_a_source_and_no_pieces_of_a_target(
    kind: str, tmp_path: Path
) -> None:
    folder = write_marian(tmp_path / "model", kind)
    ids = json.loads((folder / "vocab.json").read_text())
    of_side = [{name for name in names_of(pieces(side, kind)) if len(name) > 3} for side in (0, 1)]
    gone = [sorted(of_side[0] - of_side[1])[0], *sorted(of_side[1] - of_side[0])[:2]]
    (folder / "vocab.json").write_text(json.dumps({name: i for name, i in ids.items() if name not in gone}))
    vocabularies = Vocabularies.of(MarianFolder.read(folder))
    assert (vocabularies.n_unknown, vocabularies.n_left_out) == (1, 2)
    src, tgt = vocabularies.tokenizers.src, vocabularies.tokenizers.tgt
    assert vocabularies.src_rows[src.fast.token_to_id(gone[0])] == ids["<unk>"]
    assert [tgt.fast.token_to_id(name) for name in gone[1:]] == [None, None]
    # Nothing else than UNK has its row, so nothing of it can be written.
    assert vocabularies.tgt_rows.count(ids["<unk>"]) == 1
    text = " ".join(gone[1:]).replace("▁", "")
    assert tgt.decode(tgt.encode([text])) == [text]
    first = [ids[name] for name in ("<pad>", "<unk>", "<pad>", "</s>")]
    assert [vocabularies.src_rows[i] for i in range(len(SPECIAL_TOKENS))] == first


def test_it_is_compared_in_float32_whatever_its_config_says(tmp_path: Path) -> None:
    folder = write_marian(tmp_path / "model")
    changed("config.json", dtype="float16")(folder)
    assert Runtime(folder).model.dtype == torch.float32


def changed(name: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def damaged(name: str, content: bytes = b"\x00{") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def other_weights(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        for name, x in tensors.items():
            del state[name.replace("__", ".")]
            if x is not None:
                state[name.replace("__", ".")] = x
        save_file(state, folder / "model.safetensors")

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), r"config.json: no such file; expected the folder of a MarianMTModel"),
    "damaged config": (damaged("config.json"), r"config.json: is not a JSON object, or damaged"),
    "deep config": (damaged("config.json", b"[" * 100_000), r"config.json: is not a JSON object, or damaged"),
    "another model": (changed("config.json", model_type="m2m_100"), r"model_type is 'm2m_100'; expected 'marian'"),
    "no vocabulary": (without("vocab.json"), r"vocab.json: no such file"),
    "a list": (damaged("vocab.json", b"[1]"), r"vocab.json: is not a JSON object"),
    "ids that are none": (changed("vocab.json", a="x"), r"vocab.json: has ids that are not whole numbers"),
    "no end": (damaged("vocab.json", b'{"<unk>": 1}'), r"vocab.json: has no </s>"),
    "no pieces": (without("target.spm"), r"target.spm: no such file; expected a .model file of SentencePiece"),
    "damaged pieces": (damaged("source.spm"), r"source.spm: is no SentencePiece model, or a damaged one"),
    "no weights": (without("model.safetensors"), r"holds neither model.safetensors nor pytorch_model.bin"),
    "damaged weights": (damaged("model.safetensors"), r"model.safetensors: cannot be read as weights"),
    "pre-norm": (changed("config.json", normalize_before=True), r"normalize_before is true; expected false"),
    "no scale": (changed("config.json", scale_embedding=False), r"scale_embedding is false; expected true"),
    "another activation": (
        changed("config.json", activation_function="tanh"),
        r"activation_function is 'tanh'; expected one of relu, gelu, silu, swish",
    ),
    "stacks of two widths": (
        changed("config.json", decoder_ffn_dim=7),
        r"encoder_ffn_dim is 48, decoder_ffn_dim 7; expected the same",
    ),
    "no size": (changed("config.json", d_model=None), r"d_model is None; expected a whole number from 0 on"),
    "a list of activations": (
        changed("config.json", activation_function=["swish"]),
        r"activation_function is \['swish'\]",
    ),
    "a row before the first": (
        changed("config.json", decoder_start_token_id=-1),
        r"decoder_start_token_id is -1; expected a whole number from 0 on",
    ),
    "half a character": (changed("vocab.json", **{"\ud800": 3}), r"vocab.json: has a piece with half of a surrogate"),
    "a language that is none": (
        changed("tokenizer_config.json", source_lang=["en"]),
        r"tokenizer_config.json: source_lang is \['en'\]; expected a language",
    ),
    "a vocabulary of its own that is not there": (
        changed("tokenizer_config.json", separate_vocabs=True),
        r"target_vocab.json: no such file",
    ),
    "a pointer": (
        damaged("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        r"model.safetensors: is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`",
    ),
    "nothing": (damaged("model.safetensors", b""), r"cannot be read as weights \(.+\); expected a whole file"),
    "integers": (
        other_weights(model__encoder__layers__0__fc1__bias=torch.ones(48, dtype=torch.int8)),
        r"model.encoder.layers.0.fc1.bias is of type torch.int8; expected floating-point",
    ),
    "no matrix": (
        other_weights(model__shared__weight=torch.tensor(1.0)),
        r"model.shared.weight has the shape \(\); expected a matrix",
    ),
    "two rows of biases": (
        other_weights(final_logits_bias=torch.ones(2, 300)),
        r"final_logits_bias has the shape \(2, 300\); expected one row",
    ),
    "fewer layers": (
        changed("config.json", decoder_layers=2),
        r"has the layer model.decoder.layers.2.\*, but config.json says decoder_layers = 2; expected files of one",
    ),
    "heads that do not divide": (
        changed("config.json", encoder_attention_heads=5, decoder_attention_heads=5),
        r"config.json: in our terms model.n_heads is 5; expected a divisor of model.d_model = 32",
    ),
    "no rate": (changed("config.json", dropout="a tenth"), r"dropout of .* is 'a tenth'; expected a number"),
    "no padding": (changed("config.json", pad_token_id=None), r"pad_token_id is None; expected a whole number"),
    "another end": (changed("config.json", eos_token_id=5), r"eos_token_id is 5, vocab.json has </s> as 0"),
    "more layers": (changed("config.json", encoder_layers=3), r"has no model.encoder.layers.2.self_attn.q_proj.weight"),
    "another width": (
        changed("config.json", d_model=64),
        r"model.safetensors: is not of the model that config.json describes",
    ),
    "ids beyond the matrix": (
        changed("vocab.json", zzz=10_000, **{"▁The": 10_001}),
        r"rows, but the vocabulary's ids go up to 10,001; expected files of one model",
    ),
    "not finite": (
        other_weights(model__encoder__layers__0__fc1__bias=torch.full((48,), torch.nan)),
        r"model.encoder.layers.0.fc1.bias holds numbers that are not finite",
    ),
    "a tensor too few": (
        other_weights(model__encoder__layers__0__fc1__bias=None),
        r"has no model.encoder.layers.0.fc1.bias; expected the weights of a MarianMTModel",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marian(tmp_path_factory.mktemp("marian") / "model")


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_taken_over_is_one_line_that_names_it(what: str, whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    change, expected = REFUSED[what]
    change(folder)
    with pytest.raises(UserError) as error:
        taken_over(folder)
    message = str(error.value)
    assert re.search(expected, message), message
    assert message.startswith(str(folder))
    assert "\n" not in message
