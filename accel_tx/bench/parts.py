"""What each part of a fast step is worth: it and its plain counterpart in turns, on one micro-batch of the config."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from accel_tx.bench.loss import plain_loss
from accel_tx.bench.report import markdown_table
from accel_tx.bench.workload import Workload
from accel_tx.config import Config, UserError
from accel_tx.data.batch import Batch
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.collator import TokenPair, pad_sources, pad_targets, pairs_of, training_collator
from accel_tx.model.attention import attend, kernel_attention
from accel_tx.model.dropout import Dropout
from accel_tx.model.loss import vocabulary_loss
from accel_tx.model.precision import DTYPES, autocast
from accel_tx.model.transformer import Transformer
from accel_tx.train.optimizer import MuonWithAdamW

_ADAM, _MUON = _OPTIMIZERS = "fused Adam", "Muon, small matrices together"

Run = Callable[[], object]


@dataclass(frozen=True)
class Part:
    """A part of the step, how often an update of one micro-batch runs it, and what plain code would run instead."""

    name: str
    plain_name: str
    ours: Run
    plain: Run
    times: int = 1


def measure_parts(config: Config, workload: Workload, precision: str, n_rounds: int) -> dict[str, Any]:
    """Seconds of each part and of its counterpart over an update of one micro-batch, in every round.

    Raises: UserError for a config whose step has no such parts.
    """
    from accel_tx.model.gpu import leave_out_planned_attention, uses_gpu

    leave_out_planned_attention()
    for name in ("compile", "cuda_graphs"):
        if getattr(config.train, name):
            raise UserError(
                f"bench --measure parts: train.{name} is true; expected false, the parts are measured plain"
            )
    if config.optim.r_drop:
        raise UserError(
            f"bench --measure parts: optim.r_drop is {config.optim.r_drop:g}; expected 0, the parts are of one pass"
        )
    device = torch.device("cuda" if uses_gpu() else "cpu")
    batch = _micro_batch(config, workload, device)
    torch.manual_seed(config.train.seed)
    model = Transformer(config.model, workload.src_vocab_size, workload.tgt_vocab_size).to(device).train()
    model.gradient_checkpointing = config.train.gradient_checkpointing
    parts = _parts(config, model, batch, precision)
    ours, plain = ([list[float]() for _ in parts] for _ in range(2))
    for number in range(n_rounds + 1):
        for part, of_ours, of_plain in zip(parts, ours, plain, strict=True):
            for run, seconds in ((part.ours, of_ours), (part.plain, of_plain)):
                taken = _seconds(run, device)
                if number:  # the first round makes kernels and fetches memory
                    seconds.append(part.times * taken)
    rows = [
        {"part": part.name, "plain": part.plain_name, "ours_s": of_ours, "plain_s": of_plain}
        for part, of_ours, of_plain in zip(parts, ours, plain, strict=True)
    ]
    return {
        "data": workload.name,
        "precision": precision,
        "n_pairs": batch.n_pairs,
        "n_src_tokens": batch.n_src_tokens,
        "n_tgt_tokens": batch.n_tgt_tokens,
        "parts": rows,
    }


def parts_markdown(found: dict[str, Any]) -> str:
    """The medians as a table; the first row is forward and backward as a whole."""
    rows = [{**row, **{key: statistics.median(row[key]) for key in ("ours_s", "plain_s")}} for row in found["parts"]]
    update_s = rows[0]["ours_s"] + sum(row["ours_s"] for row in rows if row["part"] in _OPTIMIZERS)

    def without(row: dict[str, Any]) -> float:
        return (update_s - row["ours_s"] + row["plain_s"]) / update_s  # type: ignore[no-any-return]

    table = markdown_table(
        ["part", "in place of", "ms", "ms of that", "times as fast", "the update without it takes"],
        (
            [
                row["part"],
                row["plain"],
                f"{row['ours_s'] * 1e3:,.1f}",
                f"{row['plain_s'] * 1e3:,.1f}",
                f"{row['plain_s'] / row['ours_s']:.2f}",
                f"{without(row):.2f} of the time",
            ]
            for row in rows
        ),
    )
    return "\n".join(
        [
            *table,
            "",
            f"- One micro-batch of {found['n_pairs']:,} pairs, {found['n_src_tokens']:,} source and "
            f"{found['n_tgt_tokens']:,} target tokens, of {found['data']}; precision {found['precision']}; forward and "
            "backward, over all layers, and the optimizer; medians, in turns.",
        ]
    )


def _micro_batch(config: Config, workload: Workload, device: torch.device) -> Batch:
    """The first of the first epoch."""
    pairs, train = workload.pairs, config.train
    limits = BatchLimits.of(train)
    plan = plan_epoch(pairs.src_lengths, pairs.tgt_lengths, limits, train.micro_batches_per_update, train.seed, 0)
    first = plan.micro_batch(0)
    collate = training_collator(config.model, is_compiled=False, on_gpu=device.type == "cuda")
    return collate(pairs.__getitems__(first.tolist())).to(device)


def _parts(config: Config, model: Transformer, batch: Batch, precision: str) -> list[Part]:
    smoothing = config.optim.label_smoothing
    step = _Step(model, batch, precision, smoothing)
    parts = [Part("hidden states without padding", "one padded rectangle a side", step, step.padded)]
    if precision != "no":
        exact = _Step(model, batch, "no", smoothing)
        parts.append(Part(f"precision {precision}", "float32", step, exact))
    return [
        *parts,
        *_attention_parts(config, batch, precision),
        *_dropout_parts(config, batch, precision),
        _loss_part(model, batch, precision, smoothing),
        *_optimizer_parts(config, model),
    ]


class _Step:
    """Forward and backward of a whole micro-batch."""

    def __init__(self, model: Transformer, batch: Batch, precision: str, smoothing: float) -> None:
        self.model, self.batch, self.precision, self.smoothing = model, batch, precision, smoothing
        pairs = pairs_of(batch.to(torch.device("cpu")))
        device = batch.src_ids.device
        src_ids, src_valid = pad_sources([pair.src for pair in pairs])
        self.src_ids, self.src_valid = src_ids.to(device), None if src_valid is None else src_valid.to(device)
        self.tgt_in, self.real = pad_targets([pair.tgt for pair in pairs]).to(device), _real(pairs).to(device)

    def __call__(self) -> None:
        with autocast(self.batch.src_ids.device, self.precision):
            loss = self.model(self.batch, self.smoothing)
        self._backward(loss)

    def padded(self) -> None:
        """The same pairs padded to their longest, the loss over real tokens only."""
        model = self.model
        with autocast(self.src_ids.device, self.precision):
            memory = model.encode(self.src_ids, self.src_valid)
            hidden = model.decode(self.tgt_in, memory, self.src_valid)[self.real]
            parts = model.logits_matrix(), model.output_bias, self.batch.tgt_out, self.smoothing
            loss = vocabulary_loss(model.logits_inputs(hidden), *parts)
        self._backward(loss)

    def _backward(self, loss: Tensor) -> None:
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]


def _real(pairs: list[TokenPair]) -> Tensor:
    """(B, T) bool, True at target tokens, EOS included."""
    lengths = torch.tensor([len(pair.tgt) + 1 for pair in pairs])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _attention_parts(config: Config, batch: Batch, precision: str) -> list[Part]:
    """In bfloat16 on a CPU; in float32 `attend` is torch's own kernel there."""
    dtype, device = DTYPES[precision], batch.src_ids.device
    if device.type != "cpu" or dtype != torch.bfloat16:
        return []
    d, model = config.model.d_model, config.model

    def draw(n_tokens: int, n_parts: int) -> Tensor:
        return torch.randn(n_tokens, n_parts * d, device=device, dtype=dtype, requires_grad=True)

    kinds = {
        "the encoder": (draw(batch.n_src_tokens, 3), None, batch.src_blocks, batch.src_blocks, False),
        "the decoder": (draw(batch.n_tgt_tokens, 3), None, batch.tgt_blocks, batch.tgt_blocks, True),
        "the target to the source": (
            draw(batch.n_tgt_tokens, 1),
            draw(batch.n_src_tokens, 2),
            batch.tgt_blocks,
            batch.src_blocks,
            False,
        ),
    }

    def run(attention: Callable[..., Tensor], *inputs: Any) -> Run:
        query, key_value, blocks, memory_blocks, causal = inputs
        upstream = torch.ones(len(query), d, device=device, dtype=dtype)
        leaves = [query] if key_value is None else [query, key_value]
        arguments = (query, key_value, blocks, memory_blocks, model.n_heads, model.attention_dropout, causal)

        def forward_and_backward() -> object:
            with autocast(device, precision):
                heads = attention(*arguments)
            return torch.autograd.grad(heads, leaves, upstream)

        return forward_and_backward

    n_layers = {"the encoder": len(model.encoder_layer_order())}
    return [
        Part(
            f"attention of {name}",
            "the fused kernel",
            run(attend, *inputs),
            run(kernel_attention, *inputs),
            n_layers.get(name, len(model.decoder_layer_order())),
        )
        for name, inputs in kinds.items()
    ]


