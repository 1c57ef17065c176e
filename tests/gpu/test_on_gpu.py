"""What only a GPU can show: ACCEL_TX_TEST_GPU=1 python -m pytest tests/gpu"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional as F

from accel_tx.cli import main
from accel_tx.config import Config, ModelConfig
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.data.dataset import prepare_data
from accel_tx.model import kernels
from accel_tx.model.precision import computes_bfloat16
from accel_tx.model.sentence_attention import sentence_attention
from accel_tx.model.transformer import Transformer
from accel_tx.train import device, muon
from accel_tx.train.cuda_graphs import Replays
from accel_tx.train.loop import train
from tests.conftest import as_options
from tests.run_folder import read_lines

pytestmark = pytest.mark.skipif(
    os.environ.get("ACCEL_TX_TEST_GPU") != "1" or not torch.cuda.is_available(),
    reason="needs a GPU, and ACCEL_TX_TEST_GPU=1",
)
MakeConfig = Callable[..., Config]
GPU = torch.device("cuda")
STILL: dict[str, Any] = {"model": {"dropout": 0.0}}


@pytest.fixture(autouse=True)
def _accelerator_anew() -> Iterator[None]:
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def has(precision: str) -> bool:
    return precision != "bf16" or computes_bfloat16(GPU)


def has_kernels() -> bool:
    return kernels.runs(torch.zeros((), device=GPU))


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run_dir) if "loss" in line]


def trained(config: Config, run_dir: Path) -> list[float]:
    AcceleratorState._reset_state(True)
    train(config, run_dir)
    return losses(run_dir)


def pairs(n: int, vocab_size: int, seed: int = 0) -> list[TokenPair]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (n, 2), generator=generator).tolist()
    sides = [[torch.randint(4, vocab_size, (k,), generator=generator).int().numpy() for k in pair] for pair in lengths]
    return [TokenPair(*pair) for pair in sides]


def loss_and_gradients(model: Transformer, batch: Any, smoothing: float, **autocast: Any) -> list[torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cuda", **autocast):
        loss = model(batch, smoothing)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(
    ("model", "checkpointing"),
    [
        ({}, False),
        ({"positions": "rotary"}, False),
        ({"positions": "rotary"}, True),
        ({"d_model": 60, "n_heads": 5}, False),
        ({"d_model": 320, "n_heads": 2}, False),
    ],
)
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 6e-2), (torch.float16, 2e-2)]
)
def test_loss_and_gradients_are_those_of_float64_on_the_cpu(
    precision: torch.dtype, tolerance: float, model: dict[str, Any], checkpointing: bool, is_packed: bool
) -> None:
    if not has("bf16") and precision == torch.bfloat16:
        pytest.skip("this GPU only emulates bfloat16")
    device.leave_out_planned_attention()
    device.use_tf32(False)  # an environment may have asked for it
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_ff": 128, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 2}
    # Not ReLU, whose slope jumps: one input of 1e-7 that rounding takes to its other side moves a gradient by 7e-4.
    transformer = Transformer(ModelConfig(**{**sizes, **model}, activation="gelu", dropout=0.0), 300, 300)
    transformer.gradient_checkpointing = checkpointing
    given = pairs(200, 300)
    expected = loss_and_gradients(transformer.double(), DataCollator()(given), 0.1, enabled=False)
    transformer = transformer.float().cuda()
    batch = DataCollator(is_packed=is_packed)(given).to(GPU)
    found = loss_and_gradients(transformer, batch, 0.1, dtype=precision, enabled=precision != torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(a.double().cpu() - b) <= tolerance * torch.linalg.vector_norm(b)


def relative_errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    pairs_of_both = zip(found, expected, strict=True)
    return [
        float(torch.linalg.vector_norm(a.double() - b) / torch.linalg.vector_norm(b).clamp(min=1e-30))
        for a, b in pairs_of_both
    ]


@pytest.mark.parametrize("kind", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("d_head", [8, 12, 32, 64, 128])
@pytest.mark.parametrize("longest", [32, 33, 200])
def test_attention_by_our_kernel_is_that_of_float64(longest: int, d_head: int, kind: str) -> None:
    if not has_kernels():
        pytest.skip("our kernels want compute capability 8.0 and Triton")
    n_heads, n_sentences = 3, 40
    generator = torch.Generator().manual_seed(longest + d_head)
    lengths = torch.randint(1, longest + 1, (2, n_sentences), generator=generator)
    lengths[:, 0] = longest
    lengths[:, 1] = 1
    if kind == "cross":
        lengths[:, 2:4] = torch.tensor([[0, 5], [7, 0]])  # what is filled up has sentences without the other side
    starts = [torch.cat([torch.zeros(1), side.cumsum(0)]).int() for side in lengths]
    d_model = n_heads * d_head
    own, memory = (starts[0], starts[1]) if kind == "cross" else (starts[0], starts[0])
    widths = {"query": d_model} if kind == "cross" else {"query": 3 * d_model}
    query = torch.randn(int(own[-1]), widths["query"], generator=generator).cuda().bfloat16().requires_grad_()
    key_value = None
    if kind == "cross":
        key_value = torch.randn(int(memory[-1]), 2 * d_model, generator=generator).cuda().bfloat16().requires_grad_()
    given = [x for x in (query, key_value) if x is not None]
    found = sentence_attention(query, key_value, own.cuda(), memory.cuda(), longest, n_heads, kind == "decoder")
    upstream = torch.randn(found.shape, generator=generator).cuda().bfloat16()
    gradients = torch.autograd.grad(found, given, upstream)
    again = sentence_attention(query, key_value, own.cuda(), memory.cuda(), longest, n_heads, kind == "decoder")
    assert all(map(torch.equal, gradients, torch.autograd.grad(again, given, upstream)))

    wide = [x.detach().double().requires_grad_() for x in given]
    q, k, v = torch.cat(wide[:1], 1).split(d_model, 1) if key_value is None else (wide[0], *wide[1].split(d_model, 1))
    heads = []
    for (first, last), (m_first, m_last) in zip(pairwise(own.tolist()), pairwise(memory.tolist()), strict=True):
        if m_first == m_last:
            heads.append(q[first:last] * 0)
            continue
        parts = q[first:last], k[m_first:m_last], v[m_first:m_last]
        split = [part.unflatten(1, (n_heads, d_head)).transpose(0, 1) for part in parts]
        heads.append(F.scaled_dot_product_attention(*split, is_causal=kind == "decoder").transpose(0, 1).flatten(1))
    expected = torch.cat(heads)
    assert max(relative_errors([found], [expected])) < 5e-3
    assert max(relative_errors(gradients, torch.autograd.grad(expected, wide, upstream.double()))) < 1e-2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
@pytest.mark.parametrize("vocab_size", [7, 4096, 30011])
def test_the_loss_by_our_kernel_is_that_of_float64(vocab_size: int, dtype: torch.dtype, tolerance: float) -> None:
    if not has_kernels():
        pytest.skip("our kernels want compute capability 8.0 and Triton")
    from accel_tx.model.kernels.loss import losses_of_rows

    generator = torch.Generator().manual_seed(vocab_size)
    logits = (4 * torch.randn(50, vocab_size, generator=generator)).cuda().to(dtype)
    bias = torch.randn(vocab_size, generator=generator).cuda()
    targets = torch.randint(vocab_size, (50,), generator=generator).cuda()
    wide = (logits.double() + bias).requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none", label_smoothing=0.1)
    expected = expected * (torch.arange(50, device=GPU) != 3)
    targets[3] = -1
    kept = logits.clone()
    assert max(relative_errors([losses_of_rows(logits, bias, targets, 0.1, needs_grad=False)], [expected])) < 1e-6
    assert torch.equal(logits, kept)
    losses_of_rows(logits, bias, targets, 0.1, needs_grad=True)
    assert max(relative_errors([logits], torch.autograd.grad(expected.sum(), [wide]))) < tolerance


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_training_has_the_losses_of_the_cpu(
    precision: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has(precision):
        pytest.skip("this GPU only emulates bfloat16")
    config = tiny_config(**STILL, train={"precision": precision})
    found = trained(config, tmp_path / "gpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    expected = trained(tiny_config(**STILL), tmp_path / "cpu")
    tolerance = 2e-3 if precision == "no" else 2e-2
    assert found == pytest.approx(expected, rel=tolerance)
    assert found[-1] < 0.8 * found[0]
    assert all(line["device_peak_gib"] > 0 for line in read_lines(tmp_path / "gpu") if "loss" in line)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_run_goes_on_as_the_one_that_was_not(
    optimizer: str, precision: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    if not has(precision):
        pytest.skip("this GPU only emulates bfloat16")
    config = tiny_config(train={"precision": precision}, optim={"name": optimizer})
    expected = trained(config, tmp_path / "whole")
    stopping = dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at_update=17))
    trained(stopping, tmp_path / "parts")
    found = trained(config, tmp_path / "parts")
    assert found == pytest.approx(expected, rel=1e-2)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_layers_have_the_losses_of_the_others(tiny_config: MakeConfig, tmp_path: Path) -> None:
    found = {}
    for compiles in (False, True):
        config = tiny_config(**STILL, train={"precision": "auto", "compile": compiles})
        found[compiles] = trained(config, tmp_path / str(compiles))
    assert found[True] == pytest.approx(found[False], rel=2e-2)


@pytest.fixture
def n_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each replay of a graph."""
    counted: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def count(graph: Any) -> None:
        counted.append(1)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", count)
    return counted


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("compiles", [False, True])
def test_replayed_graphs_have_the_losses_of_the_others(
    compiles: bool, tiny_config: MakeConfig, tmp_path: Path, n_replays: list[int]
) -> None:
    if not has("bf16") or not has_kernels():
        pytest.skip("graphs want bfloat16 and our kernels")
    found = {}
    for graphs in (False, True):
        train_fields = {"precision": "bf16", "cuda_graphs": graphs, "compile": compiles, "ema_decay": 0.9}
        config = tiny_config(**STILL, train={**train_fields, "micro_batches_per_update": 2})
        found[graphs] = trained(config, tmp_path / str(graphs))
        assert len(n_replays) == (2 * config.train.max_updates if graphs else 0)
    assert found[True] == pytest.approx(found[False], rel=2e-2)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_stopped_run_of_graphs_goes_on_as_the_one_that_was_not(
    optimizer: str, tiny_config: MakeConfig, tmp_path: Path, n_replays: list[int]
) -> None:
    if not has("bf16") or not has_kernels():
        pytest.skip("graphs want bfloat16 and our kernels")
    config = tiny_config(train={"precision": "bf16", "cuda_graphs": True}, optim={"name": optimizer})
    expected = trained(config, tmp_path / "whole")
    stopping = dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at_update=17))
    trained(stopping, tmp_path / "parts")
    found = trained(config, tmp_path / "parts")
    assert n_replays
    assert found == pytest.approx(expected, rel=1e-2)


