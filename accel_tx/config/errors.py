"""The two ways in which a command ends with one line."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is the one line that the user sees: what, where, what was expected, what to do."""


class RunError(RuntimeError):
    """A run that cannot go on, through no fault of its input. The message is the one line that the user sees."""
