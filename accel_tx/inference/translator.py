"""Text -> text: tokenize, search in batches of similar length, give the answers in the order asked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accel_tx.config import Config, DecodeConfig, UserError, build_config, load_yaml
from accel_tx.data.batching import BatchLimits, plan_epoch
from accel_tx.data.collator import pad_sources
from accel_tx.data.tokenizer import TokenizerPair
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.search import search
from accel_tx.model.transformer import Transformer


@dataclass(frozen=True)
class Translation:
    """A text and how probable the model holds it."""

    text: str
    log_prob: float
    """See `Hypothesis`."""
    score: float
    """See `Hypothesis`."""
    is_cut: bool = False
    """See `Hypothesis`."""


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
    def from_run_dir(
        cls, run_dir: Path, weights: str, device: torch.device, decode: Mapping[str, Any] | None = None
    ) -> Translator:
        """Load what a run saved; `weights` names the folder inside the run folder: `best`, `final`, or a checkpoint.

        `decode` are fields that replace those of the run's section `decode`.
        Raises: UserError if the run folder lacks something, or for fields that do not fit together.
        """
        config = load_run_config(run_dir)
        settings = dataclasses.replace(config.decode, **(decode or {}))
        tokenizers = TokenizerPair.load(run_dir / "tokenizer")
        model = Transformer(config.model, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size)
        load_weights(model, run_dir / weights / "model.safetensors")
        return cls(model.to(device).eval(), tokenizers, settings)

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The best translation of each line, in the order asked; a line without words gives an empty one."""
        return [found[0].text for found in self.n_best(lines)]

    def n_best(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[Translation]]:
        """The `decode.n_best` translations of each line, best first, in the order asked.

        A line without words gives one empty translation, with nothing to its score. `prefixes` are texts that the
        translations begin with, one a line; empty: with anything.
        Raises: UserError for a prefix that leaves no room within the model's positions.
        """
        encoded = self.tokenizers.src.encode([line.strip() for line in lines])
        longest = self.model.config.max_positions - 1
        self.n_cut += sum(len(ids) > longest for ids in encoded)
        sources = [np.array(ids[:longest], dtype=np.int32) for ids in encoded]
        forced = self._encode_prefixes(prefixes, len(lines))
        wanted = [i for i, line in enumerate(lines) if line.strip()]
        translations = [[Translation("", 0.0, 0.0)]] * len(lines)
        for batch in self._batches([sources[i] for i in wanted]):
            numbers = [wanted[j] for j in batch]
            found = self._search([sources[i] for i in numbers], [forced[i] for i in numbers])
            for i, translated in zip(numbers, self._to_text(found), strict=True):
                translations[i] = translated
        return translations

    def _to_text(self, found: list[list[Hypothesis]]) -> list[list[Translation]]:
        texts = iter(self.tokenizers.tgt.decode([one.ids for of_line in found for one in of_line]))
        return [[Translation(next(texts), one.log_prob, one.score, one.is_cut) for one in of_line] for of_line in found]

    def _encode_prefixes(self, prefixes: Sequence[str] | None, n_lines: int) -> list[list[int]]:
        if prefixes is None:
            return [[]] * n_lines
        if len(prefixes) != n_lines:
            raise ValueError(f"{len(prefixes)} prefixes for {n_lines} lines; expected as many")
        encoded = self.tokenizers.tgt.encode([prefix.strip() for prefix in prefixes])
        for number, ids in enumerate(encoded, start=1):
            if len(ids) >= self.model.config.max_positions:
                raise UserError(
                    f"the prefix of line {number} has {len(ids)} tokens; expected fewer than model.max_positions = "
                    f"{self.model.config.max_positions}"
                )
        return encoded

    def _batches(self, sources: list[np.ndarray]) -> Iterator[list[int]]:
        if not sources:
            return
        lengths = np.array([len(source) + 1 for source in sources], dtype=np.int64)
        max_tokens = max(self.decode.max_tokens // self.decode.n_places, int(lengths.max()))
        plan = plan_epoch(lengths, lengths, BatchLimits(max_tokens, None), micro_batches_per_update=1, seed=0, epoch=0)
        for i in range(plan.n_updates):
            yield plan.update(i)[0].tolist()

    def _search(self, sources: list[np.ndarray], prefixes: list[list[int]]) -> list[list[Hypothesis]]:
        src_ids, src_valid = pad_sources(sources)
        device, decode = self.model.positions.device, self.decode
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
        )


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
