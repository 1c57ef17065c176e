"""The encoder-decoder Transformer: embeddings, two stacks with shared layers, output projection, cached decoding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch, Block
from accel_tx.model.cache import DecoderCache
from accel_tx.model.dropout import Dropout
from accel_tx.model.layers import DecoderLayer, EncoderLayer, sinusoidal_positions
from accel_tx.model.loss import vocabulary_loss
from accel_tx.model.quantization import Int8Embedding, RoundedWeight, rounded_input, rounded_weight
from accel_tx.model.rotary import rotations


class Transformer(nn.Module):
    """Encoder-decoder Transformer with sinusoidal or rotary positions and optional layer sharing.

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
        self.is_int8 = config.quantization == "int8"
        embedding = Int8Embedding if self.is_int8 else nn.Embedding
        self.tgt_embedding = embedding(tgt_vocab_size, config.d_model)
        own_src, own_output = config.tie_embeddings != "all", config.tie_embeddings == "none"
        self.src_embedding = embedding(src_vocab_size, config.d_model) if own_src else None
        self.output_weight = nn.Parameter(torch.empty(tgt_vocab_size, config.d_model)) if own_output else None
        self.output_bias = nn.Parameter(torch.empty(tgt_vocab_size))
        self.fixed_output: Tensor | None
        """`output_weight` rounded, as `RoundedWeight.fixed`."""
        self.register_buffer("fixed_output", None, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.encoder_order = config.encoder_layer_order()
        self.decoder_order = config.decoder_layer_order()
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in set(self.encoder_order))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in set(self.decoder_order))
        pre_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.positions: Tensor
        self.register_buffer("positions", position_table(config, config.max_positions), persistent=False)
        self._initialise()

    @property
    def projection(self) -> Tensor:
        """The trained matrix (V, D) from hidden states to logits."""
        return self.tgt_embedding.weight if self.output_weight is None else self.output_weight

    def logits_inputs(self, hidden: Tensor) -> Tensor:
        """Decoder output (..., D) as the product with `logits_matrix` takes it."""
        return rounded_input(hidden) if self.is_int8 else hidden

    def logits_matrix(self) -> Tensor:
        """The matrix (V, D) of that product."""
        if not self.is_int8:
            return self.projection
        if isinstance(self.tgt_embedding, Int8Embedding) and self.output_weight is None:
            return self.tgt_embedding.rounded()
        is_fixed = self.fixed_output is not None and not self.training
        return self.fixed_output if is_fixed else rounded_weight(self.projection)  # type: ignore[return-value]

    def fix_rounding(self) -> None:
        """Where weights are rounded, do it now and not at every use: they are not to change any more."""
        for module in self.modules():
            if isinstance(module, RoundedWeight):
                module.fix()
        if self.is_int8 and self.output_weight is not None:
            self.fixed_output = rounded_weight(self.output_weight.detach())

    @contextmanager
    def rounding_fixed(self) -> Iterator[None]:
        """The same for as long as the block lasts."""
        try:
            self.fix_rounding()
            yield
        finally:
            self.fixed_output = None
            for module in self.modules():
                if isinstance(module, RoundedWeight):
                    module.fixed = None

    def forward(self, batch: Batch, label_smoothing: float, r_drop: float = 0.0) -> Tensor:
        """Loss of a batch in nats, summed over its target tokens; a scalar.

        With `r_drop` above 0 the batch goes through the model twice, and the loss is half of that of Liang et al. 2021:
        the mean of the two cross-entropies, and r_drop / 4 times both divergences between the two distributions.
        """
        n = batch.n_tgt_tokens  # a batch without targets has an input of one token
        parts = self.logits_matrix(), self.output_bias, batch.tgt_out, label_smoothing
        if not r_drop:
            return vocabulary_loss(self.logits_inputs(self.hidden(batch)[:n]), *parts)
        twice = torch.stack([self.hidden(batch), self.hidden(batch)], dim=1)  # (N, 2, D)
        return vocabulary_loss(self.logits_inputs(twice[:n]), *parts, r_drop) / 2

    def hidden(self, batch: Batch) -> Tensor:
        """Decoder output (N, D), before the projection to the vocabulary, at every target token of a batch."""
        self._positions(0, max(block.width for block in (*batch.src_blocks, *batch.tgt_blocks)))
        positions = self.positions[batch.src_places]
        x = self._embed(self._src_embedding, batch.src_ids, positions)
        memory = self._run_encoder(x, batch.src_blocks, self._turns(positions))
        positions = self.positions[batch.tgt_places]
        x = self._embed(self.tgt_embedding, batch.tgt_in, positions)
        return self._run_decoder(x, memory, batch.tgt_blocks, batch.src_blocks, self._turns(positions))

    def encode(self, src_ids: Tensor, src_valid: Tensor | None) -> Tensor:
        """Encoder output (B, S, D) of src_ids (B, S); `src_valid` (B, S) is True at real tokens, None: everywhere."""
        positions = self._positions(0, src_ids.shape[1])
        x = self._embed(self._src_embedding, src_ids, positions)
        block = Block(len(src_ids), src_ids.shape[1], valid=src_valid)
        return self._run_encoder(x.flatten(0, 1), [block], self._turns(positions, len(x))).view_as(x)

    def decode(self, tgt_in: Tensor, memory: Tensor, src_valid: Tensor | None) -> Tensor:
        """Decoder output (B, T, D), before the projection to the vocabulary, of tgt_in (B, T), padded at its end."""
        positions = self._positions(0, tgt_in.shape[1])
        x = self._embed(self.tgt_embedding, tgt_in, positions)
        block = Block(len(tgt_in), tgt_in.shape[1])
        memory_block = Block(len(memory), memory.shape[1], valid=src_valid)
        turns = self._turns(positions, len(x))
        return self._run_decoder(x.flatten(0, 1), memory.flatten(0, 1), [block], [memory_block], turns).view_as(x)

    def start_cache(self, memory: Tensor, src_valid: Tensor | None, max_len: int, n_beams: int = 1) -> DecoderCache:
        """An empty cache for decoding `n_beams` hypotheses of up to `max_len` positions a sentence.

        Shapes: memory, the encoder output, (B, S, D); src_valid (B, S) or None.
        """
        projected = [self.decoder_layers[i].cross_attention.project_memory(memory) for i in self.decoder_order]  # type: ignore[operator,union-attr]
        attendable = None if src_valid is None else src_valid[:, None, None, :]  # (B, 1, 1, S)
        return DecoderCache.start(projected, attendable, max_len, n_beams)

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """Decoder output (B, W, D), before the projection to the vocabulary, at the position of `tokens` (B, W).

        The cache is one position on afterwards.
        """
        positions = self._positions(cache.position, 1)
        cache.make_room()
        x = self._embed(self.tgt_embedding, tokens, positions)
        visible, turns = cache.visible_now(), self._turns(positions)
        for i, own, memory in zip(self.decoder_order, cache.own, cache.memory, strict=True):
            x = self.decoder_layers[i].step(x, own, memory, cache.src_bias, cache.position, visible, *turns)  # type: ignore[operator]
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

    @property
    def _src_embedding(self) -> nn.Embedding:
        return self.tgt_embedding if self.src_embedding is None else self.src_embedding

    def _embed(self, embedding: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
        """Embedded ids (..., D); `positions`, the rows of the table, broadcast to them where they are to be added."""
        x = embedding(ids) * math.sqrt(self.config.d_model)
        return self.dropout(x if self.config.positions == "rotary" else x + positions)  # type: ignore[no-any-return]

    def _turns(self, positions: Tensor, n_sentences: int = 1) -> tuple[Tensor, ...]:
        """The rows of the table for self-attention, again for every sentence; nothing where they were added."""
        if self.config.positions != "rotary":
            return ()
        return (positions if n_sentences == 1 else positions.repeat(n_sentences, 1),)

    def _positions(self, first: int, n: int) -> Tensor:
        if first + n > self.config.max_positions:
            raise ValueError(f"{first + n} positions; the model has {self.config.max_positions}")
        return self.positions[first : first + n]

    def _run_encoder(self, x: Tensor, blocks: Sequence[Block], turns: tuple[Tensor, ...]) -> Tensor:
        for i in self.encoder_order:
            x = self._run_layer(self.encoder_layers[i], x, blocks, *turns)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def _run_decoder(
        self,
        x: Tensor,
        memory: Tensor,
        blocks: Sequence[Block],
        memory_blocks: Sequence[Block],
        turns: tuple[Tensor, ...],
    ) -> Tensor:
        for i in self.decoder_order:
            x = self._run_layer(self.decoder_layers[i], x, memory, blocks, memory_blocks, *turns)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def _run_layer(self, layer: nn.Module, *inputs: Tensor | Sequence[Block]) -> Tensor:
        trains = self.training and torch.is_grad_enabled()
        # `forward` is not what `compile` made of the layer, and knows nothing of hooks.
        run = layer.forward if self.has_compiled_layers and not (trains and _is_plural(*inputs)) else layer
        if self.gradient_checkpointing and trains:
            # Dropout draws the same numbers again: the generators' states are kept, a CPU's and the inputs' device's.
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=True)  # type: ignore[no-any-return]
        return run(*inputs)  # type: ignore[no-any-return]

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


def position_table(config: ModelConfig, n_positions: int) -> Tensor:
    """What `model.positions` says, one row a position, (n_positions, D)."""
    if config.positions == "rotary":
        return rotations(n_positions, config.n_heads, config.d_model // config.n_heads)
    return sinusoidal_positions(n_positions, config.d_model)


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers, shared ones counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _unfused(name: str, parameter: Tensor) -> tuple[Tensor, ...]:
    # Xavier's bound depends on the shape, so each matrix of a fused projection is drawn on its own.
    n_parts = 3 if name.endswith("qkv.weight") else 2 if name.endswith("key_value.weight") else 1
    return parameter.chunk(n_parts)


def _is_plural(*inputs: Tensor | Sequence[Block]) -> bool:
    """Whether there are several sentences of several positions: for a size of one torch.compile makes new kernels."""
    blocks = [block for given in inputs if not isinstance(given, Tensor) for block in given]
    return all(min(block.n_sentences, block.width) > 1 for block in blocks)
