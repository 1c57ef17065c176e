"""What a process that a command starts owes to it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_the_command() -> None:
    """However the command ends, this process does not work on without it: its work may need minutes and gigabytes."""
    command = multiprocessing.parent_process()
    if command is None:
        return

    def watch() -> None:
        command.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
