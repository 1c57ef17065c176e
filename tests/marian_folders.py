"""Folders as `transformers` saves them with a MarianMTModel and its tokenizer; nothing in them is trained."""

from __future__ import annotations

import io
import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from accel_tx.data.phrasebook import iter_pairs

SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 128,
    "activation_function": "swish",
    "scale_embedding": True,
}


@cache
def pairs() -> list[tuple[str, str]]:
    return [tuple(pair) for pair in islice(iter_pairs("train", 300, seed=1), 300)]  # type: ignore[misc]


@cache
def pieces(side: int, kind: str = "unigram", symbols: tuple[str, ...] = ()) -> bytes:
    """A SentencePiece model of one language's sentences, with symbols of the user's."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([pair[side] for pair in pairs()]),
        model_writer=written,
        model_type=kind,
        vocab_size=160 + 40 * side,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        user_defined_symbols=list(symbols),
    )
    return written.getvalue()


def names_of(model: bytes) -> list[str]:
    """The pieces that a text can become."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(len(processor)) if not processor.is_control(i)]


def write_marian(
    folder: Path,
    kind: str = "unigram",
    tags: tuple[str, ...] = (),
    separate: bool = False,
    tied: bool = True,
    same: bool = False,
    symbols: tuple[str, ...] = (),
    **fields: Any,
) -> Path:
    """A folder whose weights are drawn so large that no two logits come near each other.

    `separate`: each language has a vocabulary of its own; `tied`: the logits have the target's matrix; `same`: both
    languages are cut by one file; `symbols`: of the user's in the source's file. `fields` of the config take the place
    of `SIZES`.
    """
    from transformers import MarianConfig, MarianMTModel

    folder.mkdir(parents=True)
    models = [pieces(0 if same else side, kind, () if side else symbols) for side in (0, 1)]
    for name, model in zip(("source.spm", "target.spm"), models, strict=True):
        (folder / name).write_bytes(model)
    src, tgt = ({name for name in names_of(model) if name != "<unk>"} for model in models)
    # As Marian's vocabularies: the end first, the padding of `transformers` last.
    sides = [sorted(src), sorted(tgt)] if separate else [sorted(src | tgt)]
    ids = [
        {name: i for i, name in enumerate(dict.fromkeys(["</s>", "<unk>", *(() if n else tags), *side, "<pad>"]))}
        for n, side in enumerate(sides)
    ]
    for name, of_side in zip(("vocab.json", "target_vocab.json"), ids, strict=False):
        (folder / name).write_text(json.dumps(of_side, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"source_lang": "en", "target_lang": "fr", "separate_vocabs": separate})
    )
    # Of separate vocabularies `transformers` pads with the same id on both sides.
    pad = min(len(of_side) for of_side in ids) - 1
    config = MarianConfig(
        **{**SIZES, **fields},
        vocab_size=len(ids[0]),
        decoder_vocab_size=len(ids[-1]),
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
        bos_token_id=0,
        share_encoder_decoder_embeddings=not separate,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(1)
    model = MarianMTModel(config).eval()
    draw_large(model)
    if not separate:
        # As in a model that was trained on targets alone.
        model.final_logits_bias[0, [i for name, i in ids[0].items() if name not in tgt | {"</s>"}]] = -100.0
    model.generation_config.num_beams, model.generation_config.length_penalty = 4, 0.8
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def draw_large(model: Any) -> None:
    """Every weight and bias but the positions; and an end that wins now and then."""
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    model.final_logits_bias[0, model.config.eos_token_id] += 4.0
