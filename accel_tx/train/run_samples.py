"""Sample translations of a run, read back from what TensorBoard shows of it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_TAG = "samples/text_summary"
_MARKS = r"\\`*_\[\]|"
"""What Markdown takes for more than itself."""


class Sample(NamedTuple):
    """A sentence of the validation set as a run translated it."""

    src: str
    reference: str
    translation: str


def as_markdown(samples: Sequence[tuple[str, str, str]]) -> str:
    """Samples (source, reference, translation) as the table that TensorBoard shows."""
    rows = ["| source | reference | translation |", "|---|---|---|"]
    rows += ["| " + " | ".join(map(as_cell, sample)) + " |" for sample in samples]
    return "\n".join(rows)


def as_cell(text: str) -> str:
    """Text in a cell of such a table, shown as it is: `<unk>` would be taken for HTML and vanish."""
    return re.sub(f"([{_MARKS}])", r"\\\1", html.escape(text, quote=False))


def _from_cell(cell: str) -> str:
    return html.unescape(re.sub(rf"\\([{_MARKS}])", r"\1", cell))


def from_markdown(table: str) -> list[Sample]:
    """Inverse of `as_markdown`; rows of another form are left out."""
    # A bar inside a cell has a backslash before it, so it never stands alone between spaces.
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.split("\n")[2:]]
    return [Sample(*map(_from_cell, row)) for row in rows if len(row) == len(Sample._fields)]


def samples_of(run_dir: Path) -> dict[int, list[Sample]]:
    """The samples of each validation that TensorBoard has, by update, without those of starts that were lost."""
    found: dict[int, list[Sample]] = {}
    for event in _events(run_dir / "tensorboard"):
        if event.HasField("session_log"):
            # A start that goes on from a checkpoint takes the place of what an earlier one did behind it.
            found = {update: samples for update, samples in found.items() if update < event.step}
        for value in event.summary.value if event.HasField("summary") else ():
            if value.tag == _TAG:
                found[event.step] = from_markdown(value.tensor.string_val[0].decode("utf-8", "replace"))
    return found


def _events(folder: Path) -> Iterator[Any]:
    """All events, in the order of the files' names, which begin with the time; up to the first that is damaged."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in sorted(folder.glob("events.out.tfevents.*")):
        yield from EventFileLoader(str(path)).Load()
