"""Memory of `data` hardly grows with the corpus."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel_tx.config import DataConfig

_MOST_BYTES_PER_PAIR = 25
_SIZES = (200_000, 1_000_000)
_POLL_S = 0.01
# The vocabulary is learned from as many pairs of both.
_CONFIG = """
data: {valid_size: 1000}
clean: {preset: light}
tokenizer: {kind: bpe, vocab_size: 4000, max_sentences: 100000}
train: {max_updates: 10, max_tokens: 4096}
"""


def write_corpus(path: Path, n_pairs: int) -> None:
    """Pairs of five and six words, hardly any of them alike."""
    rng = random.Random(5)
    words = ["".join(rng.choice("bcdfglmnprstv") + rng.choice("aeiou") for _ in range(3)) for _ in range(8_000)]
    config = DataConfig()
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{config.src_lang}\t{config.tgt_lang}\n")
        for _ in range(n_pairs):
            pair = rng.choices(words, k=5)
            file.write(f"{' '.join(pair)}\t{' '.join(reversed(pair))} fin\n")


def processes_below(pid: int) -> list[int]:
    """The process and all that come from it; children are listed by the thread that started them."""
    found = [pid]
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
            found += [p for child in children for p in processes_below(int(child))]
    except OSError:
        pass
    return found


def anonymous_bytes(pid: int) -> int:
    """Memory that no file stands behind; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def peak_bytes(command: list[str]) -> int:
    """Most anonymous memory of a command and its children together."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous_bytes, processes_below(process.pid))))
            time.sleep(_POLL_S)
    assert process.returncode == 0
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc")
def test_memory_grows_by_a_few_bytes_a_pair(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(_CONFIG)
    peaks = []
    for n_pairs in _SIZES:
        corpus = tmp_path / f"{n_pairs}.tsv"
        write_corpus(corpus, n_pairs)
        command = [sys.executable, "-m", "accel_tx", "data", "--config", str(config), "--data.corpus", str(corpus)]
        peaks.append(peak_bytes([*command, "--data.cache_dir", str(tmp_path / "cache")]))
    growth = (peaks[1] - peaks[0]) / (_SIZES[1] - _SIZES[0])
    assert growth <= _MOST_BYTES_PER_PAIR, f"{growth:.0f} bytes a pair: {[peak >> 20 for peak in peaks]} MiB"
