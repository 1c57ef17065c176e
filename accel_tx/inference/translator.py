"""Text -> text: tokenize, search in batches of similar length, give the answers in the order asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel_tx.config import Config, DecodeConfig, ModelConfig, UserError, build_config, load_yaml
from accel_tx.data.collator import TokenPair, pad_sources
from accel_tx.data.tokenizer import UNK_ID, TokenizerPair
from accel_tx.inference.ensemble import Ensemble, Model, device_of, max_positions_of
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.line_translator import Answer, LineTranslator, PartBatch
from accel_tx.inference.members import Member, check_apart, check_same_tokenizers
from accel_tx.inference.pair_scores import log_probs
from accel_tx.inference.parts import Translation, one_line
from accel_tx.inference.search import search
from accel_tx.inference.unknown import Answered, words_for
from accel_tx.inference.weights import MODEL, check_is_run, load_weights, weights_folder
from accel_tx.model.gpu import check_gpu_build, leave_out_planned_attention, uses_gpu
from accel_tx.model.transformer import Transformer


@dataclass(frozen=True)
class SavedModels:
    """What runs say of their models, without the weights."""

    tokenizers: TokenizerPair
    decode: DecodeConfig
    models: list[tuple[ModelConfig, Path]]
    """Of a run, or of the members of an ensemble: the model, and the folder with its weights."""

    @classmethod
    def read(
        cls, run_dir: Path, weights: str, decode: Mapping[str, Any] | None = None, others: Sequence[Member] = ()
    ) -> SavedModels:
        """See `Translator.from_run_dir`. Raises: UserError as there, but for what is wrong with the weights."""
        config = load_run_config(run_dir)
        settings = dataclasses.replace(config.decode, **(decode or {}))
        tokenizers = TokenizerPair.load(run_dir / "tokenizer")
        if others:
            check_apart(Member(run_dir, weights), others)
        for other in others:
            check_same_tokenizers(run_dir, tokenizers, other.run_dir, TokenizerPair.load(other.run_dir / "tokenizer"))
        models = [(config.model, weights_folder(run_dir, weights))]
        models += [(load_run_config(other.run_dir).model, other.folder()) for other in others]
        return cls(tokenizers, settings, models)

    @property
    def max_positions(self) -> int:
        """That every model has."""
        return min(config.max_positions for config, _ in self.models)


class Translator(LineTranslator):
    """A model, or an ensemble of them, with its tokenizers, ready to translate."""

    def __init__(
        self,
        model: Model,
        tokenizers: TokenizerPair,
        decode: DecodeConfig,
        poll: Callable[[], None] | None = None,
    ) -> None:
        """`poll` is called before every position of a search; it may raise, to abandon the translation."""
        super().__init__(tokenizers, decode, max_positions_of(model))
        self.model = model
        self.poll = poll

    @classmethod
    def from_run_dir(
        cls,
        run_dir: Path,
        weights: str,
        device: torch.device,
        decode: Mapping[str, Any] | None = None,
        others: Sequence[Member] = (),
    ) -> Translator:
        """Load what a run saved; `weights` names the folder inside the run folder: `best`, `final`, or a checkpoint.

        `decode` are fields that replace those of the run's section `decode`. With `others` it is an ensemble, which
        searches as the first run says.
        Raises: UserError if a run folder lacks something, its weights are damaged, fields do not fit together, or
        members of an ensemble do not.
        """
        leave_out_planned_attention()
        trained = SavedModels.read(run_dir, weights, decode, others)
        dtype = torch.bfloat16 if trained.decode.precision == "bfloat16" else torch.float32
        models = [_load_model(*its, trained.tokenizers).to(device, dtype) for its in trained.models]
        return cls(Ensemble(tuple(models)) if others else models[0], trained.tokenizers, trained.decode)

    @property
    def transformer(self) -> Transformer:
        """The model. Raises: ValueError where it is an ensemble."""
        if isinstance(self.model, Ensemble):
            raise ValueError(f"the model is an ensemble of {len(self.model.members)}; expected a single one")
        return self.model

    def answer_later(self, batch: PartBatch) -> Callable[[], Answer]:
        """The search itself, when the answer is asked for."""
        return lambda: self.answer(batch)

    def answer(self, batch: PartBatch) -> Answer:
        """The translations of each part, best first."""
        sources = [np.array(part.ids, dtype=np.int32) for part in batch.parts]
        found = self._search(sources, [prefix.ids for prefix in batch.prefixes], batch.allow_unknown)
        return self._to_text(batch, found)

    def log_probs_later(self, pairs: list[TokenPair]) -> Callable[[], list[float]]:
        """Likewise."""
        return lambda: self.log_probs(pairs)

    def log_probs(self, pairs: list[TokenPair]) -> list[float]:
        """Of each target given its source, see `pair_scores`."""
        return log_probs(self.model, pairs)

    def _to_text(self, batch: PartBatch, found: list[list[Hypothesis]]) -> Answer:
        flat = [one for of_part in found for one in of_part]
        texts = self.tokenizers.tgt.decode([one.ids for one in flat])
        copied: list[tuple[str, ...]] = [()] * len(flat)
        answered = [
            Answered(part.ids, part.unknown, one.ids, prefix.unknown)
            for part, prefix, of_part in zip(batch.parts, batch.prefixes, found, strict=True)
            for one in of_part
        ]
        rows = [i for i, one in enumerate(flat) if UNK_ID in one.ids]
        for i, words in zip(rows, words_for(self.decode.unknown, self.model, [answered[i] for i in rows]), strict=True):
            texts[i] = self.tokenizers.tgt.decode_with(flat[i].ids, words)
            if self.decode.unknown == "copy":
                copied[i] = tuple(word for word in words[len(answered[i].given) :] if word)
        translations = (
            Translation(one_line(text), one.log_prob, one.score, one.is_cut, of_source)
            for text, one, of_source in zip(texts, flat, copied, strict=True)
        )
        return [[next(translations) for _ in of_part] for of_part in found]

    def _search(
        self, sources: list[np.ndarray], prefixes: list[list[int]], allow_unknown: bool
    ) -> list[list[Hypothesis]]:
        src_ids, src_valid = pad_sources(sources)
        device, decode = device_of(self.model), self.decode
        return search(
            self.model,
            src_ids.to(device),
            None if src_valid is None else src_valid.to(device),
            decode,
            # A prefix that is longer than translations usually are still leaves room for more.
            [
                max(int(decode.max_len_ratio * len(source)), len(prefix)) + decode.max_len_extra
                for source, prefix in zip(sources, prefixes, strict=True)
            ],
            [int(decode.min_len_ratio * len(source)) for source in sources],
            prefixes,
            self.poll,
            allow_unknown,
        )


def _load_model(config: ModelConfig, folder: Path, tokenizers: TokenizerPair) -> Transformer:
    model = Transformer(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
    load_weights(model, folder / MODEL)
    model.fix_rounding()
    return model.eval()


# Runs of earlier versions have these in another section.
_MOVED_FIELDS = {
    f"data.{name}": f"clean.{name}"
    for name in ("max_src_words", "max_tgt_extra_chars", "min_src_chars", "min_tgt_chars")
}


def load_run_config(run_dir: Path) -> Config:
    """The resolved config that a run saved."""
    check_is_run(run_dir)
    values = load_yaml(run_dir / "config.yaml", _MOVED_FIELDS)
    try:
        values["optim"]["betas"] = tuple(values["optim"]["betas"])
        return build_config(values)
    except (KeyError, TypeError) as error:
        raise UserError(f"{run_dir}/config.yaml: is not what `train` writes (missing {error})") from None
    except UserError as error:
        raise UserError(f"{run_dir}/config.yaml: {error}") from None


def best_device(index: int | None = None) -> torch.device:
    """The GPU where there is one and ACCELERATE_USE_CPU does not ask for the CPU, else the CPU; of several `index`.

    Raises: UserError where the installed torch has no code for that GPU.
    """
    check_gpu_build(index)
    if not uses_gpu():
        return torch.device("cpu")
    return torch.device("cuda" if index is None else f"cuda:{index}")
