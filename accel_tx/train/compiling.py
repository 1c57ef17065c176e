"""`train.compile`: layers compiled by torch.compile before the first update, and what the launcher says of it.

Kernels are made for a batch of a fixed shape, and from then on used for every shape: the code that the compiler writes
depends on the first shape that it sees, and so must not depend on the update that a start begins with. What has a
size of one (`Transformer._run_layer`), validation and decoding run uncompiled.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from accelerate import Accelerator

from accel_tx.config import Config, ModelConfig, UserError
from accel_tx.data.batch import Batch
from accel_tx.data.collator import TokenPair, training_collator
from accel_tx.data.tokenizer import UNK_ID
from accel_tx.model import kernels
from accel_tx.model.transformer import Transformer

# Equal sizes would be taken for the same one.
_N_PAIRS, _SRC_WIDTH, _TGT_WIDTH = 61, 29, 37


def compile_for_training(model: Transformer, accelerator: Accelerator, config: Config) -> None:
    """Make the kernels for forward and backward. Changes no weights and no gradients.

    `model`: unwrapped, with the mixed precision of `accelerator` in its forward.
    Raises: UserError where nothing can be compiled on this machine, or not this model.
    """
    check_compiler(accelerator.device.type == "cuda")
    model.compile_layers()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    kernels.runs(parameters[0])  # tries before anything is traced
    batch = first_batch(config.model, accelerator.device.type == "cuda")
    try:
        loss = model(batch.to(accelerator.device), config.optim.label_smoothing)
        torch.autograd.grad(loss, parameters)
    except torch._dynamo.exc.TorchDynamoException as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(  # a compiler that lacks its headers, for example
            f"train.compile is true but torch.compile failed here: {lines[0]}; expected a working compiler, or "
            "train.compile false"
        ) from None


def check_compiler(on_gpu: bool) -> None:
    """Raise UserError if this machine lacks what torch.compile needs, naming it."""
    if on_gpu:
        from torch.utils._triton import has_triton

        if not has_triton():
            raise UserError(
                "train.compile is true but Triton does not work here; expected the triton package and a GPU of compute "
                "capability 7.0 or more, or train.compile false"
            )
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        raise UserError(
            "train.compile is true but there is no C++ compiler; expected g++ or clang++ (or its path in the "
            "environment variable CXX), or train.compile false"
        ) from None


def compile_lines(compiles: bool) -> list[str]:
    """What to say of compilation: whether, and that the launcher's wish is not what decides."""
    lines = ["layers compiled by torch.compile for every shape"] if compiles else []
    asked = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if asked != "no":
        lines.append(
            f"accelerate launch was told dynamo_backend {asked}, which changes nothing: train.compile decides, and is "
            f"{str(compiles).lower()}"
        )
    return lines


def first_batch(model: ModelConfig, on_gpu: bool) -> Batch:
    """The batch that kernels are made for: no two sizes in it are equal."""
    src_width, tgt_width = min(_SRC_WIDTH, model.max_positions - 1), min(_TGT_WIDTH, model.max_positions)
    # Of these, each block has other sizes than the others.
    lengths = [(src_width - i // 2, tgt_width - i // 3) for i in range(_N_PAIRS)]
    pairs = [TokenPair(*(np.full(max(n, 2) - 1, UNK_ID, dtype=np.int32) for n in pair)) for pair in lengths]
    return training_collator(model, is_compiled=True, on_gpu=on_gpu)(pairs)
