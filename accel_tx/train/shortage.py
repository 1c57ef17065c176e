"""A device that runs out of memory: what tells of it, how micro-batches are split then, and what is said."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import torch

from accel_tx.config import RunError
from accel_tx.data.batch import Batch

BEFORE_UPDATES = (
    "out of memory before the first update of this start ({}); nothing is lost: end other programs that hold memory, "
    "or take a device with more; a new run may have a smaller model"
)
IN_UPDATES = (
    "out of memory in the optimizer or in validation ({}); the newest checkpoint is good, the same command goes on; a "
    "lower decode.max_tokens needs less in validation, and train.cuda_graphs false leaves it more; do other programs "
    "hold memory?"
)

# Beside torch.OutOfMemoryError: of the CPU's allocator, and of libraries that take memory on their own.
_SIGNS = (
    "Cannot allocate memory",  # safetensors, where a file cannot be mapped
    *("DefaultCPUAllocator", "CUDA error: out of memory", "CUDA driver error: out of memory"),
    *("Error [CUDA]: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cublasCreate says where its workspace does not fit
)


def is_shortage(error: BaseException) -> bool:
    """Whether this is a lack of memory, of the device or of the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def quoted(error: BaseException) -> str:
    """The beginning of its text, on one line."""
    return " ".join(str(error).split())[:200]


def free_memory(device: torch.device) -> None:
    """Give back what nothing holds any more; to be called outside of the handler of the error, whose frames hold it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Halving:
    """Into how many parts micro-batches are split so that they fit, learned from those that did not.

    A start forgets it: the next one may be on another device, or have the device for itself.
    """

    def __init__(self) -> None:
        self.too_large: int | None = None
        """Tokens of both sides of the smallest part that did not fit."""

    def n_parts(self, batch: Batch) -> int:
        """A power of two, or the number of pairs."""
        n_pairs, n = batch.n_pairs, 1
        while self.too_large is not None and n < n_pairs and self._size(batch, n) >= self.too_large:
            n = min(2 * n, n_pairs)
        return n

    def learn(self, batch: Batch, n_parts: int) -> None:
        """This micro-batch did not fit in `n_parts`, of more than one pair each."""
        self.too_large = min(self._size(batch, n_parts), self.too_large or _n_tokens(batch))

    @staticmethod
    def _size(batch: Batch, n_parts: int) -> int:
        return -(-_n_tokens(batch) // n_parts)  # each part is a sample of all lengths


def only_at_second_try(batch: Batch, n_parts: int, update: int, process: int, n_processes: int) -> str:
    """The line on a micro-batch that did fit after all."""
    parts = f" in {n_parts} parts" if n_parts > 1 else ""
    return (
        f"{_where(update, process, n_processes)}: a micro-batch of {_shape(batch)} fitted into the memory{parts} only "
        "at the second try, when what was unused had been given back. There is little room left"
    )


def in_words(batch: Batch, update: int, process: int, n_processes: int) -> str:
    """The line on the first micro-batch that did not fit."""
    return (
        f"{_where(update, process, n_processes)}: a micro-batch of {_shape(batch)} is more than the memory holds. It "
        "is computed in halves, and so are others as large from now on: the same pairs in the update, with other draws "
        "of dropout, but slower. Better set train.gradient_checkpointing true, also in this run, or in a new one a "
        "lower train.max_tokens or batch_size"
    )


def single_pair(batch: Batch, update: int, error: str) -> RunError:
    """What ends a run that one pair is too much for."""
    return RunError(
        f"update {update + 1:,}: a single pair of up to {_shape(batch)} is more than the memory holds ({error}); the "
        "newest checkpoint is good: set train.gradient_checkpointing true, or drop such pairs in a new run "
        "(clean.max_words)"
    )


def _where(update: int, process: int, n_processes: int) -> str:
    return f"{f'process {process}: ' if n_processes > 1 else ''}update {update + 1:,}"


def _n_tokens(batch: Batch) -> int:
    return batch.n_src_tokens + batch.n_tgt_tokens


def _shape(batch: Batch) -> str:
    return f"{batch.n_pairs:,} pairs, {batch.n_src_tokens:,} + {batch.n_tgt_tokens:,} tokens"


@contextlib.contextmanager
def shortage_told(text: str) -> Iterator[None]:
    """Inside, a lack of memory that no smaller micro-batch can help is a RunError of this text with the error in it."""
    try:
        yield
    except RunError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise RunError(text.format(quoted(error))) from None
