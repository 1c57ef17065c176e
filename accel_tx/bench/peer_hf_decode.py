"""Baseline for decoding: `generate` of `transformers`, with our weights in a model of the same architecture.

It computes the same log-probabilities as ours (tested), so that the two searches are compared on equal work and their
translations by BLEU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from accel_tx.config import DecodeConfig, UserError
from accel_tx.data.tokenizer import EOS_ID, PAD_ID, TokenizerPair
from accel_tx.export.hf_weights import as_transformers
from accel_tx.model.transformer import Transformer


class HfTranslator:
    """Text to text by `generate`, sentences sorted by length."""

    def __init__(self, model: Transformer, tokenizers: TokenizerPair, decode: DecodeConfig, dtype: torch.dtype) -> None:
        """Raises: UserError for a search that `generate` does not have."""
        lacks = {
            "length_penalty": decode.length_penalty == "gnmt",
            "sampling": decode.sampling,
            "min_len_ratio": decode.min_len_ratio > 0,
            "unknown": decode.unknown == "guess",
        }
        for name, is_lacking in lacks.items():
            if is_lacking:
                raise UserError(
                    f"--peer hf: decode.{name} is {getattr(decode, name)}, which generate does not have; expected beam "
                    "search with length_penalty average or none, min_len_ratio 0 and unknown copy, mark or drop"
                )
        self.device = model.positions.device
        self.model = as_transformers(model).to(self.device, dtype).eval()
        self.tokenizers, self.decode = tokenizers, decode
        self.batch_size = 32

    @torch.inference_mode()
    def translate(self, lines: Sequence[str]) -> list[str]:
        """One translation a line, in the order asked."""
        sources = [[*ids, EOS_ID] for ids in self.tokenizers.src.encode(lines)]
        order = sorted(range(len(lines)), key=lambda i: -len(sources[i]))
        translations = [""] * len(lines)
        for start in range(0, len(lines), self.batch_size):
            batch = order[start : start + self.batch_size]
            for i, text in zip(batch, self._translate([sources[i] for i in batch]), strict=True):
                translations[i] = text
        return translations

    def _translate(self, sources: list[list[int]]) -> list[str]:
        width, decode = max(map(len, sources)), self.decode
        src_ids = torch.tensor([ids + [PAD_ID] * (width - len(ids)) for ids in sources]).to(self.device)
        longest = int(decode.max_len_ratio * (width - 1)) + decode.max_len_extra
        found = self.model.generate(
            input_ids=src_ids,
            attention_mask=(src_ids != PAD_ID).long(),
            num_beams=decode.beam_size,
            do_sample=False,
            length_penalty=decode.length_exponent if decode.length_penalty == "average" else 0.0,
            max_new_tokens=min(longest, self.model.config.max_position_embeddings - 1),
            no_repeat_ngram_size=decode.no_repeat_ngram,
            use_cache=True,
        )
        return self.tokenizers.tgt.decode([_until_eos(ids[1:]) for ids in found.tolist()])


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
