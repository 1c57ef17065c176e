"""`train.precision` in torch's terms."""

from __future__ import annotations

import torch

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> what matrix products compute in."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What a forward pass runs under."""
    if precision == "no":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, DTYPES[precision])
