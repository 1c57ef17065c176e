"""FSDP2: every process holds a part of each weight. What the rest of the training needs to know of it.

The processes gather a layer's weights for its forward and backward pass and drop them behind it; gradients, moments and
running average exist in parts only. Files hold whole tensors: a checkpoint does not tell how many processes wrote it.
The numbers are those of DDP but for the order of sums: weights are gathered and gradients summed up in float32, and
mixed precision is autocast's, as without sharding.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn

from accel_tx.config import Config, UserError
from accel_tx.model.transformer import Transformer
from accel_tx.train.processes import n_launched

_FILE = "launch/fsdp2.yaml"
_DDP = "launch/multi_gpu.yaml in place of FSDP"
# What the launcher exports, and what it would do.
_REFUSED_OPTIONS = (
    ("FSDP_VERSION", "1", f"2, as in {_FILE}"),
    ("FSDP_OFFLOAD_PARAMS", "true", f"false, as in {_FILE}"),
    # The weights are drawn on every process: there is nothing to load once.
    ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", f"false, as in {_FILE}"),
    ("FSDP_AUTO_WRAP_POLICY", "size_based_wrap", f"TRANSFORMER_BASED_WRAP, as in {_FILE}"),
    ("FSDP_ACTIVATION_CHECKPOINTING", "true", "false, and train.gradient_checkpointing true, which does the same"),
)


# Engines that make updates, and files, of their own: what is promised of both could not be kept.
_OTHERS = (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "parallelism_config"))


def is_asked_for() -> bool:
    """Whether `accelerate launch` was told to shard."""
    return _told("FSDP")


def _told(what: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"


def check_can_shard(config: Config, precision: str) -> None:
    """Raise UserError, naming what to use instead, if sharding is asked for with what cannot be done in parts."""
    for variable, name in _OTHERS:
        if _told(variable):
            raise UserError(
                f"accelerate launch was told to use {name}, which accel_tx does not; expected --config_file {_FILE}, "
                "for what DeepSpeed calls ZeRO-3; for ZeRO-2 with --fsdp_reshard_after_forward false"
            )
    if not is_asked_for():
        return
    for name, refused, instead in _REFUSED_OPTIONS:
        # A launcher that names no version means the first.
        if os.environ.get(name, "1" if name == "FSDP_VERSION" else "false").lower() == refused:
            raise UserError(f"accelerate launch was told {name.lower()} {refused}; expected {instead}")
    if n_launched() < 2:
        raise UserError("FSDP with one process has nothing to share out; expected --num_processes 2 or more")
    a_number = "a number, such as 4096: auto tries a model that is whole"
    for key, value, is_refused, instead in (
        ("train.compile", "true", config.train.compile, "false"),
        ("train.max_tokens", "auto", config.train.max_tokens == "auto", a_number),
        ("train.precision", precision, precision == "fp16", "bf16 or no"),
        ("optim.name", config.optim.name, config.optim.name == "muon", "adam or adamw: Muon needs whole matrices"),
    ):
        if is_refused:
            raise UserError(f"{key} is {value} under FSDP; expected {instead}; or take {_DDP}")


def plugin() -> FullyShardedDataParallelPlugin | None:
    """What Accelerate needs to shard, where it is asked to."""
    if not is_asked_for():
        return None
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # Given, so that Accelerate does not gather weights, sum up gradients and return the loss in 16 bits.
    return FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy())


def shard_on_cpu_too(accelerator: Accelerator, asked: FullyShardedDataParallelPlugin | None) -> None:
    """Accelerate shards over processes on GPUs and leaves others to DDP without a word; PyTorch can do both."""
    if asked is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, asked


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only parts of its weights."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


def sharding_lines(model: nn.Module) -> list[str]:
    """What to say of sharding, where there is any."""
    n = n_launched()
    return [f"FSDP2: a process holds 1/{n} of weights, gradients and optimizer"] if is_sharded(model) else []


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor. All processes call it where it lies in parts."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """`model.state_dict()` with whole tensors. All processes call it where they lie in parts."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def laid_out_as(tensor: Tensor, own: Tensor) -> Tensor:
    """This process' part of a whole tensor, where its `own` is a part; asks no other process."""
    if not hasattr(own, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`model.load_state_dict(weights)`, also where the model holds only its parts of them."""
    model.load_state_dict({name: laid_out_as(weights[name], own) for name, own in model.state_dict().items()})


def shell_of(model: Transformer) -> Transformer:
    """A model of the same shape whose weights take no memory: to be filled with whole ones."""
    n_tgt = model.tgt_embedding.num_embeddings
    n_src = n_tgt if model.src_embedding is None else model.src_embedding.num_embeddings
    with torch.device("meta"):
        shell = Transformer(model.config, n_src, n_tgt)
    shell.positions = model.positions
    return shell


@contextlib.contextmanager
def as_whole(accelerator: Accelerator, model: Transformer, weights: Mapping[str, Tensor]) -> Iterator[Transformer]:
    """A model of its own with these whole weights, computing in the run's precision; it goes behind the block."""
    found = shell_of(model)
    found.load_state_dict(weights, assign=True)
    with accelerator.autocast():
        yield found


def autocast_forward(accelerator: Accelerator, model: nn.Module) -> None:
    """Have `model` compute in the run's precision: Accelerate sees to that for every model but one it shards."""
    forward: Any = model.forward
    # Else autocast would keep the layers that it has cast, whole, to the end of the forward pass.
    uncached = AutocastKwargs(cache_enabled=False)

    def in_precision(*inputs: Any) -> Any:
        with accelerator.autocast(uncached):
            return forward(*inputs)

    model.forward = in_precision
