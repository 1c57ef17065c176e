"""What is exported: the weights of a run with everything that belongs to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accel_tx.config import Config
from accel_tx.data.tokenizer import TokenizerPair
from accel_tx.inference.translator import Translator, load_run_config
from accel_tx.inference.weights import load_scores, weights_folder, weights_name
from accel_tx.model.transformer import Transformer


@dataclass(frozen=True)
class Trained:
    """A model on the CPU in float32, with what its run says of it."""

    run_dir: Path
    weights: Path
    """Folder of the file of weights."""
    weights_name: str
    """What the run calls them, such as `best` or `checkpoints/update_00000123`."""
    config: Config
    model: Transformer
    tokenizers: TokenizerPair
    scores: dict[str, Any]
    """What stands beside the weights: at least the update; the validation scores where these weights were validated."""

    @classmethod
    def load(cls, run_dir: Path, weights: str) -> Trained:
        """Raises: UserError if the run folder lacks something."""
        config = load_run_config(run_dir)
        translator = Translator.from_run_dir(run_dir, weights, torch.device("cpu"), {"precision": "float32"})
        folder = weights_folder(run_dir, weights)
        name = weights_name(run_dir, weights)
        return cls(run_dir, folder, name, config, translator.transformer, translator.tokenizers, load_scores(folder))

    def greedy(self) -> Translator:
        """Our own search as other programs can do it too: one hypothesis, and no unknown word in it."""
        plain = self.config.decode.for_validation(beam_size=1)
        greedy = dataclasses.replace(plain, unknown="guess", no_repeat_ngram=0, min_len_ratio=0.0, precision="float32")
        return Translator(self.model, self.tokenizers, greedy)
