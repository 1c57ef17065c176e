"""What the processes of a run tell each other, so that they all go on or all end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from accel_tx.config import Config, RunError, UserError, what_processes_share
from accel_tx.data.batching import PLAN
from accel_tx.train import file_system, run_lock
from accel_tx.train.progress import say

_PRECISION = "precision in effect"


def broadcast(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The main process' values on every process."""
    return values if accelerator.num_processes == 1 else broadcast_object_list(values)


def end_everywhere_if(accelerator: Accelerator, failed: str | RunError | None) -> None:
    """End every process if any has failed; the main one raises the first failure, a text as UserError.

    The status of the others is that of the main one: 2, or 1 for a RunError.
    """
    failures = [found for found in gather_object([failed]) if found is not None]
    if not failures:
        return
    first = failures[0]
    if accelerator.is_main_process:
        raise first if isinstance(first, RunError) else UserError(first)
    sys.exit(1 if isinstance(first, RunError) else 2)


def check_same_everywhere(accelerator: Accelerator, config: Config, data_sha256: str) -> None:
    """End every process if one has other data, settings or precision than the main one: they would drift apart."""
    others = _unlike_the_main_one(data_sha256)
    end_everywhere_if(
        accelerator,
        f"process(es) {others} prepared other data than process 0; expected the same corpora, files and "
        "versions of this program on every machine"
        if others
        else None,
    )
    shared = {**what_processes_share(config), _PRECISION: accelerator.mixed_precision, "batch plan": PLAN}
    end_everywhere_if(accelerator, _first_difference(gather_object([shared])))


def _first_difference(found: list[dict[str, Any]]) -> str | None:
    for rank, own in enumerate(found):
        # A version of this program may lack a field that another has.
        for key in sorted(found[0].keys() | own.keys()):
            expected, value = found[0].get(key), own.get(key)
            if value != expected:
                advice = "expected the same config, options and version of this program on every machine"
                if key == _PRECISION:
                    advice = "give train.precision a value that every machine has"
                return f"process {rank} has {key} = {value}, process 0 has {expected}; {advice}"
    return None


def check_same_weights(accelerator: Accelerator, sha256: str | None) -> None:
    """End every process if one begins with other given weights than the main one, or with random ones (None)."""
    others = _unlike_the_main_one(sha256)
    end_everywhere_if(
        accelerator,
        f"--init_from: process(es) {others} read other weights than process 0; give a folder that no training replaces "
        "meanwhile, such as a checkpoint, the same on every machine"
        if others
        else None,
    )


def _unlike_the_main_one(sha256: str | None) -> str:
    """The processes with another hash than process 0, as text."""
    found = gather_object([sha256])
    return ", ".join(str(rank) for rank, other in enumerate(found) if other != found[0])


@contextlib.contextmanager
def failing_together(accelerator: Accelerator, run_dir: Path) -> Iterator[None]:
    """What the input or the disk forbids inside, on any process, ends every process; all of them come by here."""
    failed = None
    try:
        yield
    except UserError as error:
        failed = str(error)
    except OSError as error:
        failed = f"{run_dir}: cannot be written: {file_system.describe(error, run_dir, 0)}"
    end_everywhere_if(accelerator, failed)


@contextlib.contextmanager
def run_dir_locked(accelerator: Accelerator, run_dir: Path) -> Iterator[None]:
    """The main process holds the lock of the run folder; where it cannot, every process ends with status 2."""
    with contextlib.ExitStack() as stack:
        refusal, warning = None, None
        if accelerator.is_main_process:
            try:
                warning = stack.enter_context(run_lock.locked(run_dir))
            except UserError as error:
                refusal = str(error)
        end_everywhere_if(accelerator, refusal)
        if warning is not None:
            say(warning)
        yield
