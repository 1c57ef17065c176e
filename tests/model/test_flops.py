"""The FLOP count equals what torch counts while the real model runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from accel_tx.config import ModelConfig
from accel_tx.data.batch import Batch
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.model.flops import NO_WORK, Work, forward_flops, training_flops
from accel_tx.model.transformer import Transformer

SRC_VOCAB, TGT_VOCAB = 41, 53
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shared layers": {"encoder_sharing": "palindrome", "decoder_sharing": "cycle"},
    "unequal stacks": {"n_encoder_layers": 3, "n_decoder_layers": 1, "norm": "post", "tie_embeddings": "decoder"},
}


def flops_of_added_product(_: Any, a: torch.Size, b: torch.Size, **kwargs: Any) -> int:
    """FLOPs of `x.addmm_(a, b)` from the shapes."""
    return 2 * a[0] * a[1] * b[1]


def flops_of_added_products(_: Any, a: torch.Size, b: torch.Size, **kwargs: Any) -> int:
    """FLOPs of `x.baddbmm_(a, b)` from the shapes."""
    return 2 * a[0] * a[1] * a[2] * b[2]


# torch does not count a product that is added in place, which is how the loss sums its weight's gradient, and how
# attention scales.
IN_PLACE = {
    torch.ops.aten.addmm_: flops_of_added_product,
    torch.ops.aten.baddbmm_: flops_of_added_products,
}


def config(**changes: Any) -> ModelConfig:
    sizes = {"d_model": 16, "d_ff": 40, "n_heads": 2, "n_encoder_layers": 4, "n_decoder_layers": 2}
    return ModelConfig(**{**sizes, "max_positions": 32, **changes})


def batch(lengths: list[tuple[int, int]]) -> Batch:
    """Pairs of these lengths in tokens with EOS."""
    return DataCollator(10)([TokenPair(*(np.full(n - 1, 7, dtype=np.int32) for n in pair)) for pair in lengths])


def of_bias(work: Work) -> int:
    """FLOPs of the bias of the logits, in float32 a column of a product, where it is one that adds otherwise."""
    return 2 * work.n_predicted * TGT_VOCAB


@pytest.fixture(autouse=True)
def _plain_attention() -> Iterator[None]:
    """Fused attention computes the scores again in its backward pass, and torch counts that as a fifth product."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.parametrize("name", MODELS)
def test_forward_and_training_flops_equal_what_torch_counts(name: str) -> None:
    model_config = config(**MODELS[name])
    model = Transformer(model_config, SRC_VOCAB, TGT_VOCAB)
    packed = batch([(11, 4), (11, 5), (5, 9), (6, 6)])
    assert [block.n_sentences for block in packed.src_blocks] == [2, 2]
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(packed, 0.1)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as training:
        model(packed, 0.1).backward()

    work = Work.of_batch(packed)
    assert forward.get_total_flops() - of_bias(work) == forward_flops(model_config, TGT_VOCAB, work)
    assert training.get_total_flops() - 2 * of_bias(work) == training_flops(model_config, TGT_VOCAB, work)


def test_model_flops_are_those_of_every_pair_alone() -> None:
    model_config = config()
    model = Transformer(model_config, SRC_VOCAB, TGT_VOCAB)
    lengths = [(5, 9), (11, 4), (7, 7)]
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        for pair in lengths:
            model(batch([pair]), 0.0)
    work = Work.of_real_tokens(*np.array(lengths).T)

    assert counted.get_total_flops() - of_bias(work) == forward_flops(model_config, TGT_VOCAB, work)
    assert work == sum((Work.of_batch(batch([pair])) for pair in lengths), NO_WORK)


def test_flops_by_hand() -> None:
    """One layer a stack, D 2, F 3, V 5, two source and one target token: products written out."""
    tiny = ModelConfig(d_model=2, d_ff=3, n_heads=1, n_encoder_layers=1, n_decoder_layers=1, max_positions=4)
    encoder = 2 * (4 * 4 + 12) + 4 * 2 * 2
    decoder = 1 * (4 * 4 + 12) + 1 * 2 * 2 + 1 * 2 * 4 + 2 * 2 * 4 + 2 * 2 * 2
    work = Work.of_real_tokens(np.array([2]), np.array([1]))

    assert forward_flops(tiny, 5, work) == 2 * (encoder + decoder + 1 * 2 * 5)
