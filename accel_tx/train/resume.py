"""Going on: the checkpoint that a start takes, the same one on every process, and putting it into the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from accelerate import Accelerator

from accel_tx.config import RunError, UserError
from accel_tx.train import checkpoint, checkpoint_removal
from accel_tx.train.agreement import broadcast, end_everywhere_if
from accel_tx.train.checkpoint_content import Parts, find_misfit, put_back, read_content
from accel_tx.train.checkpoint_identity import check_belongs
from accel_tx.train.progress import say
from accel_tx.train.shortage import BEFORE_UPDATES, is_shortage, quoted
from accel_tx.train.state import TrainState


def find_checkpoint(accelerator: Accelerator, run_dir: Path, parts: Parts, fresh: TrainState) -> Path | None:
    """The newest checkpoint that can be loaded into this run, None for a new one; says which are passed over.

    Ends every process if there are only damaged ones, one of another run, or one that cannot be read here and now.
    """
    folder, refusal = _choose(run_dir, parts, fresh) if accelerator.is_main_process else (None, None)
    end_everywhere_if(accelerator, refusal)
    chosen: Path | None = broadcast(accelerator, [folder])[0]
    return chosen


def _choose(run_dir: Path, parts: Parts, fresh: TrainState) -> tuple[Path | None, str | RunError | None]:
    """The checkpoint to go on from, if there is one; and why this run must not start, if so."""
    try:
        checkpoint_removal.tidy(run_dir)
        folder, passed_over = newest_that_fits(run_dir, parts, fresh)
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, _unusable(error, run_dir)
    except (RuntimeError, MemoryError) as error:
        return None, _shortage(error)
    for line in passed_over:
        say(line)
    if folder is None and passed_over:
        return None, f"{run_dir}: no checkpoint in it is valid; give another --run_dir to start anew"
    return folder, None


def newest_that_fits(run_dir: Path, parts: Parts, fresh: TrainState) -> tuple[Path | None, list[str]]:
    """`checkpoint.newest_valid` among those that can be loaded into this run; changes nothing.

    Raises: UserError for one of another run.
    """
    return checkpoint.newest_valid(run_dir, partial(_misfit, parts=parts, fresh=fresh))


def _misfit(folder: Path, saved: TrainState, parts: Parts, fresh: TrainState) -> str | None:
    check_belongs(saved, fresh, folder)
    try:
        return find_misfit(read_content(folder, saved), parts, saved)
    except ValueError as error:
        return str(error)


def load_checkpoint(accelerator: Accelerator, folder: Path, parts: Parts) -> TrainState:
    """Put a checkpoint that fits into the run, on every process; the state that it was saved with."""
    failed: str | RunError | None = None
    try:
        saved = checkpoint.load_state(folder)
        put_back(read_content(folder, saved), parts)
    except ValueError as error:
        failed = f"{folder}: {error}"
    except OSError as error:
        failed = _unusable(error, folder)
    except (RuntimeError, MemoryError) as error:
        failed = _shortage(error)
    end_everywhere_if(accelerator, failed)
    return saved


def _unusable(error: OSError, folder: Path) -> str:
    return f"{error.filename or folder}: cannot be used ({error.strerror}); nothing is lost: mend that and start again"


def _shortage(error: BaseException) -> RunError:
    """Raises: the error itself where it is none."""
    if not is_shortage(error):
        raise error
    return RunError(BEFORE_UPDATES.format(quoted(error)))
