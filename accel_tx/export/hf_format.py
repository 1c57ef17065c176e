"""Format `transformers`: a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer

from accel_tx.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SPECIAL_TOKENS, UNK_ID
from accel_tx.export.hf_weights import as_transformers
from accel_tx.export.source import Trained
from accel_tx.export.text import stand_alone

LIBRARY = "transformers"
PACKAGES: tuple[str, ...] = ("transformers",)
QUANTIZATIONS: tuple[str, ...] = ("float32",)
TARGET_FOLDER = "target_tokenizer"
_BATCH_SIZE = 32


def write(trained: Trained, folder: Path, quantization: str) -> None:
    """Fill the folder; the source tokenizer is the one at its top."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = as_transformers(trained.model)
    model.generation_config = _generation_config(trained)
    model.save_pretrained(folder)
    tokenizers = trained.tokenizers
    _fast_tokenizer(stand_alone(tokenizers.src), trained).save_pretrained(folder)
    if tokenizers.tgt is not tokenizers.src:
        _fast_tokenizer(stand_alone(tokenizers.tgt), trained).save_pretrained(folder / TARGET_FOLDER)


def how_to_load(trained: Trained, folder: str) -> str:
    """For the model card."""
    is_joint = trained.tokenizers.tgt is trained.tokenizers.src
    target = "source" if is_joint else f'AutoTokenizer.from_pretrained("{folder}/{TARGET_FOLDER}")'
    decode = trained.config.decode
    remarks = [f"`generation_config.json` has the run's beam of {decode.beam_size} and what it never writes."]
    if decode.length_penalty == "gnmt":
        remarks.append("The run's length penalty `gnmt` is unknown to `generate`, which uses none here.")
    if not is_joint:
        remarks.append(f"The two vocabularies differ: texts are decoded with the tokenizer in `{TARGET_FOLDER}`.")
    return f"""\
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model = AutoModelForSeq2SeqLM.from_pretrained("{folder}")
source = AutoTokenizer.from_pretrained("{folder}")
target = {target}
found = model.generate(**source(["A sentence."], return_tensors="pt", padding=True))
print(target.batch_decode(found, skip_special_tokens=True))
```

{" ".join(remarks)}"""


def load(folder: Path) -> Runtime:
    """As `from_pretrained` does."""
    return Runtime(folder)


def _generation_config(trained: Trained) -> Any:
    from transformers import GenerationConfig

    decode = trained.config.decode
    return GenerationConfig(
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=BOS_ID,
        # What our search never writes.
        suppress_tokens=[PAD_ID, UNK_ID, BOS_ID],
        max_length=trained.config.model.max_positions,
        num_beams=decode.beam_size,
        length_penalty=decode.length_exponent if decode.length_penalty == "average" else 0.0,
    )


def _fast_tokenizer(fast: FastTokenizer, trained: Trained) -> Any:
    from transformers import PreTrainedTokenizerFast

    pad, unk, bos, eos = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token=pad,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        model_max_length=trained.config.model.max_positions,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


class Runtime:
    """`generate` with what the folder holds, in batches of similar length."""

    def __init__(self, folder: Path, never: Sequence[int] | None = None) -> None:
        """`never`: ids that are not to be written, where the folder itself does not say it."""
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, __version__
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.name = f"transformers {__version__} ({type(self.model).__name__})"
        self.source = self.target = AutoTokenizer.from_pretrained(folder)
        if (folder / TARGET_FOLDER).is_dir():
            self.target = AutoTokenizer.from_pretrained(folder / TARGET_FOLDER)
        # Greedily, whatever the folder says.
        plain = {"forced_eos_token_id": None, "no_repeat_ngram_size": 0, "min_length": 0, "repetition_penalty": 1.0}
        self._options: dict[str, Any] = {} if never is None else {"suppress_tokens": list(never), **plain}

    @torch.inference_mode()
    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """Greedily, at most so many tokens each."""
        order = sorted(range(len(lines)), key=lambda i: -limits[i])
        translations = [""] * len(lines)
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            inputs = self.source([lines[i] for i in batch], return_tensors="pt", padding=True)
            found = self.model.generate(
                **inputs,
                **self._options,
                num_beams=1,
                do_sample=False,
                max_length=None,
                max_new_tokens=max(limits[i] for i in batch),
            )
            # The first token is the one that starts the decoder.
            kept = [ids[1 : 1 + limits[i]] for i, ids in zip(batch, found.tolist(), strict=True)]
            for i, text in zip(batch, self.target.batch_decode(kept, skip_special_tokens=True), strict=True):
                translations[i] = text
        return translations
