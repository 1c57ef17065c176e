"""The promises about the shape of the project: imports point left, few things at the top, a quick first answer."""

from __future__ import annotations

import ast
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_tx.config import Config
from accel_tx.data.dataset import prepare_data
from tests.conftest import as_options

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "accel_tx"
# A part may import those with a smaller number, and itself.
PLACES = {
    "accel_tx": 0,
    "config": 1,
    "child_processes": 1,
    "signal_handlers": 1,
    "data": 2,
    "model": 3,
    "inference": 4,
    "train": 5,
    "options": 6,  # how the command line reads a config
    "pages": 6,
    "export": 6,
    "pretrained": 7,
    "bench": 7,
    "cli": 8,
    "__main__": 9,
}
TOP_LEVEL = {"accel_tx", "configs", "docs", "launch", "tests"} | {
    *("requirements.txt", "README.md", "pyproject.toml", "LICENSE")
}


def module_name(path: Path) -> str:
    """The dotted name, with `.__init__` kept: it tells how many parents a relative import climbs."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = sorted(module_name(path) for path in PACKAGE.rglob("*.py"))


def imported_names(module: str, source: str) -> set[str]:
    """Dotted names that the source imports anywhere, inside functions too; relative ones made absolute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, node.module] if node.module else parents)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_to_the_right(module: str, source: str) -> list[str]:
    own = "accel_tx" if module == "accel_tx.__init__" else module.split(".")[1]
    wrong = []
    for name in sorted(imported_names(module, source)):
        package, part, *_ = [*name.split("."), ""]
        part = part if part in PLACES else "accel_tx"  # `from accel_tx import __version__`
        if package == "accel_tx" and part != own and PLACES[part] >= PLACES[own]:
            wrong.append(f"{module} imports {name}")
    return wrong


def source_of(module: str) -> str:
    return (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_left(module: str) -> None:
    assert imports_to_the_right(module, source_of(module)) == []


@pytest.mark.parametrize(
    ("module", "source", "n_wrong"),
    [
        ("accel_tx.data.clean", "from accel_tx.config import DataConfig", 0),
        ("accel_tx.data.clean", "from accel_tx import __version__", 0),
        ("accel_tx.data.clean", "from .corpus import read", 0),
        ("accel_tx.data.clean", "def f():\n    import accel_tx.train.loop", 1),
        ("accel_tx.data.clean", "from accel_tx import model, train", 2),
        ("accel_tx.data.clean", "from ..train.loop import train", 1),
        ("accel_tx.data.__init__", "from ..train import loop", 1),
        ("accel_tx.config", "from . import data", 1),
        ("accel_tx.__init__", "from accel_tx.config import Config", 1),
        ("accel_tx.export", "import accel_tx.bench", 1),
        ("accel_tx.cli", "from accel_tx import bench, data, train", 0),
    ],
)
def test_imports_to_the_right_are_found(module: str, source: str, n_wrong: int) -> None:
    assert len(imports_to_the_right(module, source)) == n_wrong


def test_every_part_of_the_package_has_a_place_in_the_order() -> None:
    parts = {module.split(".")[1] for module in MODULES} - {"__init__"}

    assert parts - set(PLACES) == set()


@pytest.mark.parametrize("module", MODULES)
def test_accelerate_is_imported_only_where_training_happens(module: str) -> None:
    imports_it = any(name.split(".")[0] == "accelerate" for name in imported_names(module, source_of(module)))

    assert not imports_it or module.startswith(("accel_tx.train.", "accel_tx.cli"))


def test_no_module_is_a_drawer_for_leftovers() -> None:
    leftovers = {"utils", "helpers", "common", "misc"}

    assert [module for module in MODULES if leftovers & set(module.split("."))] == []


def test_top_level_holds_only_what_the_design_names() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository here")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = {line.split("/")[0] for line in listed.splitlines()}
    if not names:
        pytest.skip("nothing is committed yet")

    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL == set()


def test_help_answers_within_a_second_of_cpu_time_without_torch() -> None:
    cpu_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "accel_tx", "--help"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "accel_tx" in imported
    assert imported & {"torch", "datasets", "accelerate"} == set()
    assert "usage" in done.stdout.lower()
    assert min(cpu_s) < 1


def test_a_start_on_prepared_data_imports_nothing_that_takes_seconds_and_is_not_used(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(train={"max_updates": 1, "trackers": []}, validation={"every_updates": 1})
    prepare_data(config)
    options = ["--config", str(ROOT / "configs" / "quickstart.yaml"), "--run_dir", str(tmp_path), *as_options(config)]

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "accel_tx", "train", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-500:]
    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert {"torch", "accelerate", "sacrebleu"} <= imported
    assert imported & {"datasets", "evaluate", "transformers", "pandas", "matplotlib", "sentencepiece"} == set()
