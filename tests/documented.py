"""The commands that the documents show, and the parsers that take their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from unittest.mock import patch

from jsonargparse import ArgumentParser

from accel_tx import options
from accel_tx.cli import _COMMANDS as COMMANDS
from tests.conftest import REPOSITORY

# The first page, those beside what they tell of, and every page of docs/.
DOCUMENTS = (
    "README.md",
    *("configs/README.md", "launch/README.md", "accel_tx/bench/README.md"),
    *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")),
)
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:python|accelerate|torchrun|sbatch|bash|source|pip|pytest|tensorboard|touch) "
)
_SHELL = ("|", "&&", "<", ">")


@dataclass(frozen=True)
class Shown:
    """A command as a document shows it, in one line."""

    text: str
    place: str
    """`README.md:43`"""
    beside: str
    """The row of the table or the paragraph that it stands in; of a block the paragraphs around it."""

    @property
    def words(self) -> list[str]:
        """As the shell would split it, variables of the environment in front left out."""
        words = shlex.split(self.text)
        while re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        return words

    @property
    def own_words(self) -> list[str]:
        """From the name of this program's command to the next sign for the shell; empty where there is none."""
        words = self.words
        places = [i for i, word in enumerate(words) if word in ("accel_tx", "launch/slurm.sh")]
        if not places:
            return []
        found = words[places[0] + 1 :]
        found = found[: next((i for i, word in enumerate(found) if word in _SHELL), len(found))]
        return found if words[places[0]] == "accel_tx" else ["train", *found]

    @property
    def is_whole(self) -> bool:
        """Whether it can be typed as it stands."""
        is_named_only = len(self.own_words) == 1 or (not self.own_words and self.words[:2] == ["accelerate", "launch"])
        return "…" not in self.text and not is_named_only

    @property
    def needs_shell(self) -> bool:
        """Whether it has signs, or a program, that only a shell understands."""
        return self.words[:3] != ["python", "-m", "accel_tx"] or any(sign in self.text for sign in (*_SHELL, "$"))


def shown_commands() -> list[Shown]:
    """Each once, in the order of the documents: lines of `bash` blocks, and what between backticks is a command."""
    found = {}
    for name in DOCUMENTS:
        for shown in _commands_in(name):
            found.setdefault(shown.text, shown)
    return list(found.values())


def code_spans() -> list[tuple[str, str]]:
    """What stands between backticks outside of blocks, in one line each, and in which document."""
    spans = []
    for name in DOCUMENTS:
        prose = "\n\n".join(block for _, block in blocks_of(name) if not block.startswith("```"))
        spans += [(" ".join(span.split()), name) for span in re.findall(r"`([^`]+)`", prose)]
    return spans


def _commands_in(name: str) -> Iterator[Shown]:
    blocks = blocks_of(name)
    for i, (first, block) in enumerate(blocks):
        if block.startswith("```bash\n"):
            around = "\n".join(text for _, text in blocks[max(0, i - 1) : i + 2])
            number = first
            for line in block.replace("\\\n", "\\").splitlines():
                if not line.startswith("```"):
                    yield Shown(_one_line(line.partition("  #")[0].replace("\\", " ")), f"{name}:{number}", around)
                number += 1 + line.count("\\")
        elif not block.startswith("```"):
            for span in re.findall(r"`([^`]+)`", block):
                text = _one_line(span)
                # `evaluate --run_dir D` is short for the whole.
                if text.split()[0] in COMMANDS and ("--run_dir" in text or "--config" in text):
                    text = f"python -m accel_tx {text}"
                if _PROGRAM.match(text + " ") and len(text.split()) > 2 - text.startswith("touch"):
                    yield Shown(text, f"{name}:{first}", block)


def blocks_of(name: str) -> list[tuple[int, str]]:
    """Paragraphs, rows of tables and fenced blocks, with the number of their first line."""
    blocks: list[tuple[int, str]] = []
    is_fenced = is_open = False
    for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").splitlines(), start=1):
        is_fence = line.startswith("```")
        if is_open and (is_fenced or (line.strip() and not is_fence and not line.startswith(("| ", "- ")))):
            first, text = blocks[-1]
            blocks[-1] = (first, f"{text}\n{line}")
            is_open = not (is_fenced and is_fence)
        elif line.strip():
            blocks.append((number, line))
            is_open = True
        else:
            is_open = False
        is_fenced ^= is_fence
    return blocks


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _TakenError(Exception):
    """Ends a command as soon as its parser is there."""

    def __init__(self, parser: ArgumentParser, with_config: bool) -> None:
        self.parser, self.with_config = parser, with_config


@cache
def parser_of(command: str) -> tuple[ArgumentParser, bool]:
    """The parser that a command would read its options with, and whether the config's fields are among them."""

    def plain(parser: ArgumentParser, argv: list[str]) -> None:
        raise _TakenError(parser, with_config=False)

    def with_config(parser: ArgumentParser, argv: list[str]) -> None:
        raise _TakenError(parser, with_config=True)

    with patch.object(options, "parse", plain), patch.object(options, "parse_with_config", with_config):
        try:
            import_module(f"accel_tx.cli.{command.replace('-', '_')}").run([])
        except _TakenError as taken:
            return taken.parser, taken.with_config
    raise AssertionError(f"{command} parses nothing")


def option_names(command: str) -> set[str]:
    """Every option of a command."""
    return set(parser_of(command)[0]._option_string_actions)
