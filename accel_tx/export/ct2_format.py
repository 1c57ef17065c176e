"""Format `ctranslate2`: a model of CTranslate2, from its own specification of a Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor, nn

from accel_tx.config import ModelConfig, UserError
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS, UNK_ID
from accel_tx.export.source import Trained
from accel_tx.export.text import SOURCE_FILE, TARGET_FILE, stand_alone, tokens_by_id
from accel_tx.model.layers import sinusoidal_positions
from accel_tx.model.quantization import integers_of
from accel_tx.model.rotary import ROTARY_BASE
from accel_tx.model.transformer import Transformer

LIBRARY = "ctranslate2"
PACKAGES: tuple[str, ...] = ("ctranslate2",)
QUANTIZATIONS: tuple[str, ...] = (
    "float32",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
)
_TOKENS_PER_BATCH = 1024
_SUPPRESSED = (PAD_ID, BOS_ID)
_DEFAULT_POSITIONS = 1024


def write(trained: Trained, folder: Path, quantization: str) -> None:
    """Fill the folder.

    Raises: UserError where the model's products are rounded and these would not be.
    """
    is_int8 = quantization.startswith("int8")
    if trained.config.model.quantization == "int8" and not is_int8:
        raise UserError(
            f"--quantization {quantization}: this model computes in 8 bits (model.quantization is int8); expected "
            "--quantization int8, which translates as it does"
        )
    spec = _spec_of(trained.model)
    source, target = stand_alone(trained.tokenizers.src), stand_alone(trained.tokenizers.tgt)
    spec.register_source_vocabulary(tokens_by_id(source))
    spec.register_target_vocabulary(tokens_by_id(target))
    spec.config.unk_token = SPECIAL_TOKENS[UNK_ID]
    spec.config.bos_token = spec.config.decoder_start_token = SPECIAL_TOKENS[BOS_ID]
    spec.config.eos_token = SPECIAL_TOKENS[EOS_ID]
    spec.validate()
    exact = {name: torch.from_numpy(value.numpy().copy()) for name, value in _weights(spec)} if is_int8 else {}
    spec.optimize(None if quantization == "float32" else quantization)
    if is_int8:
        _round_without_overflow(spec, exact)
    spec.save(str(folder))
    source.save(str(folder / SOURCE_FILE))
    target.save(str(folder / TARGET_FILE))


def how_to_load(trained: Trained, folder: str) -> str:
    """For the model card."""
    never = ", ".join(f'["{SPECIAL_TOKENS[i]}"]' for i in _SUPPRESSED)
    return f"""\
```python
import ctranslate2, tokenizers
source = tokenizers.Tokenizer.from_file("{folder}/{SOURCE_FILE}")
target = tokenizers.Tokenizer.from_file("{folder}/{TARGET_FILE}")
translator = ctranslate2.Translator("{folder}")
found = translator.translate_batch([source.encode("A sentence.").tokens], max_input_length=0)
print(target.decode([target.token_to_id(token) for token in found[0].hypotheses[0]]))
```

