from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accel_tx.train import muon

SHAPES = [(24, 8), (8, 8), (16, 8), (8, 16), (8, 24), (8, 8), (8, 8)]


def reference_direction(matrix: Tensor) -> Tensor:
    """As published, of one matrix, in float64."""
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def given(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """What a direction of entries of about 0.3 may be off, on hardware with bfloat16 and without."""
    monkeypatch.setattr(muon, "computes_bfloat16", lambda _: request.param)
    return 0.05 if request.param else 1e-5


def test_updates_are_the_published_ones(tolerance: float) -> None:
    matrices, momenta = given(1), [torch.zeros(shape) for shape in SHAPES]
    expected, expected_momenta = [m.double() for m in matrices], [m.double() for m in momenta]
    for seed in (2, 3):
        gradients = given(seed)
        for i, (matrix, gradient) in enumerate(zip(matrices, gradients, strict=True)):
            matrix.grad = gradient
            expected_momenta[i] = 0.95 * expected_momenta[i] + 0.05 * gradient.double()
            direction = reference_direction(0.05 * gradient.double() + 0.95 * expected_momenta[i])
            step = 0.2 * max(matrix.shape) ** 0.5 * direction
            expected[i] = (1 - 0.01 * 0.1) * expected[i] - 0.01 * step
        muon.step(matrices, momenta, lr=0.01, weight_decay=0.1)
    for found, wanted in zip([*matrices, *momenta], [*expected, *expected_momenta], strict=True):
        assert found.dtype == torch.float32
        # Two steps of 0.2 x 0.01 x the root of the longer side.
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2 * 0.2 * 0.01 * 24**0.5 * tolerance + 1e-6)


def test_singular_values_come_near_one_and_rows_are_orthogonal(tolerance: float) -> None:
    found = muon.orthogonal(torch.stack([torch.randn(16, 48) for _ in range(5)])).double()
    assert ((torch.linalg.svdvals(found) - 1).abs() < 0.4).all()


def test_small_ones_together_are_the_same_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[Tensor]] = []
    for small in (2**15, 64, 1):
        monkeypatch.setattr(muon, "_SMALL_ON_CPU", small)
        matrices = given(1)
        for matrix, gradient in zip(matrices, given(2), strict=True):
            matrix.grad = gradient
        muon.step(matrices, [torch.zeros(shape) for shape in SHAPES], lr=0.01, weight_decay=0.0)
        found.append(matrices)
    for few in found[1:]:
        for one, other in zip(found[0], few, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_a_gradient_of_zeros_moves_nothing(tolerance: float) -> None:
    matrix = torch.randn(8, 8)
    before, matrix.grad = matrix.clone(), torch.zeros(8, 8)
    muon.step([matrix], [torch.zeros(8, 8)], lr=0.01, weight_decay=0.0)
    assert torch.equal(matrix, before)
