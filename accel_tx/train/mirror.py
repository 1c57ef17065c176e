"""`train.mirror_dir`: the run folder once more, on a disk that outlives this machine, kept up to date beside training.

The mirror is a run folder itself: it can be listed, translated with, and trained on. Where it stands behind the run
folder or before it, the one that is further along is gone on from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from accel_tx.config import Config, UserError
from accel_tx.train import auto_tokens, checkpoint, copied_run, file_system, run_lock, scaling
from accel_tx.train.progress import say
from accel_tx.train.run_dir import Resume, check_run_dir, check_writable

_POLL_S = 0.2
_RETRIES_TOLD = 5


class Mirror:
    """Copies in a thread of its own, so that a slow disk holds nothing up; on the main process only.

    A copy that fails is reported in one line by `say`, from that thread; the next checkpoint tries again. A folder that
    was replaced before it was copied is tried again at once; a line says so if that goes on.
    """

    def __init__(self, run_dir: Path, mirror_dir: Path, say: Callable[[str], object]) -> None:
        self.run_dir, self.mirror_dir, self.say = run_dir, mirror_dir, say
        self.failed: str | None = None
        """Why the mirror is behind the run folder."""
        self.slowest_s = 0.0
        """What the slowest copy took."""
        self._lock = threading.Lock()
        self._wanted = False
        self._n_retries = 0
        self._done = threading.Event()
        self._done.set()

    def update(self) -> None:
        """Bring the mirror up to what is in the run folder now; while it is copied, the newest request counts."""
        with self._lock:
            self._wanted = True
            if not self._done.is_set():
                return
            # No daemon: an interpreter that ends first lets the copy finish.
            thread = threading.Thread(target=self._run, name="mirror", daemon=False)
            try:
                self._done.clear()
                thread.start()
            except RuntimeError as error:  # no memory, or no thread
                self._done.set()
                self._fail(error)

    def finish(self) -> str | None:
        """Copy what is there now and wait for it; None, or one line that says why the mirror is behind."""
        self.update()
        self.join()
        return self.failed

    def join(self) -> None:
        """Wait for the copy under way, whatever comes of it."""
        self._done.wait()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._done.set()
                    return
                self._wanted = False
            self._copy()

    def _copy(self) -> None:
        began_at_s = time.monotonic()
        try:
            copied_run.copy_run(self.run_dir, self.mirror_dir)
            self.failed, self._n_retries = None, 0
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_at_s)
        except copied_run.Changing as changing:
            self._try_again(str(changing))
        except Exception as error:  # raised in a thread nobody would see it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        failed = f"{self.mirror_dir}: behind the run folder: {file_system.describe(error, self.mirror_dir, 0)}"
        if self.failed is None:
            self.say(f"{failed}; the training goes on, and the next checkpoint is tried again")
        self.failed = failed

    def _try_again(self, name: str) -> None:
        self._n_retries += 1
        if self._n_retries == _RETRIES_TOLD:
            self.say(
                f"{self.mirror_dir}: {name} was replaced or removed {_RETRIES_TOLD} times in a row before it was "
                "copied; it is tried again; if that goes on, save and validate less often, or mirror to a faster disk"
            )
        with self._lock:
            self._wanted = True
        time.sleep(_POLL_S)


def check_mirror(config: Config, run_dir: Path, mirror_dir: Path, resume: Resume) -> None:
    """Raise UserError if the mirror cannot be written, or holds something else than a mirror of this run."""
    run, mirror = file_system.resolved(run_dir), file_system.resolved(mirror_dir)
    if run.is_relative_to(mirror) or mirror.is_relative_to(run):
        raise UserError(f"train.mirror_dir is {mirror_dir}, --run_dir {run_dir}; expected two folders side by side")
    if not mirror.parent.is_dir():
        # Made here it would be a folder on this machine, where a disk is not mounted.
        raise UserError(f"train.mirror_dir is {mirror_dir}, but there is no folder {mirror.parent}; is it mounted?")
    check_run_dir(as_recorded(config, mirror_dir), mirror_dir, "never" if resume == "never" else "auto")
    check_writable(mirror_dir, "train.mirror_dir")


def update_ahead(run_dir: Path, mirror_dir: Path) -> int | None:
    """The update that the mirror has a whole checkpoint of and the run folder none so late; None if there is none."""
    # Hashed: of two that are as far, the mirror heals a run folder that was damaged without a change of size.
    own = copied_run.newest_update(run_dir, hash_files=True)
    if copied_run.newest_update(mirror_dir) <= own:
        return None
    # Only what is whole will come.
    ahead = copied_run.newest_update(mirror_dir, hash_files=True)
    return ahead if ahead > own else None


def bring_back(config: Config, run_dir: Path, mirror_dir: Path, is_main: bool) -> None:
    """Where the mirror is further along, as on a new machine, copy it into the run folder; other processes wait.

    Raises: UserError if the run folder holds something else, cannot be written, or is being written.
    """
    ahead = update_ahead(run_dir, mirror_dir)
    if ahead is None:
        return
    if not is_main:
        while checkpoint.find_fault(checkpoint.checkpoint_dir(run_dir, ahead)) is not None:
            time.sleep(_POLL_S)
        return
    check_run_dir(as_recorded(config, run_dir), run_dir, "auto")
    say(f"{run_dir} is behind {mirror_dir}, which is at update {ahead:,}: bringing it back")
    with run_lock.locked(run_dir):
        try:
            copied_run.copy_run(mirror_dir, run_dir, brings_back=True)
        except (OSError, copied_run.Changing) as error:
            told = file_system.describe(error, run_dir, 0)
            raise UserError(f"{run_dir}: the run in {mirror_dir} cannot be brought back: {told}") from None


def as_recorded(config: Config, folder: Path) -> Config:
    """With what a run in this folder found out at its beginning.

    Raises: UserError if its updates are of another size.
    """
    return auto_tokens.from_run(scaling.settle(config, folder, is_main=False), folder, is_main=False)
