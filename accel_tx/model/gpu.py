"""Whether the GPU computes here, whether the installed torch has code for it, and by which kernels."""

from __future__ import annotations

import os

import torch

from accel_tx.config import UserError

# What Accelerate reads as yes and as no.
_YES, _NO = ("y", "yes", "t", "true", "on", "1"), ("n", "no", "f", "false", "off", "0")
# Builds for CUDA 12.6 keep code for compute capability 5.0 to 9.0; those on the package registry, from torch 2.11 on
# for CUDA 13, begin at 7.5.
_CUDA_126 = 'pip install "torch>=2.10,<2.14" --index-url https://download.pytorch.org/whl/cu126'


def told_cpu() -> bool:
    """Whether ACCELERATE_USE_CPU asks for the CPU, read as Accelerate does. Raises: UserError for another word."""
    word = os.environ.get("ACCELERATE_USE_CPU", "false").lower()
    if word not in (*_YES, *_NO):
        raise UserError(f"environment: ACCELERATE_USE_CPU is {word!r}; expected true or false")
    return word in _YES


def uses_gpu() -> bool:
    """Whether Accelerate will train on a GPU, and every other command compute there."""
    return not told_cpu() and torch.cuda.is_available()


def check_gpu_build(index: int | None = None) -> None:
    """Raise UserError where the installed torch has no code for a GPU, by default that of this process of a launcher.

    It names what to install.
    """
    if not uses_gpu() or torch.version.hip:
        return
    index = int(os.environ.get("LOCAL_RANK", "0")) if index is None else index
    major, minor = torch.cuda.get_device_capability(index)
    built_for = torch.cuda.get_arch_list()
    if not build_drives(built_for, major, minor):
        raise UserError(
            f"torch {torch.__version__} is built for {' '.join(built_for)}, not for this GPU "
            f"({torch.cuda.get_device_name(index)}, sm_{major}{minor}); {_what_to_install(major, minor)}"
        )


def leave_out_planned_attention() -> None:
    """Let torch take none of cuDNN's kernels for attention, in this process: they want a plan for every new shape.

    Here nearly every block of sentences has a new one. torch prefers them on compute capability 9.0 and 10.0: on an
    H200 (torch 2.11) a training of transformer_base had a tenth of its speed with them; see also modelscope/FunASR
    issue 3704.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def _what_to_install(major: int, minor: int) -> str:
    """The build of torch, within the range of requirements.txt, that has code for compute capability major.minor."""
    if (major, minor) == (7, 0):
        return f'pip install "torch>=2.10,<2.11", or {_CUDA_126}'
    if (5, 0) <= (major, minor) < (7, 0):
        return _CUDA_126
    if major < 5:
        return "no torch from 2.10 on drives it; take the CPU: ACCELERATE_USE_CPU=true or --config_file launch/cpu.yaml"
    return "install the newest torch within requirements.txt, whose default build drives all later GPUs"


def build_drives(built_for: list[str], major: int, minor: int) -> bool:
    """Whether a build for these architectures runs on compute capability major.minor.

    Machine code (sm_) runs on later minor versions of its major one; intermediate code (compute_) on all later ones.
    """
    for name in built_for:
        kind, _, digits = name.partition("_")
        digits = "".join(c for c in digits if c.isdigit())
        if not digits:
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if (kind == "sm" and built[0] == major and built[1] <= minor) or (
            kind == "compute" and built <= (major, minor)
        ):
            return True
    return False
