"""The baselines do the same work as ours: the same loss with the same weights, the same size, and they learn."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from accel_tx.bench.original import OriginalStep, original_collator
from accel_tx.bench.original_model import OriginalTransformer
from accel_tx.bench.phases import PhaseClock
from accel_tx.bench.workload import synthetic_pairs
from accel_tx.config import Config, ModelConfig, OptimConfig
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.data.tokenizer import PAD_ID
from accel_tx.model.flops import Work
from accel_tx.model.transformer import Transformer, count_parameters

CPU = torch.device("cpu")
VOCAB = 60
MODELS: dict[str, dict[str, Any]] = {
    "untied, pre-norm, shared layers": {"encoder_sharing": "palindrome", "decoder_sharing": "palindrome"},
    "all tied": {"tie_embeddings": "all"},
    "decoder tied, post-norm, gelu": {"tie_embeddings": "decoder", "norm": "post", "activation": "gelu"},
    "post-norm, silu, biases": {"norm": "post", "activation": "silu", "attention_bias": True},
}


def model_config(**changes: Any) -> ModelConfig:
    sizes = {"d_model": 16, "d_ff": 24, "n_heads": 2, "n_encoder_layers": 4, "n_decoder_layers": 4}
    return ModelConfig(**{**sizes, "dropout": 0.0, "max_positions": 40, **changes})


def some_pairs(n: int, seed: int = 1) -> list[TokenPair]:
    rng = np.random.default_rng(seed)
    return [TokenPair(*(rng.integers(4, VOCAB, rng.integers(2, 30)).astype(np.int32) for _ in "ab")) for _ in range(n)]


def weights_for_original(ours: Transformer) -> dict[str, torch.Tensor]:
    """The state of `ours` under the baseline's names."""
    state: dict[str, torch.Tensor] = {}
    for name, value in ours.state_dict().items():
        name = name.replace("feed_forward.inner", "feed_forward.0").replace("feed_forward.outer", "feed_forward.2")
        is_decoder = name.startswith("decoder_layers")
        residuals = ["self_attention", *(["cross_attention"] if is_decoder else []), "feed_forward"]
        for i, block in enumerate(residuals):
            name = name.replace(f"{block}_residual.norm", f"residuals.{i}.norm")
        if name.endswith("query_bias"):
            state[name.replace("query_bias", "query.bias")] = value
            continue
        if name.endswith("qkv.weight"):
            parts = zip(("query", "key", "value"), value.chunk(3))
        elif name.endswith("key_value.weight"):
            parts = zip(("key", "value"), value.chunk(2))
        else:
            state[name.replace("output_bias", "projection.bias").replace("output_weight", "projection.weight")] = value
            continue
        state.update({f"{name.rpartition('.weight')[0].rpartition('.')[0]}.{part}.weight": v for part, v in parts})
    state.setdefault("projection.weight", state["tgt_embedding.weight"])
    state.setdefault("src_embedding.weight", state["tgt_embedding.weight"])
    return state


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fixed_width", [None, 37])
@pytest.mark.parametrize("name", MODELS)
def test_with_the_same_weights_the_original_has_our_loss_and_size(name: str, fixed_width: int | None) -> None:
    config = model_config(**MODELS[name])
    torch.manual_seed(1)
    ours, original = Transformer(config, VOCAB, VOCAB), OriginalTransformer(config, VOCAB, VOCAB)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    original.load_state_dict(weights_for_original(ours))
    pairs = some_pairs(9)
    batch, padded = DataCollator()(pairs), original_collator(fixed_width)(pairs)
    criterion = torch.nn.CrossEntropyLoss(ignore_index=PAD_ID, label_smoothing=0.1)
    expected = ours(batch, 0.1) / batch.n_tgt_tokens
    found = criterion(original(padded).flatten(0, 1), padded.tgt_out.flatten())

    assert padded.tgt_out.shape[1] == fixed_width or fixed_width is None
    assert abs(found - expected).item() < 1e-9
    assert count_parameters(original) == count_parameters(ours)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_original_learns(precision: str) -> None:
    torch.manual_seed(1)
    config = model_config(n_encoder_layers=1, n_decoder_layers=1)
    model, log = OriginalTransformer(config, VOCAB, VOCAB), io.StringIO()
    step = OriginalStep(model, OptimConfig(max_lr=0.1), precision, CPU, PhaseClock(CPU), log)
    batch = original_collator(None)(some_pairs(6))
    losses = [step(batch) for _ in range(30)]

    assert losses[-1] < 0.9 * losses[0]
    assert [float(line) for line in log.getvalue().splitlines()] == losses
    assert set(step.clock.take()) == {"loading", "forward", "backward", "optimizer"}


class Script:
    """Stands in for `Turns`: so many updates, then the end; keeps what was counted."""

    def __init__(self, n_updates: int, workload: Any) -> None:
        self.n_updates, self.workload = n_updates, workload
        self.device, self.clock = CPU, PhaseClock(CPU)
        self.counted: list[tuple[Any, Any]] = []
        self.n_parameters = 0

    def ready(self, n_parameters: int) -> None:
        self.n_parameters = n_parameters

    def goes_on(self) -> bool:
        return len(self.counted) < self.n_updates

    def done(self, pairs: Any, works: Any) -> None:
        self.counted.append((pairs, works))


@pytest.mark.parametrize("n_micro_batches", [1, 2])
def test_hf_trains_on_what_it_counts_and_has_our_size(
    tiny_config: Callable[..., Config], n_micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="the peer is not installed")
    from accel_tx.bench import peer_hf
    from accel_tx.bench.workload import Workload

    config = tiny_config(model={"d_model": 128, "d_ff": 256}, train={"micro_batches_per_update": n_micro_batches})
    workload = Workload(synthetic_pairs(400, 500, config), 500, 500, "")
    turns = Script(9, workload)
    models = []
    build = peer_hf.build_marian
    monkeypatch.setattr(peer_hf, "build_marian", lambda *args: models.append(build(*args)) or models[-1])
    torch.manual_seed(config.train.seed)
    before = [p.clone() for p in build(config.model, 500, 500).parameters()]
    peer_hf.train_hf(config, workload, turns, "no")  # type: ignore[arg-type]

    lengths = workload.pairs.src_lengths, workload.pairs.tgt_lengths
    for (pairs,), works in turns.counted:
        # The trainer takes the micro-batches of an update one after the other, each padded to its longest sentences.
        src, tgt = ([side[part].astype(int) for part in np.array_split(pairs, n_micro_batches)] for side in lengths)
        expected = [
            Work.of_padded_batch(len(s), s.max(), t.max(), len(t) * t.max()) for s, t in zip(src, tgt, strict=True)
        ]
        assert works == expected
    assert any((a != b).any() for a, b in zip(before, models[0].parameters()))
    assert turns.n_parameters == pytest.approx(count_parameters(Transformer(config.model, 500, 500)), rel=0.01)
    assert all(turns.clock.take().values())


def test_the_peer_has_the_size_of_a_model_with_shared_layers() -> None:
    pytest.importorskip("transformers", reason="the peer is not installed")
    from accel_tx.bench.peer_hf import build_marian

    for changes in MODELS.values():
        config = model_config(d_model=128, d_ff=512, **changes)
        ours = count_parameters(Transformer(config, 5000, 5000))
        assert count_parameters(build_marian(config, 5000, 5000)) == pytest.approx(ours, rel=0.01)