def _dropout_parts(config: Config, batch: Batch, precision: str) -> list[Part]:
    """On a GPU ours is torch's own."""
    p, device = config.model.dropout, batch.src_ids.device
    if device.type != "cpu" or not p:
        return []
    # What blocks put out is in half precision under autocast.
    x = torch.randn(batch.n_tgt_tokens, config.model.d_model, dtype=DTYPES[precision], requires_grad=True)
    upstream = torch.ones_like(x)
    ours, theirs = Dropout(p).train(), nn.Dropout(p).train()
    # On both embeddings, twice a layer of the encoder, three times one of the decoder; all as long as the target.
    n = 2 + 2 * len(config.model.encoder_layer_order()) + 3 * len(config.model.decoder_layer_order())
    return [
        Part(
            "dropout",
            "torch's own",
            lambda: torch.autograd.grad(ours(x), x, upstream),
            lambda: torch.autograd.grad(theirs(x), x, upstream),
            n,
        )
    ]


def _loss_part(model: Transformer, batch: Batch, precision: str, smoothing: float) -> Part:
    hidden = torch.randn(batch.n_tgt_tokens, model.config.d_model, device=batch.src_ids.device, requires_grad=True)
    leaves = [hidden, model.projection, model.output_bias]

    def run(loss: Callable[..., Tensor]) -> None:
        with autocast(hidden.device, precision):
            value = loss(*leaves, batch.tgt_out, smoothing)
        torch.autograd.grad(value, leaves)

    return Part(
        "vocabulary loss in chunks",
        "cross-entropy of all logits",
        lambda: run(vocabulary_loss),
        lambda: run(plain_loss),
    )


