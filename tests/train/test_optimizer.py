"""Which parameters are decayed, and what that does to them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from accel_tx.config import ModelConfig, OptimConfig
from accel_tx.model.precision import computes_bfloat16
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


MUON = OptimConfig(name="muon", weight_decay=0.1)


def give_gradients(model: Transformer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def test_muon_has_the_matrices_of_linear_layers_and_equals_torchs_two_optimizers() -> None:
    torch.manual_seed(1)
    model, twin = small_model(), small_model()
    twin.load_state_dict(model.state_dict())
    matrices = {name for name, p in model.named_parameters() if p.ndim == 2 and "embedding" not in name} - {
        "output_weight"
    }
    assert len(matrices) == 4 + 7  # of one encoder and one decoder layer
    muon, plain, decayed = (
        [p for name, p in twin.named_parameters() if kind == (name in matrices, p.ndim)]
        for kind in ((True, 2), (False, 1), (False, 2))
    )
    assert len(muon) + len(plain) + len(decayed) == len(list(twin.parameters()))
    references = [
        torch.optim.Muon(muon, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(decayed, lr=0.01, betas=MUON.betas, eps=MUON.eps, weight_decay=0.1, fused=True),
        torch.optim.AdamW(plain, lr=0.01, betas=MUON.betas, eps=MUON.eps, weight_decay=0.0, fused=True),
    ]
    optimizer = build_optimizer(model, MUON)
    set_rate(optimizer, 0.01)
    for seed in range(3):
        give_gradients(model, seed)
        give_gradients(twin, seed)
        optimizer.step()
        for reference in references:
            reference.step()
    # In bfloat16 where the hardware has it, and torch's always: three steps of 2e-3, each with roundings of its own.
    rounding = 2e-4 if computes_bfloat16(torch.device("cpu")) else 4e-4
    for name, parameter in model.named_parameters():
        atol = rounding if name in matrices else 0.0
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=0, atol=atol, msg=name)


def test_muon_leaves_everything_as_it_was_where_numbers_are_bad_from_the_first_update_on() -> None:
    torch.manual_seed(1)
    model, twin = small_model(), small_model()
    twin.load_state_dict(model.state_dict())
    optimizer, reference = build_optimizer(model, MUON), build_optimizer(twin, MUON)
    set_rate(optimizer, 0.01)
    set_rate(reference, 0.01)
    for seed, is_bad in enumerate((True, False, True, False)):
        give_gradients(model, seed)
        if is_bad:
            next(iter(model.parameters())).grad.fill_(float("nan"))  # type: ignore[union-attr]
            model.encoder_layers[0].self_attention.qkv.weight.grad.fill_(float("inf"))  # type: ignore[union-attr,operator]
        optimizer.found_inf = torch.tensor(float(is_bad))  # type: ignore[attr-defined]
        optimizer.step()
        if not is_bad:
            give_gradients(twin, seed)
            reference.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, twin.get_parameter(name)), name


def test_muon_restored_in_the_middle_goes_on_the_same() -> None:
    torch.manual_seed(1)
    model, twin = small_model(), small_model()
    optimizer, restored = build_optimizer(model, MUON), build_optimizer(twin, MUON)
    set_rate(optimizer, 0.01)
    for seed in range(5):
        if seed == 3:
            twin.load_state_dict(model.state_dict())
            restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        give_gradients(model, seed)
        optimizer.step()
        if seed >= 3:
            give_gradients(twin, seed)
            restored.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, twin.get_parameter(name)), name