def test_a_replay_draws_its_dropout_from_the_seed_and_adds_up_gradients() -> None:
    if not has("bf16") or not has_kernels():
        pytest.skip("graphs want bfloat16 and our kernels")
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_ff": 128, "n_heads": 4, "n_encoder_layers": 1, "n_decoder_layers": 1}
    transformer = Transformer(ModelConfig(**sizes, dropout=0.3), 300, 300).cuda().train()

    def model(batch: Any, smoothing: float) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return transformer(batch, smoothing)

    parameters = list(transformer.parameters())
    replays = Replays(model, parameters, 4096, transformer.config.max_positions, 0.1)
    batches = [DataCollator(is_packed=True)(pairs(n, 300, n)) for n in (100, 101, 20)]

    def gradients(*of: int, seed: int = 5) -> list[Tensor]:
        replays.begin_update()
        losses = [replays.take(batches[i], 0.01, lambda: torch.manual_seed(seed)) for i in of]
        return [torch.stack(losses), *(p.grad.clone() for p in parameters if p.grad is not None)]

    def apart(found: list[Tensor], expected: list[Tensor]) -> float:
        return max(relative_errors(found, [x.double() for x in expected]))

    once = gradients(0)
    assert apart(gradients(0), once) < 1e-3
    assert apart(gradients(0, seed=6), once) > 1e-2
    other = gradients(2)
    assert apart(gradients(0), once) < 1e-3
    both = gradients(0, 2)
    assert apart(both[1:], [a + b for a, b in zip(once[1:], other[1:], strict=True)]) < 1e-2
    gradients(1)
    assert apart(gradients(0), once) < 1e-3


