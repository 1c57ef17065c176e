"""A folder where the commands of the documents can run: small configs, and texts of the names that are shown."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from accel_tx.data.phrasebook import iter_pairs
from tests.conftest import REPOSITORY, TINY
from tests.marian_folders import write_marian
from tests.spm_models import write_model

# What differs from the configs of the repository.
_SMALL: dict[str, dict[str, Any]] = {
    "data": {"cache_dir": "cache", "phrasebook_train_pairs": 400, "phrasebook_valid_pairs": 23},
    "tokenizer": {"vocab_size": 400},
    "model": {"d_model": 16, "d_ff": 32, "n_heads": 2},
    "train": {
        "epochs": None,
        "max_updates": 12,
        "save_every_updates": 2,
        "keep_checkpoints": 9,
        "loader_workers": 0,
        **{name: TINY["train"][name] for name in ("max_tokens", "log_every_updates", "cpu_threads", "precision")},
    },
    "validation": {"every_updates": 6, "draw_attention": False},
}
# In place of COMET's program: it finds the files that it is called with.
_COMET = """\
#!/bin/sh
test -f "$2" && test -f "$4" && test -f "$6" && echo "system score: 0.5"
"""


def write_place(folder: Path) -> None:
    """Fill an empty folder; `home` in it is to be HOME. There are no trained runs yet."""
    for name in ("launch", "accel_tx"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "configs").mkdir()
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        config = _smaller(yaml.safe_load(path.read_text(encoding="utf-8")))
        (folder / "configs" / path.name).write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(folder / "configs" / "quickstart.yaml", folder / "C")
    comet = folder / "home" / "comet" / "bin" / "comet-score"
    comet.parent.mkdir(parents=True)
    comet.write_text(_COMET, encoding="utf-8")
    comet.chmod(0o755)
    _write_texts(folder)


def _smaller(config: dict[str, Any]) -> dict[str, Any]:
    small = {name: {**config.get(name, {}), **_SMALL.get(name, {})} for name in {**config, **_SMALL}}
    if "valid_size" in small["data"]:
        small["data"]["valid_size"] = small["data"]["phrasebook_valid_pairs"]
    if "warmup_updates" in small.get("optim", {}):
        small["optim"]["warmup_updates"] = 3
    if config["train"].get("max_tokens") == "auto":
        small["train"]["max_tokens"] = "auto"
    small["model"].setdefault("max_positions", 256)
    if "encoder_sharing" not in small["model"]:
        small["model"] |= {"n_encoder_layers": 1, "n_decoder_layers": 1}
    return small


def _write_texts(folder: Path) -> None:
    pairs = list(islice(iter_pairs("train", 400, seed=5), 400))
    en, fr = ([pair[side] for pair in pairs] for side in (0, 1))
    n_valid = _SMALL["data"]["phrasebook_valid_pairs"]
    texts = {
        "test.en": en[:6],
        "test.fr": fr[:6],
        "in.en": en[:3],
        "other.fr": fr[:n_valid],
        "early.fr": fr[1 : n_valid + 1],
    }
    for name in ("my_folder", "my_corpus", "path/to/multi30k", "path/to/the/folder"):
        (folder / name).mkdir(parents=True)
        texts |= {f"{name}/train.en": en, f"{name}/train.fr": fr}
    (folder / "data" / "multi30k_en_fr").mkdir(parents=True)
    for split, n in (("train", len(pairs)), ("val", n_valid), ("test_2016_flickr", n_valid)):
        prepared = f"data/multi30k_en_fr/{split}.lc.norm.tok"
        texts |= {f"{prepared}.en": en[:n], f"{prepared}.fr": fr[:n]}
    for name, lines in texts.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if importlib.util.find_spec("sentencepiece") is not None:
        write_model(folder / "path" / "to" / "joint.model", "unigram")
        if importlib.util.find_spec("transformers") is not None:
            write_marian(folder / "Helsinki-NLP" / "opus-mt-en-fr")
    with gzip.open(folder / "path" / "to" / "help.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{src}\t{tgt}\n" for src, tgt in [("en", "fr"), *pairs])
