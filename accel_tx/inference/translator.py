"""Text -> text: tokenize, search in batches of similar length, give the answers in the order asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from accel_tx.config import Config, DecodeConfig, ModelConfig, UserError, build_config, load_yaml
from accel_tx.data.collator import pad_sources
from accel_tx.data.tokenizer import UNK_ID, TokenizerPair
from accel_tx.inference.batches import similar_lengths
from accel_tx.inference.ensemble import Ensemble, Model, device_of, max_positions_of
from accel_tx.inference.hypotheses import Hypothesis
from accel_tx.inference.members import Member, check_apart, check_same_tokenizers
from accel_tx.inference.parts import Part, TranslatedLine, Translation, joined, one_line, parts_of
from accel_tx.inference.search import search
from accel_tx.inference.unknown import Answered, words_for
from accel_tx.inference.weights import MODEL, check_is_run, load_weights, weights_folder
from accel_tx.model.gpu import check_gpu_build, leave_out_planned_attention, uses_gpu
from accel_tx.model.transformer import Transformer


class LongPrefixError(UserError):
    """A prefix leaves no room within the model's positions."""

    def __init__(self, index: int, n_tokens: int, max_positions: int) -> None:
        self.index = index
        """Of the line among those given."""
        self.size = f"{n_tokens} tokens; expected fewer than model.max_positions = {max_positions}"
        super().__init__(f"the prefix of line {index + 1} has {self.size}")


class Prefix(NamedTuple):
    """What a translation begins with."""

    ids: list[int]
    unknown: list[str]
    """Words for the UNKs among them."""


_NO_PREFIX = Prefix([], [])


