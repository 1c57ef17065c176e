"""The next tokens: what is looked for in blocks and runs is what is there."""

from __future__ import annotations

import pytest
import torch

from accel_tx.inference import vocabulary
from accel_tx.inference.constraints import Constraints
from accel_tx.inference.vocabulary import NextTokens, largest
from tests.inference.models import logits_of, make_model


@pytest.mark.parametrize("width", [5, 64, 1_000, 1_600, 1_663])
@pytest.mark.parametrize("n", [1, 5])
def test_the_largest_are_those_of_topk(width: int, n: int) -> None:
    generator = torch.Generator().manual_seed(width)
    values = torch.randn(50, width, generator=generator)
    values[:, -1] += 3 * (torch.arange(50) % 2)  # the last run is not a whole one
    values[:25, : width // 2] = -torch.inf
    found, places = largest(values, n)
    expected, expected_places = values.topk(n)
    assert torch.equal(found, expected)
    assert torch.equal(places, expected_places)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_blocks_of_rows_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(4).to(dtype)
    hidden = torch.randn(13, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    constraints = Constraints([9] * 13, None, None, 0, 24, torch.device("cpu"))
    arguments = hidden, 4, constraints, torch.arange(13), torch.zeros(13, 0, dtype=torch.int64)
    with torch.no_grad():
        whole = NextTokens(model).best(*arguments)
        monkeypatch.setattr(vocabulary, "_LOGITS_PER_BLOCK", 240)  # four rows
        blocks = NextTokens(model).best(*arguments)
        log_probs = logits_of(model, hidden).to(whole[0].dtype).log_softmax(-1)
    assert torch.equal(whole[1], blocks[1])
    exactly = {"rtol": 0, "atol": 1e-5 if dtype != torch.bfloat16 else 0.1}
    torch.testing.assert_close(whole[0], blocks[0], **exactly)
    torch.testing.assert_close(whole[0], log_probs.gather(1, whole[1]), **exactly)
