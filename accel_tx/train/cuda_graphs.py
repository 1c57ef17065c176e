"""`train.cuda_graphs`: forward and backward of a micro-batch are recorded once for its shape, and then replayed as one.

A host takes 30 to 40 ms to start the thousand kernels of a step one by one, whatever their size; a GPU computes those
of 4,096 tokens in a fifth of it. Packed micro-batches differ in their numbers of tokens and sentences alone, so all
are filled up to a few sizes: with sentences that nothing looks at and whose targets are none, so that they add nothing
to the loss and the gradients.
Source: PyTorch's notes on CUDA graphs (torch.cuda.CUDAGraph).
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel_tx.config import Config, UserError
from accel_tx.data.batch import Batch, Block, Packed
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model import kernels
from accel_tx.model.attention import LONGEST_SENTENCE, WIDEST_HEAD
from accel_tx.model.gpu import uses_gpu

# Sizes in tokens are multiples of a sixteenth of `train.max_tokens`, or of this; of sentences, of the last.
_LEAST_STEP, _SENTENCE_STEP = 256, 64
# What is filled up is cut into sentences of so many tokens, which our kernel takes as one tile.
_FILLER = 32
# Each takes some MiB beside the memory that all share; an epoch has ten or twenty.
_MOST_SHAPES = 64
_NO_TARGET = -1


def check_graphs(config: Config, precision: str) -> None:
    """Raise UserError where `train.cuda_graphs` cannot be had on this machine, or not for this model; all of it is
    known before the data. `precision`: the one in effect."""
    if not config.train.cuda_graphs:
        return
    model, optim, train = config.model, config.optim, config.train
    for is_refused, what, instead in (
        (not has_kernels(), "there is no GPU of compute capability 8.0 with Triton", "one"),
        (precision != "bf16", f"train.precision is {precision}", "bf16"),
        (model.attention_dropout > 0, f"model.attention_dropout is {model.attention_dropout:g}", "0"),
        (model.d_model // model.n_heads > WIDEST_HEAD, f"heads are wider than {WIDEST_HEAD}", "more model.n_heads"),
        (optim.r_drop > 0, f"optim.r_drop is {optim.r_drop:g}", "0"),
        (train.gradient_checkpointing, "train.gradient_checkpointing is true", "false"),
        (train.max_tokens is None, "train.batch_size is given", "train.max_tokens"),
        # It tries updates without graphs, which take about half of the memory that those with them do at the start.
        (train.max_tokens == "auto", "train.max_tokens is auto", "a number, such as 4096"),
    ):
        if is_refused:
            raise UserError(f"train.cuda_graphs is true but {what}; expected {instead}, or train.cuda_graphs false")


def has_kernels() -> bool:
    """Whether training is on a GPU that runs our kernels."""
    return uses_gpu() and kernels.runs(torch.empty(0, device="cuda"))


def check_processes(config: Config, n_processes: int) -> None:
    """Raise UserError for several processes: their sums of gradients are not recorded."""
    if config.train.cuda_graphs and n_processes > 1:
        raise UserError(
            f"train.cuda_graphs is true with {n_processes} processes; expected one, or train.cuda_graphs false"
        )


def graph_lines(config: Config) -> list[str]:
    """What to say of it."""
    if not config.train.cuda_graphs:
        return []
    return ["forward and backward replayed as CUDA graphs; the first micro-batch of a shape takes longer"]


@dataclass(frozen=True)
class _Shape:
    """The sizes up to which a micro-batch is filled."""

    n_src: int
    n_tgt: int
    n_sentences: int
    width: int


@dataclass
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: Batch
    loss: Tensor


class Replays:
    """Takes losses and gradients of micro-batches by replaying what was recorded for their shape."""

    def __init__(
        self, model: Any, parameters: list[Tensor], max_tokens: int, max_positions: int, label_smoothing: float
    ) -> None:
        """`model`: as accelerate prepared it, on the GPU; `parameters`: those with gradients, which stay in place."""
        self.model, self.parameters, self.label_smoothing = model, parameters, label_smoothing
        self.step, self.max_positions = max(_LEAST_STEP, max_tokens // 16), max_positions
        self.device = parameters[0].device
        self.sums = [torch.zeros_like(parameter) for parameter in parameters]
        """The gradients of the update; every graph adds to them."""
        self._scale = torch.zeros((), device=self.device)
        self._offsets = torch.arange(1, 1 << 16, dtype=torch.int32, device=self.device) * _FILLER
        self.n_recorded = 0
        """Shapes so far, those that were dropped again counted anew."""
        self._recorded: dict[_Shape, _Recorded] = {}
        """The one that was used last is the last."""
        self._pool, self._stream = _pool_and_stream()

    def begin_update(self) -> None:
        """No gradient yet."""
        torch._foreach_zero_(self.sums)
        for parameter, of_parameter in zip(self.parameters, self.sums, strict=True):
            parameter.grad = of_parameter

    def takes(self, batch: Batch) -> bool:
        """Whether it can be replayed: our kernels take its attention, and there is something to learn."""
        return batch.n_tgt_tokens > 0 and _longest(batch) <= LONGEST_SENTENCE

    def take(self, batch: Batch, scale: float, seed: Callable[[], None]) -> Tensor:
        """Loss sum of a packed micro-batch on the host; its gradient, times `scale`, is added to those of the update.

        `seed` sets the generator of dropout. Raises: RuntimeError where the memory does not hold it.
        """
        shape = self._shape_of(batch)
        recorded = self._recorded.pop(shape, None)
        if recorded is None:
            if len(self._recorded) == _MOST_SHAPES:
                self._recorded.pop(next(iter(self._recorded)))
            recorded = self._record(shape, batch)
            self.n_recorded += 1
        else:
            self._fill(recorded.inputs, batch)
        self._recorded[shape] = recorded
        self._scale.fill_(scale)
        seed()
        recorded.graph.replay()
        return recorded.loss.clone()

    def _shape_of(self, batch: Batch) -> _Shape:
        n_src, n_tgt = (-(-n // self.step) * self.step for n in (batch.n_src_tokens, batch.n_tgt_tokens))
        n_filled = batch.n_pairs + -(-self.step // _FILLER)
        width = min(_FILLER if _longest(batch) <= _FILLER else LONGEST_SENTENCE, self.max_positions)
        return _Shape(n_src, n_tgt, -(-n_filled // _SENTENCE_STEP) * _SENTENCE_STEP, width)

    def _record(self, shape: _Shape, batch: Batch) -> _Recorded:
        inputs = self._inputs(shape)
        self._fill(inputs, batch)
        # Kernels are loaded, and made, before the recording; memory is shared by what is recorded on one stream.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._loss_and_gradients(inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # What other threads do is not its concern, such as the one that pins batches.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                loss, gradients = self._loss_and_gradients(inputs)
                torch._foreach_add_(self.sums, gradients)
                del gradients
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the first error is the one to tell
                    graph.capture_end()
                raise
            graph.capture_end()
        return _Recorded(graph, inputs, loss)

    def _loss_and_gradients(self, inputs: Batch) -> tuple[Tensor, list[Tensor]]:
        loss = self.model(inputs, self.label_smoothing)
        gradients = torch.autograd.grad(loss * self._scale, self.parameters)
        return loss.detach(), list(gradients)

    def _inputs(self, shape: _Shape) -> Batch:
        def ids(n: int, value: int = 0) -> Tensor:
            return torch.full((n,), value, dtype=torch.int64, device=self.device)

        def block(n_rows: int) -> Packed:
            starts = torch.zeros(shape.n_sentences + 1, dtype=torch.int32, device=self.device)
            return Packed(shape.n_sentences, shape.width, starts=starts, n_rows=n_rows)

        return Batch(
            src_ids=ids(shape.n_src, PAD_ID),
            src_places=ids(shape.n_src),
            src_blocks=[block(shape.n_src)],
            tgt_in=ids(shape.n_tgt, PAD_ID),
            tgt_out=ids(shape.n_tgt, _NO_TARGET),
            tgt_places=ids(shape.n_tgt),
            tgt_blocks=[block(shape.n_tgt)],
        )

    def _fill(self, inputs: Batch, batch: Batch) -> None:
        """Put a micro-batch in. Behind it ids and places are those of earlier ones: valid, and of no effect."""
        for into, given in (
            (inputs.src_ids, batch.src_ids),
            (inputs.src_places, batch.src_places),
            (inputs.tgt_in, batch.tgt_in),
            (inputs.tgt_out, batch.tgt_out),
            (inputs.tgt_places, batch.tgt_places),
        ):
            into[: len(given)].copy_(given, non_blocking=True)
        inputs.tgt_out[batch.n_tgt_tokens :].fill_(_NO_TARGET)
        self._fill_starts(inputs.src_blocks, batch.src_blocks)
        self._fill_starts(inputs.tgt_blocks, batch.tgt_blocks)

    def _fill_starts(self, inputs: list[Block], given: list[Block]) -> None:
        (into,), (side,) = inputs, given
        assert isinstance(into, Packed)
        assert isinstance(side, Packed)
        n = len(side.starts)
        into.starts[:n].copy_(side.starts, non_blocking=True)
        ends = self._offsets[: len(into.starts) - n] + side.n_rows
        torch.clamp(ends, max=into.n_rows, out=into.starts[n:])


def _longest(batch: Batch) -> int:
    return max(block.width for block in (*batch.src_blocks, *batch.tgt_blocks))


def _pool_and_stream() -> tuple[Any, Any]:
    """What all recordings share."""
    return torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
