"""The parsers of the commands, which each makes in its `run`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from accel_tx import options as opt


class _Made(Exception):  # noqa: N818  # no error
    pass


@cache
def parser_of(command: str) -> ArgumentParser:
    """The one of a command of the command line."""
    made: list[ArgumentParser] = []

    def stop(parser: ArgumentParser, *_: Any, **__: Any) -> None:
        made.append(parser)
        raise _Made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opt, "parse", stop)
        patch.setattr(opt, "parse_with_config", stop)
        with pytest.raises(_Made):
            import_module(f"accel_tx.cli.{command.replace('-', '_')}").run([])
    return made[0]
