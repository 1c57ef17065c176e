from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from accel_tx.config import ModelConfig, build_config, load_yaml
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.budget import worst_shapes
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.data.memory import activation_bytes, count_parameters, peak_memory
from accel_tx.data.shapes import Shapes
from accel_tx.model import loss, transformer
from accel_tx.model.transformer import Transformer
from tests.conftest import REPOSITORY
from tests.data.test_shapes import COST

BASE = {"d_model": 64, "d_ff": 256, "n_heads": 4, "n_encoder_layers": 3, "n_decoder_layers": 2, "tie_embeddings": "all"}
N, SRC_WIDTH, TGT_WIDTH = 40, 17, 21
ONE_LENGTH = [(SRC_WIDTH, TGT_WIDTH)] * N
# In float32 attention of these goes through torch's kernel.
LONG = [(140, 150)] * 5
# From long to short, as a plan has them; in several blocks, with padding.
MANY_LENGTHS = [(n, max(2, n + (7 * n) % 5 - 2)) for n in range(60, 2, -1)]


def batch_of(lengths: list[tuple[int, int]]) -> Batch:
    """Pairs of so many tokens, EOS included."""
    return DataCollator(COST)([TokenPair(*(np.full(n - 1, 7, dtype=np.int32) for n in pair)) for pair in lengths])


def shapes_of(lengths: list[tuple[int, int]]) -> Shapes:
    src, tgt = np.array(lengths).T
    plan = plan_epoch(src, tgt, BatchLimits(None, len(src)), 1, 1, 0)
    return Shapes.of_plan(plan, src, tgt, DataCollator(COST))


def one_shape() -> Shapes:
    return Shapes.of_rectangles(*(np.array([n]) for n in (N, SRC_WIDTH, TGT_WIDTH)))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tie", ["none", "decoder", "all"])
@pytest.mark.parametrize("sharing", ["none", "palindrome"])
@pytest.mark.parametrize("bias", [False, True])
def test_parameters_are_counted_as_the_model_has_them(norm: Any, tie: Any, sharing: str, bias: bool) -> None:
    asked = ModelConfig(
        d_model=16,
        d_ff=40,
        n_heads=4,
        n_encoder_layers=4,
        n_decoder_layers=2,
        encoder_sharing=sharing,
        decoder_sharing=sharing,
        norm=norm,
        tie_embeddings=tie,
        attention_bias=bias,
    )
    sizes = (70, 70) if tie == "all" else (70, 90)
    assert count_parameters(asked, *sizes) == transformer.count_parameters(Transformer(asked, *sizes))


def test_a_rectangle_is_one_block() -> None:
    assert {name: values.tolist() for name, values in vars(one_shape()).items()} == {
        name: values.tolist() for name, values in vars(shapes_of(ONE_LENGTH)).items()
    }
    (block,) = batch_of(ONE_LENGTH).src_blocks
    assert (block.n_sentences, block.width, block.valid) == (N, SRC_WIDTH, None)


def test_many_lengths_are_several_blocks_with_padding() -> None:
    batch = batch_of(MANY_LENGTHS)
    assert len(batch.src_blocks) > 2
    assert 0.01 < shapes_of(MANY_LENGTHS).padding_share < 0.2


def saved_bytes(
    asked: ModelConfig, half: bool, lengths: list[tuple[int, int]] = ONE_LENGTH, checkpointing: bool = False
) -> int:
    """What autograd keeps for the backward pass of one batch beside the parameters and what the loss keeps."""
    model = Transformer(asked, 50, 50).train()
    model.gradient_checkpointing = checkpointing
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), model.positions]}
    batch, kept = batch_of(lengths), {}  # type: tuple[Batch, dict[int, torch.UntypedStorage]]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # Half-precision copies of the matrices are counted with the parameters.
        if storage.data_ptr() not in own and not (half and tensor.ndim == 2 and len(tensor) <= asked.d_ff):
            kept[storage.data_ptr()] = storage
        return tensor

    half_precision = torch.autocast("cpu", torch.bfloat16, enabled=half)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), half_precision:
        model(batch, 0.1)
    loss = 4 * (batch.n_tgt_tokens * asked.d_model + 50 * asked.d_model)
    return sum(storage.nbytes() for storage in kept.values()) - loss


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm": "post"},
        {"activation": "gelu"},
        {"dropout": 0.0},
        {"attention_dropout": 0.1},
        {"n_encoder_layers": 1, "d_ff": 64},
        {"positions": "rotary"},
        {"activation": "silu", "attention_bias": True},
    ],
)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("lengths", [ONE_LENGTH, MANY_LENGTHS, LONG], ids=["one block", "many blocks", "long"])
def test_activations_are_those_that_autograd_keeps(
    fields: dict[str, Any], half: bool, lengths: list[tuple[int, int]]
) -> None:
    asked = ModelConfig(**{**BASE, **fields})  # type: ignore[arg-type]
    shapes = shapes_of(lengths)
    found = activation_bytes(asked, shapes, "bf16" if half else "no", "cpu")[0]
    expected = saved_bytes(asked, half, lengths)
    if lengths is LONG and not half and not asked.attention_dropout:
        # What the kernel gives is there twice, as it is and with the blocks joined; one block alone needs no joining.
        n_kernels = (
            asked.n_encoder_layers * shapes.n_src_tokens[0] + 2 * asked.n_decoder_layers * shapes.n_tgt_tokens[0]
        )
        expected += int(n_kernels) * asked.d_model * 4
    assert found == pytest.approx(expected, rel=0.05 if asked.attention_dropout else 0.03)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("half", [False, True])
