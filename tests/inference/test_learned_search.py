"""A model that learns to copy and to reverse gets it right by every search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel_tx.config import ModelConfig
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.model.transformer import Transformer
from tests.inference.models import search_for

VOCAB, COPY, REVERSE = 24, 4, 5  # a source begins with what is to be done


def pairs(n: int, rng: np.random.Generator) -> list[TokenPair]:
    found = []
    for length in rng.integers(3, 9, n):
        words, task = rng.integers(6, VOCAB, length, dtype=np.int32), rng.integers(COPY, REVERSE + 1, dtype=np.int32)
        found.append(TokenPair(np.insert(words, 0, task), words if task == COPY else words[::-1].copy()))
    return found


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = ModelConfig(
        d_model=32,
        d_ff=64,
        n_heads=2,
        n_encoder_layers=2,
        n_decoder_layers=2,
        dropout=0.0,
        max_positions=32,
        tie_embeddings="all",
    )
    model, rng, collate = Transformer(config, VOCAB, VOCAB), np.random.default_rng(1), DataCollator()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=900, cycle_momentum=False)
    for _ in range(900):
        batch = collate(pairs(64, rng))
        optimizer.zero_grad()
        (model(batch, 0.0) / batch.n_tgt_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("beam_size", [1, 5])
def test_copying_and_reversing_are_right_99_times_of_100(model: Transformer, beam_size: int) -> None:
    unseen = pairs(500, np.random.default_rng(2))
    found = search_for(model, [pair.src.tolist() for pair in unseen], [20] * 500, beam_size=beam_size)
    assert np.mean([one[0].ids == pair.tgt.tolist() for one, pair in zip(found, unseen)]) >= 0.99