What our search never writes is left out with `disable_unk=True, suppress_sequences=[{never}]`;
`min_decoding_length=0` lets a translation be empty, as ours may. A text that contains `<eos>` ends there unless
`source.encode_special_tokens = True`."""


def load(folder: Path) -> Runtime:
    """On the CPU."""
    return Runtime(folder)


def _spec_of(model: Transformer) -> Any:
    from ctranslate2.specs import Activation, TransformerDecoderSpec, TransformerEncoderSpec, TransformerSpec

    config = model.config
    structure: dict[str, Any] = {
        "num_heads": config.n_heads,
        "pre_norm": config.norm == "pre",
        "activation": {"relu": Activation.RELU, "gelu": Activation.GELU, "silu": Activation.SWISH}[config.activation],
    }
    if config.positions == "rotary":
        structure |= {"rotary_dim": config.d_model // config.n_heads, "rotary_base": ROTARY_BASE}
    spec = TransformerSpec(
        TransformerEncoderSpec(config.n_encoder_layers, **structure),
        # For `replace_unknowns` and `return_attention`: the mean over all heads of the last layer.
        TransformerDecoderSpec(config.n_decoder_layers, alignment_heads=config.n_heads, **structure),
    )
    source = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    for part, embedding in ((spec.encoder.embeddings[0], source), (spec.decoder.embeddings, model.tgt_embedding)):
        part.weight = _copy(embedding.weight)
    for stack, norm in ((spec.encoder, model.encoder_norm), (spec.decoder, model.decoder_norm)):
        # Never shorter than what CTranslate2 takes and writes unless told otherwise: it would stop with an error.
        n_positions = max(config.max_positions, _DEFAULT_POSITIONS)
        if hasattr(stack, "position_encodings"):  # with rotary positions a decoder has none, and an encoder adds zeros
            stack.position_encodings.encodings = _added_positions(config, n_positions)
        if config.norm == "pre":
            _set_norm(stack.layer_norm, norm)
    spec.decoder.projection.weight = _copy(model.projection)
    spec.decoder.projection.bias = _copy(model.output_bias)
    # A shared layer is written once: equal tensors become aliases.
    for i, part in zip(model.encoder_order, spec.encoder.layer, strict=True):
        _set_common(part, model.encoder_layers[i])
    for i, part in zip(model.decoder_order, spec.decoder.layer, strict=True):
        layer: Any = model.decoder_layers[i]
        _set_common(part, layer)
        cross = layer.cross_attention
        for linear, weights in zip(part.attention.linear, (cross.query, cross.key_value, cross.out), strict=True):
            _set_linear(linear, weights)
        _set_norm(part.attention.layer_norm, layer.cross_attention_residual.norm)
    spec.config.layer_norm_epsilon = 1e-5
    return spec


def _weights(spec: Any) -> list[tuple[str, Any]]:
    """What is rounded to integers; a second use of the same weights is the name of the first."""
    return [(name, value) for name, value in spec.variables().items() if name.endswith("/weight")]


def _round_without_overflow(spec: Any, exact: dict[str, Tensor]) -> None:
    """Put our integers and scales in the place of CTranslate2's."""
    from ctranslate2.specs.model_spec import NumpyVariable, index_spec

    for name, value in _weights(spec):
        if isinstance(value, str):
            continue
        layer = index_spec(spec, name.removesuffix("/weight"))
        integers, scale = integers_of(exact[name])
        layer.weight, layer.weight_scale = NumpyVariable(integers.numpy()), NumpyVariable(scale.numpy())


def _added_positions(config: ModelConfig, n_positions: int) -> Tensor:
    if config.positions == "rotary":
        return torch.zeros(n_positions, config.d_model)
    return sinusoidal_positions(n_positions, config.d_model)


def _set_common(part: Any, layer: nn.Module) -> None:
    """Self-attention and feed-forward, which layers of both stacks have."""
    ours: Any = layer
    fused, out = part.self_attention.linear
    _set_linear(fused, ours.self_attention.qkv)
    if (bias := ours.self_attention.qkv_bias()) is not None:
        fused.bias = _copy(bias)
    _set_linear(out, ours.self_attention.out)
    _set_norm(part.self_attention.layer_norm, ours.self_attention_residual.norm)
    _set_linear(part.ffn.linear_0, ours.feed_forward.inner)
    _set_linear(part.ffn.linear_1, ours.feed_forward.outer)
    _set_norm(part.ffn.layer_norm, ours.feed_forward_residual.norm)


def _set_linear(part: Any, linear: Any) -> None:
    part.weight = _copy(linear.weight)
    if linear.bias is not None:
        part.bias = _copy(linear.bias)


def _set_norm(part: Any, norm: Any) -> None:
    part.gamma, part.beta = _copy(norm.weight), _copy(norm.bias)


def _copy(tensor: Tensor) -> Tensor:
    # Quantizing rounds in place, and would round the model that is exported.
    return tensor.detach().clone()


class Runtime:
    """CTranslate2's translator on the CPU, with as many threads as torch has."""

    def __init__(self, folder: Path) -> None:
        import ctranslate2

        self.translator = ctranslate2.Translator(
            str(folder), device="cpu", inter_threads=1, intra_threads=torch.get_num_threads()
        )
        self.name = f"CTranslate2 {ctranslate2.__version__} ({self.translator.compute_type})"
        self.source, self.target = (FastTokenizer.from_file(str(folder / name)) for name in (SOURCE_FILE, TARGET_FILE))
        self.source.encode_special_tokens = True

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """Greedily, at most so many tokens each."""
        found = self.translator.translate_batch(
            [encoding.tokens for encoding in self.source.encode_batch(list(lines))],
            beam_size=1,
            max_input_length=0,
            min_decoding_length=0,
            max_decoding_length=max(limits),
            max_batch_size=_TOKENS_PER_BATCH,
            batch_type="tokens",
            disable_unk=True,
            suppress_sequences=[[SPECIAL_TOKENS[i]] for i in _SUPPRESSED],
        )
        to_id = self.target.get_vocab()
        ids = [[to_id[token] for token in one.hypotheses[0][:limit]] for one, limit in zip(found, limits, strict=True)]
        return list(self.target.decode_batch(ids))
