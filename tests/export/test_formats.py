"""Every format translates as ours, whatever the structure of the model; the proof would see it if not."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel_tx.config import UserError
from accel_tx.data.tokenizer import EOS_ID, TokenizerPair
from accel_tx.export.command import export
from accel_tx.export.formats import Format, find_format
from accel_tx.export.proof import Sentences, prove
from accel_tx.export.source import Trained
from accel_tx.inference.pair_scores import score_pairs
from tests.export.runs import make_run, pairs, sentences
from tests.spm_models import write_model

N, N_ROUNDED = 12, 100
SRC_IDS = torch.tensor([[5, 6, 7, 3], [8, 9, 3, 0]])
TGT_IN = torch.tensor([[2, 10, 11, 9], [2, 12, 13, 30]])
SIDES = ("source", "target")
PALINDROME = {
    "n_encoder_layers": 4,
    "n_decoder_layers": 3,
    "encoder_sharing": "palindrome",
    "decoder_sharing": "palindrome",
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "pre-norm, all tied": {"norm": "pre"},
    "post-norm, all tied, shared layers": {"norm": "post", **PALINDROME},
    "pre-norm, output tied, two vocabularies, shared layers": {
        "norm": "pre",
        "joint": False,
        "tie_embeddings": "decoder",
        "kind": "wordlevel",
        **PALINDROME,
    },
    "post-norm, output tied, two vocabularies, gelu": {
        "norm": "post",
        "joint": False,
        "tie_embeddings": "decoder",
        "kind": "unigram",
        "activation": "gelu",
    },
    "pre-norm, nothing tied, gelu": {"norm": "pre", "tie_embeddings": "none", "activation": "gelu"},
    "post-norm, all tied, silu, biases": {"norm": "post", "activation": "silu", "attention_bias": True},
    "pre-norm, output tied, silu, biases": {
        "norm": "pre",
        "tie_embeddings": "decoder",
        "activation": "silu",
        "attention_bias": True,
    },
    "post-norm, nothing tied, two vocabularies": {"norm": "post", "joint": False, "tie_embeddings": "none"},
}
# What Marian and Pegasus cannot be.
OWN_STRUCTURES: dict[str, dict[str, Any]] = {
    "pre-norm, rotary": {"norm": "pre", "positions": "rotary"},
    "post-norm, rotary, shared layers": {"norm": "post", "positions": "rotary", **PALINDROME},
}
PACKAGES = {"transformers": ["transformers"], "ctranslate2": ["ctranslate2"], "onnx": ["onnxscript", "onnxruntime"]}


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are not looked at."""
    monkeypatch.setattr("accel_tx.export.proof._N_ROUNDS", 1)


def need(format_name: str) -> None:
    for package in PACKAGES.get(format_name, []):
        pytest.importorskip(package, reason=f"{package} is not installed")


def make_run_in(tmp_path: Path, **fields: Any) -> Path:
    (tmp_path / "run").mkdir()
    return make_run(tmp_path / "run", **fields)


def written(trained: Trained, format_name: str, folder: Path, quantization: str | None = None) -> Format:
    """Write the folder, without a proof."""
    form, quantization = find_format(format_name, quantization)
    folder.mkdir()
    form.write(trained, folder, quantization)
    return form


def exported(
    run_dir: Path, format_name: str, output: Path, quantization: str | None = None, odd: Sequence[str] = ()
) -> str:
    """Export, and give the card; `odd` sentences are translated too."""
    torch.set_num_threads(1)
    trained = Trained.load(run_dir, "best")
    found = export(trained, format_name, output, Sentences("test", [*sentences(N), *odd]), quantization)
    assert found.proof.n_sentences == N + len(odd)
    assert len({*found.proof.ours}) > 2
    return (output / "README.md").read_text(encoding="utf-8")


@torch.no_grad()
def our_logits(run_dir: Path) -> torch.Tensor:
    """Of TGT_IN, given SRC_IDS: (2, T, V)."""
    model = Trained.load(run_dir, "best").model
    hidden = model.decode(TGT_IN, model.encode(SRC_IDS, SRC_IDS != 0), SRC_IDS != 0)
    logits = hidden @ model.projection.T + model.output_bias
    assert float(logits.std()) > 0.5
    return logits


