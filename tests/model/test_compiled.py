"""Compiled layers: the numbers of uncompiled ones, and one graph for all shapes of an epoch.

The graphs are executed by torch itself here, without a C++ compiler: what Inductor makes of them is a slow test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from accel_tx.config import Config, ModelConfig
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchLimits, BatchPlan
from accel_tx.data.collator import TokenPair, training_collator
from accel_tx.data.dataset import prepare_data
from accel_tx.model.transformer import Transformer
from accel_tx.train.compiling import first_batch

# torch's own, while it imports and traces.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


COLLATE = training_collator(ModelConfig(), is_compiled=True, on_gpu=False)


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def two_models(**fields: Any) -> tuple[Transformer, Transformer]:
    """The same model uncompiled and compiled, in float64."""
    config = ModelConfig(d_model=16, d_ff=24, n_heads=2, max_positions=96, **fields)
    models = []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(Transformer(config, 500, 500).double().train())
    models[1].compile_layers("eager")
    return models[0], models[1]


def batch_of(n_pairs: int, src_width: int, tgt_width: int, is_padded: bool = True) -> Batch:
    rng = np.random.default_rng([n_pairs, src_width, tgt_width])

    def ids(n: int) -> Any:
        return rng.integers(4, 500, n).astype(np.int32)

    first = TokenPair(ids(src_width - 1 - is_padded), ids(tgt_width - 1))
    return COLLATE([first, *(TokenPair(ids(src_width - 1), ids(tgt_width - 1)) for _ in range(n_pairs - 1))])


def loss_and_gradients(model: Transformer, batch: Batch, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    loss = model(batch, 0.1)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize(
    ("fields", "checkpointing"),
    [
        pytest.param({"n_encoder_layers": 2, "n_decoder_layers": 2}, False, marks=pytest.mark.slow),
        pytest.param(
            {"n_encoder_layers": 3, "n_decoder_layers": 1, "encoder_sharing": "palindrome", "norm": "post"},
            True,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"n_encoder_layers": 1, "n_decoder_layers": 1, "positions": "rotary"}, False, marks=pytest.mark.slow
        ),
    ],
)
def test_loss_and_gradients_are_those_of_uncompiled_layers(fields: dict[str, Any], checkpointing: bool) -> None:
    plain, compiled = two_models(dropout=0.0, **fields)
    compiled.gradient_checkpointing = checkpointing
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for shape in [(4, 7, 9), (5, 5, 5, False), (2, 30, 20), (1, 6, 4), (16, 16, 16)]:
        for ours, theirs in zip(
            loss_and_gradients(compiled, batch_of(*shape)), loss_and_gradients(plain, batch_of(*shape)), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-11)
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
def test_all_shapes_of_an_epoch_share_two_graphs(tiny_config: Callable[..., Config]) -> None:
    pairs = prepare_data(tiny_config()).train
    plan = BatchPlan(pairs.src_lengths, pairs.tgt_lengths, BatchLimits(256, None), 2, seed=1)
    _, compiled = two_models(n_encoder_layers=2, n_decoder_layers=2)
    # As `train` does before anything else.
    loss_and_gradients(compiled, first_batch(ModelConfig(max_positions=96), on_gpu=False))
    shapes = set()
    for update in plan.updates(0, plan.updates_per_epoch):
        for micro_batch in update:
            batch = COLLATE(pairs.__getitems__(micro_batch.tolist()))
            shapes.add((batch.src_ids.shape, batch.tgt_in.shape))
            loss_and_gradients(compiled, batch)
    assert len(shapes) > 10
    # An encoder and a decoder layer.
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_dropout_is_drawn_by_the_seed_alone() -> None:
    _, compiled = two_models(n_encoder_layers=1, n_decoder_layers=1, dropout=0.3)
    batch = batch_of(5, 6, 7)
    first, again = loss_and_gradients(compiled, batch), loss_and_gradients(compiled, batch)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[0], loss_and_gradients(compiled, batch, seed=2)[0])


def test_what_does_not_train_runs_uncompiled() -> None:
    plain, compiled = two_models(n_encoder_layers=1, n_decoder_layers=1, dropout=0.3)
    plain.eval()
    compiled.eval()
    with torch.inference_mode():
        assert torch.equal(compiled(batch_of(4, 6, 7), 0.0), plain(batch_of(4, 6, 7), 0.0))
    assert counters["stats"]["unique_graphs"] == 0