def _optimizer_parts(config: Config, model: Transformer) -> list[Part]:
    if config.optim.name == "muon":
        return [_muon_part(config, model)]
    parameters = _with_gradients(nn.Parameter(p.detach().clone()) for p in model.parameters())
    fused, plain = torch.optim.Adam(parameters, lr=1e-9, fused=True), torch.optim.Adam(parameters, lr=1e-9)
    return [Part(_ADAM, "Adam as it is by default", fused.step, plain.step)]


def _muon_part(config: Config, model: Transformer) -> Part:
    model = copy.deepcopy(model)
    ours = MuonWithAdamW(model, dataclasses.replace(config.optim, weight_decay=0.0))
    _with_gradients(model.parameters())
    of_muon = {id(p) for p in ours.param_groups[0]["params"]}
    copies = {id(p): nn.Parameter(p.detach().clone()) for p in model.parameters()}
    matrices = _with_gradients(own for key, own in copies.items() if key in of_muon)
    others = _with_gradients(own for key, own in copies.items() if key not in of_muon)
    torchs = torch.optim.Muon(matrices, lr=1e-9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-9, fused=True)
    for group in ours.param_groups:
        group["lr"] = 1e-9

    def plain() -> None:
        torchs.step()  # type: ignore[no-untyped-call]
        adamw.step()

    return Part(_MUON, "torch's Muon and fused AdamW", ours.step, plain)


def _with_gradients(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    found = list(parameters)
    for parameter in found:
        parameter.grad = torch.full_like(parameter, 1e-3)
    return found


def _seconds(run: Run, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started_at_s = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_at_s
