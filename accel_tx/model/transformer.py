"""The encoder-decoder Transformer: embeddings, two stacks with shared layers, output projection, cached decoding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from accel_tx.config import ModelConfig
from accel_tx.data.collator import Batch
from accel_tx.model.cache import DecoderCache
from accel_tx.model.layers import DecoderLayer, Dropout, EncoderLayer, sinusoidal_positions
from accel_tx.model.loss import vocabulary_loss


class Transformer(nn.Module):
    """Encoder-decoder Transformer with sinusoidal positions and optional layer sharing.

    Source: Vaswani et al. 2017; layer orders: Takase and Kiyono 2021.
    """

    def __init__(self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        """Keep only the inputs of each executed layer for the backward pass, which computes the layer again."""
        self.has_compiled_layers = False
        """What `compile_layers` has done."""
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

    def start_cache(self, memory: Tensor, src_valid: Tensor | None, max_len: int, n_beams: int = 1) -> DecoderCache:
        """An empty cache for decoding `n_beams` hypotheses of up to `max_len` positions a sentence.

        Shapes: memory, the encoder output, (B, S, D); src_valid (B, S) or None.
        """
        projected = [self.decoder_layers[i].cross_attention.project_memory(memory) for i in self.decoder_order]  # type: ignore[operator,union-attr]
        return DecoderCache.start(projected, _broadcast_to_heads(src_valid), max_len, n_beams)

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Decoder output (B, W, D), before the projection to the vocabulary, at the position of `tokens` (B, W).

        The cache is one position on afterwards.
        """
        x = self._embed(self.tgt_embedding, tokens, cache.position, is_step=True)
        visible = cache.visible_now()
        for i, own, memory in zip(self.decoder_order, cache.own, cache.memory, strict=True):
            x = self.decoder_layers[i].step(x, own, memory, cache.src_bias, cache.position, visible)  # type: ignore[operator]
        cache.position += 1
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile each layer for inputs of any shape, in training; names of parameters stay.

        Kernels are made when they are first needed, once for all layers of a stack.
        """
        for layer in (*self.encoder_layers, *self.decoder_layers):
            # A break of the graph, or too many of them, would be slow: let it be an error.
            layer.compile(backend=backend, dynamic=True, fullgraph=True)
        self.has_compiled_layers = True

    def _run_layer(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        trains = self.training and torch.is_grad_enabled()
        # `forward` is not what `compile` made of the layer, and knows nothing of hooks.
        run = layer.forward if self.has_compiled_layers and not (trains and _is_plural(*inputs)) else layer
        if self.gradient_checkpointing and trains:
            # Dropout draws the same numbers again: the generators' states are kept, a CPU's and the inputs' device's.
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=True)  # type: ignore[no-any-return]
        return run(*inputs)  # type: ignore[no-any-return]

    def _embed(self, embedding: nn.Module, ids: Tensor, first_position: int, is_step: bool = False) -> Tensor:
        length = 1 if is_step else ids.shape[1]  # in a step ids (B, W) stand at one position
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


def _is_plural(*inputs: Tensor | None) -> bool:
    """Whether there are several sentences of several positions: for a size of one torch.compile makes new kernels."""
    return all(min(x.shape[:2]) > 1 for x in inputs if x is not None and x.ndim == 3)


def _broadcast_to_heads(src_valid: Tensor | None) -> Tensor | None:
    return None if src_valid is None else src_valid[:, None, None, :]  # (B, 1, 1, S)
