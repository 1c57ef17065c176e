"""Text -> text: tokenize, search in batches of similar length, give the answers in the order asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel_tx.config import Config, DecodeConfig, UserError, build_config, load_yaml
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.collator import pad_sources
from accel_tx.data.tokenizer import TokenizerPair
from accel_tx.inference.search import greedy_search
from accel_tx.model.transformer import Transformer


class Translator:
    """A model with its tokenizers, ready to translate."""

    def __init__(
        self,
        model: Transformer,
        tokenizers: TokenizerPair,
        decode: DecodeConfig,
        poll: Callable[[], None] | None = None,
    ) -> None:
        """`poll` is called before every position of a search; it may raise, to abandon the translation."""
        self.model = model
        self.tokenizers = tokenizers
        self.decode = decode
        self.poll = poll
        self.n_cut = 0
        """Sources cut so far because they were longer than the model's positions."""

    @classmethod
    def from_run_dir(cls, run_dir: Path, weights: str, device: torch.device) -> Translator:
        """Load what a run saved; `weights` names the folder inside the run folder: `best`, `final`, or a checkpoint.

        Raises: UserError if the run folder lacks something.
        """
        config = load_run_config(run_dir)
        tokenizers = TokenizerPair.load(run_dir / "tokenizer")
        model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        load_weights(model, run_dir / weights / "model.safetensors")
        return cls(model.to(device).eval(), tokenizers, config.decode)

    def translate(self, lines: Sequence[str]) -> list[str]:
        """One translation a line, in the order asked; a line without words gives an empty one."""
        encoded = self.tokenizers.src.encode([line.strip() for line in lines])
        longest = self.model.config.max_positions - 1
        self.n_cut += sum(len(ids) > longest for ids in encoded)
        sources = [np.array(ids[:longest], dtype=np.int32) for ids in encoded]
        wanted = [i for i, line in enumerate(lines) if line.strip()]
        translations = [""] * len(lines)
        for batch in self._batches([sources[i] for i in wanted]):
            hypotheses = self._search([sources[wanted[j]] for j in batch])
            for j, text in zip(batch, self.tokenizers.tgt.decode(hypotheses), strict=True):
                translations[wanted[j]] = text
        return translations

    def _batches(self, sources: list[np.ndarray]) -> Iterator[list[int]]:
        if not sources:
            return
        lengths = np.array([len(source) + 1 for source in sources], dtype=np.int64)
        limits = BatchLimits(max_tokens=max(self.decode.max_tokens, int(lengths.max())), batch_size=None)
        plan = plan_epoch(lengths, lengths, limits, micro_batches_per_update=1, seed=0, epoch=0)
        for i in range(plan.n_updates):
            yield plan.update(i)[0].tolist()

    def _search(self, sources: list[np.ndarray]) -> list[list[int]]:
        src_ids, src_valid = pad_sources(sources)
        device = self.model.positions.device
        max_len = [int(self.decode.max_len_ratio * len(s)) + self.decode.max_len_extra for s in sources]
        on_device = None if src_valid is None else src_valid.to(device)
        return greedy_search(self.model, src_ids.to(device), on_device, max_len, self.poll)


# Runs of earlier versions have these in another section.
_MOVED_FIELDS = {
    f"data.{name}": f"clean.{name}"
    for name in ("max_src_words", "max_tgt_extra_chars", "min_src_chars", "min_tgt_chars")
}


def load_run_config(run_dir: Path) -> Config:
    """The resolved config that a run saved."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder; expected a run folder made by `train`")
    values = load_yaml(run_dir / "config.yaml", _MOVED_FIELDS)
    try:
        values["optim"]["betas"] = tuple(values["optim"]["betas"])
        return build_config(values)
    except (KeyError, TypeError) as error:
        raise UserError(f"{run_dir}/config.yaml: is not what `train` writes (missing {error})") from None


def load_scores(folder: Path) -> dict[str, Any]:
    """What a run wrote beside weights: the update, the hash of the data, the scores where it was validated."""
    for name in ("scores.json", "trainer_state.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    raise UserError(f"{folder}: holds no weights of a run; has it been validated yet?")


def load_weights(model: Transformer, path: Path) -> None:
    """Fill the model from a safetensors file. Raises: UserError if it is missing, damaged or of another model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file; has this run saved weights yet?")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: cannot be loaded into this model: {' '.join(str(error).split())[:300]}") from None


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
