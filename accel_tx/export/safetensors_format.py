"""Format `safetensors`: weights, tokenizers and resolved config in one folder, for this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from accel_tx import __version__
from accel_tx.config import dump_yaml
from accel_tx.data.sentencepiece_vocabulary import RECORD
from accel_tx.export.source import Trained
from accel_tx.inference.weights import IMPORT_RECORD, MODEL, SCORES, sha256_of

LIBRARY = "accel_tx"
PACKAGES: tuple[str, ...] = ()
QUANTIZATIONS: tuple[str, ...] = ("float32",)


def write(trained: Trained, folder: Path, quantization: str) -> None:
    """Fill the folder: a run folder with the weights at its top, and nothing of the training."""
    save_file(trained.model.state_dict(), folder / MODEL)
    trained.tokenizers.save(folder / "tokenizer")
    for record in (f"tokenizer/{RECORD}", IMPORT_RECORD):
        if (trained.run_dir / record).is_file():
            shutil.copyfile(trained.run_dir / record, folder / record)
    (folder / "config.yaml").write_text(dump_yaml(trained.config), encoding="utf-8")
    scores = {**trained.scores, "sha256": sha256_of(folder / MODEL)}
    (folder / SCORES).write_text(json.dumps(scores, indent=1, ensure_ascii=False), encoding="utf-8")


def how_to_load(trained: Trained, folder: str) -> str:
    """For the model card."""
    return f"""\
```python
from pathlib import Path
from accel_tx.inference.translator import Translator, best_device
print(Translator.from_run_dir(Path("{folder}"), "best", best_device()).translate(["A sentence."]))
```

or `python -m accel_tx translate --run_dir {folder} < in.txt > out.txt`; `evaluate`, `score`, `attention` and `demo`
take the folder as `--run_dir` as well, and `train` as `--init_from`."""


def load(folder: Path) -> Runtime:
    """With the same greedy search as the run's own weights."""
    return Runtime(folder)


class Runtime:
    """Our own search with what the folder holds."""

    def __init__(self, folder: Path) -> None:
        self.name = f"accel_tx {__version__}"
        self.translator = Trained.load(folder, "best").greedy()

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """Our search has the limits from its settings."""
        return self.translator.translate(lines)
