"""The chunked loss equals PyTorch's cross-entropy: value, gradients, every precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.memory import Device
from accel_tx.model import loss as loss_module
from accel_tx.model.loss import token_loss, vocabulary_loss

SMOOTHINGS = [0.0, 0.1]


def torch_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


def unchunked_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return token_loss(F.linear(hidden, weight, bias), targets, smoothing)


def torch_r_drop_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, r_drop: float
) -> Tensor:
    """As Liang et al. 2021 write it; hidden (N, 2, D)."""
    logits = F.linear(hidden, weight, bias)
    nll = [F.cross_entropy(logits[:, i], targets, reduction="sum", label_smoothing=smoothing) for i in (0, 1)]
    p, q = logits.log_softmax(-1).unbind(1)
    divergences = [F.kl_div(x, y, reduction="sum", log_target=True) for x, y in ((p, q), (q, p))]
    return nll[0] + nll[1] + r_drop * (divergences[0] + divergences[1]) / 2


def unchunked_r_drop_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float, r_drop: float
) -> Tensor:
    logits = F.linear(hidden, weight, bias).flatten(0, 1)
    return token_loss(logits, targets.repeat_interleave(2), smoothing, r_drop)


def make_twice(n: int, d: int, v: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """The same with hidden (N, 2, D): every token under two draws of dropout."""
    (hidden, weight, bias), targets = make_case(2 * n, d, v, seed, dtype)
    return [hidden.detach().view(n, 2, d).requires_grad_(), weight, bias], targets[:n]


def make_case(n: int, d: int, v: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, d), (v, d), (v,)]
    inputs = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return inputs, torch.randint(v, (n,), generator=generator)


def chunks_of(n_logits: int) -> Any:
    """Chunks of so many logits, in blocks of a third."""
    blocks: dict[Device, int] = {"cpu": n_logits // 3, "gpu": n_logits // 3}
    return mock.patch.multiple(loss_module, logits_per_chunk=lambda *_: n_logits, LOGITS_PER_BLOCK=blocks)


def general_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """As with R-Drop, and on a GPU without our kernel."""

    def general(*inputs: Any) -> list[Tensor]:
        *of_loss, needs_grad = inputs
        loss, *grads = loss_module._loss_and_grads(*of_loss, 0.0, None, needs_grad)
        return [loss, grads[0], torch.cat([grads[1].t(), grads[2][None]])] if grads else [loss]

    with mock.patch.object(loss_module, "_loss_and_grads_in_place", general):
        return vocabulary_loss(hidden, weight, bias, targets, smoothing)


@pytest.mark.parametrize("function", [vocabulary_loss, general_loss, unchunked_loss])
@settings(max_examples=60)
@given(
    n=st.integers(0, 9),
    d=st.integers(1, 5),
    v=st.integers(1, 7),
    n_logits=st.sampled_from([1, 7, 15, 1 << 20]),
    smoothing=st.sampled_from([*SMOOTHINGS, 0.5]),
    scale=st.sampled_from([1.0, -2.5]),
    seed=st.integers(0, 999),
)
def test_value_and_gradients_equal_torch(
    function: Callable[..., Tensor],
    n: int,
    d: int,
    v: int,
    n_logits: int,
    smoothing: float,
    scale: float,
    seed: int,
) -> None:
    inputs, targets = make_case(n, d, v, seed)
    with chunks_of(n_logits):
        loss = function(*inputs, targets, smoothing)
    expected = torch_loss(*inputs, targets, smoothing)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
    ours, theirs = (torch.autograd.grad(value * scale, inputs) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_no_tokens_give_a_loss_of_exactly_zero(smoothing: float) -> None:
    inputs, targets = make_case(n=0, d=3, v=5, seed=1)
    loss = vocabulary_loss(*inputs, targets, smoothing)
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, inputs):
        assert not gradient.any()


@pytest.mark.parametrize("function", [vocabulary_loss, unchunked_loss])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_gradients_are_those_of_finite_differences(function: Callable[..., Tensor], smoothing: float) -> None:
    inputs, targets = make_case(n=5, d=3, v=4, seed=1)
    with chunks_of(8):
        assert torch.autograd.gradcheck(lambda *x: function(*x, targets, smoothing), inputs)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_an_input_without_gradient_leaves_the_others_theirs(frozen: int) -> None:
    inputs, targets = make_case(n=5, d=3, v=4, seed=1)
    inputs[frozen] = inputs[frozen].detach()
    wanted = [x for x in inputs if x.requires_grad]
    ours, theirs = (torch.autograd.grad(f(*inputs, targets, 0.1), wanted) for f in (vocabulary_loss, torch_loss))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_under_autocast_the_smoothing_mass_has_its_gradient() -> None:
    """With rows that point one way, so that the sums over states and entries are large."""
    inputs, targets = make_case(n=40, d=6, v=24, seed=1)
    inputs = [(x.detach() + 0.5).float().requires_grad_() for x in inputs]

    def gradients(function: Callable[..., Tensor], smoothing: float) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = function(*inputs, targets, smoothing)
        return list(torch.autograd.grad(loss.float(), inputs))

    ours = [a - b for a, b in zip(gradients(vocabulary_loss, 0.9), gradients(vocabulary_loss, 0.0), strict=True)]
    expected = [torch.autograd.grad(torch_loss(*inputs, targets, s), inputs) for s in (0.9, 0.0)]
    for found, with_it, without in zip(ours, *expected, strict=True):
        assert (found - (with_it - without)).norm() < 0.02 * (with_it - without).norm()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_value_is_the_same_without_gradients(context: Callable[[], Any], smoothing: float) -> None:
    inputs, targets = make_case(n=9, d=3, v=5, seed=1)
    with chunks_of(10):
        expected = vocabulary_loss(*inputs, targets, smoothing)
        with context():
            loss = vocabulary_loss(*inputs, targets, smoothing)
    assert not loss.requires_grad
    assert torch.equal(loss, expected.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_autocast_is_close_to_float32_and_keeps_the_types(dtype: torch.dtype, smoothing: float) -> None:
    inputs, targets = make_case(n=40, d=16, v=24, seed=1, dtype=torch.float32)
    with chunks_of(240), torch.autocast("cpu", dtype=dtype):
        loss = vocabulary_loss(*inputs, targets, smoothing)
    assert loss.dtype == torch.float32
    expected = torch_loss(*inputs, targets, smoothing)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_a_gradient_no_precision_makes_all_logits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_logits(*_: object) -> None:
        raise AssertionError("the plain computation")

    inputs, targets = make_case(n=40, d=16, v=24, seed=1, dtype=torch.float32)
    expected = torch_loss(*inputs, targets, 0.1).item()
    monkeypatch.setattr(loss_module, "token_loss", all_logits)
    with chunks_of(240), torch.autocast("cpu", dtype=dtype), torch.inference_mode():
        assert vocabulary_loss(*inputs, targets, 0.1).item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sum_of_half_precision_logits_does_not_overflow(dtype: torch.dtype) -> None:
    n = 10_000
    logits = torch.tensor([[15.0, 0.0]], dtype=dtype).expand(n, 2)
    loss = token_loss(logits, torch.ones(n, dtype=torch.int64), smoothing=0.0)
    assert loss.item() == pytest.approx(n * 15.0, rel=1e-4)  # beyond 65504, float16's largest number


@pytest.mark.parametrize("function", [vocabulary_loss, general_loss, unchunked_loss])
@pytest.mark.parametrize(("dtype", "unsure"), [(torch.float32, 100.0), (torch.float64, 740.0)])
def test_a_target_whose_probability_is_lost_has_its_loss(
    function: Callable[..., Tensor], dtype: torch.dtype, unsure: float
) -> None:
    """Of the first row it is there with a few of its digits, of the second it is 0."""
    hidden, weight, bias = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [unsure]]), torch.zeros(2)
    inputs = [x.to(dtype).requires_grad_() for x in (hidden, weight, bias)]
    loss = function(*inputs, torch.tensor([0, 0]), 0.0)
    assert loss.item() == pytest.approx(3 * unsure, rel=1e-7)
    assert torch.autograd.grad(loss, inputs[2])[0].tolist() == [-2.0, 2.0]


def test_float16_gradient_passes_through_the_loss_scale() -> None:
    """Gradients of the logits below float16's smallest number survive where the scaled loss is differentiated."""
    hidden = torch.tensor([[1.0]], dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[0.0], [-19.0]], dtype=torch.float16)
    bias, targets = torch.zeros(2, dtype=torch.float16), torch.tensor([0])
    scale = 2.0**16
    (vocabulary_loss(hidden, weight, bias, targets, 0.0) * scale).backward()
    probability_of_other = torch.tensor(-19.0).sigmoid().item()
    assert probability_of_other < 2**-25  # rounds to 0 in float16
    assert hidden.grad is not None
    assert hidden.grad.item() / scale == pytest.approx(-19 * probability_of_other, rel=0.01)