def run_python_of(card: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("structure", list(STRUCTURES)[1:3])
@pytest.mark.parametrize("format_name", ["transformers", "ctranslate2"])
def test_a_format_translates_identically_and_as_its_card_says(
    format_name: str,
    structure: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need(format_name)
    run_dir = make_run_in(tmp_path, **STRUCTURES[structure])
    # In float32 `export` raises unless all are identical.
    card = exported(run_dir, format_name, tmp_path / "out")
    capsys.readouterr()
    run_python_of(card, tmp_path, monkeypatch)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("kind", "features"), [("unigram", "all folded"), ("bpe", "bytes")])
@pytest.mark.parametrize("format_name", ["safetensors", "transformers", "ctranslate2"])
def test_a_vocabulary_of_sentencepiece_goes_with_the_model(
    format_name: str, kind: str, features: str, tmp_path: Path
) -> None:
    need(format_name)
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from accel_tx.data.sentencepiece_file import SentencePieceFile

    tokenizer = SentencePieceFile(write_model(tmp_path / "a.model", kind, features)).tokenizer()
    run_dir = make_run_in(tmp_path, kind=kind, seed=2, tokenizers=TokenizerPair(tokenizer, tokenizer))
    card = exported(run_dir, format_name, tmp_path / "out", odd=["Le <sep> <BT> ①", "<eos> <pad> the old man", "ﬁn"])
    assert f"| {kind} of SentencePiece, one of {tokenizer.vocab_size:,} entries for both languages |" in card
    assert ("that the vocabulary lacks are unknown" in card) == (features != "bytes")


@pytest.mark.slow
@pytest.mark.parametrize("structure", [*list(STRUCTURES)[1:4], *OWN_STRUCTURES])
def test_onnx_translates_identically_as_its_card_says_and_gives_our_logits(
    structure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("onnx")
    from accel_tx.export.onnx_greedy import OnnxTranslator

    run_dir = make_run_in(tmp_path, **(STRUCTURES | OWN_STRUCTURES)[structure])
    card = exported(run_dir, "onnx", tmp_path / "out")
    capsys.readouterr()
    run_python_of(card, tmp_path, monkeypatch)
    ours = Trained.load(run_dir, "best").greedy()
    ours.decode = dataclasses.replace(ours.decode, max_len_extra=20)  # what the card's code allows
    assert ast.literal_eval(capsys.readouterr().out) == ours.translate(["A sentence."])
    # Position by position, with the cache, what all at once gives.
    onnx = OnnxTranslator(tmp_path / "out", n_threads=1)
    fixed: dict[str, Any] = {"src_valid": (SRC_IDS != 0).numpy()}
    names = [output.name for output in onnx.encoder.get_outputs()]
    fixed |= dict(zip(names, onnx.encoder.run(names, {"src_ids": SRC_IDS.numpy(), **fixed})))
    own = {name: np.zeros((2, heads, 0, size), np.float32) for name, (heads, size) in onnx.own.items()}
    found = []
    for i in range(TGT_IN.shape[1]):
        logits, *grown = onnx.decoder.run(onnx.outputs, {"tokens": TGT_IN[:, i : i + 1].numpy(), **fixed, **own})
        own = dict(zip(own, grown))
        found.append(torch.from_numpy(logits))
    torch.testing.assert_close(torch.stack(found, dim=1), our_logits(run_dir), rtol=0, atol=1e-4)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_model_of_transformers_gives_our_logits(structure: str, tmp_path: Path) -> None:
    need("transformers")
    from transformers import AutoModelForSeq2SeqLM

    trained = Trained.load(make_run_in(tmp_path, **STRUCTURES[structure]), "best")
    written(trained, "transformers", tmp_path / "out")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = theirs(SRC_IDS, (SRC_IDS != 0).long(), TGT_IN).logits
    ours = our_logits(tmp_path / "run")
    n_real = ours.shape[-1]
    torch.testing.assert_close(logits[..., :n_real], ours, rtol=0, atol=1e-4)
    assert bool((logits[..., n_real:] < -9_000).all())  # what fills the smaller of two vocabularies up


@pytest.mark.parametrize("fields", OWN_STRUCTURES.values(), ids=OWN_STRUCTURES)
def test_what_transformers_has_not_is_refused_in_one_line(fields: dict[str, Any], tmp_path: Path) -> None:
    need("transformers")
    trained = Trained.load(make_run_in(tmp_path, **fields), "best")
    with pytest.raises(
        UserError, match=r"^model\.\w+ is \w+, which MarianMTModel and Pegasus .* do not have; expected"
    ):
        export(trained, "transformers", tmp_path / "out", Sentences("test", sentences(N)))
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("structure", STRUCTURES | OWN_STRUCTURES)
def test_ctranslate2_gives_our_probabilities(structure: str, tmp_path: Path) -> None:
    """Of given translations: so all logits agree, not only the largest ones."""
    need("ctranslate2")
    import ctranslate2
    from tokenizers import Tokenizer

    trained = Trained.load(make_run_in(tmp_path, **(STRUCTURES | OWN_STRUCTURES)[structure]), "best")
    written(trained, "ctranslate2", tmp_path / "out")
    source, target = (Tokenizer.from_file(str(tmp_path / "out" / f"{side}_tokenizer.json")) for side in SIDES)
    src, tgt = zip(*pairs()[:20], strict=True)
    found = ctranslate2.Translator(str(tmp_path / "out")).score_batch(
        [one.tokens for one in source.encode_batch(list(src))],
        [one.tokens[:-1] for one in target.encode_batch(list(tgt))],
    )
    ours = [one.log_prob for one in score_pairs(trained.model, trained.tokenizers, src, tgt, max_tokens=1_000)]
    torch.testing.assert_close([sum(one.log_probs) for one in found], ours, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("format_name", ["transformers", "ctranslate2"])
@pytest.mark.parametrize(("eos_bias", "n_tokens"), [(1e3, 0), (-1e3, 7)])
def test_a_translation_may_be_empty_and_ends_at_its_limit(
    format_name: str, eos_bias: float, n_tokens: int, tmp_path: Path
) -> None:
    need(format_name)
    trained = Trained.load(make_run_in(tmp_path, kind="wordlevel"), "best")
    with torch.no_grad():
        trained.model.output_bias[EOS_ID] = eos_bias
    runtime = written(trained, format_name, tmp_path / "out").load(tmp_path / "out")
    found = runtime.translate(sentences(2), [n_tokens or 7] * 2)
    assert [len(ids) for ids in trained.tokenizers.tgt.encode(found)] == [n_tokens] * 2


@pytest.mark.slow
def test_an_onnx_model_that_never_ends_stops_at_its_last_position_and_refuses_a_longer_source(tmp_path: Path) -> None:
    need("onnx")
    from accel_tx.export.onnx_greedy import OnnxTranslator

    trained = Trained.load(make_run_in(tmp_path, kind="wordlevel", max_positions=32), "best")
    with torch.no_grad():
        trained.model.output_bias[EOS_ID] = -1e3
    written(trained, "onnx", tmp_path / "out")
    onnx = OnnxTranslator(tmp_path / "out", n_threads=1)
    words = pairs()[0][0].split()
    lines = [words[0], " ".join(words[:1] * 31)]
    for limits, lengths in ((None, [21, 32]), ([40, 3], [32, 3])):
        assert [len(trained.tokenizers.tgt.encode([text])[0]) for text in onnx.translate(lines, limits)] == lengths
    with pytest.raises(ValueError, match=r"^lines\[1\] has 32 tokens; expected at most 31$"):
        onnx.translate([words[0], " ".join(words[:1] * 32)])


def test_int8_is_smaller_is_told_from_float_and_leaves_our_model_as_it_was(tmp_path: Path) -> None:
    need("ctranslate2")
    trained = Trained.load(make_run_in(tmp_path), "best")
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    sizes = {}
    for quantization in ("float32", "int8"):
        folder = tmp_path / quantization
        form = written(trained, "ctranslate2", folder, quantization)
        sizes[quantization] = (folder / "model.bin").stat().st_size
        assert quantization in form.load(folder).name
    n_rounded = sum(tensor.numel() for tensor in before.values() if tensor.ndim == 2)
    assert sizes["float32"] - sizes["int8"] > 2.5 * n_rounded
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())


@pytest.mark.parametrize("structure", ["pre-norm, nothing tied, gelu", "post-norm, rotary, shared layers"])
def test_a_model_that_computes_in_8_bits_is_exported_as_such(structure: str, tmp_path: Path) -> None:
    need("ctranslate2")
    fields = {**STRUCTURES, **OWN_STRUCTURES}[structure]
    trained = Trained.load(make_run_in(tmp_path, **fields, quantization="int8"), "best")
    plain = Trained.load(make_run(tmp_path, **fields), "best").greedy()
    form, quantization = find_format("ctranslate2", None, "int8")
    assert quantization == "int8"
    (tmp_path / "out").mkdir()
    form.write(trained, tmp_path / "out", quantization)
    given = Sentences("test", sentences(N_ROUNDED)).fitting(plain)
    n_identical = [prove(ours, form.load(tmp_path / "out"), given).n_identical for ours in (trained.greedy(), plain)]
    assert n_identical[0] >= 0.97 * N_ROUNDED
    assert n_identical[1] < n_identical[0]


def test_a_model_that_computes_in_8_bits_is_nothing_else(tmp_path: Path) -> None:
    for name in ("transformers", "ctranslate2"):
        need(name)
    trained = Trained.load(make_run_in(tmp_path, quantization="int8"), "best")
    for format_name, quantization, expected in (
        (
            "transformers",
            None,
            "^model.quantization is int8, whose rounded products transformers does not have; expected",
        ),
        (
            "ctranslate2",
            "float16",
            "^--quantization float16: this model computes in 8 bits .*; expected --quantization int8",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            written(trained, format_name, tmp_path / format_name, quantization)


def test_int8_is_rounded_so_that_no_cpu_cuts_products_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("ctranslate2")
    from ctranslate2.specs import TransformerSpec

    specs: list[Any] = []
    save = TransformerSpec.save
    monkeypatch.setattr(TransformerSpec, "save", lambda spec, folder: (specs.append(spec), save(spec, folder)))
    trained = Trained.load(make_run_in(tmp_path, tie_embeddings="none"), "best")
    for quantization in ("float32", "int8"):
        written(trained, "ctranslate2", tmp_path / quantization, quantization)
    exact, found = ({name: v for name, v in s.variables().items() if not isinstance(v, str)} for s in specs)
    names = [name for name, value in found.items() if value.dtype == "int8" and len(value.shape) == 2]
    assert {"decoder/projection/weight", "encoder/layer_0/ffn/linear_1/weight"} < {*names}
    for name in names:
        integers, weight = found[name].numpy(), exact[name].numpy()
        neighbours = integers.astype(int).reshape(len(integers), -1, 2)
        assert 255 * neighbours.clip(0).sum(2).max() < 2**15
        assert 255 * neighbours.clip(None, 0).sum(2).min() >= -(2**15)
        scale = found[f"{name}_scale"].numpy()
        np.testing.assert_array_less(np.abs(weight * scale[:, None] - integers), 0.501)
        np.testing.assert_array_less(63 / np.abs(weight).max(1), scale)


def test_a_shared_layer_is_written_once(tmp_path: Path) -> None:
    need("ctranslate2")
    sizes = []
    for name, fields in (("shared", PALINDROME), ("own", {"n_encoder_layers": 4, "n_decoder_layers": 3})):
        (tmp_path / name).mkdir()
        trained = Trained.load(make_run(tmp_path / name, **fields), "best")
        written(trained, "ctranslate2", tmp_path / name / "out")
        sizes.append((tmp_path / name / "out" / "model.bin").stat().st_size)
    layer_bytes = 4 * (4 * 16 * 16 + 2 * 16 * 32)
    assert sizes[1] - sizes[0] > 2.5 * layer_bytes


@pytest.mark.parametrize("format_name", ["safetensors", "transformers", "onnx"])
def test_a_quantization_that_a_format_lacks_is_refused(format_name: str) -> None:
    need(format_name)
    with pytest.raises(UserError, match=f"--quantization int8: format {format_name} has float32; expected one of"):
        find_format(format_name, "int8")


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--format ctranslate2 needs .* \(not installed here\): pip install"):
        find_format("ctranslate2", None)


@pytest.mark.parametrize("format_name", PACKAGES)
def test_a_package_that_is_too_old_is_one_line(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("accel_tx.config.extras.version", lambda package: "0.1")
    with pytest.raises(UserError, match=rf"^--format {format_name} needs .* \(0\.1 is installed here\): pip install"):
        find_format(format_name, None)
