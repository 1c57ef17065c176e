"""Integers whose products of two fit into 16 bits, as near to the weights as that allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accel_tx.export.int8_weights import rounded


@given(seed=st.integers(0, 2**31), n_columns=st.integers(1, 9), spread=st.sampled_from([1e-38, 1e-3, 1.0, 1e38]))
def test_two_neighbours_never_overflow(seed: int, n_columns: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = spread * torch.rand(5, n_columns, generator=generator).mul(2).sub(1)
    weight[0] = spread
    weight[1] *= torch.rand(n_columns, generator=generator) < 0.5
    integers, scale = rounded(weight)
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
    found = rounded(torch.tensor([row]))
    assert found[0].tolist() == [integers]
    assert found[1].tolist() == pytest.approx([scale])
