"""`train.precision` in torch's terms."""

from __future__ import annotations

import torch

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> what matrix products compute in."""


def computes_bfloat16(device: torch.device) -> bool:
    """Whether this hardware has products in bfloat16, and not only by way of others.

    Of CPUs x86 ones; what others have, torch does not tell.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What a forward pass runs under."""
    if precision == "no":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, DTYPES[precision])
