"""Validation: loss and scores of the whole validation set, every sentence once whatever the number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from accel_tx.config import LOWER_IS_BETTER, Config, UserError
from accel_tx.data.batch import Batch
from accel_tx.data.dataset import PreparedData, ValidSet
from accel_tx.inference.attention_map import AttentionMap, attention_map
from accel_tx.inference.evaluate import loss_sum
from accel_tx.inference.line_metrics import line_metric
from accel_tx.inference.metrics import Scores, score_translations
from accel_tx.inference.translator import Translator
from accel_tx.model.transformer import Transformer
from accel_tx.train.lines import finite_or_none
from accel_tx.train.stopping import StopAsked

_MAIN = ""  # among the names of validation sets


@dataclass(frozen=True)
class SetScores:
    """What validation found on one set."""

    val_loss: float
    """Cross-entropy without label smoothing, nats a target token."""
    scores: Scores

    def to_dict(self) -> dict[str, Any]:
        """The numbers, and the signatures."""
        return {"val_loss": finite_or_none(self.val_loss), **self.scores.to_dict()}


@dataclass(frozen=True)
class Validation:
    """What validation found."""

    val_loss: float
    """Cross-entropy without label smoothing, nats a target token."""
    scores: Scores
    samples: list[tuple[str, str, str]]
    """Source, reference and translation of the first few sentences."""
    seconds: float
    attention: AttentionMap | None = None
    """Of the first of them; None where `validation.draw_attention` is off."""
    more: dict[str, SetScores] = field(default_factory=dict)
    """Of the further validation sets, by name."""

    def metric(self, name: str) -> float:
        """The metric that decides which weights are best; higher is better, so losses and error rates are negative."""
        value = self.to_dict()[name]
        score = math.nan if value is None else float(value)
        return -score if name.partition("/")[0] in LOWER_IS_BETTER else score

    def to_dict(self) -> dict[str, Any]:
        """The numbers of a line of metrics; those of further sets, which have the same signatures, as `bleu/NAME`."""
        values = {"val_loss": finite_or_none(self.val_loss), **self.scores.to_dict()}
        for name, found in self.more.items():
            numbers = {key: value for key, value in found.to_dict().items() if not isinstance(value, str)}
            values |= {f"{key}/{name}": value for key, value in numbers.items()}
        return {**values, "validation_s": self.seconds}


def check_tokenizer(config: Config) -> None:
    """Raise UserError if `validation.tokenize` cannot be used on this machine; on the main process, which scores."""
    try:
        line_metric("bleu", [[""]], config.validation.tokenize)
    except UserError as error:
        raise UserError(f"validation.{error}") from None


def validate(
    accelerator: Accelerator, model: Transformer, data: PreparedData, config: Config, poll: Callable[[], None]
) -> Validation | None:
    """Score `model`, unwrapped, on translations with `validation.beam_size`.

    All processes call it; the main one gets the result.

    `poll` is called before every batch and every position of a translation.
    Raises: StopAsked on all processes where it does so on one: that one ends its share at once, and the others learn
    of it at the end of theirs, unless they were asked as well.
    """
    started_at_s = time.monotonic()
    model.eval()
    sets = {_MAIN: ValidSet(data.valid, data.valid_src, data.valid_tgt), **data.valid_sets}
    decode = config.decode.for_validation(config.validation.beam_size)
    translator = Translator(model, data.tokenizers, decode, poll)
    with model.rounding_fixed():
        losses = {name: _mean_loss(accelerator, model, own, config, poll) for name, own in sets.items()}
        hypotheses = {name: _translate_all(accelerator, translator, own) for name, own in sets.items()}
    if not accelerator.is_main_process:
        return None
    found = {}
    for name, own in sets.items():
        scores = score_translations(hypotheses[name], own.tgt.to_pylist(), config.validation.tokenize)
        found[name] = SetScores(losses[name], scores)
    n_shown = config.validation.n_samples
    shown = [column[:n_shown].to_pylist() for column in (data.valid_src, data.valid_tgt)]
    samples = list(zip(*shown, hypotheses[_MAIN][:n_shown], strict=True))
    attention = None
    if config.validation.draw_attention and samples:
        src, _, hypothesis = samples[0]
        attention = attention_map(model, data.tokenizers, src, hypothesis)
    main = found.pop(_MAIN)
    return Validation(
        val_loss=main.val_loss,
        scores=main.scores,
        samples=samples,
        attention=attention,
        seconds=time.monotonic() - started_at_s,
        more=found,
    )


def _mean_loss(
    accelerator: Accelerator, model: Transformer, data: ValidSet, config: Config, poll: Callable[[], None]
) -> float:
    max_tokens = max(config.decode.max_tokens, config.model.max_positions)
    rank, n_processes = accelerator.process_index, accelerator.num_processes

    def forward(batch: Batch, label_smoothing: float) -> torch.Tensor:
        poll()
        return model(batch, label_smoothing)  # type: ignore[no-any-return]

    totals = _from_all(lambda: [loss_sum(forward, data.pairs, max_tokens, accelerator.device, rank, n_processes)])
    return float(sum(loss for loss, _ in totals) / sum(n_tokens for _, n_tokens in totals))


def _translate_all(accelerator: Accelerator, translator: Translator, data: ValidSet) -> list[str]:
    first, step = accelerator.process_index, accelerator.num_processes

    def translate() -> list[tuple[int, str]]:
        # Only the forward of the prepared model runs in mixed precision by itself.
        with accelerator.autocast(), torch.inference_mode():
            translations = translator.translate(data.src.to_pylist()[first::step])
            return list(zip(range(first, len(data.src), step), translations, strict=True))

    by_index = dict(_from_all(translate))
    if len(by_index) != len(data.src):
        raise RuntimeError(f"{len(by_index)} of {len(data.src)} validation sentences came back")
    return [by_index[i] for i in range(len(data.src))]


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
