"""The command line, with its exit status left in a file of its own: started by test_stopping.py.

A launcher does not pass the status of the training on. It is written last of all: what a signal cut off wrote none.
"""

import atexit
import os
import sys
from pathlib import Path

from accel_tx.cli import main


class Status:
    """Exit status of this process, should it end now."""

    value = 0


def write(pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        folder = Path(os.environ["STATUS_DIR"])
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder.with_name(f"{folder.name}.{pid}")
        beside.write_text(str(Status.value))
        beside.rename(folder / str(pid))


if __name__ == "__main__":
    atexit.register(write, os.getpid())
    try:
        main()
    except SystemExit as end:
        Status.value = end.code if isinstance(end.code, int) else 1
        raise
    except BaseException:
        Status.value = 1
        raise
    sys.exit(0)
