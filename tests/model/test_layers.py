"""Layers and stacks equal PyTorch's own with the same weights; our dropout is a dropout."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Block
from accel_tx.model.dropout import Dropout
from accel_tx.model.layers import (
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    Residual,
    SelfAttention,
    sinusoidal_positions,
)
from accel_tx.model.transformer import Transformer

SRC_VALID = torch.tensor([[True] * 6, [True] * 2 + [False] * 4, [True] + [False] * 5])
B, S, T, D = 3, 6, 5, 16
EXACT = {"rtol": 0.0, "atol": 1e-10}
KINDS: list[dict[str, Any]] = [
    *({"norm": norm, "activation": activation} for norm in ("pre", "post") for activation in ("relu", "gelu")),
    {"norm": "post", "activation": "silu", "attention_bias": True},
    {"norm": "pre", "activation": "silu", "attention_bias": True},
]


def make_config(**fields: Any) -> ModelConfig:
    small = {"d_model": D, "d_ff": 24, "n_heads": 2, "n_encoder_layers": 4, "n_decoder_layers": 4}
    return ModelConfig(**{**small, "dropout": 0.0, "max_positions": 16, **fields})


def random_weights(module: nn.Module, seed: int) -> None:
    """In float64, gains and biases included: two norms in each other's place would not show with their first values."""
    module.double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sees(valid: Tensor) -> Tensor:
    return valid[:, None, None, :]


def rectangle(module: nn.Module, x: Tensor, *memory: Tensor, valid: Tensor | None = None, **options: Any) -> Tensor:
    """What a module makes of padded inputs (B, T, D), each of them one block; `valid` is that of the source."""
    source = memory[0] if memory else x
    blocks = [Block(*x.shape[:2])] if memory else []
    blocks.append(Block(*source.shape[:2], valid=valid))
    flat = [given.flatten(0, 1) for given in (x, *memory)]
    return module(*flat, *([block] for block in blocks), **options).view_as(x)  # type: ignore[no-any-return]