def test_no_tensor_of_all_logits_is_kept_for_the_backward_pass() -> None:
    inputs, targets = make_case(n=64, d=4, v=100, seed=1)
    kept: list[int] = []
    in_storage: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        in_storage.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        vocabulary_loss(*inputs, targets, 0.1)
    assert kept
    n_numbers = sum(x.numel() for x in inputs) + len(targets)
    assert sum(kept) <= n_numbers
    assert sum(in_storage) <= 8 * n_numbers  # none is a view of more


@pytest.mark.parametrize(
    ("v", "n_logits", "expected"),
    [
        (3, 12, [4, 4, 1]),
        (50, 12, [1] * 9),  # at least one row, however large the vocabulary
        (3, 200, [64, 6]),  # as many as fit, in multiples of 32
    ],
)
def test_logits_are_computed_chunk_by_chunk(v: int, n_logits: int, expected: list[int]) -> None:
    inputs, targets = make_case(n=sum(expected), d=2, v=v, seed=1)
    mm, rows = torch.mm, []

    def noted(states: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
        rows.append(len(states))
        return mm(states, matrix, out=out)

    with chunks_of(n_logits), mock.patch.object(torch, "mm", noted):
        vocabulary_loss(*inputs, targets, 0.0)
    assert rows == expected


# R-Drop


@pytest.mark.parametrize("function", [vocabulary_loss, unchunked_r_drop_loss])
@settings(max_examples=60)
@given(
    n=st.integers(0, 9),
    d=st.integers(1, 5),
    v=st.integers(1, 7),
    n_logits=st.sampled_from([1, 7, 15, 40, 1 << 20]),
    smoothing=st.sampled_from([*SMOOTHINGS, 0.5]),
    r_drop=st.sampled_from([0.5, 5.0]),
    scale=st.sampled_from([1.0, -2.5]),
    seed=st.integers(0, 999),
)
def test_r_drop_equals_torch(
    function: Callable[..., Tensor],
    n: int,
    d: int,
    v: int,
    n_logits: int,
    smoothing: float,
    r_drop: float,
    scale: float,
    seed: int,
) -> None:
    inputs, targets = make_twice(n, d, v, seed)
    with chunks_of(n_logits):
        loss = function(*inputs, targets, smoothing, r_drop)
    expected = torch_r_drop_loss(*inputs, targets, smoothing, r_drop)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-10)
    ours, theirs = (torch.autograd.grad(value * scale, inputs) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_r_drop_of_equal_passes_is_twice_the_plain_loss() -> None:
    inputs, targets = make_case(n=7, d=3, v=5, seed=1)
    hidden, weight, bias = inputs
    with chunks_of(20):
        loss = vocabulary_loss(torch.stack([hidden, hidden], 1), weight, bias, targets, 0.1, 5.0)
        plain = vocabulary_loss(hidden, weight, bias, targets, 0.1)
    torch.testing.assert_close(loss, 2 * plain, rtol=1e-14, atol=0)
    ours, theirs = (torch.autograd.grad(value, inputs) for value in (loss / 2, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_r_drop_under_autocast_is_close_to_float32(dtype: torch.dtype) -> None:
    inputs, targets = make_twice(n=40, d=16, v=24, seed=1, dtype=torch.float32)
    with chunks_of(240), torch.autocast("cpu", dtype=dtype):
        loss = vocabulary_loss(*inputs, targets, 0.1, 5.0)
    assert loss.dtype == torch.float32
    expected = torch_r_drop_loss(*inputs, targets, 0.1, 5.0)
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_r_drop_keeps_both_rows_of_a_token_in_a_chunk_and_no_logits() -> None:
    inputs, targets = make_twice(n=9, d=2, v=7, seed=1)
    mm, rows, kept = torch.mm, list[int](), list[int]()

    def noted(states: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
        rows.append(len(states))
        return mm(states, matrix, out=out)

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with (
        chunks_of(36),
        mock.patch.object(torch, "mm", noted),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        vocabulary_loss(*inputs, targets, 0.0, 5.0)
    assert rows == [4, 4, 4, 4, 2]
    assert sum(kept) == sum(x.numel() for x in inputs)
