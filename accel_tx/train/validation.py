"""Validation: loss and scores of the whole validation set, every sentence once whatever the number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import Config
from accel_tx.data.collator import Batch
from accel_tx.data.dataset import PreparedData
from accel_tx.inference.evaluate import loss_sum
from accel_tx.inference.metrics import Scores, score_translations
from accel_tx.inference.translator import Translator
from accel_tx.model.transformer import Transformer
from accel_tx.train.stopping import StopAsked


@dataclass(frozen=True)
class Validation:
    """What validation found."""

    val_loss: float
    """Cross-entropy without label smoothing, nats a target token."""
    scores: Scores
    samples: list[tuple[str, str, str]]
    """Source, reference and translation of the first few sentences."""
    seconds: float

    def metric(self, name: str) -> float:
        """The metric that decides which weights are best; higher is better."""
        return -self.val_loss if name == "val_loss" else float(getattr(self.scores, name))

    def to_dict(self) -> dict[str, Any]:
        """The numbers of a line of metrics."""
        return {"val_loss": self.val_loss, **self.scores.to_dict(), "validation_s": self.seconds}


def validate(
    accelerator: Accelerator, model: Transformer, data: PreparedData, config: Config, poll: Callable[[], None]
) -> Validation | None:
    """Score `model`, unwrapped, with greedy translations; all processes call it, the main one gets the result.

    `poll` is called before every batch and every position of a translation.
    Raises: StopAsked on all processes where it does so on one: that one ends its share at once, and the others learn
    of it at the end of theirs, unless they were asked as well.
    """
    started_at_s = time.monotonic()
    model.eval()
    val_loss = _mean_loss(accelerator, model, data, config, poll)
    hypotheses = _translate_all(accelerator, model, data, config, poll)
    if not accelerator.is_main_process:
        return None
    n_shown = config.validation.n_samples
    shown = [column[:n_shown].to_pylist() for column in (data.valid_src, data.valid_tgt)]
    return Validation(
        val_loss=val_loss,
        scores=score_translations(hypotheses, data.valid_tgt.to_pylist()),
        samples=list(zip(*shown, hypotheses[:n_shown], strict=True)),
        seconds=time.monotonic() - started_at_s,
    )


def _mean_loss(
    accelerator: Accelerator, model: Transformer, data: PreparedData, config: Config, poll: Callable[[], None]
) -> float:
    max_tokens = max(config.decode.max_tokens, config.model.max_positions)
    rank, n_processes = accelerator.process_index, accelerator.num_processes

    def forward(batch: Batch, label_smoothing: float) -> torch.Tensor:
        poll()
        return model(batch, label_smoothing)  # type: ignore[no-any-return]

    totals = _from_all(lambda: [loss_sum(forward, data.valid, max_tokens, accelerator.device, rank, n_processes)])
    return float(sum(loss for loss, _ in totals) / sum(n_tokens for _, n_tokens in totals))


def _translate_all(
    accelerator: Accelerator, model: Transformer, data: PreparedData, config: Config, poll: Callable[[], None]
) -> list[str]:
    import pyarrow as pa  # late: training on prepared arrays does without

    mine = range(accelerator.process_index, len(data.valid_src), accelerator.num_processes)
    translator = Translator(model, data.tokenizers, config.decode, poll)

    def translate() -> list[tuple[int, str]]:
        # Only the forward of the prepared model runs in mixed precision by itself.
        with accelerator.autocast(), torch.inference_mode():
            sources = data.valid_src.take(pa.array(mine, pa.int64())).to_pylist()
            return list(zip(mine, translator.translate(sources), strict=True))

    by_index = dict(_from_all(translate))
    if len(by_index) != len(data.valid_src):
        raise RuntimeError(f"{len(by_index)} of {len(data.valid_src)} validation sentences came back")
    return [by_index[i] for i in range(len(data.valid_src))]


def _from_all(compute: Callable[[], list[Any]]) -> list[Any]:
    """What all processes computed; StopAsked on all if one was stopped over it."""
    try:
        own: list[Any] = compute()
    except StopAsked:
        own = [None]
    found: list[Any] = gather_object(own)
    if None in found:
        raise StopAsked
    return found