@pytest.mark.parametrize("lengths", [(25, 16), (16, 25)])
def test_a_replay_has_the_loss_and_gradients_of_the_pass_that_it_replaces(lengths: tuple[int, int]) -> None:
    """With more filled up on one side than on the other."""
    if not has("bf16") or not has_kernels():
        pytest.skip("graphs want bfloat16 and our kernels")
    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_ff": 128, "n_heads": 4, "n_encoder_layers": 2, "n_decoder_layers": 2}
    transformer = Transformer(ModelConfig(**sizes, activation="gelu", dropout=0.0), 300, 300).cuda().train()

    def model(batch: Any, smoothing: float) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return transformer(batch, smoothing)

    parameters = list(transformer.parameters())
    batch = DataCollator(is_packed=True)([TokenPair(*(pairs(1, 300)[0].src[:1].repeat(n) for n in lengths))] * 10)
    loss = model(batch.to(GPU), 0.1)
    expected = [loss.detach(), *torch.autograd.grad(loss * 0.01, parameters)]
    replays = Replays(model, parameters, 4096, transformer.config.max_positions, 0.1)
    for _ in range(2):
        replays.begin_update()
        found = [replays.take(batch, 0.01, lambda: None), *replays.sums]
        assert max(relative_errors(found, [x.double() for x in expected])) < 1e-2


