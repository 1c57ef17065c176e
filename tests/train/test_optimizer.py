"""Which parameters are decayed, and what that does to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from accel_tx.config import ModelConfig, OptimConfig
from accel_tx.model.transformer import Transformer
from accel_tx.train.optimizer import build_optimizer


def small_model() -> Transformer:
    return Transformer(ModelConfig(d_model=8, d_ff=16, n_heads=2, n_encoder_layers=1, n_decoder_layers=1), 20, 20)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_matrices_and_embeddings_are_decayed_and_norms_and_biases_are_not(name: str) -> None:
    model = small_model()
    config = OptimConfig(name=name, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, config)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.5
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == {key for key in before if key.endswith("weight") and "norm" not in key}
    assert "tgt_embedding.weight" in changed
    if name == "adamw":  # without a gradient AdamW shrinks by lr x weight_decay
        assert torch.allclose(model.tgt_embedding.weight, 0.95 * before["tgt_embedding.weight"])


def test_every_parameter_is_in_one_group_and_without_decay_there_is_one_group() -> None:
    model = small_model()
    decayed = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    plain = build_optimizer(model, OptimConfig()).param_groups
    for groups, n_groups in ((decayed, 2), (plain, 1)):
        found: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        assert len(groups) == n_groups
        assert sorted(map(id, found)) == sorted(map(id, model.parameters()))
