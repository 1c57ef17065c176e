"""The model: its size, layer order, tied weights, live gradients, and what must not change its answers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.data.tokenizer import BOS_ID, PAD_ID
from accel_tx.model import cache as cache_module
from accel_tx.model.transformer import Transformer, count_parameters
from tests.padded import Padded, padded

D, D_FF, SRC_VOCAB, TGT_VOCAB, MAX_POSITIONS = 16, 24, 19, 23, 32
EXACT = {"rtol": 0.0, "atol": 1e-10}


def make_config(**fields: Any) -> ModelConfig:
    small = {"d_model": D, "d_ff": D_FF, "n_heads": 2, "n_encoder_layers": 2, "n_decoder_layers": 2}
    return ModelConfig(**{**small, "dropout": 0.0, "max_positions": MAX_POSITIONS, **fields})


def make_model(src_vocab: int = SRC_VOCAB, tgt_vocab: int = TGT_VOCAB, seed: int = 1, **fields: Any) -> Transformer:
    """In float64, with noise on every weight: gains of 1 and biases of 0 would hide faults."""
    torch.manual_seed(seed)
    model = Transformer(make_config(**fields), src_vocab, tgt_vocab).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_pairs(lengths: list[tuple[int, int]], seed: int = 1, vocab: int = SRC_VOCAB) -> list[TokenPair]:
    rng = np.random.default_rng(seed)
    return [TokenPair(*(rng.integers(4, vocab, n, dtype=np.int32) for n in both)) for both in lengths]


LENGTHS = [(7, 3), (1, 9), (0, 0), (12, 12)]


def logits_of(model: Transformer, hidden: Tensor) -> Tensor:
    return hidden @ model.projection.T + model.output_bias


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters)))


# Memory


def losses_and_gradients(model: Transformer, batch: Batch, half: bool) -> list[Tensor]:
    """Of two forward and backward passes, with dropout drawn anew in each."""
    found = []
    torch.manual_seed(5)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(batch, 0.1)
        found += [loss.detach(), *gradients(model, loss).values()]
    return [*found, torch.rand(4)]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("fields", [{}, {"encoder_sharing": "palindrome", "decoder_sharing": "palindrome"}])
def test_gradient_checkpointing_computes_layers_again_and_changes_no_bit(fields: dict[str, Any], half: bool) -> None:
    model = make_model(**{"n_encoder_layers": 4, "dropout": 0.3, "attention_dropout": 0.2, **fields}).float().train()
    runs: list[int] = []
    for layer in [*model.encoder_layers, *model.decoder_layers]:
        layer.register_forward_pre_hook(lambda *_: runs.append(1))
    batch = DataCollator()(make_pairs(LENGTHS))
    plain = losses_and_gradients(model, batch, half)
    assert len(runs) == 2 * 6
    model.gradient_checkpointing = True
    again = losses_and_gradients(model, batch, half)
    assert len(runs) == 2 * 6 + 2 * 12
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    with torch.no_grad():
        model(batch, 0.1)
    assert len(runs) == 2 * 6 + 2 * 12 + 6


# Size


def test_original_recipe_has_its_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    # Memory that is never written costs nothing. (The meta device would import half of torch for its first number.)
    for name in ("normal_", "uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    config = ModelConfig(encoder_sharing="palindrome", decoder_sharing="palindrome", init="normal_0.02")
    assert (config.d_model, config.d_ff, config.n_heads, config.tie_embeddings) == (512, 2048, 8, "none")
    assert (config.n_encoder_layers, config.n_decoder_layers) == (6, 6)
    model = Transformer(config, src_vocab_size=30_000, tgt_vocab_size=30_000)
    assert count_parameters(model) == 68_162_864


def size_by_hand(config: ModelConfig, n_encoder: int, n_decoder: int) -> int:
    d, f = config.d_model, config.d_ff
    attention, feed_forward, norm = 4 * d * d, d * f + f + f * d + d, 2 * d
    encoder_layer = attention + feed_forward + 2 * norm
    decoder_layer = 2 * attention + feed_forward + 3 * norm
    final_norms = 2 * norm if config.norm == "pre" else 0
    embeddings = (SRC_VOCAB + TGT_VOCAB) * d
    return embeddings + n_encoder * encoder_layer + n_decoder * decoder_layer + final_norms + TGT_VOCAB * (d + 1)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize(
    ("sharing", "order"),
    [
        ("none", [0, 1, 2, 3, 4, 5]),
        ("sequence", [0, 0, 1, 1, 2, 2]),
        ("cycle", [0, 1, 2, 0, 1, 2]),
        ("palindrome", [0, 1, 2, 2, 1, 0]),
        ([1, 2, 2, 2, 1, 3], [0, 1, 1, 1, 0, 2]),
    ],
)
def test_layers_run_in_the_order_of_the_sharing_and_shared_ones_count_once(
    sharing: str | list[int], order: list[int], norm: str
) -> None:
    # The decoder has one layer more, so that the stacks cannot be mixed up unseen.
    decoder_order = {"none": [*order, 6], "sequence": [0, 0, 1, 1, 2, 2, 3], "cycle": [0, 1, 2, 3, 0, 1, 2]}.get(
        str(sharing), [0, 1, 2, 3, 3, 2, 1] if sharing == "palindrome" else [*order, 0]
    )
    decoder_sharing = sharing if isinstance(sharing, str) else [i + 1 for i in decoder_order]
    model = make_model(
        n_encoder_layers=6, n_decoder_layers=7, encoder_sharing=sharing, decoder_sharing=decoder_sharing, norm=norm
    )
    assert count_parameters(model) == size_by_hand(model.config, len(set(order)), len(set(decoder_order)))
    executed: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, layers in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
        for i, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, name=name, i=i: executed[name].append(i))
    model(DataCollator()(make_pairs([(3, 3)])), 0.0)
    assert executed == {"encoder": order, "decoder": decoder_order}


@pytest.mark.parametrize(
    ("sharing", "n_unique", "order"),
    [
        ("sequence", 2, [0, 0, 0, 1, 1]),
        ("sequence", 4, [0, 0, 1, 2, 3]),
        ("cycle", 2, [0, 1, 0, 1, 0]),
        ("palindrome", 2, [0, 1, 1, 0, 0]),
        ("palindrome", 5, [0, 1, 2, 3, 4]),
        ("cycle", 1, [0, 0, 0, 0, 0]),
    ],
)
def test_number_of_unique_layers_can_be_chosen(sharing: str, n_unique: int, order: list[int]) -> None:
    model = make_model(
        n_encoder_layers=5,
        encoder_sharing=sharing,
        n_unique_encoder_layers=n_unique,
        n_decoder_layers=5,
        decoder_sharing=sharing,
        n_unique_decoder_layers=n_unique,
    )
    assert model.encoder_order == model.decoder_order == order
    assert len(model.encoder_layers) == len(model.decoder_layers) == n_unique


# Tied weights


def untied_copy(model: Transformer) -> Transformer:
    """A model with three matrices of its own, equal to those that the given one uses."""
    copied = make_model(TGT_VOCAB, TGT_VOCAB, tie_embeddings="none")
    source = model.tgt_embedding if model.src_embedding is None else model.src_embedding
    matrices = {"src_embedding.weight": source.weight, "output_weight": model.projection}
    copied.load_state_dict({**model.state_dict(), **{name: matrix.detach() for name, matrix in matrices.items()}})
    return copied


@pytest.mark.parametrize(
    ("tied", "own_matrices"),
    [
        ("none", {"src_embedding.weight", "tgt_embedding.weight", "output_weight"}),
        ("decoder", {"src_embedding.weight", "tgt_embedding.weight"}),
        ("all", {"tgt_embedding.weight"}),
    ],
)
def test_exactly_the_tied_matrices_are_one(tied: str, own_matrices: set[str]) -> None:
    model = make_model(TGT_VOCAB, TGT_VOCAB, tie_embeddings=tied)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name for name, shape in shapes.items() if TGT_VOCAB in shape} == own_matrices | {"output_bias"}
    assert (model.projection is model.tgt_embedding.weight) == (tied != "none")
    assert count_parameters(untied_copy(model)) - count_parameters(model) == (3 - len(own_matrices)) * TGT_VOCAB * D


@pytest.mark.parametrize("tied", ["decoder", "all"])
def test_tied_matrix_acts_as_equal_ones_and_gets_the_sum_of_their_gradients(tied: str) -> None:
    model = make_model(TGT_VOCAB, TGT_VOCAB, tie_embeddings=tied)
    untied = untied_copy(model)
    batch = DataCollator()(make_pairs(LENGTHS))
    loss, untied_loss = model(batch, 0.1), untied(batch, 0.1)
    torch.testing.assert_close(loss, untied_loss, rtol=1e-12, atol=0)
    of_tied, of_each = gradients(model, loss), gradients(untied, untied_loss)
    uses = ["tgt_embedding.weight", "output_weight", *(["src_embedding.weight"] if tied == "all" else [])]
    summed = torch.stack([of_each[use] for use in uses]).sum(0)
    torch.testing.assert_close(of_tied["tgt_embedding.weight"], summed, **EXACT)


def test_all_embeddings_cannot_be_tied_over_two_vocabularies() -> None:
    with pytest.raises(ValueError, match="needs one vocabulary"):
        Transformer(make_config(tie_embeddings="all"), src_vocab_size=19, tgt_vocab_size=23)
    Transformer(make_config(tie_embeddings="decoder"), src_vocab_size=19, tgt_vocab_size=23)


# First weights


def test_xavier_bound_is_that_of_each_unfused_matrix() -> None:
    torch.manual_seed(1)
    model = Transformer(make_config(d_model=64, d_ff=128, init="xavier"), 500, 500)
    bounds = {"qkv": (64, 64), "key_value": (64, 64), "query": (64, 64), "out": (64, 64), "inner": (64, 128)}
    layer = model.decoder_layers[0]
    for name, parameter in layer.named_parameters():
        if parameter.ndim == 2:
            bound = math.sqrt(6 / sum(bounds.get(name.split(".")[-2], (128, 64))))
            assert 0.98 * bound < parameter.abs().max().item() <= bound, name
    assert model.src_embedding is not None
    for matrix in (model.src_embedding.weight, model.tgt_embedding.weight, model.projection):
        assert matrix.std().item() == pytest.approx(64**-0.5, rel=0.03)


def test_normal_init_spreads_every_matrix_by_two_hundredths() -> None:
    torch.manual_seed(1)
    model = Transformer(make_config(d_model=64, d_ff=128, init="normal_0.02"), 500, 500)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            expected = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            assert torch.equal(parameter, torch.full_like(parameter, expected)), name


# Loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_cross_entropy_of_the_logits_at_real_targets(smoothing: float) -> None:
    model = make_model()
    batch, block_cost = padded(make_pairs(LENGTHS)), 20
    memory = model.encode(batch.src_ids, batch.src_valid)
    logits = logits_of(model, model.decode(batch.tgt_in, memory, batch.src_valid))
    expected = F.cross_entropy(
        logits.flatten(0, 1),
        batch.tgt_out.flatten(),
        ignore_index=PAD_ID,
        reduction="sum",
        label_smoothing=smoothing,
    )
    packed = DataCollator(block_cost)(make_pairs(LENGTHS))
    assert len(packed.src_blocks) > 1
    assert any(block.positions is not None for block in (*packed.src_blocks, *packed.tgt_blocks))
    torch.testing.assert_close(model(packed, smoothing), expected, rtol=1e-12, atol=0)


def test_r_drop_takes_the_batch_through_the_model_twice_and_halves_the_loss() -> None:
    model, batch = make_model(dropout=0.3).train(), DataCollator(20)(make_pairs(LENGTHS))
    torch.manual_seed(5)
    loss = model(batch, 0.1, 4.0)
    torch.manual_seed(5)
    one, other = (logits_of(model, model.hidden(batch)) for _ in range(2))
    nll = sum(F.cross_entropy(x, batch.tgt_out, reduction="sum", label_smoothing=0.1) for x in (one, other))
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    divergences = sum(F.kl_div(x, y, reduction="sum", log_target=True) for x, y in ((p, q), (q, p)))
    assert float(divergences.detach()) > 0.1
    torch.testing.assert_close(loss, nll / 2 + 4.0 / 4 * divergences, rtol=1e-12, atol=0)


def test_r_drop_of_a_batch_without_targets_is_zero() -> None:
    model = make_model(dropout=0.3).train()
    loss = model(DataCollator()([]), 0.1, 4.0)
    assert loss.item() == 0.0
    assert not any(grad.any() for grad in gradients(model, loss).values())


@pytest.mark.parametrize("collate", [DataCollator(0), DataCollator(20), DataCollator(1000), DataCollator(n_blocks=3)])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_blocks_change_neither_loss_nor_gradient(norm: str, collate: DataCollator) -> None:
    model, pairs = make_model(norm=norm), make_pairs([*LENGTHS, (12, 3), (12, 3)])
    singles = [DataCollator()([pair]) for pair in pairs]
    loss, expected = model(collate(pairs), 0.1), torch.stack([model(single, 0.1) for single in singles]).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(model, loss), gradients(model, expected), **EXACT)


def test_padding_does_not_change_the_encoder_output() -> None:
    model, narrow = make_model(), padded(make_pairs(LENGTHS))
    wide = padded([*make_pairs(LENGTHS), *make_pairs([(MAX_POSITIONS - 1, 1)])])
    memory, wide_memory = (model.encode(b.src_ids, b.src_valid) for b in (narrow, wide))
    assert narrow.src_valid is not None
    n_pairs, width = narrow.src_ids.shape
    found = wide_memory[:n_pairs, :width]
    torch.testing.assert_close(found[narrow.src_valid], memory[narrow.src_valid], **EXACT)


def test_loss_of_a_batch_is_the_sum_over_its_pairs() -> None:
    model, collate, pairs = make_model(), DataCollator(), make_pairs(LENGTHS)
    singles = torch.stack([model(collate([pair]), 0.1) for pair in pairs])
    torch.testing.assert_close(model(collate(pairs), 0.1), singles.sum(), rtol=1e-12, atol=0)


def test_no_source_mask_means_that_all_is_real() -> None:
    model = make_model()
    batch = padded(make_pairs([(5, 2), (5, 7)]))
    assert batch.src_valid is None
    valid = torch.ones_like(batch.src_ids, dtype=torch.bool)
    torch.testing.assert_close(model.encode(batch.src_ids, valid), model.encode(batch.src_ids, None), **EXACT)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", ["none", "decoder", "all"])
def test_no_parameter_is_dead(norm: str, tied: str) -> None:
    model = make_model(TGT_VOCAB, TGT_VOCAB, norm=norm, tie_embeddings=tied, encoder_sharing="palindrome")
    grads = gradients(model, model(DataCollator()(make_pairs(LENGTHS)), 0.1))
    assert any("cross_attention.key_value" in name for name in grads)
    for name, grad in grads.items():
        # Queries, keys and values each: one of them may be dead inside a fused projection.
        n_parts = 3 if "qkv" in name else 2 if "key_value" in name else 1
        for part in grad.chunk(n_parts):
            assert float(part.abs().max()) > 1e-6, name


def test_only_embeddings_of_occurring_tokens_get_a_gradient() -> None:
    model = make_model()
    batch = DataCollator()(make_pairs(LENGTHS))
    grads = gradients(model, model(batch, 0.1))
    occurring = set(batch.src_ids.tolist())
    moved = grads["src_embedding.weight"].abs().amax(1).nonzero().flatten().tolist()
    assert set(moved) == occurring
    assert PAD_ID not in occurring


@pytest.mark.parametrize("precision", ["float32", "bfloat16 autocast", "float16 autocast", "float16"])
def test_batch_without_targets_gives_zero_loss_and_zero_gradients(precision: str) -> None:
    """A process with nothing to do still takes part in the exchange of gradients, so every one must exist."""
    model = make_model().float()
    if precision == "float16":
        model.half()
    kind, _, autocast = precision.partition(" ")
    with torch.autocast("cpu", dtype=getattr(torch, kind), enabled=bool(autocast)):
        loss = model(DataCollator()([]), 0.1)
    assert loss.item() == 0.0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name  # NaN counts as any


@pytest.mark.parametrize("autocast", [False, True])
def test_float16_stays_finite_and_close_with_heavy_padding(autocast: bool) -> None:
    model = make_model(norm="post").float()
    pairs = make_pairs([(0, 1), (1, 0), (14, 14)])
    batch, rectangle = DataCollator(1000)(pairs), padded(pairs)
    expected = model(batch, 0.1).item()
    if not autocast:
        model.half()
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        memory = model.encode(rectangle.src_ids, rectangle.src_valid)
        loss = model(batch, 0.1)
    assert memory.isfinite().all()
    assert loss.item() == pytest.approx(expected, rel=5e-3)
    assert all(grad.isfinite().all() for grad in gradients(model, loss).values())


# Positions and order


@pytest.mark.parametrize("side", ["source", "target"])
def test_input_longer_than_the_position_table_is_refused(side: str) -> None:
    model, collate = make_model(max_positions=8), DataCollator()
    model(collate(make_pairs([(7, 7)])), 0.0)  # 8 positions with EOS
    too_long = (8, 2) if side == "source" else (2, 8)
    with pytest.raises(ValueError, match="9 positions; the model has 8"):
        model(collate(make_pairs([too_long])), 0.0)


@torch.no_grad()
def test_decoding_beyond_the_position_table_is_refused() -> None:
    model = make_model(max_positions=4)
    cache = model.start_cache(model.encode(torch.tensor([[5, 6]]), None), None, max_len=10)
    token = torch.tensor([[BOS_ID]])
    for _ in range(4):
        model.step(token, cache)
    with pytest.raises(ValueError, match="5 positions; the model has 4"):
        model.step(token, cache)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_later_target_tokens_never_reach_earlier_outputs(norm: str) -> None:
    model = make_model(norm=norm, decoder_sharing="palindrome", n_decoder_layers=4)
    batch = padded(make_pairs([(6, 7), (3, 7)]))
    memory = model.encode(batch.src_ids, batch.src_valid)
    before = model.decode(batch.tgt_in, memory, batch.src_valid)
    for t in range(batch.tgt_in.shape[1]):
        changed = batch.tgt_in.clone()
        changed[:, t] = (changed[:, t] + 1) % TGT_VOCAB
        after = model.decode(changed, memory, batch.src_valid)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-13)
        assert ((after - before)[:, t:].abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_order_of_the_source_matters() -> None:
    model = make_model()
    one, other = (model.encode(torch.tensor([ids]), None) for ids in ([5, 6, 7], [7, 6, 5]))
    assert float((one.flip(1) - other).abs().max()) > 1e-3


def steps(model: Transformer, tgt_in: Tensor, batch: Padded, max_len: int) -> Iterator[Tensor]:
    cache = model.start_cache(model.encode(batch.src_ids, batch.src_valid), batch.src_valid, max_len)
    for tokens in tgt_in.T:
        yield model.step(tokens[:, None], cache)[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("n_beams", [1, 3])
def test_a_cache_that_grows_gives_what_one_does_that_need_not(n_beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = make_model(), torch.Generator().manual_seed(1)
    memory = model.encode(torch.tensor([[5], [6]]), None)
    tokens = torch.randint(4, TGT_VOCAB, (7, 2, n_beams), generator=generator)
    parents = torch.randint(0, n_beams, (7, 2, n_beams), generator=generator)
    found: dict[int, list[Tensor]] = {}
    for first in (32, 0):
        monkeypatch.setattr(cache_module, "_FIRST_POSITIONS", first)
        cache = model.start_cache(memory, None, max_len=7, n_beams=n_beams)
        sizes, found[first] = [], []
        for newest, of in zip(tokens, parents):
            found[first].append(model.step(newest, cache))
            cache.follow(of)
            sizes.append(cache.own[0].key.shape[2] // n_beams)
        assert sizes == ([7] * 7 if first else [2, 2, 4, 4, 7, 7, 7])
    torch.testing.assert_close(found[0], found[32], rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("sharing", ["none", "palindrome"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_cached_steps_equal_the_full_decoder(norm: str, sharing: str) -> None:
    model = make_model(norm=norm, decoder_sharing=sharing, n_decoder_layers=4)
    batch = padded(make_pairs([(7, 6), (1, 6), (4, 6)]))
    memory = model.encode(batch.src_ids, batch.src_valid)
    full = model.decode(batch.tgt_in, memory, batch.src_valid)
    stepped = torch.stack(list(steps(model, batch.tgt_in, batch, max_len=9)), dim=1)
    torch.testing.assert_close(stepped, full, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("has_padding", [True, False])
def test_rows_kept_in_the_cache_go_on_as_if_alone(has_padding: bool) -> None:
    model = make_model()
    batch = padded(make_pairs([(n, 6) for n in ((7, 1, 4, 2) if has_padding else (4, 4, 4, 4))]))
    assert (batch.src_valid is not None) == has_padding
    expected = list(steps(model, batch.tgt_in, batch, max_len=7))
    cache = model.start_cache(model.encode(batch.src_ids, batch.src_valid), batch.src_valid, max_len=7)
    rows = torch.arange(4)
    for position, kept in [(0, [0, 1, 2, 3]), (1, [3, 0, 1]), (3, [2]), (4, [0])]:
        kept_rows = torch.tensor(kept)
        cache.keep(kept_rows)
        rows = rows[kept_rows]
        while cache.position < position + 1:
            hidden = model.step(batch.tgt_in[rows, cache.position, None], cache)[:, 0]
            torch.testing.assert_close(hidden, expected[cache.position - 1][rows], **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_hypotheses_that_branch_in_the_cache_equal_the_full_decoder(norm: str) -> None:
    """Three hypotheses a sentence, each going on from a parent drawn at random; sentences leave on the way."""
    model, n_beams, generator = make_model(norm=norm), 3, torch.Generator().manual_seed(1)
    batch = padded(make_pairs([(7, 1), (1, 1), (4, 1)]))
    memory, valid = model.encode(batch.src_ids, batch.src_valid), batch.src_valid
    assert valid is not None
    cache = model.start_cache(memory, valid, max_len=6, n_beams=n_beams)
    ids = torch.empty(3, n_beams, 0, dtype=torch.int64)
    for position in range(6):
        tokens = torch.randint(4, TGT_VOCAB, (len(ids), n_beams), generator=generator)
        ids = torch.cat([ids, tokens[:, :, None]], dim=2)
        hidden = model.step(tokens, cache)
        for w in range(n_beams):
            torch.testing.assert_close(hidden[:, w], model.decode(ids[:, w], memory, valid)[:, -1], **EXACT)
        parents = torch.randint(0, n_beams, tokens.shape, generator=generator)
        cache.follow(parents)
        ids = ids.gather(1, parents[:, :, None].expand_as(ids))
        if position == 2:
            kept = torch.tensor([2, 0])
            cache.keep(kept)
            ids, memory, valid = ids[kept], memory[kept], valid[kept]
