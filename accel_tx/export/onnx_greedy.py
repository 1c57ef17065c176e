"""Greedy translation with an exported ONNX model; needs numpy, onnxruntime and tokenizers, nothing else.

    from onnx_greedy import OnnxTranslator

    print(OnnxTranslator("FOLDER").translate(["A sentence."]))

Shape letters: B batch, S source, P positions decoded so far, H heads, K head width, V target vocabulary.
encoder.onnx: src_ids (B, S) int64 with EOS, src_valid (B, S) bool -> cross_key_i, cross_value_i (B, H, S, K).
decoder.onnx: tokens (B, 1) int64, src_valid, self_key_i, self_value_i (B, H, P, K), cross_key_i, cross_value_i
    -> logits (B, V), new_self_key_i, new_self_value_i (B, H, P + 1, K). The first token is BOS, and P is 0 with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
_NEVER_PRODUCED = [PAD_ID, UNK_ID, BOS_ID]
_BATCH_SIZE = 64

Arrays = dict[str, np.ndarray[Any, Any]]


class OnnxTranslator:
    """Text to text with encoder.onnx, decoder.onnx and the two tokenizer files of a folder."""

    def __init__(self, folder: str | Path, n_threads: int = 0) -> None:
        """`n_threads`: 0 lets onnxruntime choose."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(Path(folder) / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        )
        self.source, self.target = (
            Tokenizer.from_file(str(Path(folder) / f"{side}_tokenizer.json")) for side in ("source", "target")
        )
        self.source.encode_special_tokens = True  # a text that contains "<eos>" does not end there
        # The model knows no position beyond, on either side.
        self.max_positions = int(self.decoder.get_modelmeta().custom_metadata_map["max_positions"])
        self.outputs = [output.name for output in self.decoder.get_outputs()]
        own = [i for i in self.decoder.get_inputs() if i.name.startswith("self_")]
        self.own = {i.name: (i.shape[1], i.shape[3]) for i in own}  # heads and their width

    def translate(self, lines: Sequence[str], limits: Sequence[int] | None = None) -> list[str]:
        """A translation of each line, of at most `limits[i]` tokens; by default 1.5 a source token and 20 more.

        No translation has more than `max_positions` tokens. Raises: ValueError for a line that has more, EOS included.
        """
        sources = [encoding.ids for encoding in self.source.encode_batch_fast(list(lines))]
        for i, source in enumerate(sources):
            if len(source) > self.max_positions:
                raise ValueError(f"lines[{i}] has {len(source) - 1} tokens; expected at most {self.max_positions - 1}")
        asked = [int(1.5 * (len(ids) - 1)) + 20 for ids in sources] if limits is None else limits
        limits = [min(limit, self.max_positions) for limit in asked]
        order = sorted(range(len(lines)), key=lambda i: len(sources[i]))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            ids = self.search([sources[i] for i in batch], [limits[i] for i in batch])
            found.update(zip(batch, ids, strict=True))
        return list(self.target.decode_batch([found[i] for i in range(len(lines))]))

    def search(self, sources: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
        """The most probable token at each position, until EOS or the limit; `sources` end with EOS."""
        width = max(map(len, sources))
        src_ids = np.array([[*ids, *[PAD_ID] * (width - len(ids))] for ids in sources], dtype=np.int64)
        lengths = np.array([len(ids) for ids in sources])
        fixed: Arrays = {"src_valid": np.arange(width) < lengths[:, None]}
        names = [output.name for output in self.encoder.get_outputs()]
        memory = self.encoder.run(names, {"src_ids": src_ids, **fixed})
        fixed.update(zip(names, memory, strict=True))
        none = {name: np.zeros((len(sources), heads, 0, size), np.float32) for name, (heads, size) in self.own.items()}
        return self._decode(fixed, none, np.array(limits))

    def _decode(self, fixed: Arrays, own: Arrays, limits: np.ndarray[Any, Any]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in limits]
        tokens = np.full(len(limits), BOS_ID)
        rows = np.arange(len(limits))
        for position in range(1, int(limits.max()) + 1):
            logits, *grown = self.decoder.run(self.outputs, {"tokens": tokens[:, None], **fixed, **own})
            own = dict(zip(self.own, grown, strict=True))
            logits[:, _NEVER_PRODUCED] = -np.inf
            tokens = logits.argmax(-1)
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                if token != EOS_ID:
                    found[row].append(token)
            goes_on = (tokens != EOS_ID) & (position < limits[rows])
            if not goes_on.any():
                break
            if not goes_on.all():
                tokens, rows = tokens[goes_on], rows[goes_on]
                fixed, own = ({name: x[goes_on] for name, x in arrays.items()} for arrays in (fixed, own))
        return found
