"""How many pairs a second one core cleans and tokenizes: `pytest -m slow tests/data/test_throughput.py -s`.

With ACCEL_TX_THROUGHPUT_PAIRS=1000000 (5 minutes) it prints the figures of docs/measured.md. CPU time of
this process counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from accel_tx.config import CleanConfig, TokenizerConfig
from accel_tx.data.clean import HeldOut, Part, clean_pairs
from accel_tx.data.encode import encode, train_tokenizers
from accel_tx.data.mixture import weighted_segments
from tests.data.test_planted_faults import as_dataset, multi30k, needs_multi30k

_N_PAIRS = int(os.environ.get("ACCEL_TX_THROUGHPUT_PAIRS", "116000"))
# Half of what was promised for the machine of docs/measured.md, for slower machines and those that have other work.
_LEAST_SHARE = 0.5


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the process' own thread computes; `tokenizers` reads the variable at every call."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def write_captions(path: Path, n_pairs: int) -> datasets.Dataset:
    """Multi30k over and over, each time behind another name, so that no pair is a duplicate."""
    pairs = multi30k("train")
    schema = pa.schema({"src": pa.string(), "tgt": pa.string()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for n in range(-(-n_pairs // len(pairs))):
            name = "".join("Kalemurosi"[int(digit)] for digit in str(n)).capitalize()
            own = pairs[: n_pairs - n * len(pairs)]
            sides = [[f"{name}: {src}" for src, _ in own], [f"{name} : {tgt}" for _, tgt in own]]
            writer.write_batch(pa.record_batch(sides, schema=schema))
    return datasets.Dataset.from_file(str(path))


def pairs_per_s(what: str, work: Callable[[], object]) -> float:
    """Pairs a second of CPU time."""
    started_at_s = time.process_time()
    work()
    found = _N_PAIRS / (time.process_time() - started_at_s)
    print(f"\n{what}: {found:,.0f} pairs/s")
    return found


@needs_multi30k
@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("preset", "without", "promised"),
    [
        ("light", "", 40_000),
        ("standard", "mojibake,language", 40_000),
        ("standard", "language", 10_000),
        ("standard", "", 5_000),
    ],
)
def test_cleaning_keeps_up(preset: str, without: str, promised: int, tmp_path: Path) -> None:
    pairs = write_captions(tmp_path / "pairs.arrow", _N_PAIRS)
    part = Part("captions", pairs, CleanConfig(preset=preset, without=without), "en", "fr")
    held_out = [HeldOut.from_dataset("validation", as_dataset(multi30k("val")))]
    name = f"{preset} without {without or 'nothing'}"
    assert pairs_per_s(name, lambda: clean_pairs([part], held_out, 1)) >= _LEAST_SHARE * promised


@needs_multi30k
@pytest.mark.slow
@pytest.mark.alone
def test_bpe_keeps_up(tmp_path: Path) -> None:
    pairs = write_captions(tmp_path / "pairs.arrow", _N_PAIRS)
    config = TokenizerConfig(kind="bpe", vocab_size=10_000, max_sentences=50_000)
    tokenizers, _ = train_tokenizers(weighted_segments(["captions"], [pairs], [1.0]), config)
    found = pairs_per_s("bpe", lambda: encode(pairs, tokenizers, tmp_path / "ids.arrow", 256, 1))
    assert found >= _LEAST_SHARE * 15_000
