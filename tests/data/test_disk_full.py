"""A disk that fills up while the cache is written: one line, nothing left behind; the next start with room works."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accel_tx.config import Config
from accel_tx.data.disk import is_disk_full
from tests.conftest import as_options, run_cli

CONFIG = "configs/quickstart.yaml"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function: a folder on a disk of its own of the given size; a second call changes the size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: str) -> Path:
        how = ["-o", f"remount,size={size}"] if place.is_mount() else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        done = subprocess.run(["mount", *how, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # what hangs on it must not keep it


# Of the 6,000 pairs: full while the text is written, while cleaning's columns are, and while the token ids are.
@pytest.mark.parametrize(
    ("size", "n_procs"),
    [("1100k", 2), *(pytest.param(size, 1, marks=pytest.mark.slow) for size in ("100k", "700k", "1100k"))],
)
def test_a_full_disk_is_one_line_and_the_next_start_with_room_works(
    tiny_config: Callable[..., Config], small_disk: Callable[[str], Path], size: str, n_procs: int
) -> None:
    place = small_disk(size)
    cache = place / "cache"
    config = tiny_config(
        data={"cache_dir": str(cache), "phrasebook_train_pairs": 6_000, "n_procs": n_procs},
        clean={"preset": "standard", "without": "mojibake,language"},
    )
    done = run_cli("data", "--config", CONFIG, *as_options(config))
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"accel_tx: data.cache_dir {cache}: its disk, or your quota there, is full (0 MiB free")
    assert not cache.exists() or list(cache.iterdir()) == []
    small_disk("50m")
    assert run_cli("data", "--config", CONFIG, *as_options(config)).returncode == 0


def test_a_full_disk_is_told_apart_however_it_is_wrapped() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(full)
    assert is_disk_full(Exception("No space left on device (os error 28)"))
    wrapped = ValueError("while writing")
    wrapped.__cause__ = full
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
