"""Our weights in a model of `transformers` of the same architecture.

A post-norm model becomes a MarianMTModel; a pre-norm one a PegasusForConditionalGeneration, which is Marian's code with
the norm before each block and one behind each stack. (M2M100's positions have other wavelengths, and MBart has a norm
behind the embedding.) Three things differ and are made up for exactly: their attention has biases, which are zero
where ours has none; layers that we share become copies; and their position table has all sines before all cosines
where ours alternate, so the dimensions of the residual stream are put into that order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accel_tx.config import ModelConfig, UserError
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from accel_tx.model.layers import FeedForward, SelfAttention
from accel_tx.model.transformer import Transformer

# The bias of an entry that a vocabulary does not have: probability 0, and a number in half precision too.
_NEVER = -1e4


@torch.no_grad()
def as_transformers(model: Transformer) -> Any:
    """A model of `transformers` with the weights, and so the answers, of ours; on the CPU, in eval mode.

    Raises: UserError for what these models cannot be.
    """
    if model.config.positions != "sinusoidal":
        raise UserError(
            f"model.positions is {model.config.positions}, which MarianMTModel and Pegasus of transformers do not "
            "have; expected sinusoidal, or another format, such as onnx"
        )
    if model.config.quantization != "none":
        raise UserError(
            f"model.quantization is {model.config.quantization}, whose rounded products transformers does not have; "
            "expected none, or another format, such as ctranslate2 with --quantization int8"
        )
    theirs = _build_pegasus(model) if model.config.norm == "pre" else _build_marian(model)
    order = _sines_first(model.config.d_model)
    source = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    _fill_rows(theirs.model.encoder.embed_tokens.weight, source.weight[:, order])
    _fill_rows(theirs.model.decoder.embed_tokens.weight, model.tgt_embedding.weight[:, order])
    if not theirs.config.tie_word_embeddings:
        _fill_rows(theirs.lm_head.weight, model.projection[:, order])
    if hasattr(theirs.model, "shared"):
        # Where nothing is tied no computation uses it, but the file has it.
        theirs.model.shared.weight.copy_(theirs.model.encoder.embed_tokens.weight)
    theirs.final_logits_bias.fill_(_NEVER)[0, : len(model.output_bias)] = model.output_bias
    for i, layer in zip(model.encoder_order, theirs.model.encoder.layers, strict=True):
        _copy_shared_parts(model.encoder_layers[i], layer, order)
    for i, layer in zip(model.decoder_order, theirs.model.decoder.layers, strict=True):
        own = model.decoder_layers[i]
        _copy_shared_parts(own, layer, order)
        cross: Any = own.cross_attention
        weights = (cross.query.weight, *cross.key_value.weight.chunk(2))
        _copy_attention(layer.encoder_attn, weights, cross.query.bias, cross.out, order)
        _copy_norm(layer.encoder_attn_layer_norm, own.cross_attention_residual.norm, order)
    if model.config.norm == "pre":
        _copy_norm(theirs.model.encoder.layer_norm, model.encoder_norm, order)
        _copy_norm(theirs.model.decoder.layer_norm, model.decoder_norm, order)
    return theirs.eval()


def structure_of(config: ModelConfig) -> dict[str, Any]:
    """What the configs of all encoder-decoder models in `transformers` call by the same names, without dropout."""
    return {
        "d_model": config.d_model,
        "encoder_layers": config.n_encoder_layers,
        "decoder_layers": config.n_decoder_layers,
        "encoder_ffn_dim": config.d_ff,
        "decoder_ffn_dim": config.d_ff,
        "encoder_attention_heads": config.n_heads,
        "decoder_attention_heads": config.n_heads,
        "activation_function": config.activation,
        "max_position_embeddings": config.max_positions,
        "scale_embedding": True,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "forced_eos_token_id": None,
        "decoder_start_token_id": BOS_ID,
    }


def _build_marian(model: Transformer) -> Any:
    from transformers import MarianConfig, MarianMTModel

    config = model.config
    src, tgt = _vocab_sizes(model)
    sizes = {"vocab_size": src, "decoder_vocab_size": tgt, **_with_dropout(config)}
    all_tied, output_tied = config.tie_embeddings == "all", config.tie_embeddings != "none"
    return MarianMTModel(
        MarianConfig(**sizes, share_encoder_decoder_embeddings=all_tied, tie_word_embeddings=output_tied)
    )


def _build_pegasus(model: Transformer) -> Any:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    # Pegasus ties all three matrices or none, and has one size for both vocabularies: the smaller one is filled up.
    all_tied = model.config.tie_embeddings == "all"
    sizes = {"vocab_size": max(_vocab_sizes(model)), **_with_dropout(model.config)}
    return PegasusForConditionalGeneration(PegasusConfig(**sizes, tie_word_embeddings=all_tied))


def _with_dropout(config: ModelConfig) -> dict[str, Any]:
    return {**structure_of(config), "dropout": config.dropout, "attention_dropout": config.attention_dropout}


def _vocab_sizes(model: Transformer) -> tuple[int, int]:
    src = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    return len(src.weight), len(model.tgt_embedding.weight)


def _sines_first(d_model: int) -> Tensor:
    return torch.cat([torch.arange(0, d_model, 2), torch.arange(1, d_model, 2)])


def _fill_rows(theirs: Tensor, ours: Tensor) -> None:
    theirs.zero_()[: len(ours)] = ours


def _copy_shared_parts(ours: nn.Module, theirs: Any, order: Tensor) -> None:
    attention, feed_forward = ours.self_attention, ours.feed_forward
    assert isinstance(attention, SelfAttention)
    assert isinstance(feed_forward, FeedForward)
    _copy_attention(theirs.self_attn, attention.qkv.weight.chunk(3), attention.query_bias, attention.out, order)
    theirs.fc1.weight.copy_(feed_forward.inner.weight[:, order])
    theirs.fc1.bias.copy_(feed_forward.inner.bias)
    theirs.fc2.weight.copy_(feed_forward.outer.weight[order])
    theirs.fc2.bias.copy_(feed_forward.outer.bias[order])
    _copy_norm(theirs.self_attn_layer_norm, ours.self_attention_residual.norm, order)
    _copy_norm(theirs.final_layer_norm, ours.feed_forward_residual.norm, order)


def _copy_attention(
    theirs: Any, qkv: tuple[Tensor, ...], query_bias: Tensor | None, out: nn.Linear, order: Tensor
) -> None:
    projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    for projection, weight, bias in zip(projections, qkv, (query_bias, None, None), strict=True):
        projection.weight.copy_(weight[:, order])
        projection.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    theirs.out_proj.weight.copy_(out.weight[order])
    theirs.out_proj.bias.copy_(torch.zeros(len(order)) if out.bias is None else out.bias[order])


def _copy_norm(theirs: Any, ours: Any, order: Tensor) -> None:
    theirs.weight.copy_(ours.weight[order])
    theirs.bias.copy_(ours.bias[order])