def test_micro_batches_are_tried_on_the_device(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = {"max_tokens": "auto", "tokens_per_update": 16384, "micro_batches_per_update": 1, "max_updates": 2}
    config = tiny_config(model={"d_model": 256, "d_ff": 1024}, train=auto)
    trained(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert "train.max_tokens auto: 1 x 16384 tokens an update" in told
    assert "tried on the device with" in told


def test_a_shortage_of_memory_halves_the_micro_batch_and_leaves_the_update(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(
        model={"d_model": 256, "d_ff": 1024, "dropout": 0.0},
        train={"max_tokens": 8192, "micro_batches_per_update": 1, "max_updates": 4, "log_every_updates": 1},
    )
    expected = trained(config, tmp_path / "all")
    peak = max(line["device_peak_gib"] for line in read_lines(tmp_path / "all") if "loss" in line)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.75 * peak * 2**30 / total)
    try:
        found = trained(config, tmp_path / "short")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "is more than the memory holds" in capsys.readouterr().out
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_dry_run_tries_the_longest_bucket(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(model={"d_model": 256, "d_ff": 1024}, train={"max_tokens": 4096})
    (tmp_path / "config.yaml").write_text("{}")
    main(["check", "--config", str(tmp_path / "config.yaml"), "--run_dir", str(tmp_path / "run"), *as_options(config)])
    told = capsys.readouterr().out
    assert "on cuda" in told
    assert "went through" in told
    assert "no problem found" in told


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("member", [None, "checkpoints/update_00000110"])
def test_translations_are_those_of_the_cpu(
    member: str | None, beam_size: int, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(train={"precision": "no", "max_updates": 120})
    trained(config, tmp_path / "run")
    (tmp_path / "src.txt").write_text("".join(f"{line}\n" for line in prepare_data(config).valid_src.to_pylist()))
    ensemble = ["--ensemble", f"{tmp_path / 'run'}:{member}"] if member else []
    for name in ("gpu", "cpu"):
        monkeypatch.setenv("ACCELERATE_USE_CPU", str(name == "cpu").lower())
        files = [*ensemble, "--input", str(tmp_path / "src.txt"), "--output", str(tmp_path / f"{name}.txt")]
        main(["translate", "--run_dir", str(tmp_path / "run"), "--beam_size", str(beam_size), *files])
    assert (tmp_path / "gpu.txt").read_text() == (tmp_path / "cpu.txt").read_text() != ""


def test_a_step_of_muon_is_that_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(64, 64), (64, 64), (256, 64), (64, 256), (192, 64), (1024, 1024)]
    ours = [torch.nn.Parameter(torch.randn(shape, device=GPU)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    before = [p.detach().clone() for p in ours]
    for parameter, other in zip(ours, theirs, strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    with torch.no_grad():
        muon.step(ours, [torch.zeros_like(p) for p in ours], lr=0.02, weight_decay=0.1)
    torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    for a, b, start in zip(ours, theirs, before, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 2e-2 * torch.linalg.vector_norm(b - start)