class Translator:
    """A model, or an ensemble of them, with its tokenizers, ready to translate."""

    def __init__(
        self,
        model: Model,
        tokenizers: TokenizerPair,
        decode: DecodeConfig,
        poll: Callable[[], None] | None = None,
    ) -> None:
        """`poll` is called before every position of a search; it may raise, to abandon the translation."""
        self.model = model
        self.tokenizers = tokenizers
        self.decode = decode
        self.poll = poll
        self.n_split = 0
        """Lines so far that were longer than the model's positions and so were translated in parts."""
        self.n_cut = 0
        """Lines so far whose best translation reached its length limit."""

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
        config = load_run_config(run_dir)
        settings = dataclasses.replace(config.decode, **(decode or {}))
        tokenizers = TokenizerPair.load(run_dir / "tokenizer")
        if others:
            check_apart(Member(run_dir, weights), others)
        for other in others:
            check_same_tokenizers(run_dir, tokenizers, other.run_dir, TokenizerPair.load(other.run_dir / "tokenizer"))
        found = [(config.model, weights_folder(run_dir, weights))]
        found += [(load_run_config(other.run_dir).model, other.folder()) for other in others]
        dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
        models = [_load_model(its_config, folder, tokenizers).to(device, dtype) for its_config, folder in found]
        return cls(Ensemble(tuple(models)) if others else models[0], tokenizers, settings)

    @property
    def transformer(self) -> Transformer:
        """The model. Raises: ValueError where it is an ensemble."""
        if isinstance(self.model, Ensemble):
            raise ValueError(f"the model is an ensemble of {len(self.model.members)}; expected a single one")
        return self.model

    @property
    def max_positions(self) -> int:
        """Of the model; of an ensemble the fewest."""
        return max_positions_of(self.model)

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The best translation of each line, in the order asked; a line without words gives an empty one."""
        return [found[0].text for found in self.n_best(lines)]

    def n_best(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[list[Translation]]:
        """The `decode.n_best` translations of each line, see `translate_lines`."""
        return [line.translations for line in self.translate_lines(lines, prefixes)]

    def translate_lines(self, lines: Sequence[str], prefixes: Sequence[str] | None = None) -> list[TranslatedLine]:
        """The `decode.n_best` translations of each line, best first, in the order asked.

        A line without words gives one empty translation, with nothing to its score. A line that is longer than the
        model's positions is translated in parts. No translation holds a character that ends a line anywhere.
        `prefixes` are texts that the translations begin with, one a line; empty: with anything.
        Raises: LongPrefixError.
        """
        parts = parts_of(lines, self.tokenizers.src, self.max_positions)
        self.n_split += sum(len(of_line) > 1 for of_line in parts)
        forced = self._encode_prefixes(prefixes, len(lines))
        flat = [part for of_line in parts for part in of_line]
        begins = [
            prefix if i == 0 else _NO_PREFIX
            for prefix, of_line in zip(forced, parts, strict=True)
            for i in range(len(of_line))
        ]
        copies = self.decode.unknown == "copy"
        is_copied = [copies and part.is_all_unknown and not b.ids for part, b in zip(flat, begins, strict=True)]
        found = iter(self._translate_parts(flat, begins, is_copied))
        copied = iter(is_copied)
        translated = []
        for of_line in parts:
            choices = [next(found) for _ in of_line]
            translated.append(
                TranslatedLine(
                    joined(choices, self.decode.n_best, ranked=not self.decode.sampling),
                    n_parts=len(of_line),
                    unknown=[word for part in of_line for _, word in part.unknown],
                    n_searched=sum(not next(copied) for _ in of_line),
                )
            )
        self.n_cut += sum(of_line.translations[0].is_cut for of_line in translated)
        return translated

    def _translate_parts(
        self, parts: list[Part], prefixes: list[Prefix], is_copied: list[bool]
    ) -> list[list[Translation]]:
        translations = [
            [Translation(one_line(part.text), 0.0, 0.0, copied=tuple(word for _, word in part.unknown))]
            for part in parts
        ]
        # Apart, because only those with unknown words may have such in their translations.
        for has_unknown in (False, True):
            wanted = [i for i, part in enumerate(parts) if not is_copied[i] and bool(part.unknown) == has_unknown]
            allow_unknown = has_unknown and self.decode.unknown != "guess"
            sources = [np.array(parts[i].ids, dtype=np.int32) for i in wanted]
            for batch in self._batches(sources, [prefixes[i] for i in wanted]):
                numbers = [wanted[j] for j in batch]
                found = self._search([sources[j] for j in batch], [prefixes[i].ids for i in numbers], allow_unknown)
                texts = self._to_text([parts[i] for i in numbers], [prefixes[i] for i in numbers], found)
                for i, translated in zip(numbers, texts, strict=True):
                    translations[i] = translated
        return translations

    def _to_text(
        self, parts: list[Part], prefixes: list[Prefix], found: list[list[Hypothesis]]
    ) -> list[list[Translation]]:
        flat = [one for of_part in found for one in of_part]
        texts = self.tokenizers.tgt.decode([one.ids for one in flat])
        copied: list[tuple[str, ...]] = [()] * len(flat)
        answered = [
            Answered(part.ids, part.unknown, one.ids, prefix.unknown)
            for part, prefix, of_part in zip(parts, prefixes, found, strict=True)
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

    def _encode_prefixes(self, prefixes: Sequence[str] | None, n_lines: int) -> list[Prefix]:
        if prefixes is None:
            return [_NO_PREFIX] * n_lines
        if len(prefixes) != n_lines:
            raise ValueError(f"{len(prefixes)} prefixes for {n_lines} lines; expected as many")
        texts = [prefix.strip() for prefix in prefixes]
        encoded = self.tokenizers.tgt.encode(texts)
        for index, ids in enumerate(encoded):
            if len(ids) >= self.max_positions:
                raise LongPrefixError(index, len(ids), self.max_positions)
        unknown = (self.tokenizers.tgt.unknown_words(text) for text in texts)
        return [Prefix(ids, [word for _, word in words]) for ids, words in zip(encoded, unknown, strict=True)]

    def _batches(self, sources: list[np.ndarray], prefixes: list[Prefix]) -> Iterator[list[int]]:
        if not sources:
            return
        lengths = np.array([len(source) + 1 for source in sources], dtype=np.int64)
        # A translation takes at least the positions of its prefix, and the cache is as long as its longest row.
        least = np.array([len(prefix.ids) + 1 for prefix in prefixes], dtype=np.int64)
        for batch in similar_lengths(lengths, least, self.decode.max_tokens // self.decode.n_places):
            yield batch.tolist()

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


def best_device() -> torch.device:
    """The GPU where there is one and ACCELERATE_USE_CPU does not ask for the CPU, else the CPU.

    Raises: UserError where the installed torch has no code for that GPU.
    """
    check_gpu_build()
    return torch.device("cuda" if uses_gpu() else "cpu")
