"""Floating-point operations of the model's matrix products, counted from shapes; a multiply-add is two.

Everything else (norms, softmax, dropout, embedding look-ups, the optimizer) is left out, as is usual: it needs time but
few operations. A layer counts as often as it is executed, so weights that layers share count once an execution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch
from accel_tx.data.dealing import Lengths


@dataclass(frozen=True)
class Work:
    """What the matrix products of some batches go over; the works of several batches add up.

    Attention is counted in full squares, also where it is causal: kernels that skip what no position may see do up to
    half of the decoder's share. That is the convention of Chowdhery et al. 2022 (PaLM, appendix B) as well.
    """

    n_src: int
    """Source positions."""
    n_tgt: int
    """Target positions."""
    n_predicted: int
    """Target positions that reach the vocabulary projection."""
    n_src_src: int
    """Pairs of positions that the encoder's self-attention compares."""
    n_tgt_tgt: int
    """The same for the decoder's self-attention."""
    n_tgt_src: int
    """The same for cross-attention."""

    @classmethod
    def of_real_tokens(cls, src_lengths: Lengths, tgt_lengths: Lengths) -> Work:
        """Each sentence on its own, without padding; lengths (n,) in tokens with EOS.

        The FLOPs of this work are model FLOPs in the sense of PaLM's model FLOPs utilization: what the task asks for,
        however it is padded and computed.
        """
        src, tgt = src_lengths.astype(np.int64), tgt_lengths.astype(np.int64)
        n_src, n_tgt = int(src.sum()), int(tgt.sum())
        return cls(n_src, n_tgt, n_tgt, int((src * src).sum()), int((tgt * tgt).sum()), int((tgt * src).sum()))

    @classmethod
    def of_batch(cls, batch: Batch) -> Work:
        """A batch as `Transformer` computes it: padding is in attention only. Not of a packed one."""
        src = [(block.n_sentences, block.width) for block in batch.src_blocks]
        tgt = [(block.n_sentences, block.width) for block in batch.tgt_blocks]
        return cls(
            n_src=batch.n_src_tokens,
            n_tgt=batch.tgt_in.numel(),
            n_predicted=batch.n_tgt_tokens,
            n_src_src=sum(n * width**2 for n, width in src),
            n_tgt_tgt=sum(n * width**2 for n, width in tgt),
            n_tgt_src=sum(n * width * src_width for (n, width), (_, src_width) in zip(tgt, src, strict=True)),
        )

    @classmethod
    def of_padded_batch(cls, n_pairs: int, src_width: int, tgt_width: int, n_predicted: int) -> Work:
        """A batch that is padded as a whole: src_ids (n_pairs, src_width), tgt_out (n_pairs, tgt_width)."""
        return cls(
            n_src=n_pairs * src_width,
            n_tgt=n_pairs * tgt_width,
            n_predicted=n_predicted,
            n_src_src=n_pairs * src_width**2,
            n_tgt_tgt=n_pairs * tgt_width**2,
            n_tgt_src=n_pairs * tgt_width * src_width,
        )

    def __add__(self, other: Work) -> Work:
        return Work(
            self.n_src + other.n_src,
            self.n_tgt + other.n_tgt,
            self.n_predicted + other.n_predicted,
            self.n_src_src + other.n_src_src,
            self.n_tgt_tgt + other.n_tgt_tgt,
            self.n_tgt_src + other.n_tgt_src,
        )


NO_WORK = Work(0, 0, 0, 0, 0, 0)


def forward_flops(config: ModelConfig, tgt_vocab_size: int, work: Work) -> int:
    """FLOPs of one forward pass over `work`."""
    square, feed_forward = config.d_model**2, 2 * config.d_model * config.d_ff
    # Query, key, value and output projections; the products with keys and with values.
    encoder_layer = work.n_src * (4 * square + feed_forward) + work.n_src_src * 2 * config.d_model
    decoder_layer = (
        work.n_tgt * (4 * square + feed_forward)
        + work.n_tgt_tgt * 2 * config.d_model
        # Cross-attention: queries and outputs on the target side, keys and values on the source side.
        + work.n_tgt * 2 * square
        + work.n_src * 2 * square
        + work.n_tgt_src * 2 * config.d_model
    )
    multiply_adds = (
        config.n_encoder_layers * encoder_layer
        + config.n_decoder_layers * decoder_layer
        + work.n_predicted * config.d_model * tgt_vocab_size
    )
    return 2 * multiply_adds


def training_flops(config: ModelConfig, tgt_vocab_size: int, work: Work) -> int:
    """FLOPs of forward and backward over `work`: every product has two of its size behind it, one an operand."""
    return 3 * forward_flops(config, tgt_vocab_size, work)