def test_with_checkpointing_the_inputs_of_the_layers_are_kept_and_one_layer_more(norm: Any, half: bool) -> None:
    asked, precision = ModelConfig(**{**BASE, "norm": norm}), "bf16" if half else "no"  # type: ignore[arg-type]
    found = activation_bytes(asked, one_shape(), precision, "cpu", checkpointing=True)[0]
    shorter = ModelConfig(**{**BASE, "norm": norm, "n_decoder_layers": 1})  # type: ignore[arg-type]
    plain = [activation_bytes(model, one_shape(), precision, "cpu")[0] for model in (asked, shorter)]
    one_decoder_layer = plain[0] - plain[1]  # the largest
    assert found - one_decoder_layer == pytest.approx(saved_bytes(asked, half, checkpointing=True), rel=0.05)
    assert found < 0.6 * plain[0]


# A CPU without bfloat16 is slow at it.
@pytest.mark.parametrize(("checkpointing", "r_drop"), [(False, 0.0), (True, 0.0), (False, 5.0), (True, 5.0)])
@pytest.mark.parametrize("precision", ["no", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("lengths", [ONE_LENGTH, MANY_LENGTHS], ids=["one block", "many blocks"])
@pytest.mark.parametrize(
    ("quantization", "activation"),
    [("none", "relu"), *(pytest.param("int8", name, marks=pytest.mark.slow) for name in ("relu", "gelu"))],
)
def test_the_peak_is_that_of_the_allocator(
    precision: str,
    checkpointing: bool,
    r_drop: float,
    lengths: list[tuple[int, int]],
    quantization: str,
    activation: str,
) -> None:
    fields = {
        **BASE,
        "n_encoder_layers": 5,
        "n_decoder_layers": 5,
        "quantization": quantization,
        "activation": activation,
    }
    asked = build_config(
        {
            "train": {
                "max_updates": 1,
                "max_tokens": 4096,
                "micro_batches_per_update": 2,
                "gradient_checkpointing": checkpointing,
            },
            "model": fields,
            "optim": {"r_drop": r_drop},
        }
    )
    model = Transformer(asked.model, 2000, 2000).train()
    model.gradient_checkpointing = checkpointing
    optimizer, batch = torch.optim.Adam(model.parameters(), fused=True), batch_of(lengths)

    def forward_and_backward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch, 0.1, r_drop)
        loss.backward()

    forward_and_backward()  # its gradients stay: the second micro-batch of an update adds to them
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        forward_and_backward()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    weights_gradients_and_moments = 16 * transformer.count_parameters(model)
    found = peak_memory(asked, shapes_of(lengths), 2000, 2000, "cpu", precision)
    assert found.total - found.program == pytest.approx(weights_gradients_and_moments + taken.max(), rel=0.08)


@pytest.mark.parametrize(("precision", "n_bytes"), [("no", 4), ("bf16", 2)])
def test_the_logits_of_the_kernel_for_gpus_are_counted(precision: str, n_bytes: int) -> None:
    asked = build_config({"train": {"max_updates": 10, "max_tokens": 4096}})
    n_tokens, vocab_size, d_model = N * TGT_WIDTH, 1 << 18, asked.model.d_model
    assert n_tokens * vocab_size > loss._LOGITS_PER_CHUNK_IN_KERNEL
    found = peak_memory(asked, one_shape(), vocab_size, vocab_size, "gpu", precision)
    gradients = 4 * d_model * (vocab_size + 2 * n_tokens)
    assert found.loss - gradients >= n_bytes * loss._LOGITS_PER_CHUNK_IN_KERNEL


def test_a_running_average_takes_one_more_copy_of_the_weights() -> None:
    asked = build_config({"train": {"max_updates": 10, "max_tokens": 4096}})
    averaged = dataclasses.replace(asked, train=dataclasses.replace(asked.train, ema_decay=0.999))
    plain, more = (peak_memory(c, one_shape(), 50, 60, "gpu", "bf16") for c in (asked, averaged))
    assert more.total - plain.total == 4 * count_parameters(asked.model, 50, 60)


def test_on_a_gpu_no_attention_weights_are_kept() -> None:
    plain = ModelConfig(d_model=16, n_heads=2, d_ff=24)
    wide = dataclasses.replace(plain, attention_dropout=0.1)
    shapes = Shapes.of_rectangles(*(np.array([n]) for n in (4, 9, 11)))
    more = activation_bytes(wide, shapes, "no", "cpu") - activation_bytes(plain, shapes, "no", "cpu")
    assert more[0] > 0
    assert activation_bytes(wide, shapes, "no", "gpu") == activation_bytes(plain, shapes, "no", "gpu")


def test_the_table_of_memory_in_the_readme_is_the_forecast() -> None:
    text = (
        (REPOSITORY / "configs" / "README.md")
        .read_text(encoding="utf-8")
        .split("Forecast for `transformer_big.yaml`")[1]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][:6]
    budgets = [int(cell.replace(",", "")) for cell in rows[0][1:]]
    values = load_yaml(REPOSITORY / "configs" / "transformer_big.yaml")
    for name, *shown in rows[2:]:
        precision, _, checkpointing = name.partition(", ")
        for budget, gib in zip(budgets, shown, strict=True):
            fields = {
                "max_tokens": budget,
                "tokens_per_update": 4 * budget,
                "gradient_checkpointing": bool(checkpointing),
            }
            asked = build_config({**values, "train": {**values["train"], **fields}})
            worst = worst_shapes(budget, 150, 150, 1_000_000)
            found = peak_memory(asked, worst, 32_000, 32_000, "gpu", precision).total / 2**30
            assert found == pytest.approx(float(gib), abs=0.06), (name, budget)
