"""Kernels of our own, in Triton, for GPUs of NVIDIA; what is in here is imported only where `runs` says yes."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

# Not so on Windows, for example.
_HAS_TRITON = find_spec("triton") is not None


def runs(tensor: Tensor) -> bool:
    """Whether the kernels run where the tensor is: compute capability 8.0, which Triton wants, and Triton itself."""
    if not (_HAS_TRITON and tensor.is_cuda) or torch.version.hip:
        return False
    return torch.cuda.get_device_properties(tensor.device).major >= 8
