"""Baseline for decoding: `generate` of `transformers`, with our weights in a model of the same architecture.

A post-norm model becomes a MarianMTModel; a pre-norm one a PegasusForConditionalGeneration, which is Marian's code with
the norm before each block and one behind each stack. Both compute the same log-probabilities as ours (tested), so that
the two searches are compared on equal work and their translations by BLEU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from accel_tx.bench.peer_hf import build_marian, structure_of
from accel_tx.config import DecodeConfig, UserError
from accel_tx.data.tokenizer import EOS_ID, PAD_ID, TokenizerPair
from accel_tx.model.layers import FeedForward, SelfAttention
from accel_tx.model.transformer import Transformer


class HfTranslator:
    """Text to text by `generate`, sentences sorted by length."""

    def __init__(self, model: Transformer, tokenizers: TokenizerPair, decode: DecodeConfig, dtype: torch.dtype) -> None:
        """Raises: UserError for a search that `generate` does not have, or a model that has no counterpart."""
        if decode.length_penalty == "gnmt" or decode.sampling:
            raise UserError("--peer hf: compares beam search with decode.length_penalty average or none")
        self.device = model.positions.device
        self.model = transplanted(model).to(self.device, dtype).eval()
        self.tokenizers, self.decode = tokenizers, decode
        self.batch_size = 32

    @torch.inference_mode()
    def translate(self, lines: Sequence[str]) -> list[str]:
        """One translation a line, in the order asked."""
        sources = [[*ids, EOS_ID] for ids in self.tokenizers.src.encode(lines)]
        order = sorted(range(len(lines)), key=lambda i: -len(sources[i]))
        translations = [""] * len(lines)
        for start in range(0, len(lines), self.batch_size):
            batch = order[start : start + self.batch_size]
            for i, text in zip(batch, self._translate([sources[i] for i in batch]), strict=True):
                translations[i] = text
        return translations

    def _translate(self, sources: list[list[int]]) -> list[str]:
        width, decode = max(map(len, sources)), self.decode
        src_ids = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids in sources]).to(self.device)
        longest = int(decode.max_len_ratio * (width - 1)) + decode.max_len_extra
        found = self.model.generate(
            input_ids=src_ids,
            attention_mask=(src_ids != PAD_ID).long(),
            num_beams=decode.beam_size,
            do_sample=False,
            length_penalty=decode.length_exponent if decode.length_penalty == "average" else 0.0,
            max_new_tokens=min(longest, self.model.config.max_position_embeddings - 1),
            use_cache=True,
        )
        return self.tokenizers.tgt.decode([_until_eos(ids[1:]) for ids in found.tolist()])


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids


@torch.no_grad()
def transplanted(model: Transformer) -> Any:
    """A model of `transformers` with the weights, and so the answers, of ours."""
    theirs = _build_pegasus(model) if model.config.norm == "pre" else _build_marian(model)
    source = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    for stack, embedding in ((theirs.model.encoder, source), (theirs.model.decoder, model.tgt_embedding)):
        stack.embed_tokens.weight.copy_(embedding.weight)
        stack.embed_positions.weight.copy_(model.positions)
    theirs.lm_head.weight.copy_(model.projection)
    theirs.final_logits_bias.copy_(model.output_bias[None])
    for i, layer in zip(model.encoder_order, theirs.model.encoder.layers, strict=True):
        _copy_shared_parts(model.encoder_layers[i], layer)
    for i, layer in zip(model.decoder_order, theirs.model.decoder.layers, strict=True):
        own = model.decoder_layers[i]
        _copy_shared_parts(own, layer)
        cross: Any = own.cross_attention
        key, value = cross.key_value.weight.chunk(2)
        _copy_attention(layer.encoder_attn, cross.query.weight, key, value, cross.out.weight)
        layer.encoder_attn_layer_norm.load_state_dict(own.cross_attention_residual.norm.state_dict())  # type: ignore[union-attr]
    if model.config.norm == "pre":
        theirs.model.encoder.layer_norm.load_state_dict(model.encoder_norm.state_dict())
        theirs.model.decoder.layer_norm.load_state_dict(model.decoder_norm.state_dict())
    return theirs


def _build_marian(model: Transformer) -> Any:
    src_vocab = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    return build_marian(model.config, len(src_vocab.weight), len(model.tgt_embedding.weight))


def _build_pegasus(model: Transformer) -> Any:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    config = model.config
    if config.tie_embeddings != "all":
        raise UserError(
            f"--peer hf: a pre-norm model with model.tie_embeddings {config.tie_embeddings!r} has no counterpart in "
            "transformers; expected 'all', or model.norm 'post'"
        )
    sizes = structure_of(config)
    return PegasusForConditionalGeneration(PegasusConfig(vocab_size=len(model.tgt_embedding.weight), **sizes))


def _copy_shared_parts(ours: nn.Module, theirs: Any) -> None:
    attention, feed_forward = ours.self_attention, ours.feed_forward
    assert isinstance(attention, SelfAttention)
    assert isinstance(feed_forward, FeedForward)
    query, key, value = attention.qkv.weight.chunk(3)
    _copy_attention(theirs.self_attn, query, key, value, attention.out.weight)
    theirs.fc1.load_state_dict(feed_forward.inner.state_dict())
    theirs.fc2.load_state_dict(feed_forward.outer.state_dict())
    theirs.self_attn_layer_norm.load_state_dict(ours.self_attention_residual.norm.state_dict())  # type: ignore[union-attr]
    theirs.final_layer_norm.load_state_dict(ours.feed_forward_residual.norm.state_dict())  # type: ignore[union-attr]


def _copy_attention(theirs: Any, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    parts = ((theirs.q_proj, query), (theirs.k_proj, key), (theirs.v_proj, value), (theirs.out_proj, out))
    for projection, weight in parts:
        projection.weight.copy_(weight)
        projection.bias.zero_()  # ours has none
