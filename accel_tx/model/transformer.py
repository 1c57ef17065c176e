"""The encoder-decoder Transformer: embeddings, two stacks with shared layers, output projection, cached decoding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from accel_tx.config import ModelConfig
from accel_tx.data.collator import Batch
from accel_tx.model.layers import DecoderLayer, Dropout, EncoderLayer, KeyValue, sinusoidal_positions
from accel_tx.model.loss import vocabulary_loss


@dataclass
class DecoderCache:
    """What decoding keeps between positions: keys and values of every executed decoder layer."""

    own: list[KeyValue]
    memory: list[KeyValue]
    src_attendable: Tensor | None
    position: int = 0

    def keep(self, rows: Tensor) -> None:
        """Keep the sentences with these indices (int64, (B',)) in this order; the others leave the batch."""
        for pair in (*self.own, *self.memory):
            pair.key, pair.value = pair.key[rows], pair.value[rows]
        if self.src_attendable is not None:
            self.src_attendable = self.src_attendable[rows]


class Transformer(nn.Module):
    """Encoder-decoder Transformer with sinusoidal positions and optional layer sharing.

    Source: Vaswani et al. 2017; layer orders: Takase and Kiyono 2021.
    """

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        """Keep only the inputs of each executed layer for the backward pass, which computes the layer again."""
        if config.tie_embeddings == "all" and src_vocab_size != tgt_vocab_size:
            raise ValueError(f"tie_embeddings 'all' needs one vocabulary; got {src_vocab_size} and {tgt_vocab_size}")
        # What is tied has no name of its own, so that nothing can come untied in saving, loading or sharding.
        self.tgt_embedding = nn.Embedding(tgt_vocab_size, config.d_model)
        own_src, own_output = config.tie_embeddings != "all", config.tie_embeddings == "none"
        self.src_embedding = nn.Embedding(src_vocab_size, config.d_model) if own_src else None
        self.output_weight = nn.Parameter(torch.empty(tgt_vocab_size, config.d_model)) if own_output else None
        self.output_bias = nn.Parameter(torch.empty(tgt_vocab_size))
        self.dropout = Dropout(config.dropout)
        self.encoder_order = config.encoder_layer_order()
        self.decoder_order = config.decoder_layer_order()
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in set(self.encoder_order))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in set(self.decoder_order))
        pre_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.positions: Tensor
        self.register_buffer("positions", sinusoidal_positions(config.max_positions, config.d_model), persistent=False)
        self._initialise()

    @property
    def projection(self) -> Tensor:
        """The matrix (V, D) from hidden states to logits."""
        return self.tgt_embedding.weight if self.output_weight is None else self.output_weight

    def forward(self, batch: Batch, label_smoothing: float) -> Tensor:
        """Loss of a batch in nats, summed over its real target tokens; a scalar."""
        memory = self.encode(batch.src_ids, batch.src_valid)
        hidden = self.decode(batch.tgt_in, memory, batch.src_valid)
        # Only real tokens reach the vocabulary projection, by far the widest layer.
        real = hidden.flatten(0, 1).index_select(0, batch.tgt_positions)  # (N, D)
        targets = batch.tgt_out.flatten().index_select(0, batch.tgt_positions)
        return vocabulary_loss(real, self.projection, self.output_bias, targets, label_smoothing)

    def encode(self, src_ids: Tensor, src_valid: Tensor | None) -> Tensor:
        """Encoder output (B, S, D) of src_ids (B, S); `src_valid` (B, S) is True at real tokens, None: everywhere."""
        embedding = self.tgt_embedding if self.src_embedding is None else self.src_embedding
        x = self._embed(embedding, src_ids, first_position=0)
        attendable = _broadcast_to_heads(src_valid)
        for i in self.encoder_order:
            x = self._run_layer(self.encoder_layers[i], x, attendable)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def decode(self, tgt_in: Tensor, memory: Tensor, src_valid: Tensor | None) -> Tensor:
        """Decoder output (B, T, D), before the projection to the vocabulary, of tgt_in (B, T)."""
        x = self._embed(self.tgt_embedding, tgt_in, first_position=0)
        attendable = _broadcast_to_heads(src_valid)
        for i in self.decoder_order:
            x = self._run_layer(self.decoder_layers[i], x, memory, attendable)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def start_cache(self, memory: Tensor, src_valid: Tensor | None, max_len: int) -> DecoderCache:
        """An empty cache for decoding up to `max_len` positions from the encoder output (B, S, D)."""
        projected = [self.decoder_layers[i].cross_attention.project_memory(memory) for i in self.decoder_order]  # type: ignore[operator,union-attr]
        batch, n_heads, _, d_head = projected[0].key.shape
        shape = (batch, n_heads, max_len, d_head)
        own = [KeyValue(pair.key.new_zeros(shape), pair.value.new_zeros(shape)) for pair in projected]
        return DecoderCache(own, projected, _broadcast_to_heads(src_valid))

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Logits (B, V) of the next token after `tokens` (B,), and the cache one position on."""
        x = self._embed(self.tgt_embedding, tokens.unsqueeze(1), first_position=cache.position)
        for i, own, memory in zip(self.decoder_order, cache.own, cache.memory, strict=True):
            x = self.decoder_layers[i].step(x, own, memory, cache.src_attendable, cache.position)  # type: ignore[operator]
        cache.position += 1
        return F.linear(self.decoder_norm(x).squeeze(1), self.projection, self.output_bias)

    def _run_layer(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            # Dropout draws the same numbers again: the generators' states are kept, a CPU's and the inputs' device's.
            return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=True)  # type: ignore[no-any-return]
        return layer(*inputs)  # type: ignore[no-any-return]

    def _embed(self, embedding: nn.Module, ids: Tensor, first_position: int) -> Tensor:
        length = ids.shape[1]
        if first_position + length > self.config.max_positions:
            raise ValueError(f"{first_position + length} positions; the model has {self.config.max_positions}")
        positions = self.positions[first_position : first_position + length]
        return self.dropout(embedding(ids) * math.sqrt(self.config.d_model) + positions)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _initialise(self) -> None:
        xavier = self.config.init == "xavier"
        for name, parameter in self.named_parameters():
            if name in ("src_embedding.weight", "tgt_embedding.weight", "output_weight"):
                nn.init.normal_(parameter, std=self.config.d_model**-0.5 if xavier else 0.02)
            elif parameter.ndim == 1:
                nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
            elif xavier:
                for part in _unfused(name, parameter):
                    nn.init.xavier_uniform_(part)
            else:
                nn.init.normal_(parameter, std=0.02)


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _unfused(name: str, parameter: Tensor) -> tuple[Tensor, ...]:
    # Xavier's bound depends on the shape, so each matrix of a fused projection is drawn on its own.
    n_parts = 3 if name.endswith("qkv.weight") else 2 if name.endswith("key_value.weight") else 1
    return parameter.chunk(n_parts)


def _broadcast_to_heads(src_valid: Tensor | None) -> Tensor | None:
    return None if src_valid is None else src_valid[:, None, None, :]  # (B, 1, 1, S)
