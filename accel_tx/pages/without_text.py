"""What a served page tells on the terminal of calls that fail: never what a visitor sent."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

import gradio.queueing
import gradio.route_utils
import gradio.routes


class WithoutText(logging.Filter):
    """In the place of `traceback` in Gradio's modules, and a filter of logs: what visitors sent is not shown.

    Gradio prints the traceback of every call that it cannot read, and the text with it.
    """

    @staticmethod
    def print_exc() -> None:
        """One line on the error that is being handled: its kind and its place, and not its message."""
        sys.stderr.write(f"accel_tx: {_told_without_text(sys.exc_info()[1])}\n")

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the traceback out of a record."""
        if record.exc_info:
            record.msg, record.args = _told_without_text(record.exc_info[1]), ()
            record.exc_info = record.exc_text = None
        return True

    @classmethod
    def install(cls) -> None:
        """For all that is served from now on."""
        for module in (gradio.queueing, gradio.route_utils, gradio.routes):
            module.traceback = cls
        for name in ("uvicorn.error", "asyncio"):
            logger = logging.getLogger(name)
            if not any(isinstance(one, cls) for one in logger.filters):
                logger.addFilter(cls())


def _told_without_text(error: BaseException | None) -> str:
    place = traceback.extract_tb(None if error is None else error.__traceback__)[-1:]
    where = "".join(f" in {Path(frame.filename).name}, line {frame.lineno}" for frame in place)
    return f"a call could not be answered ({type(error).__name__}{where})"
