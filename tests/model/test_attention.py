"""Attention of plain products: the numbers of torch's fused kernel, narrow rows and wide ones, and dropout."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Block, Packed
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.model import attention
from accel_tx.model.attention import attend, kernel_attention
from accel_tx.model.plain_attention import _places_of, plain_attention
from accel_tx.model.transformer import Transformer

N_HEADS, D = 2, 10
EXACT = {"rtol": 1e-11, "atol": 1e-13}

# Lengths of the sentences of each block; rows below and from the width at which torch's softmax is taken, and of one.
SRC = [[7, 7], [9, 4, 1], [15], [16, 16], [21, 3], [1, 1, 1]]
TGT = [[3, 3], [2, 5, 4], [18], [17, 1], [1, 16], [1, 2, 3]]


def blocks_of(lengths: list[list[int]]) -> list[Block]:
    blocks = []
    for of_block in lengths:
        valid = torch.arange(max(of_block)) < torch.tensor(of_block)[:, None]
        has_padding = not valid.all()
        positions = valid.flatten().nonzero()[:, 0]
        blocks.append(Block(len(of_block), max(of_block), *((positions, valid) if has_padding else (None, None))))
    return blocks


def draw(lengths: list[list[int]], n_parts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    n_tokens = sum(map(sum, lengths))
    return torch.randn(n_tokens, n_parts * D, generator=generator, dtype=torch.float64).requires_grad_()


def inputs_of(kind: str) -> tuple[Tensor, Tensor | None, list[Block], list[Block]]:
    if kind == "cross":
        return draw(TGT, 1, 1), draw(SRC, 2, 2), blocks_of(TGT), blocks_of(SRC)
    return draw(SRC, 3, 3), None, blocks_of(SRC), blocks_of(SRC)


def is_plain(heads: Tensor) -> bool:
    """Whether plain products gave them."""
    return "PlainAttention" in type(heads.grad_fn).__name__


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_values_and_gradients_are_those_of_the_fused_kernel(kind: str) -> None:
    query, key_value, *blocks = inputs_of(kind)
    leaves = [query] if key_value is None else [query, key_value]
    found = plain_attention(query, key_value, *blocks, N_HEADS, 0.0, kind == "causal")
    expected = kernel_attention(query, key_value, *blocks, N_HEADS, 0.0, kind == "causal")
    torch.testing.assert_close(found, expected, **EXACT)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(x, leaves, upstream) for x in (found, expected))
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_blocks_do_not_see_each_other(kind: str) -> None:
    query, key_value, *both = inputs_of(kind)
    together = plain_attention(query, key_value, *both, N_HEADS, 0.0, kind == "causal")
    queries, keys_values = (
        [None] * len(own) if x is None else torch.split(x, [block.n_tokens for block in own])
        for x, own in zip((query, key_value), both, strict=True)
    )
    alone = [
        plain_attention(own_query, own_key_value, [block], [memory_block], N_HEADS, 0.0, kind == "causal")
        for own_query, own_key_value, block, memory_block in zip(queries, keys_values, *both, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), **EXACT)


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_in_bfloat16_on_cpu_it_is_that_of_float64(kind: str) -> None:
    query, key_value, *blocks = inputs_of(kind)
    exact = [query] if key_value is None else [query, key_value]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    expected = kernel_attention(query, key_value, *blocks, N_HEADS, 0.0, kind == "causal")
    found = attend(rounded[0], None if key_value is None else rounded[1], *blocks, N_HEADS, 0.0, kind == "causal")
    assert found.dtype == torch.bfloat16
    assert is_plain(found)
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 0.01
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    theirs = torch.autograd.grad(expected, exact, upstream)
    ours = torch.autograd.grad(found, rounded, upstream.bfloat16())
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02


def test_dropout_drops_weights_and_its_gradient_is_that_of_the_drawn_ones() -> None:
    query, key_value, *blocks = inputs_of("cross")

    def attended(query: Tensor, key_value: Tensor) -> Tensor:
        torch.manual_seed(3)
        return plain_attention(query, key_value, *blocks, N_HEADS, 0.5, causal=False)

    assert key_value is not None
    without = plain_attention(query, key_value, *blocks, N_HEADS, 0.0, causal=False)
    assert not torch.allclose(attended(query, key_value), without)
    assert torch.autograd.gradcheck(attended, (query, key_value), fast_mode=True)


def test_the_mean_over_many_dropouts_is_the_value_without() -> None:
    query = draw([[4, 3]], 3, 4).detach()
    own = blocks_of([[4, 3]])
    torch.manual_seed(1)
    found = torch.stack([plain_attention(query, None, own, own, N_HEADS, 0.3, causal=False) for _ in range(2000)])
    expected = plain_attention(query, None, own, own, N_HEADS, 0.0, causal=False)
    assert torch.allclose(found.mean(0), expected, atol=0.06)


@pytest.mark.parametrize("kind", ["self", "causal", "cross"])
def test_autocast_changes_nothing(kind: str) -> None:
    query, key_value, *blocks = inputs_of(kind)
    rounded = [None if x is None else x.detach().bfloat16().requires_grad_() for x in (query, key_value)]
    leaves = [x for x in rounded if x is not None]
    results = []
    for is_on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            found = attend(*rounded, *blocks, N_HEADS, 0.0, kind == "causal")
            results.append((found, *torch.autograd.grad(found, leaves, torch.ones_like(found))))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_all_layers_share_the_places_of_a_batch() -> None:
    config = ModelConfig(d_model=16, d_ff=24, n_heads=4, n_encoder_layers=3, n_decoder_layers=2)
    model = Transformer(config, 50, 50).train()
    model.gradient_checkpointing = True  # asks again on the way back
    lengths = ((5, 9), (11, 4), (7, 7))
    batch = DataCollator(10)([TokenPair(*(np.full(n, 7, dtype=np.int32) for n in pair)) for pair in lengths])
    _places_of.cache_clear()
    model(batch, 0.1).backward()
    # Of a side fused projections and results; of the target its queries to the source are places as the results.
    assert _places_of.cache_info().misses == 5


@pytest.mark.parametrize("gradients", [False, True])
def test_weights_are_kept_for_gradients_only(gradients: bool) -> None:
    query, _, *blocks = inputs_of("self")
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    query = query.detach().requires_grad_(gradients)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        plain_attention(query, None, *blocks, N_HEADS, 0.0, causal=False)
    n_weights = sum(N_HEADS * block.n_sentences * block.width**2 for block in blocks[0])
    n_heads = sum(block.n_positions * 3 * D for block in blocks[0])
    assert sum(kept) == (n_heads + n_weights if gradients else 0)


@pytest.mark.parametrize(("width", "expected"), [(128, True), (129, False)])
def test_in_float32_products_are_for_training_on_short_sentences(width: int, expected: bool) -> None:
    own = [Block(2, width, torch.arange(2 * width - 1), torch.arange(2 * width).view(2, width) < 2 * width - 1)]
    query = torch.randn(2 * width - 1, 3 * D).requires_grad_()
    assert is_plain(attend(query, None, own, own, N_HEADS, 0.0, causal=True)) is expected
    with torch.no_grad(), mock.patch.object(attention, "plain_attention", side_effect=AssertionError):
        attend(query, None, own, own, N_HEADS, 0.0, causal=True)


@pytest.mark.parametrize("kernel", ["ours", "flash", "efficient"])
@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
def test_packed_sentences_go_to_one_kernel(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without a GPU: on the device that computes shapes alone."""
    monkeypatch.setattr(attention.kernels, "runs", lambda _: kernel == "ours")
    monkeypatch.setattr(attention, "_has_flash", lambda _: kernel == "flash")
    query, key_value, blocks, memory_blocks = inputs_of(kind)
    names = [f"_{kernel}_attention_{way}" for way in ("forward", "backward")]
    if kernel == "ours":
        names = ["sentence_attention", "sentence_attention_backward"]

    def packed(of_side: list[Block], lengths: list[list[int]]) -> list[Block]:
        starts = torch.tensor([0, *(n for block in lengths for n in block)], device="meta").cumsum(0).int()
        n_rows = sum(block.n_tokens for block in of_side)
        return [Packed(len(starts) - 1, max(map(max, lengths)), starts=starts, n_rows=n_rows)]

    sides = packed(blocks, TGT if kind == "cross" else SRC), packed(memory_blocks, SRC)
    given = [x.detach().to("meta", torch.bfloat16).requires_grad_() for x in (query, key_value) if x is not None]
    called: list[tuple[str, Any]] = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append((function.overloadpacket.__name__, args))
            return function(*args, **(kwargs or {}))

    with Noting():
        heads = attend(given[0], given[1] if kind == "cross" else None, *sides, N_HEADS, 0.0, kind == "decoder")
        gradients = torch.autograd.grad(heads.sum(), given)
    assert heads.shape == (len(query), D)
    assert [g.shape for g in gradients] == [x.shape for x in given]
    found = [call for call in called if "attention" in call[0]]
    assert [name for name, _ in found] == names
    arguments = found[0][1]
    (side,), (memory_side,) = sides
    assert isinstance(side, Packed)
    assert isinstance(memory_side, Packed)
    bounds, causal = [side.starts, memory_side.starts, side.width, memory_side.width], kind == "decoder"
    if kernel == "ours":
        *_, longest, n_heads, is_causal = arguments
        assert (longest, n_heads, is_causal) == (max(bounds[2:]), N_HEADS, causal)
        assert all(a is b for a, b in zip(arguments[2:4], bounds[:2], strict=True))
        return
    q, k, v, *others = arguments
    n_src, n_tgt = (sum(map(sum, lengths)) for lengths in (SRC, TGT))
    of_side = n_tgt if kind == "cross" else n_src
    assert [x.shape[-3:] for x in (q, k, v)] == [(n, N_HEADS, 8) for n in (of_side, n_src, n_src)]
    expected = [*bounds, 0.0, causal, False] if kernel == "flash" else [None, *bounds, 0.0, int(causal), True]
    assert all(a is b if isinstance(b, Tensor) else a == b for a, b in zip(others, expected, strict=True))
    # Those of 5 channels, padded to 8.
    factors = [args[1] for name, args in called if name == "mul" and isinstance(args[1], float)]
    assert factors[:1] == [pytest.approx((8 / 5) ** 0.5)]


def test_packed_sentences_have_no_dropout_of_the_weights() -> None:
    side = Packed(1, 3, starts=torch.tensor([0, 3], dtype=torch.int32), n_rows=3)
    with pytest.raises(AssertionError):
        attend(torch.zeros(3, 3 * D), None, [side], [side], N_HEADS, 0.1, causal=False)
