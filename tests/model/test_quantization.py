"""Integers whose products of two fit into 16 bits, as near to the weights as that allows; a model that computes so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.config import ModelConfig
from accel_tx.data.tokenizer import EOS_ID
from accel_tx.model.quantization import Int8Linear, integers_of, rounded_input, rounded_weight
from accel_tx.model.transformer import Transformer
from tests.inference.models import make_model


@given(seed=st.integers(0, 2**31), n_columns=st.integers(1, 9), spread=st.sampled_from([1e-38, 1e-3, 1.0, 1e38]))
def test_two_neighbours_never_overflow(seed: int, n_columns: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = spread * torch.rand(5, n_columns, generator=generator).mul(2).sub(1)
    weight[0] = spread
    weight[1] *= torch.rand(n_columns, generator=generator) < 0.5
    integers, scale = integers_of(weight)
    assert integers.dtype == torch.int8
    assert bool(scale.isfinite().all())
    for start in range(0, n_columns, 2):
        two = integers[:, start : start + 2].int()
        assert 255 * int(two.clamp(min=0).sum(1).max()) < 2**15
        assert 255 * int(two.clamp(max=0).sum(1).min()) >= -(2**15)
    assert bool(((weight * scale[:, None] - integers).abs() <= 0.5).all())


@pytest.mark.parametrize(
    ("row", "integers", "scale"),
    [
        ([1.0, -1.0, 0.5], [127, -127, 64], 127.0),  # of different signs they do not add up
        ([1.0, 1.0, 0.5], [64, 64, 32], 63.5),
        ([-3.0, -1.0, 0.0], [-95, -32, 0], 31.75),
        ([0.5, 1.0, 1.0], [42, 85, 85], 127 / 1.5),  # the second and the third are in different pairs
        ([0.0, 0.0, 0.0], [0, 0, 0], 1.0),
    ],
)
def test_a_row_uses_as_much_of_the_range_as_it_can(row: list[float], integers: list[int], scale: float) -> None:
    found = integers_of(torch.tensor([row]))
    assert found[0].tolist() == [integers]
    assert found[1].tolist() == pytest.approx([scale])


def as_integers(row: list[float]) -> list[float]:
    scale = 127 / max(map(abs, row)) if any(row) else 1.0
    return [round(x * scale) / scale for x in row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_input_is_at_integers_of_its_own_scale(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = (torch.randn(2, 3, 10) * torch.tensor([1e-20, 1.0, 1e20])[:, None]).to(dtype)
    x[1, 2] = 0
    found = rounded_input(x)
    assert found.dtype == dtype
    for row, rounded in zip(x.flatten(0, 1).tolist(), found.flatten(0, 1).tolist(), strict=True):
        assert rounded == pytest.approx(as_integers(row), rel=1e-6 if dtype == torch.float32 else 8e-3, abs=0)
    assert len({*(found[0, 1].double() / found[0, 1].abs().max() * 127).round().tolist()}) > 5


@pytest.mark.parametrize("rounding", [rounded_weight, rounded_input])
def test_the_gradient_passes_the_rounding(rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, upstream = torch.randn(4, 7, requires_grad=True), torch.randn(4, 7)
    found = rounding(x)
    assert not torch.equal(found, x)
    found.backward(upstream)
    assert torch.equal(x.grad, upstream)  # type: ignore[arg-type]


def test_a_linear_map_is_that_of_the_integers() -> None:
    torch.manual_seed(1)
    layer, x = Int8Linear(9, 5).double(), torch.randn(4, 9, dtype=torch.float64)
    integers, scale = integers_of(layer.weight.detach())
    inputs_scale = 127 / x.abs().amax(1, keepdim=True)
    sums = (x * inputs_scale).round().long() @ integers.long().T
    assert torch.allclose(layer(x), sums / (inputs_scale * scale) + layer.bias, rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", ["none", "all"])
def test_all_matrices_and_embeddings_are_rounded(tied: str) -> None:
    torch.manual_seed(1)
    plain = ModelConfig(16, 24, 2, 1, 1, dropout=0.0, norm="post", tie_embeddings=tied)  # type: ignore[arg-type]
    model = Transformer(dataclasses.replace(plain, quantization="int8"), 30, 30).double().eval()
    same = Transformer(plain, 30, 30).double().eval()
    same.load_state_dict({name: rounded_weight(w) if w.ndim == 2 else w for name, w in model.state_dict().items()})
    n_products = 0

    def round_inputs(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        nonlocal n_products
        n_products += 1
        return rounded_input(inputs[0])

    for module in same.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(round_inputs)
    src, tgt = torch.randint(4, 30, (3, 5)), torch.randint(4, 30, (3, 6))
    logits = []
    for each in (model, same):
        hidden = each.decode(tgt, each.encode(src, None), None)
        logits.append(rounded_input(hidden) @ each.logits_matrix().T)
    assert n_products == 4 + 7
    assert torch.allclose(*logits, rtol=0, atol=1e-12)
    assert torch.equal(rounded_input(hidden), model.logits_inputs(hidden))


@pytest.mark.parametrize("tied", ["none", "decoder", "all"])
def test_weights_fixed_in_float32_are_the_integers_in_bfloat16_too(tied: str) -> None:
    model = make_model(1, quantization="int8", tie_embeddings=tied).float()
    model.fix_rounding()
    model.bfloat16()
    expected = make_model(1, quantization="int8", tie_embeddings=tied).float()
    ids = torch.arange(60)
    assert torch.equal(model.tgt_embedding(ids), rounded_weight(expected.tgt_embedding.weight.detach()).bfloat16())
    assert torch.equal(model.logits_matrix(), rounded_weight(expected.projection.detach()).bfloat16())
    late = rounded_weight(expected.tgt_embedding.weight.detach().bfloat16())
    assert not torch.equal(model.tgt_embedding(ids), late)


@pytest.mark.parametrize("seed", range(2))
def test_a_cached_position_is_that_of_all_positions(seed: int) -> None:
    model = make_model(seed, quantization="int8")
    src, tgt = torch.tensor([[5, 6, 7, EOS_ID]]), torch.randint(4, 60, (1, 9))
    with torch.no_grad():
        memory = model.encode(src, None)
        expected, cache = model.decode(tgt, memory, None), model.start_cache(memory, None, 9)
        for i in range(9):
            assert torch.allclose(model.step(tgt[:, i : i + 1], cache)[0, 0], expected[0, i], atol=1e-9)


def test_weights_are_rounded_once_for_as_long_as_they_are_fixed() -> None:
    model = make_model(1, quantization="int8")
    src = torch.tensor([[5, 6, 7, EOS_ID]])

    def answers() -> list[torch.Tensor]:
        return [model.encode(src, None), model.logits_matrix()]

    names = [*model.state_dict()]
    with torch.no_grad():
        before = answers()
        with model.rounding_fixed():
            assert all(map(torch.equal, answers(), before))
            for parameter in model.parameters():
                parameter.mul_(1.5)
            assert torch.equal(model.logits_matrix(), before[1])
            assert [*model.state_dict()] == names
        changed = answers()
        model.fix_rounding()
        model.train()
    # A model that trains is rounded anew.
    inner = model.encoder_layers[0].feed_forward.inner.weight  # type: ignore[union-attr]
    torch.autograd.grad(model.encode(src, None).sum() + model.logits_matrix().sum(), [inner, model.projection])  # type: ignore[list-item]
    with torch.no_grad():
        model.eval()
        assert not any(map(torch.equal, changed, before))
        model.fix_rounding()
        assert all(map(torch.equal, answers(), changed))
        assert model.float().logits_matrix().dtype == torch.float32
