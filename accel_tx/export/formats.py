"""The formats by name, and what each of them offers. Starts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from accel_tx.config import UserError
from accel_tx.config.extras import lack_of

if TYPE_CHECKING:
    from accel_tx.export.source import Trained

_MODULES = {
    "safetensors": "safetensors_format",
    "transformers": "hf_format",
    "ctranslate2": "ct2_format",
    "onnx": "onnx_format",
}
FORMATS = tuple(_MODULES)


class Runtime(Protocol):
    """Translates with nothing but what an exported folder holds, by the program that the format is made for."""

    @property
    def name(self) -> str:
        """The program with its version, and the form in which it computes."""

    def translate(self, lines: Sequence[str], limits: Sequence[int]) -> list[str]:
        """The greedy translation of each line, cut after `limits[i]` tokens, without PAD, UNK and BOS."""


class Format(Protocol):
    """A module that writes a format."""

    PACKAGES: tuple[str, ...]
    """What has to be installed beside this package."""
    QUANTIZATIONS: tuple[str, ...]
    """What the weights may be, the default first."""
    LIBRARY: str
    """What the Hub calls the library that loads the folder."""

    def write(self, trained: Trained, folder: Path, quantization: str) -> None:
        """Fill the empty folder."""

    def load(self, folder: Path) -> Runtime:
        """What was written, as a user loads it."""

    def how_to_load(self, trained: Trained, folder: str) -> str:
        """For the model card: a code block in Markdown, and what to know about it."""


def find_format(name: str, quantization: str | None, trained_for: str = "none") -> tuple[Format, str]:
    """The format, and what its weights will be: unless told, what the model was trained for, or the format's default.

    Raises: UserError where it cannot be written here, or not so.
    """
    module = f"accel_tx.export.{_MODULES[name]}"
    found = cast(Format, import_module(module))
    if lack := lack_of(found.PACKAGES):
        raise UserError(f"--format {name} needs {lack}")
    if quantization is not None and quantization not in found.QUANTIZATIONS:
        raise UserError(
            f"--quantization {quantization}: format {name} has {', '.join(found.QUANTIZATIONS)}; "
            "expected one of them, or another --format"
        )
    default = trained_for if trained_for in found.QUANTIZATIONS else found.QUANTIZATIONS[0]
    return found, quantization or default
