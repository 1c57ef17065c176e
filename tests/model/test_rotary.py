"""Rotary positions: the model equals one written out plainly, trains and decodes alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from accel_tx.data.collator import DataCollator
from accel_tx.data.tokenizer import BOS_ID, EOS_ID
from accel_tx.model.rotary import rotations, turn
from accel_tx.model.transformer import Transformer, position_table
from tests.model.test_transformer import EXACT, LENGTHS, gradients, logits_of, make_model, make_pairs
from tests.padded import padded

STRUCTURES: dict[str, dict[str, Any]] = {
    "rotary": {"positions": "rotary"},
    "rotary, post-norm, shared layers": {"positions": "rotary", "norm": "post", "decoder_sharing": "palindrome"},
}
PAIRS = make_pairs([*LENGTHS, (12, 3), (5, 6)])


class Plain:
    """The model for one sentence pair, in the formulas of the papers."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.config = model, model.config

    def logits(self, src_ids: Tensor, tgt_in: Tensor) -> Tensor:
        """src_ids (S,), tgt_in (T,) -> (T, V)."""
        model, pre_norm = self.model, self.config.norm == "pre"
        x = self.embed(model.src_embedding, src_ids)
        for i in model.encoder_order:
            x = self.own_blocks(x, model.encoder_layers[i], None)
        memory = self.norm(x, model.encoder_norm) if pre_norm else x
        x = self.embed(model.tgt_embedding, tgt_in)
        for i in model.decoder_order:
            x = self.own_blocks(x, model.decoder_layers[i], memory)
        return logits_of(model, self.norm(x, model.decoder_norm) if pre_norm else x)

    def own_blocks(self, x: Tensor, layer: Any, memory: Tensor | None) -> Tensor:
        """A layer, that of a decoder where there is a memory."""
        causal = memory is not None
        x = self.block(x, layer.self_attention_residual, partial(self.attend_own, layer.self_attention, causal))
        if memory is not None:
            attend = partial(self.attend_memory, layer.cross_attention, memory)
            x = self.block(x, layer.cross_attention_residual, attend)
        return self.block(x, layer.feed_forward_residual, partial(self.feed_forward, layer.feed_forward))

    def embed(self, embedding: Any, ids: Tensor) -> Tensor:
        return embedding.weight[ids] * math.sqrt(self.config.d_model)  # type: ignore[no-any-return]

    def block(self, x: Tensor, residual: Any, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.config.norm == "pre":
            return x + function(self.norm(x, residual.norm))
        return self.norm(x + function(x), residual.norm)

    def norm(self, x: Tensor, norm: Any) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * norm.weight + norm.bias

    def feed_forward(self, block: Any, x: Tensor) -> Tensor:
        return block.outer(F.relu(block.inner(x)))  # type: ignore[no-any-return]

    def attend_own(self, attention: Any, causal: bool, x: Tensor) -> Tensor:
        query, key, value = (x @ weight.T for weight in attention.qkv.weight.chunk(3))
        query, key = self.turned(query), self.turned(key)
        return self.attend(query, key, value, causal) @ attention.out.weight.T  # type: ignore[no-any-return]

    def turned(self, x: Tensor) -> Tensor:
        """Equation 15 of Su et al. 2021: a matrix for every position, of 2 x 2 rotations."""
        d_head = self.config.d_model // self.config.n_heads
        rows = []
        for place, row in enumerate(x):
            of_head = [place * 10_000 ** (-2 * i / d_head) for i in range(d_head // 2)]
            turns = [
                torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=x.dtype) for a in of_head
            ]
            rows.append(torch.block_diag(*(turns * self.config.n_heads)) @ row)
        return torch.stack(rows)

    def attend_memory(self, attention: Any, memory: Tensor, x: Tensor) -> Tensor:
        key, value = (memory @ weight.T for weight in attention.key_value.weight.chunk(2))
        heads = self.attend(x @ attention.query.weight.T, key, value, causal=False)
        return heads @ attention.out.weight.T  # type: ignore[no-any-return]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        """query (T, D), key and value (S, D) -> (T, D), head after head."""
        heads = []
        for q, k, v in zip(*(x.chunk(self.config.n_heads, dim=-1) for x in (query, key, value)), strict=True):
            scores = q @ k.T / math.sqrt(q.shape[-1])
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
            heads.append(scores.softmax(-1) @ v)
        return torch.cat(heads, dim=-1)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("collate", [DataCollator(0), DataCollator(20), DataCollator(1000), DataCollator(n_blocks=3)])
def test_loss_and_gradients_equal_the_plain_formulas(structure: str, collate: DataCollator) -> None:
    model = make_model(**STRUCTURES[structure])
    torch.set_default_dtype(torch.float64)
    model.positions = position_table(model.config, model.config.max_positions)  # that of a model is made in float32
    torch.set_default_dtype(torch.float32)
    plain, losses = Plain(model), []
    for pair in PAIRS:
        src, tgt = (torch.from_numpy(ids).long() for ids in pair)
        eos = torch.tensor([EOS_ID])
        logits = plain.logits(torch.cat([src, eos]), torch.cat([torch.tensor([BOS_ID]), tgt]))
        losses.append(F.cross_entropy(logits, torch.cat([tgt, eos]), reduction="sum", label_smoothing=0.1))
    expected = torch.stack(losses).sum()
    loss = model(collate(PAIRS), 0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), **EXACT)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_cached_decoding_equals_uncached(structure: str) -> None:
    """Two hypotheses a sentence, which change places in the middle, and a sentence that leaves."""
    model = make_model(**STRUCTURES[structure]).eval()
    batch = padded(PAIRS)
    n, n_steps = len(batch.src_ids), 8
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, 20, (n, 2, n_steps), generator=generator)
    with torch.no_grad():
        memory = model.encode(batch.src_ids, batch.src_valid)
        cache = model.start_cache(memory, batch.src_valid, n_steps, n_beams=2)
        rows = torch.arange(n)
        for t in range(n_steps):
            if t == 3:
                parents = torch.tensor([[1, 0]]).expand(len(rows), 2)
                cache.follow(parents)
                tokens[:, :, :t] = tokens[:, [1, 0], :t]
            if t == 5:
                cache.keep(rows := rows[1:])
            found = model.step(tokens[rows, :, t], cache)
            valid = None if batch.src_valid is None else batch.src_valid[rows]
            for beam in (0, 1):
                whole = model.decode(tokens[rows, beam, : t + 1], memory[rows], valid)
                torch.testing.assert_close(found[:, beam], whole[:, -1], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_keeps_values_and_is_as_exact_as_the_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    projected, turns = torch.randn(5, 2, 3 * 12).to(dtype), rotations(500, 2, 6)[-5:, None]
    exact = turn(projected.double(), turns.double())
    found = turn(projected, turns)
    assert found.dtype == dtype
    assert torch.equal(found[..., 24:], projected[..., 24:])
    torch.testing.assert_close(found.double(), exact, rtol=5e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
    assert not torch.equal(found[..., :24], projected[..., :24])


def test_scores_of_turned_queries_and_keys_know_only_the_distance() -> None:
    torch.manual_seed(1)
    query, key = torch.randn(2, 8, dtype=torch.float64)
    table = rotations(100, 1, 8).double()

    def score(of_query: int, of_key: int) -> float:
        both = torch.cat([query, key, query])
        return float(turn(both, table[of_query])[:8] @ turn(both, table[of_key])[8:16])

    assert score(7, 3) == pytest.approx(score(90, 86), rel=1e-5)
    assert score(7, 3) != pytest.approx(score(7, 4), rel=1e-2)


def test_turning_has_the_gradient_of_finite_differences() -> None:
    projected, turns = torch.randn(3, 24, dtype=torch.float64, requires_grad=True), rotations(40, 2, 4)[[3, 0, 38]]
    assert torch.autograd.gradcheck(lambda x: turn(x, turns.double()), projected)
