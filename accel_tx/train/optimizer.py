"""The optimizer: which parameters are decayed, and how an update is made of their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accel_tx.config import OptimConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW, fused. Its rate is 1 until the scheduler, which multiplies it, sets the first real one."""
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
