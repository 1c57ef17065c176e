"""A sentence and its translation, and where the decoder looked in the one to write the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from accel_tx.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from accel_tx.model.attention_weights import cross_attention_weights

if TYPE_CHECKING:
    from accel_tx.data.tokenizer import TokenizerPair
    from accel_tx.model.transformer import Transformer


@dataclass(frozen=True)
class AttentionMap:
    """Cross-attention of one sentence. Shape letters: L decoder layers, H heads, T target and S source pieces."""

    src_pieces: list[str]
    """As the tokenizer cuts the source, and the end of the sentence, (S,)."""
    tgt_pieces: list[str]
    """The same of the target, (T,)."""
    weights: NDArray[np.float32]
    """(L, H, T, S): row t is the attention with which target piece t was predicted; it sums to 1."""
    cut: tuple[str, ...] = ()
    """Which of `source` and `target` had more tokens than the model has positions, and is shown to there; a cut target
    has no end."""

    @property
    def n_layers(self) -> int:
        """Decoder layers that are executed."""
        return len(self.weights)

    @property
    def n_heads(self) -> int:
        """Heads of each."""
        return int(self.weights.shape[1])

    def of(self, layer: int | None = None, head: int | None = None) -> NDArray[np.float32]:
        """One layer (from 1; None: the last) and one head of it (from 1; None: the mean of all), (T, S)."""
        chosen = self.weights[-1 if layer is None else layer - 1]
        mean: NDArray[np.float32] = chosen.mean(0) if head is None else chosen[head - 1]
        return mean

    def title(self, layer: int | None = None, head: int | None = None) -> str:
        """What `of` gives, in words."""
        heads = f"mean of {self.n_heads} heads" if head is None else f"head {head} of {self.n_heads}"
        return f"cross-attention, decoder layer {layer or self.n_layers} of {self.n_layers}, {heads}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"src_pieces": self.src_pieces, "tgt_pieces": self.tgt_pieces, "weights": self.weights.tolist()}


def attention_map(model: Transformer, tokenizers: TokenizerPair, src: str, tgt: str) -> AttentionMap:
    """The attention with which the model, in eval mode, reads `src` while it is made to write `tgt`.

    Both are stripped, and cut to the model's positions.
    """
    longest = model.config.max_positions - 1
    src_all, tgt_all = tokenizers.src.encode([src.strip()])[0], tokenizers.tgt.encode([tgt.strip()])[0]
    src_ids, tgt_ids = src_all[:longest], tgt_all[:longest]
    cut = tuple(name for name, ids in (("source", src_all), ("target", tgt_all)) if len(ids) > longest)
    device = model.positions.device
    given = torch.tensor([[*src_ids, EOS_ID]], device=device), None, torch.tensor([[BOS_ID, *tgt_ids]], device=device)
    weights = cross_attention_weights(model, *given)[:, 0].float().cpu().numpy()
    src_pieces, tgt_pieces = _pieces(tokenizers.src, src_ids), _pieces(tokenizers.tgt, tgt_ids)
    if "target" in cut:
        tgt_pieces, weights = tgt_pieces[:-1], weights[:, :, :-1]
    return AttentionMap(src_pieces, tgt_pieces, weights, cut)


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.piece(i) for i in [*ids, EOS_ID]]
