"""Run folders with untrained models, and sentences to translate."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from accel_tx.config import TokenizerConfig, build_config, dump_yaml
from accel_tx.data.phrasebook.generate import iter_pairs
from accel_tx.data.tokenizer import EOS_ID, TokenizerPair, train_tokenizer
from accel_tx.model.transformer import Transformer
from tests.conftest import TINY

VOCAB_SIZES = {"wordlevel": 250, "bpe": 320, "unigram": 200}
SCORES: dict[str, Any] = {
    "update": 12,
    "bleu": 12.345,
    "chrf": 34.5,
    "val_loss": 2.5,
    "signature": "nrefs:1|tok:13a",
    "chrf_signature": "nrefs:1|nc:6",
    "trained_s": 90.0,
    "data_sha256": "0",
}


@cache
def pairs() -> list[tuple[str, str]]:
    return [tuple(pair) for pair in iter_pairs("train", 300, seed=1)]  # type: ignore[misc]


def sentences(n: int) -> list[str]:
    """Source sentences, all different, none of the training."""
    return [src for src, _ in iter_pairs("validation", n, seed=1)]


@cache
def tokenizer_pair(kind: str, joint: bool) -> TokenizerPair:
    """A joint one, or two, the larger one for the source."""
    src, tgt = zip(*pairs(), strict=True)
    if joint:
        both = train_tokenizer(iter([*src, *tgt]), TokenizerConfig(kind, VOCAB_SIZES[kind], 1))  # type: ignore[arg-type]
        return TokenizerPair(both, both)
    sides = [
        train_tokenizer(iter(texts), TokenizerConfig(kind, size, 1))  # type: ignore[arg-type]
        for texts, size in ((src, VOCAB_SIZES[kind]), (tgt, VOCAB_SIZES[kind] - 20))
    ]
    return TokenizerPair(*sides)


@torch.no_grad()
def make_run(
    folder: Path,
    kind: str = "bpe",
    joint: bool = True,
    seed: int = 1,
    tokenizers: TokenizerPair | None = None,
    **model_fields: Any,
) -> Path:
    """A run folder whose weights in `best/` are drawn so large that no two logits come near each other.

    Without `tokenizers` it has those of `tokenizer_pair`.
    """
    fields = {"dropout": 0.1, "tie_embeddings": "all" if joint else "none", "max_positions": 128, **model_fields}
    sections = {
        **TINY,
        "train": {**TINY["train"], "max_tokens": 512},
        "tokenizer": {**TINY["tokenizer"], "kind": kind, "vocab_size": 320, "joint": joint},
    }
    config = build_config({**sections, "model": {**TINY["model"], **fields}})
    tokenizers = tokenizer_pair(kind, joint) if tokenizers is None else tokenizers
    torch.manual_seed(seed)
    model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).eval()
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    _end_sentences(model, tokenizers)
    tokenizers.save(folder / "tokenizer")
    (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    (folder / "clean_report.json").write_text('{"n_read": 320, "n_kept": 300, "dropped": {"identical": 20, "urls": 0}}')
    (folder / "best").mkdir()
    save_file(model.state_dict(), folder / "best" / "model.safetensors")
    (folder / "best" / "scores.json").write_text(json.dumps(SCORES))
    return folder


def _end_sentences(model: Transformer, tokenizers: TokenizerPair) -> None:
    """Raise the bias of EOS so that it wins now and then."""
    src_ids = torch.tensor([ids[:6] for ids in tokenizers.src.encode(sentences(40)) if len(ids) >= 6])
    tgt_in = torch.randint(4, tokenizers.tgt.vocab_size, (len(src_ids), 20))
    logits = model.decode(tgt_in, model.encode(src_ids, None), None) @ model.projection.T + model.output_bias
    margins = logits[..., EOS_ID + 1 :].amax(-1) - logits[..., EOS_ID]
    model.output_bias[EOS_ID] += margins.flatten().quantile(0.06)
