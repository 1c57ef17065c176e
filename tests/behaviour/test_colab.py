"""The notebook for Colab: runs from the first cell to the last, and goes on after the machine under it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from accel_tx.options import config_parser, parse_with_config
from accel_tx.train.copied_run import newest_update
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY, TINY
from tests.run_folder import assert_same_run, read_lines

NOTEBOOK = REPOSITORY / "launch" / "colab.ipynb"
QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
FIELD = re.compile(r'^\w+ = .+  # @param (\[.*\] )?(\{(type:"(string|boolean)"|allow-input: true)\})$')
# What the notebook finds on Colab: the mount itself is Google's.
DRIVE = """
import os
def mount(mountpoint):
    assert " " not in mountpoint
    os.makedirs(mountpoint + "/MyDrive", exist_ok=True)
def flush_and_unmount():
    print("flushed")
"""


def read_notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_kept_without_outputs_and_its_forms_are_such() -> None:
    notebook = read_notebook()
    nbformat.validate(notebook)
    assert notebook.metadata["accelerator"] == "GPU"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
            for line in cell.source.splitlines():
                assert "@param" not in line or FIELD.match(line), line
    json_text = NOTEBOOK.read_text(encoding="utf-8")
    assert json.loads(json_text)["nbformat"] == 4


def test_the_configs_and_commands_in_it_exist() -> None:
    source = "\n".join(cell.source for cell in read_notebook().cells if cell.cell_type == "code")
    for path in re.findall(r"configs/\w+\.yaml", source):
        assert (REPOSITORY / path).is_file()
    commands = re.findall(r"-m accel_tx (\w+)", source)
    assert set(commands) == {"data", "train", "evaluate", "translate", "export"}
    for command in commands:
        assert (REPOSITORY / "accel_tx" / "cli" / f"{command}.py").is_file()
    known = config_parser("train", "").format_help()
    assert "--train.mirror_dir" in source
    assert "--train.mirror_dir" in known


class Machine:
    """A folder in place of Colab's `/content`, with the notebook, fake Drive beside it, and what was started there."""

    def __init__(self, folder: Path, repository: Path, options: list[str], keep_on_drive: bool) -> None:
        self.options = options
        self.content, self.drive = folder / "content", folder / "drive"
        self.run_dir = self.content / "accel_tx" / "runs" / "quickstart"
        self.mirror = self.drive / "MyDrive" / "accel_tx" / "quickstart"
        self.temporary = folder / "temporary"
        for path in (self.content, self.temporary):
            path.mkdir(parents=True, exist_ok=True)
        (folder / "modules" / "google" / "colab").mkdir(parents=True, exist_ok=True)
        (folder / "modules" / "google" / "colab" / "drive.py").write_text(DRIVE)
        self.modules = folder / "modules"
        self.fields = {
            "repository": str(repository),
            "options": shlex.join(options),
            "keep_on_drive": keep_on_drive,
            "drive_folder": str(self.mirror.parent),
        }

    def notebook(self) -> Any:
        """With the form filled in, and folders of this machine."""
        notebook = read_notebook()
        places = {"/tmp/": f"{self.temporary}/", '"/content/drive"': repr(str(self.drive))}
        places["/content/accel_tx"] = str(self.content / "accel_tx")
        for cell in notebook.cells:
            for place, here in places.items():
                cell.source = cell.source.replace(place, here)
            for name, value in self.fields.items():
                cell.source = re.sub(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        return notebook

    def run(self) -> dict[str, str]:
        """What every cell printed, by the cell's id."""
        notebook = self.notebook()
        client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(self.content)}})
        asyncio.run(client.async_execute(env=self.environment()))
        self.cells = {cell.id: cell for cell in notebook.cells}
        return {cell.id: printed(cell) for cell in notebook.cells if cell.cell_type == "code"}

    def environment(self) -> dict[str, str]:
        bin_dir = str(Path(sys.executable).parent)
        own = {name: str(self.temporary) for name in ("TMPDIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")}
        paths = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": str(self.modules)}
        return {**os.environ, **own, **paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def end(self) -> None:
        """SIGKILL for all that was started here, TensorBoard included."""
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("TMPDIR") == str(self.temporary):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of what the notebook needs."""
    folder = tmp_path_factory.mktemp("git") / "accel_tx"
    folder.mkdir()
    for name in ("accel_tx", "configs", "launch"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "requirements.txt", folder)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(folder)]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    return folder


@pytest.fixture
def machine(repository: Path, cache_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    made = []

    def make(name: str, keep_on_drive: bool, **train_fields: Any) -> Machine:
        fields = {**TINY, "train": {**TINY["train"], **train_fields}}
        options = [f"--{section}.{field}={value}" for section in fields for field, value in fields[section].items()]
        options = [option.replace("=None", "=null") for option in options]
        made.append(Machine(tmp_path / name, repository, [*options, f"--data.cache_dir={cache_dir}"], keep_on_drive))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.mark.slow
def test_it_runs_from_the_first_cell_to_the_last(machine: Callable[..., Machine]) -> None:
    colab = machine("one", keep_on_drive=False)
    said = colab.run()
    assert "training and 23 validation pairs" in said["train"]
    assert "complete after update 40" in said["train"]
    assert "BLEU" in said["evaluate"]
    translations = [line for line in said["translate"].splitlines() if not line.startswith("accel_tx: ")]
    assert len(translations) == 2
    assert "Error" not in "".join(said.values())
    exported = colab.run_dir.with_name("quickstart_exported")
    assert (exported / "model.safetensors").is_file()
    assert "identical: 23 of 23 translations" in said["export"]
    shown = {name: [output.get("data", {}) for output in cell.get("outputs", [])] for name, cell in colab.cells.items()}
    assert any("image/png" in data for data in shown["plots"])
    assert any("iframe" in str(data) for data in shown["tensorboard"]), colab.cells["tensorboard"]
    assert not colab.drive.exists()
    # Run all once more, as after a mere disconnect: the run is complete and says so.
    assert "from update 40 to 40" in colab.run()["train"]


@pytest.mark.slow
def test_it_goes_on_from_drive_where_the_machine_was_lost_in_the_middle(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    fields = {"max_updates": 150, "save_every_updates": 5, "log_every_updates": 5}
    colab = machine("two", keep_on_drive=True, **fields)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            colab.run()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and newest_update(colab.mirror) < 20:
        time.sleep(0.02)
    colab.end()
    thread.join(60)
    assert isinstance(ended[0], DeadKernelError), ended
    reached = newest_update(colab.mirror)
    assert 20 <= reached < 150
    shutil.rmtree(colab.content)
    again = machine("two", keep_on_drive=True, **fields)
    said = again.run()
    assert f"which is at update {reached}: bringing it back" in said["train"]
    assert f"from update {reached} to 150" in said["train"]
    assert "complete after update 150" in said["train"]
    assert "flushed" in said["leave"]
    config, _ = parse_with_config(config_parser("train", ""), ["--config", str(QUICKSTART), *again.options])
    train(config, tmp_path / "whole")
    assert_same_run(again.run_dir, tmp_path / "whole")
    assert_same_run(again.mirror, tmp_path / "whole")
    assert [line["update"] for line in read_lines(again.mirror) if "loss" in line] == list(range(5, 151, 5))