def causal_mask(length: int) -> Tensor:
    """PyTorch's sign: True where looking is forbidden."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def fill_attention(
    theirs: nn.MultiheadAttention, in_projections: list[Tensor], query_bias: Tensor | None, out: nn.Linear
) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat(in_projections))
        theirs.out_proj.weight.copy_(out.weight)
        if theirs.in_proj_bias is not None:
            theirs.in_proj_bias.zero_()
            theirs.out_proj.bias.zero_()
            if query_bias is not None:
                theirs.in_proj_bias[: len(query_bias)] = query_bias
                theirs.out_proj.bias.copy_(out.bias)


def fill_self_attention(theirs: nn.MultiheadAttention, ours: SelfAttention) -> None:
    fill_attention(theirs, [ours.qkv.weight], ours.query_bias, ours.out)


def fill_cross_attention(theirs: nn.MultiheadAttention, ours: CrossAttention) -> None:
    fill_attention(theirs, [ours.query.weight, ours.key_value.weight], ours.query.bias, ours.out)


def fill_rest(theirs: nn.Module, ours: EncoderLayer | DecoderLayer, residuals: list[Residual]) -> None:
    theirs.get_submodule("linear1").load_state_dict(ours.feed_forward.inner.state_dict())
    theirs.get_submodule("linear2").load_state_dict(ours.feed_forward.outer.state_dict())
    for i, residual in enumerate(residuals, start=1):
        theirs.get_submodule(f"norm{i}").load_state_dict(residual.norm.state_dict())


def torch_options(config: ModelConfig) -> dict[str, Any]:
    return {
        "d_model": config.d_model,
        "nhead": config.n_heads,
        "dim_feedforward": config.d_ff,
        "dropout": 0.0,
        "activation": F.silu if config.activation == "silu" else config.activation,
        "norm_first": config.norm == "pre",
        "batch_first": True,
        "dtype": torch.float64,
    }


def torch_encoder_layer(ours: EncoderLayer, config: ModelConfig) -> nn.TransformerEncoderLayer:
    theirs = nn.TransformerEncoderLayer(**torch_options(config))
    fill_self_attention(theirs.self_attn, ours.self_attention)
    fill_rest(theirs, ours, [ours.self_attention_residual, ours.feed_forward_residual])
    return theirs


def torch_decoder_layer(ours: DecoderLayer, config: ModelConfig) -> nn.TransformerDecoderLayer:
    theirs = nn.TransformerDecoderLayer(**torch_options(config))
    fill_self_attention(theirs.self_attn, ours.self_attention)
    fill_cross_attention(theirs.multihead_attn, ours.cross_attention)
    fill_rest(theirs, ours, [ours.self_attention_residual, ours.cross_attention_residual, ours.feed_forward_residual])
    return theirs


def torch_transformer(ours: Transformer) -> nn.Transformer:
    """The two stacks of our model, in the order in which it executes its layers."""
    config = ours.config
    encoders = [torch_encoder_layer(ours.encoder_layers[i], config) for i in ours.encoder_order]  # type: ignore[arg-type]
    decoders = [torch_decoder_layer(ours.decoder_layers[i], config) for i in ours.decoder_order]  # type: ignore[arg-type]
    pre_norm = config.norm == "pre"
    encoder = nn.TransformerEncoder(
        encoders[0], len(encoders), ours.encoder_norm if pre_norm else None, enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(decoders[0], len(decoders), ours.decoder_norm if pre_norm else None)
    theirs = nn.Transformer(
        config.d_model, config.n_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )
    # Only now: it copies the first layer, and draws new weights on construction.
    encoder.layers, decoder.layers = nn.ModuleList(encoders), nn.ModuleList(decoders)
    return theirs


@pytest.mark.parametrize("n_heads", [1, 2, 8])
def test_self_attention_equals_torch_at_padded_sources(n_heads: int) -> None:
    ours = SelfAttention(make_config(n_heads=n_heads))
    random_weights(ours, seed=1)
    theirs = nn.MultiheadAttention(D, n_heads, bias=False, batch_first=True, dtype=torch.float64)
    fill_self_attention(theirs, ours)
    x = noise(B, S, D, seed=2)
    expected, _ = theirs(x, x, x, key_padding_mask=~SRC_VALID, need_weights=False)
    torch.testing.assert_close(rectangle(ours, x, valid=SRC_VALID, causal=False), expected, **EXACT)


def test_causal_self_attention_equals_torch() -> None:
    ours = SelfAttention(make_config())
    random_weights(ours, seed=1)
    theirs = nn.MultiheadAttention(D, 2, bias=False, batch_first=True, dtype=torch.float64)
    fill_self_attention(theirs, ours)
    x = noise(B, T, D, seed=2)
    expected, _ = theirs(x, x, x, attn_mask=causal_mask(T), need_weights=False)
    torch.testing.assert_close(rectangle(ours, x, causal=True), expected, **EXACT)


def test_cross_attention_equals_torch() -> None:
    ours = CrossAttention(make_config())
    random_weights(ours, seed=1)
    theirs = nn.MultiheadAttention(D, 2, bias=False, batch_first=True, dtype=torch.float64)
    fill_cross_attention(theirs, ours)
    x, memory = noise(B, T, D, seed=2), noise(B, S, D, seed=3)
    expected, _ = theirs(x, memory, memory, key_padding_mask=~SRC_VALID, need_weights=False)
    torch.testing.assert_close(rectangle(ours, x, memory, valid=SRC_VALID), expected, **EXACT)


@pytest.mark.parametrize("attention", [SelfAttention, CrossAttention])
def test_attention_dropout_acts_in_training_only(attention: type[SelfAttention] | type[CrossAttention]) -> None:
    block = attention(make_config(attention_dropout=0.5))
    without = attention(make_config(attention_dropout=0.0))
    random_weights(block, seed=1)
    without.double().load_state_dict(block.state_dict())
    x = noise(B, T, D, seed=2)

    def apply(module: SelfAttention | CrossAttention) -> Tensor:
        if isinstance(module, SelfAttention):
            return rectangle(module, x, causal=False)
        return rectangle(module, x, x)

    assert torch.equal(apply(block.eval()), apply(without))
    torch.manual_seed(3)
    assert not torch.allclose(apply(block.train()), apply(without))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_encoder_layer_equals_torch(kind: dict[str, Any]) -> None:
    config = make_config(**kind)
    ours = EncoderLayer(config)
    random_weights(ours, seed=1)
    x = noise(B, S, D, seed=2)
    expected = torch_encoder_layer(ours, config)(x, src_key_padding_mask=~SRC_VALID)
    torch.testing.assert_close(rectangle(ours, x, valid=SRC_VALID)[SRC_VALID], expected[SRC_VALID], **EXACT)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_decoder_layer_equals_torch(kind: dict[str, Any]) -> None:
    config = make_config(**kind)
    ours = DecoderLayer(config)
    random_weights(ours, seed=1)
    x, memory = noise(B, T, D, seed=2), noise(B, S, D, seed=3)
    expected = torch_decoder_layer(ours, config)(x, memory, tgt_mask=causal_mask(T), memory_key_padding_mask=~SRC_VALID)
    torch.testing.assert_close(rectangle(ours, x, memory, valid=SRC_VALID), expected, **EXACT)


@pytest.mark.parametrize("sharing", ["none", "palindrome"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(map(str, kind.values())))
def test_both_stacks_and_their_gradients_equal_torch(kind: dict[str, Any], sharing: str) -> None:
    config = make_config(**kind, encoder_sharing=sharing, decoder_sharing=sharing)
    ours = Transformer(config, src_vocab_size=11, tgt_vocab_size=13)
    random_weights(ours, seed=1)
    theirs = torch_transformer(ours)
    src_ids = torch.randint(11, (B, S), generator=torch.Generator().manual_seed(2))
    tgt_in = torch.randint(13, (B, T), generator=torch.Generator().manual_seed(3))

    memory = ours.encode(src_ids, SRC_VALID)
    hidden = ours.decode(tgt_in, memory, SRC_VALID)
    assert ours.src_embedding is not None
    src = ours.src_embedding.weight[src_ids] * math.sqrt(D) + ours.positions[:S]
    tgt = ours.tgt_embedding.weight[tgt_in] * math.sqrt(D) + ours.positions[:T]
    hidden_expected = theirs(
        src,
        tgt,
        tgt_mask=causal_mask(T),
        src_key_padding_mask=~SRC_VALID,
        memory_key_padding_mask=~SRC_VALID,
    )
    memory_expected = theirs.encoder(src, src_key_padding_mask=~SRC_VALID)
    torch.testing.assert_close(memory[SRC_VALID], memory_expected[SRC_VALID], **EXACT)
    torch.testing.assert_close(hidden, hidden_expected, **EXACT)

    upstream = noise(B, T, D, seed=4)
    embeddings = [ours.src_embedding.weight, ours.tgt_embedding.weight]
    gradients = torch.autograd.grad((hidden * upstream).sum(), embeddings)
    expected = torch.autograd.grad((hidden_expected * upstream).sum(), embeddings)
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("d_model", [2, 6, 64])
def test_position_table_equals_the_plain_formula(d_model: int) -> None:
    n_positions = 1024
    table = sinusoidal_positions(n_positions, d_model)
    assert table.shape == (n_positions, d_model)
    for position in (0, 1, 2, 17, 1023):
        for i in range(d_model // 2):
            angle = position / 10_000 ** (2 * i / d_model)
            # Half a unit in the last place of a float32 just below 1.
            assert float(table[position, 2 * i]) == pytest.approx(math.sin(angle), abs=6e-8)
            assert float(table[position, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=6e-8)


def test_dropout_is_the_identity_in_eval_mode_and_at_zero() -> None:
    x = torch.randn(7, 3)
    assert torch.equal(Dropout(0.3).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_dropout_keeps_the_right_share_and_the_expectation(p: float) -> None:
    n, n_sigmas = 400_000, 5
    torch.manual_seed(1)
    y = Dropout(p)(torch.ones(n))
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=2e-4, atol=0)
    sigma = math.sqrt(p * (1 - p) / n)
    assert abs(float(kept.double().mean()) - (1 - p)) < n_sigmas * sigma
    assert abs(float(y.double().mean()) - 1) < n_sigmas * sigma / (1 - p)
    # Several decisions come from one draw: each must have the right rate, and no pair of them may go together.
    of_draw = kept.view(-1, 4).double()
    assert float((of_draw.mean(0) - (1 - p)).abs().max()) < n_sigmas * 2 * sigma
    covariance = torch.cov(of_draw.T)
    covariance.fill_diagonal_(0)
    assert float(covariance.abs().max()) < n_sigmas * p * (1 - p) / math.sqrt(n / 4)


def test_dropout_draws_the_same_for_the_same_seed_only() -> None:
    x, dropout = torch.ones(10, 10), Dropout(0.3)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout(x)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(dropout(x), dropout(x))  # and a draw moves the generator on


def test_dropout_gradient_is_the_drawn_factor() -> None:
    x = noise(5, 7, seed=1).requires_grad_()
    upstream = noise(5, 7, seed=2)
    torch.manual_seed(3)
    y = Dropout(0.3)(x)
    y.backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, upstream * (y / x).detach())
    assert 0 < int((x.grad == 0).sum()) < x.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 3, 7)])
def test_dropout_keeps_shape_and_type(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    y = Dropout(0.5)(torch.ones(shape, dtype=dtype))
    assert y.shape == shape
    assert y.dtype == dtype
    assert set(y.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_of_a_transposed_tensor_keeps_values_in_place() -> None:
    x = torch.arange(1.0, 36.0).view(5, 7).t()
    y = Dropout(0.5)(x)
    assert torch.equal(y, torch.where(y == 0, 0.0, 2 * x))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_residual_drops_from_the_block_output_alone(norm: str) -> None:
    residual = Residual(make_config(norm=norm, dropout=0.5))
    x, block_output = torch.randn(2, 3, D), torch.full((2, 3, D), 8.0)
    torch.manual_seed(1)
    y = residual.after(x, block_output)
    torch.manual_seed(1)
    stream = x + Dropout(0.5)(block_output)
    torch.testing.assert_close(y, stream if norm == "pre" else residual.norm(stream))
    assert torch.equal(residual.before(x), residual.norm(x) if norm == "pre" else x)
