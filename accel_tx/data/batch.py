"""A batch of pairs: token ids without padding, and what attention makes of them: padded blocks, or packed sentences.

Shape letters: B pairs, N tokens of one side, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Block:
    """Sentences of about one length that stand together in a batch: attention looks at them as (n, width).

    Equal to itself only, and not to be changed, so that what is found out about one can be looked up by it.
    """

    n_sentences: int
    width: int
    """Tokens of the longest one."""
    positions: Tensor | None = None
    """(n_tokens,) int64, the places of the block's tokens in the flattened (n, width); None: every place is one."""
    valid: Tensor | None = None
    """(n, width) bool, True at real tokens; None where all are real."""

    @property
    def n_positions(self) -> int:
        """Places, padding included."""
        return self.n_sentences * self.width

    @property
    def n_tokens(self) -> int:
        """Rows of the batch that the block takes."""
        return self.n_positions if self.positions is None else self.positions.numel()

    @property
    def attendable(self) -> Tensor | None:
        """`valid`, to be broadcast over heads and queries: (n, 1, 1, width)."""
        return None if self.valid is None else self.valid[:, None, None, :]

    def pad(self, tokens: Tensor) -> Tensor:
        """The block's tokens (n_tokens, C) as (n, width, C), 0 at padding."""
        if self.positions is not None:
            tokens = scatter_rows(tokens, self.positions, self.n_positions)
        return tokens.view(self.n_sentences, self.width, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Inverse of `pad`: (n, width, C) -> (n_tokens, C)."""
        flat = padded.reshape(self.n_positions, -1)
        return flat if self.positions is None else gather_rows(flat, self.positions)

    def _apply(self, function: Callable[[Tensor], Any]) -> Block:
        positions, valid = (None if x is None else function(x) for x in (self.positions, self.valid))
        return Block(self.n_sentences, self.width, positions, valid)


@dataclass(eq=False)
class Packed(Block):
    """All sentences of a side one behind the other: attention finds them by where they begin, and pads nothing.

    `width` is that of the longest; `positions` and `valid` are None. For kernels that GPUs of NVIDIA have.
    """

    starts: Tensor = field(kw_only=True)
    """(n_sentences + 1,) int32, the row at which each sentence begins, and behind the last one."""
    n_rows: int = field(kw_only=True)

    @property
    def n_positions(self) -> int:
        """Without padding, as many as tokens."""
        return self.n_rows

    @property
    def n_tokens(self) -> int:
        """Rows of the batch."""
        return self.n_rows

    def pad(self, tokens: Tensor) -> Tensor:
        """Raises: NotImplementedError; nothing is padded."""
        raise NotImplementedError("packed sentences are not padded")

    def unpad(self, padded: Tensor) -> Tensor:
        """Raises: NotImplementedError; nothing is padded."""
        raise NotImplementedError("packed sentences are not padded")

    def _apply(self, function: Callable[[Tensor], Any]) -> Packed:
        return Packed(self.n_sentences, self.width, starts=function(self.starts), n_rows=self.n_rows)


@dataclass
class Batch:
    """Token ids of B pairs, sentence after sentence, without padding. N tokens a side, not the same number.

    A batch without target tokens (`tgt_out` is empty) has one pair of special tokens otherwise: it keeps the processes
    in step where one of them has nothing to do.
    """

    src_ids: Tensor
    """(N,) int64; every source ends with EOS, so that no sentence is without a token to attend to."""
    src_places: Tensor
    """(N,) int64, the place of each token within its sentence, from 0."""
    src_blocks: list[Block]
    """Cover the tokens in order; valid and positions are None where a block has no padding. A packed batch has one."""
    tgt_in: Tensor
    """(N,) int64, every sentence begins with BOS."""
    tgt_out: Tensor
    """(N,) int64, the same ones end with EOS."""
    tgt_places: Tensor
    """As `src_places`, of the target."""
    tgt_blocks: list[Block]
    """As many as on the source side, and of the same pairs."""

    @property
    def n_pairs(self) -> int:
        """Sentence pairs."""
        return sum(block.n_sentences for block in self.src_blocks)

    @property
    def n_src_tokens(self) -> int:
        """Source tokens, EOS included."""
        return self.src_ids.numel()

    @property
    def n_tgt_tokens(self) -> int:
        """Target tokens, EOS included."""
        return self.tgt_out.numel()

    @property
    def n_positions(self) -> int:
        """Places of both sides in attention, padding included; nothing else computes any padding."""
        return sum(block.n_positions for block in (*self.src_blocks, *self.tgt_blocks))

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; pinned memory is copied without waiting."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; DataLoader calls this."""
        return self._apply(Tensor.pin_memory)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        """Pickled by value, on the CPU: so a loader's worker hands a batch over through its pipe.

        torch would share each tensor's memory by a file descriptor instead, of which a container may have few, and
        would print a traceback when the program ends while one is under way.
        """
        return _of_arrays, tuple(vars(self._apply(Tensor.numpy)).values())

    def _apply(self, function: Callable[[Tensor], Any]) -> Batch:
        return Batch(
            src_ids=function(self.src_ids),
            src_places=function(self.src_places),
            src_blocks=[block._apply(function) for block in self.src_blocks],
            tgt_in=function(self.tgt_in),
            tgt_out=function(self.tgt_out),
            tgt_places=function(self.tgt_places),
            tgt_blocks=[block._apply(function) for block in self.tgt_blocks],
        )


def _of_arrays(*fields: Any) -> Batch:
    return Batch(*fields)._apply(torch.from_numpy)


def scatter_rows(rows: Tensor, places: Tensor, n_places: int) -> Tensor:
    """Rows (N, C) to places (N,) of their own among (n_places, C), 0 elsewhere."""
    if torch.compiler.is_compiling():
        return rows.new_zeros(n_places, rows.shape[1]).index_copy(0, places, rows)
    return _Scatter.apply(rows, places, n_places)  # type: ignore[no-untyped-call,no-any-return]


def gather_rows(padded: Tensor, places: Tensor) -> Tensor:
    """The inverse: (n_places, C) -> (N, C)."""
    if torch.compiler.is_compiling():
        return padded.index_select(0, places)
    return _Gather.apply(padded, places)  # type: ignore[no-untyped-call,no-any-return]


class _Scatter(torch.autograd.Function):
    """Backward is a plain gather, where autograd's would add up."""

    @staticmethod
    def forward(ctx, rows: Tensor, places: Tensor, n_places: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(places)
        return rows.new_zeros(n_places, rows.shape[1]).index_copy_(0, places, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places), None, None


class _Gather(torch.autograd.Function):
    """Backward is a plain scatter, as the places all differ."""

    @staticmethod
    def forward(ctx, padded: Tensor, places: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(places)
        ctx.n_places = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.n_places, grad.shape[1]).index_copy_(0, places, grad), None
