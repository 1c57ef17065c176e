"""What the hardware can do: precision, threads, and the one Accelerator."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, TorchDynamoPlugin

from accel_tx.config import TrainConfig, UserError
from accel_tx.data.processes import n_cores
from accel_tx.model.gpu import leave_out_planned_attention, uses_gpu
from accel_tx.model.precision import computes_bfloat16
from accel_tx.train import host_memory, sharding
from accel_tx.train.processes import n_launched, n_on_machine

Precision = Literal["no", "bf16", "fp16"]

_GIB = 2**30
_N_KERNELS_KEPT = 64
KERNEL_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Environment variables that bound them."""
# The others wait in a collective operation while the main process waits for a slow disk to take the checkpoint before;
# NCCL would end them after 10 minutes.
_WAIT_FOR_OTHERS = datetime.timedelta(hours=1)


def resolve_precision(asked: str) -> Precision:
    """The precision to train in, from `train.precision` and what `accelerate launch` was told.

    Raises: UserError for one that this hardware lacks; it says what to use instead.
    """
    has_gpu = uses_gpu()
    source = f"train.precision is {asked}"
    if asked == "auto":
        # The launcher exports "no" also when it was told nothing, so "no" counts as unset.
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        source = f"accelerate launch was told mixed_precision {asked}"
        if asked == "no":
            return _best_precision(has_gpu)
    if asked == "fp16" and not has_gpu:
        raise UserError(f"{source} but there is no GPU; expected auto, no or bf16 on a CPU")
    if asked == "bf16" and has_gpu and not computes_bfloat16(torch.device("cuda")):
        raise UserError(f"{source} but {torch.cuda.get_device_name()} only emulates it; expected auto or fp16")
    if asked not in ("no", "bf16", "fp16"):
        raise UserError(f"{source}; expected no, bf16 or fp16")
    return asked  # type: ignore[return-value]


def _best_precision(has_gpu: bool) -> Precision:
    if computes_bfloat16(torch.device("cuda" if has_gpu else "cpu")):
        return "bf16"
    return "fp16" if has_gpu else "no"


def precision_lines(precision: str) -> list[str]:
    """What to say of the precision in effect, where the hardware has it only by way of another."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if precision == "bf16" and not uses_gpu() and is_x86 and not computes_bfloat16(torch.device("cpu")):
        return ["bf16 is emulated: this CPU has neither AVX512_BF16 nor AMX; train.precision no computes in float32"]
    return []


def set_cpu_threads(threads: int | None) -> int:
    """Use this many threads, by default the cores over the local processes: the launcher exports OMP_NUM_THREADS=1."""
    _bound_kernel_caches()
    if threads is None:
        threads = max(1, n_cores() // n_on_machine())
    torch.set_num_threads(threads)
    return threads


def _bound_kernel_caches() -> None:
    """Let torch and oneDNN keep few kernels on CPU; to be called before the first product.

    Each keeps up to 1,024, one for every shape, and here every micro-batch has a shape of its own: they would take
    hundreds of MiB and save no time.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, str(_N_KERNELS_KEPT))


def use_tf32(asked: bool) -> bool:
    """Let float32 matrix products on this GPU use TF32 if `asked`; whether they do. On a CPU nothing is set.

    torch's newer setting, `torch.backends.cuda.matmul.fp32_precision`, would make torch.compile fail, which reads the
    older ones (pytorch issue 166387, torch 2.13).
    """
    if not uses_gpu():
        return False
    does = asked and not torch.version.hip and torch.cuda.get_device_capability() >= (8, 0)
    torch.set_float32_matmul_precision("high" if does else "highest")
    return does


def tf32_lines(asked: bool, does: bool) -> list[str]:
    """What to say of TF32, where it was asked for."""
    if does:
        return ["float32 matrix products in TF32"]
    return ["train.tf32 has no effect: only NVIDIA GPUs of compute capability 8.0 or more have it"] if asked else []


def start_accelerator(config: TrainConfig) -> Accelerator:
    """The one Accelerator, in the resolved precision and with as many processes as were launched.

    Raises: UserError where the launcher started more processes than found each other, or asked for sharding.
    """
    leave_out_planned_attention()
    shards = sharding.plugin()
    # split_batches: the scheduler ticks once an update whatever the number of processes.
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.precision),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # What the launcher exports would compile the whole model for single shapes; train.compile decides.
        dynamo_plugin=TorchDynamoPlugin(backend="NO"),
        fsdp_plugin=shards,
        # The only buffer is the position table, the same everywhere and for ever.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=_WAIT_FOR_OTHERS),
        ],
    )
    # An environment variable of the launcher may say otherwise; the batch plan does the accumulation here.
    accelerator.gradient_accumulation_steps = 1
    launched = n_launched()
    if launched != accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched but {accelerator.num_processes} found each other; on CPU use "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    sharding.shard_on_cpu_too(accelerator, shards)
    return accelerator


def prepare(accelerator: Accelerator, *parts: Any) -> Any:
    """`accelerator.prepare`, without a warning that no user can answer."""
    with warnings.catch_warnings():
        # torch 2.13 wants `forward_sync_buffers` instead, which neither torch 2.10 nor Accelerate 1.15 knows.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        if accelerator.distributed_type == DistributedType.FSDP:
            sharding.autocast_forward(accelerator, parts[0])
        return accelerator.prepare(*parts)


@contextlib.contextmanager
def accelerator_for(config: TrainConfig) -> Iterator[Accelerator]:
    """The Accelerator of `start_accelerator`, ended in good order, unless a second Ctrl-C wants the end at once.

    The model that it prepared must be gone when the process group is destroyed: DDP's reducer would be the last to hold
    the group, and with it free a gloo group while it has the interpreter's lock, which gloo's threads may be waiting
    for. Some ends of several processes on CPU then hang for ever.
    """
    accelerator = start_accelerator(config)
    try:
        yield accelerator
    except KeyboardInterrupt:
        raise  # to end the communication may mean to wait for the other processes
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the model
        _end(accelerator)
        raise
    else:
        _end(accelerator)


def _end(accelerator: Accelerator) -> None:
    accelerator.free_memory()
    accelerator.end_training()


def memory_values() -> dict[str, float | None]:
    """What a line of metrics says of memory, in GiB: the most that tensors took on the GPU since the line before, and
    what this process has in memory now; None where there is no GPU, or nothing tells."""
    peak = None
    if uses_gpu():
        peak = torch.cuda.max_memory_allocated() / _GIB
        torch.cuda.reset_peak_memory_stats()
    resident = host_memory.resident_bytes()
    return {"device_peak_gib": peak, "host_rss_gib": None if resident is None else resident / _GIB}
