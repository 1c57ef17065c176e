"""What decoding keeps between positions: keys and values of every executed decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.model.layers import KeyValue, bias_of

# Translations are seldom longer than twice their source and so many tokens; where the limit is higher, the cache grows.
_FIRST_POSITIONS = 32


@dataclass
class DecoderCache:
    """Keys and values of B sentences with W hypotheses each, allocated once for as many positions as are usual.

    The W hypotheses of a sentence are the queries of one attention over everything that any of them has written, so
    that the encoder output is held once a sentence, and that a hypothesis which goes on from another one inherits a
    row of `visible` instead of a copy of keys and values.
    """

    own: list[KeyValue]
    """Each (B, H, E, K), E at most max_len x W: the W entries of a position stand together."""
    memory: list[KeyValue]
    """Each (B, H, S, K)."""
    src_bias: Tensor | None
    """(B, 1, 1, S), 0 at real source tokens and -inf at padding; None: there is no padding."""
    visible: Tensor | None
    """(B, W, max_len x W), True at the entries that belong to a hypothesis; None where W is 1: all do."""
    most_entries: int
    """max_len x W."""
    position: int = 0

    @classmethod
    def start(cls, memory: list[KeyValue], src_attendable: Tensor | None, max_len: int, n_beams: int) -> DecoderCache:
        """An empty cache beside the projected encoder output."""
        batch, n_heads, n_sources, d_head = memory[0].key.shape
        shape = (batch, n_heads, min(max_len, 2 * n_sources + _FIRST_POSITIONS) * n_beams, d_head)
        own = [KeyValue(pair.key.new_empty(shape), pair.value.new_empty(shape)) for pair in memory]
        memory = [KeyValue(pair.key.contiguous(), pair.value.contiguous()) for pair in memory]
        visible = None
        if n_beams > 1:
            itself = torch.eye(n_beams, dtype=torch.bool, device=memory[0].key.device)
            visible = itself.repeat(batch, 1, max_len)
        return cls(own, memory, bias_of(src_attendable, memory[0].key.dtype), visible, max_len * n_beams)

    def make_room(self) -> None:
        """Double the entries where the next position has none; called before each position."""
        n_entries = self.own[0].key.shape[2]
        if self._n_written < n_entries:
            return
        more = (0, 0, 0, min(n_entries, self.most_entries - n_entries))
        for pair in self.own:
            pair.key, pair.value = F.pad(pair.key, more), F.pad(pair.value, more)

    def visible_now(self) -> Tensor | None:
        """A bias (B, 1, W, (position + 1) x W): 0 where `visible` is True, up to this position, and -inf elsewhere."""
        if self.visible is None:
            return None
        now = self.visible[:, None, :, : (self.position + 1) * self.visible.shape[1]]
        return bias_of(now, self.own[0].key.dtype)

    def follow(self, parents: Tensor) -> None:
        """Let hypothesis w go on from hypothesis parents[b, w] of its sentence; parents (B, W) int64."""
        if self.visible is None:
            return
        n_written = self.position * parents.shape[1]
        written = self.visible[:, :, :n_written]
        self.visible[:, :, :n_written] = written.gather(1, parents[:, :, None].expand_as(written))

    def keep(self, rows: Tensor) -> None:
        """Keep the sentences with these indices (int64, (B',)) in this order; the others leave the batch."""
        n_written = self._n_written
        for pair in self.own:
            pair.key, pair.value = _kept(pair.key, rows, n_written), _kept(pair.value, rows, n_written)
        for pair in self.memory:
            pair.key, pair.value = pair.key[rows], pair.value[rows]
        if self.src_bias is not None:
            self.src_bias = self.src_bias[rows]
        if self.visible is not None:
            self.visible = self.visible[rows]

    @property
    def _n_written(self) -> int:
        return self.position * (1 if self.visible is None else self.visible.shape[1])


def _kept(written: Tensor, rows: Tensor, n_written: int) -> Tensor:
    """The rows of a cache in one of the same length, of which only the first `n_written` entries hold anything."""
    kept = written.new_empty((len(rows), *written.shape[1:]))
    kept[:, :, :n_written] = written[rows, :, :n_written]
    return kept
