"""The DataCollator: token ids of some pairs -> one padded batch of tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID


class TokenPair(NamedTuple):
    """Token ids of one pair, without BOS and EOS."""

    src: NDArray[np.int32]
    tgt: NDArray[np.int32]


@dataclass
class Batch:
    """Padded token ids. B pairs, S source and T target positions, N real target tokens.

    Padding stands at the end. A batch without target tokens (N = 0) holds one pair of special tokens: it keeps the
    processes in step where one of them has nothing to do.
    """

    src_ids: Tensor
    """(B, S) int64; every source ends with EOS, so that no row is without a token to attend to."""
    src_valid: Tensor | None
    """(B, S) bool, True at real tokens; None where all are real."""
    tgt_in: Tensor
    """(B, T) int64, begins with BOS."""
    tgt_out: Tensor
    """(B, T) int64, ends with EOS."""
    tgt_positions: Tensor
    """(N,) int64, the places of the real tokens in the flattened `tgt_out`; known here, so that no GPU must count."""

    @property
    def n_tgt_tokens(self) -> int:
        """Real target tokens, EOS included."""
        return self.tgt_positions.numel()

    @property
    def n_src_tokens(self) -> int:
        """Real source tokens, EOS included; counts on the device, so ask before the batch is moved."""
        return self.src_ids.numel() if self.src_valid is None else int(self.src_valid.sum())

    @property
    def n_padded_tokens(self) -> int:
        """Positions of both sides, padding included."""
        return self.src_ids.numel() + self.tgt_out.numel()

    def split(self, n_parts: int) -> list[Batch]:
        """The pairs in order in `n_parts` of about as many, each padded to its own longest; for tensors on the CPU."""
        tgt_valid = torch.zeros(self.tgt_out.numel(), dtype=torch.bool)
        tgt_valid[self.tgt_positions] = True
        parts = []
        for rows in torch.arange(len(self.src_ids)).tensor_split(n_parts):
            in_tgt = tgt_valid.view_as(self.tgt_out)[rows]
            in_src = torch.ones_like(self.src_ids[rows], dtype=torch.bool)
            if self.src_valid is not None:
                in_src = self.src_valid[rows]
            # Padding stands at the end of every row.
            in_src, in_tgt = (valid[:, : int(valid.any(0).sum())] for valid in (in_src, in_tgt))
            parts.append(
                Batch(
                    src_ids=self.src_ids[rows, : in_src.shape[1]],
                    src_valid=None if in_src.all() else in_src,
                    tgt_in=self.tgt_in[rows, : in_tgt.shape[1]],
                    tgt_out=self.tgt_out[rows, : in_tgt.shape[1]],
                    tgt_positions=in_tgt.flatten().nonzero().flatten(),
                )
            )
        return parts

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; pinned memory is copied without waiting."""
        return Batch(*(_apply(getattr(self, f.name), lambda t: t.to(device, non_blocking=True)) for f in fields(self)))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; DataLoader calls this."""
        return Batch(*(_apply(getattr(self, f.name), Tensor.pin_memory) for f in fields(self)))


def _apply(tensor: Tensor | None, function):  # type: ignore[no-untyped-def]
    return None if tensor is None else function(tensor)


class DataCollator:
    """Pads each batch to its own longest sentence, rounded up to `pad_to_multiple_of` where the hardware wants it."""

    def __init__(self, pad_to_multiple_of: int = 1) -> None:
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, pairs: list[TokenPair]) -> Batch:
        """Shapes: see Batch. An empty list gives the batch without target tokens."""
        if not pairs:
            return _batch_without_targets()
        src, src_lengths = self._pad([pair.src for pair in pairs], first=None, last=EOS_ID)
        tgt_in, tgt_lengths = self._pad([pair.tgt for pair in pairs], first=BOS_ID, last=None)
        tgt_out, _ = self._pad([pair.tgt for pair in pairs], first=None, last=EOS_ID)
        src_valid = np.arange(src.shape[1]) < src_lengths[:, None]
        tgt_valid = np.arange(tgt_out.shape[1]) < tgt_lengths[:, None]
        return Batch(
            src_ids=torch.from_numpy(src),
            src_valid=None if src_valid.all() else torch.from_numpy(src_valid),
            tgt_in=torch.from_numpy(tgt_in),
            tgt_out=torch.from_numpy(tgt_out),
            tgt_positions=torch.from_numpy(np.flatnonzero(tgt_valid)),
        )

    def _pad(
        self, sequences: list[NDArray[np.int32]], first: int | None, last: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lengths = np.array([len(sequence) + 1 for sequence in sequences], dtype=np.int64)
        width = -(-int(lengths.max()) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        padded = np.full((len(sequences), width), PAD_ID, dtype=np.int64)
        start = 0 if first is None else 1
        if first is not None:
            padded[:, 0] = first
        for row, sequence in zip(padded, sequences, strict=True):
            row[start : start + len(sequence)] = sequence
        if last is not None:
            padded[np.arange(len(sequences)), lengths - 1] = last
        return padded, lengths


def pad_sources(sources: list[NDArray[np.int32]]) -> tuple[Tensor, Tensor | None]:
    """Sources with EOS, padded for translation: src_ids (B, S) int64 and src_valid (B, S) bool or None."""
    nothing = np.empty(0, dtype=np.int32)
    batch = DataCollator()([TokenPair(source, nothing) for source in sources])
    return batch.src_ids, batch.src_valid


def _batch_without_targets() -> Batch:
    return Batch(
        src_ids=torch.tensor([[EOS_ID]]),
        src_valid=None,
        tgt_in=torch.tensor([[BOS_ID]]),
        tgt_out=torch.tensor([[PAD_ID]]),
        tgt_positions=torch.empty(0, dtype=torch.int64),
    )
