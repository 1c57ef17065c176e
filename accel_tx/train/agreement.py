"""What the processes of a run tell each other, so that they all go on or all end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from accel_tx.config import UserError
from accel_tx.train import checkpoint, run_lock
from accel_tx.train.progress import say


def broadcast(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The main process' values on every process."""
    return values if accelerator.num_processes == 1 else broadcast_object_list(values)


def end_everywhere_if(accelerator: Accelerator, message: str | None) -> None:
    """End every process with status 2 if any has a message; the main one raises the first of them as UserError."""
    messages = [text for text in gather_object([message]) if text is not None]
    if not messages:
        return
    if accelerator.is_main_process:
        raise UserError(messages[0])
    sys.exit(2)


def check_same_everywhere(accelerator: Accelerator, data_sha256: str) -> None:
    """End every process if one has prepared other data than the main one: their plans of the updates would differ."""
    found = gather_object([data_sha256])
    others = [str(rank) for rank, sha256 in enumerate(found) if sha256 != found[0]]
    end_everywhere_if(
        accelerator,
        f"process(es) {', '.join(others)} prepared other data than process 0; expected the same corpora, files and "
        "versions of this program on every machine"
        if others
        else None,
    )


@contextlib.contextmanager
def failing_together(accelerator: Accelerator, run_dir: Path) -> Iterator[None]:
    """What the input or the disk forbids inside, on any process, ends every process; all of them come by here."""
    failed = None
    try:
        yield
    except UserError as error:
        failed = str(error)
    except OSError as error:
        failed = f"{run_dir}: cannot be written: {checkpoint.describe(error, run_dir, 0)}"
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
