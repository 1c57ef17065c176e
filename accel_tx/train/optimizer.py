"""The optimizer: which parameters are decayed, which are orthogonalised, how gradients become an update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from accel_tx.config import OptimConfig
from accel_tx.train import muon


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam, AdamW or Muon. Its rate is 1 until the scheduler, which multiplies it, sets the first real one."""
    if config.name == "muon":
        return MuonWithAdamW(model, config)
    cls = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    groups = decay_groups(list(model.parameters()), config.weight_decay)
    return cls(groups, lr=1.0, betas=config.betas, eps=config.eps, fused=True)


def decay_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, embeddings among them, with `weight_decay`; gains and biases, which are vectors, without.

    One group where nothing is decayed. A gain pulled towards 0 would undo the norm, and vectors are too few numbers to
    overfit; embeddings are decayed as by HuggingFace's Trainer, nanoGPT and fairseq.
    """
    if not weight_decay:
        return [{"params": parameters, "weight_decay": 0.0}]
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of linear layers; fused AdamW for embeddings, output projection, norms and biases.

    One optimizer to the outside, so that scheduler, scaler and checkpoints need not know. Both share one rate: Muon's
    update is scaled to the root mean square that AdamW's has. Like the fused optimizers it heeds `found_inf`.
    """

    # Read by the gradient scaler of fp16: it then sets `found_inf` and leaves the decision to us.
    _step_supports_amp_scaling = True

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        is_matrix = {id(p) for p in matrices}
        others = decay_groups([p for p in model.parameters() if id(p) not in is_matrix], config.weight_decay)
        self._adam = torch.optim.AdamW(others, lr=1.0, betas=config.betas, eps=config.eps, fused=True)
        of_muon = {"params": matrices, "lr": 1.0, "weight_decay": config.weight_decay}
        super().__init__([of_muon, *self._adam.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; none where `found_inf` is 1, decided on the device."""
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("the gradient is still scaled; expected it to be unscaled, as clipping does")
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.device.type == "cpu":
            if found_inf == 1:
                return
            found_inf = None  # known without waiting, so nothing has to be kept for a way back
        # Loading a checkpoint replaces the state and the groups, so AdamW gets them anew each time.
        self._adam.state, self._adam.param_groups = self.state, self.param_groups[1:]
        self._adam.found_inf = found_inf  # type: ignore[attr-defined]
        self._adam.step()
        group = self.param_groups[0]
        matrices: list[Tensor] = group["params"]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        changed = [*matrices, *momenta]
        before = [] if found_inf is None else [tensor.clone() for tensor in changed]
        muon.step(matrices, momenta, group["lr"], group["weight_decay"])
        if found_inf is not None:
            for tensor, old in zip(changed, before, strict=True):
                tensor.copy_(torch.where(found_inf == 1, old, tensor))
