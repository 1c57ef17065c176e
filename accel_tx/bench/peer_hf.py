"""Baseline: HuggingFace's Seq2SeqTrainer with a MarianMT of the same size and random weights, grouped by length.

Everything is as `transformers` has it by default (optimizer, attention, loss with label smoothing); sizes, layer
sharing, dropout, precision and data are the config's. An update has as many pairs as ours has on average.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

import numpy as np
import torch

from accel_tx.bench.turns import Turns, work_of
from accel_tx.bench.workload import Workload, sampled_batches_of
from accel_tx.config import Config, ModelConfig, UserError
from accel_tx.config.extras import lack_of
from accel_tx.data.batching import BatchLimits, BatchPlan
from accel_tx.data.dealing import Indices
from accel_tx.data.token_pairs import TokenPairs
from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from accel_tx.export.hf_weights import structure_of
from accel_tx.model.flops import Work
from accel_tx.model.transformer import count_parameters

_IGNORED = -100


def check_installed() -> None:
    """Raise UserError where `transformers` is missing or too old."""
    if lack := lack_of(["transformers"]):
        raise UserError(f"--peer hf needs {lack}")


def train_hf(config: Config, workload: Workload, turns: Turns, precision: str) -> None:
    """Train until the bench is over."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

    torch.manual_seed(config.train.seed)
    model = build_marian(config.model, workload.src_vocab_size, workload.tgt_vocab_size)
    n_slots, batch_size = _batch_size(config, workload.pairs)
    batches: list[Indices] = []

    class Trainer(Seq2SeqTrainer):  # type: ignore[misc]
        """Its own batches grouped by length, visited in the order that samples the epoch."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            grouped = np.array(list(super()._get_train_sampler(train_dataset)), dtype=np.int64)
            updates = np.split(grouped, range(n_slots * batch_size, len(grouped), n_slots * batch_size))
            # The last one is short and would shift the cut of those behind it.
            updates = updates[:-1] or updates
            batches[:] = sampled_batches_of(updates, workload.pairs)
            return np.concatenate(batches).tolist()

    class Conversation(TrainerCallback):  # type: ignore[misc]
        """Trains when it is its turn."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not turns.goes_on():
                # Asked to stop, the trainer would first do another update.
                raise _OverError

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.clock.stop("optimizer")
            pairs = batches[(state.global_step - 1) % len(batches)]
            turns.done([pairs], works.take(n_slots))

    works = _Works()
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=n_slots,
            max_steps=10_000_000,
            learning_rate=1e-5,
            label_smoothing_factor=config.optim.label_smoothing,
            train_sampling_strategy="group_by_length",
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            use_cpu=turns.device.type == "cpu",
            seed=config.train.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_Examples(workload.pairs),
            data_collator=works.collate,
            callbacks=[Conversation()],
        )
        _watch(trainer, model, turns)
        turns.ready(count_parameters(model))
        with contextlib.suppress(_OverError):
            trainer.train()


class _OverError(Exception):
    """The bench is over."""


def build_marian(config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int) -> Any:
    """A MarianMTModel of the config's sizes; weights are shared between layers and embeddings as the config says.

    Marian's attention has biases and its norm stands behind each block; its final norms are left out.
    """
    from transformers import MarianConfig, MarianMTModel

    model = MarianMTModel(
        MarianConfig(
            vocab_size=src_vocab_size,
            decoder_vocab_size=tgt_vocab_size,
            **structure_of(config),
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            share_encoder_decoder_embeddings=config.tie_embeddings == "all",
            tie_word_embeddings=config.tie_embeddings != "none",
            use_cache=False,
        )
    )
    for stack, order in (
        (model.model.encoder, config.encoder_layer_order()),
        (model.model.decoder, config.decoder_layer_order()),
    ):
        for executed, unique in enumerate(order):
            stack.layers[executed] = stack.layers[order.index(unique)]
    return model


class _Examples:
    """The pairs as the Trainer wants them."""

    def __init__(self, pairs: TokenPairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        src, tgt = self.pairs[index]
        return {"input_ids": [*src.tolist(), EOS_ID], "labels": [*tgt.tolist(), EOS_ID]}


class _Works:
    """The collator, as `DataCollatorForSeq2Seq` pads; it remembers what is to be computed."""

    def __init__(self) -> None:
        self._works: list[Work] = []

    def collate(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Padded ids with attention mask, labels, and the labels moved right as the decoder's input."""
        src = _pad([example["input_ids"] for example in examples], PAD_ID)
        labels = _pad([example["labels"] for example in examples], _IGNORED)
        tgt_in = labels.roll(1, dims=1)
        tgt_in[:, 0] = BOS_ID
        tgt_in[tgt_in == _IGNORED] = PAD_ID
        self._works.append(work_of(src, labels))
        return {
            "input_ids": src,
            "attention_mask": (src != PAD_ID).long(),
            "labels": labels,
            "decoder_input_ids": tgt_in,
        }

    def take(self, n: int) -> list[Work]:
        """Of the next n batches; the trainer's loader fetches one ahead, and that one stays."""
        taken, self._works = self._works[:n], self._works[n:]
        return taken


def _pad(sequences: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([sequence + [value] * (width - len(sequence)) for sequence in sequences])


def _batch_size(config: Config, pairs: TokenPairs) -> tuple[int, int]:
    """Micro-batches of an update, and the pairs of each that give as many pairs an update as ours has on average."""
    train = config.train
    limits = BatchLimits.of(train)
    plan = BatchPlan(pairs.src_lengths, pairs.tgt_lengths, limits, train.micro_batches_per_update, train.seed)
    n_micro_batches = plan.updates_per_epoch * train.micro_batches_per_update
    return train.micro_batches_per_update, max(1, round(len(pairs) / n_micro_batches))


def _watch(trainer: Any, model: torch.nn.Module, turns: Turns) -> None:
    """Clock loading, forward and backward; what follows the last backward pass is the optimizer's part."""
    clock, accelerator = turns.clock, trainer.accelerator
    plain_backward, plain_batches = accelerator.backward, trainer.get_batch_samples

    def backward(*args: Any, **kwargs: Any) -> None:
        with clock.phase("backward"):
            plain_backward(*args, **kwargs)
        clock.start("optimizer")

    def batches(*args: Any, **kwargs: Any) -> Any:
        with clock.phase("loading"):
            return plain_batches(*args, **kwargs)

    accelerator.backward, trainer.get_batch_samples = backward, batches
    plain_loss = trainer.compute_loss

    def loss(*args: Any, **kwargs: Any) -> Any:
        with clock.phase("forward"):
            return plain_loss(*args, **kwargs)

    trainer.compute_loss = loss
