"""Kernels of our own, in Triton, for GPUs of NVIDIA; what is in here is imported only where `runs` says yes."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import torch
from torch import Tensor

# Of the GPU of this process; None: not tried yet.
_works: bool | None = None


def runs(tensor: Tensor) -> bool:
    """Whether the kernels run where the tensor is: compute capability 8.0, which Triton wants, and a Triton that works.

    To be asked once before torch.compile traces a call: the first one tries.
    """
    if not tensor.is_cuda:
        return False
    if _works is None:
        _try(tensor.device)
    return bool(_works)


def _try(device: torch.device) -> None:
    """Make and run the smallest kernel: Triton, which Windows has not, wants a C compiler and Python's headers."""
    global _works
    _works = False
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0) or find_spec("triton") is None:
        return
    from accel_tx.model.kernels.loss import losses_of_rows

    try:
        target = torch.zeros(1, dtype=torch.int64, device=device)
        losses_of_rows(torch.zeros(1, 2, device=device), torch.zeros(2, device=device), target, 0.0, needs_grad=False)
        _works = True
    except Exception as error:  # a compiler that is missing or fails has many ways to say so
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        sys.stderr.write(
            f"accel_tx: Triton does not work here ({reason}): attention and loss by torch's kernels, which are slower; "
            "it needs a C compiler and Python's headers\n"
        )
