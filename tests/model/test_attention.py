"""Attention of plain products: the numbers of torch's fused kernel, narrow rows and wide ones, and dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.model.attention import plain_attention


def draw(n_queries: int, n_keys: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_keys)
    lengths = (n_queries, n_keys, n_keys)
    drawn = [torch.randn(3, 2, n, 5, generator=generator, dtype=torch.float64) for n in lengths]
    return [x.requires_grad_() for x in drawn]


# Rows below and from the width at which torch's softmax is taken, and of one number.
SQUARE, OTHERS = [(7, 7), (15, 15), (16, 16), (21, 21)], [(1, 9), (4, 18), (3, 1)]


@pytest.mark.parametrize(
    ("n_queries", "n_keys", "kind"),
    [(*size, kind) for kind in ("full", "padded") for size in SQUARE + OTHERS] + [(*size, "causal") for size in SQUARE],
)
def test_values_and_gradients_are_those_of_the_fused_kernel(n_queries: int, n_keys: int, kind: str) -> None:
    inputs = draw(n_queries, n_keys)
    attendable = None
    if kind == "padded":
        lengths = torch.tensor([n_keys, max(1, n_keys // 2), 1])
        attendable = (torch.arange(n_keys) < lengths[:, None])[:, None, None, :]
    causal = kind == "causal"
    found = plain_attention(*inputs, attendable, 0.0, causal)
    expected = F.scaled_dot_product_attention(*inputs, attendable, is_causal=causal)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-13)


def test_dropout_drops_weights_and_its_gradient_is_that_of_the_drawn_ones() -> None:
    inputs = draw(6, 6)

    def attend() -> Tensor:
        torch.manual_seed(3)
        return plain_attention(*inputs, None, 0.5, causal=False)

    assert not torch.allclose(attend(), plain_attention(*inputs, None, 0.0, causal=False))
    assert torch.autograd.gradcheck(lambda *_: attend(), inputs)


def test_the_mean_over_many_dropouts_is_the_value_without() -> None:
    inputs = [x.detach() for x in draw(3, 4)]
    torch.manual_seed(1)
    found = torch.stack([plain_attention(*inputs, None, 0.3, causal=False) for _ in range(2000)]).mean(0)
    assert torch.allclose(found, plain_attention(*inputs, None, 0.0, causal=False), atol=0.06)


def test_strided_heads_give_what_contiguous_ones_give() -> None:
    projected = torch.randn(2, 5, 3, 2, 4, generator=torch.Generator().manual_seed(2))
    strided = projected.permute(2, 0, 3, 1, 4).unbind(0)
    copies = [x.contiguous() for x in strided]
    assert torch.equal(
        plain_attention(*strided, None, 0.0, causal=True), plain_attention(*copies, None, 0.0, causal=True)
    )
