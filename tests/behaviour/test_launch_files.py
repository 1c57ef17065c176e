"""Every launch file is understood by accelerate's own launcher, and none of its keys is silently ignored."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from accel_tx.data.phrasebook import iter_pairs

LAUNCH = Path(__file__).parents[2] / "launch"
YAML_NAMES = sorted(path.name for path in LAUNCH.glob("*.yaml"))
# The launcher has no argument of their own for these, or keeps it apart; the environment shows what became of them.
SEEN_IN_THE_ENVIRONMENT = {"compute_environment", "distributed_type", "mixed_precision"}


def launcher_args(path: Path, *options: str) -> Namespace:
    command = ["--config_file", str(path), *options, "-m", "accel_tx", "train"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return args


def ignored_keys(path: Path, *options: str) -> list[str]:
    """Keys of a launch file that do not reach the launcher: unknown nested ones, and those its defaults override."""
    known = launch_command_parser().parse_args(["-m", "accel_tx"])
    args = launcher_args(path, *options)
    ignored = []
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if isinstance(value, dict):
            prefix = key.removesuffix("config")
            long_names = {name: name if name.startswith(prefix) else prefix + name for name in value}
            if key == "deepspeed_config":
                long_names = {name: name for name in value}
            ignored += [f"{key}.{name}" for name, long_name in long_names.items() if not hasattr(known, long_name)]
        elif key not in SEEN_IN_THE_ENVIRONMENT and getattr(args, key, None) != value:
            ignored.append(key)
    return ignored


def launch_environment(path: Path, *options: str) -> dict[str, str]:
    args = launcher_args(path, *options)
    if args.multi_gpu:
        return dict(prepare_multi_gpu_env(args))
    return dict(prepare_simple_launcher_cmd_env(args)[1])


@pytest.mark.parametrize(
    ("name", "options", "multi_gpu", "use_cpu", "precision"),
    [
        ("cpu.yaml", [], False, True, "no"),
        ("single_gpu_fp16.yaml", [], False, False, "fp16"),
        ("single_gpu_bf16.yaml", [], False, False, "bf16"),
        ("multi_gpu.yaml", ["--num_processes", "2"], True, False, "no"),
    ],
)
def test_launch_file_says_what_its_name_says(
    name: str, options: list[str], multi_gpu: bool, use_cpu: bool, precision: str
) -> None:
    args = launcher_args(LAUNCH / name, *options)
    environment = launch_environment(LAUNCH / name, *options)

    assert ignored_keys(LAUNCH / name, *options) == []
    assert args.multi_gpu is multi_gpu
    assert args.num_processes == (2 if multi_gpu else 1)
    assert args.use_cpu is use_cpu
    assert environment["ACCELERATE_MIXED_PRECISION"] == precision
    assert multi_gpu or environment["ACCELERATE_USE_CPU"] == str(use_cpu)


def test_every_launch_file_is_checked_above_and_named_in_the_readme() -> None:
    readme = (LAUNCH / "README.md").read_text(encoding="utf-8")

    assert YAML_NAMES == ["cpu.yaml", "multi_gpu.yaml", "single_gpu_bf16.yaml", "single_gpu_fp16.yaml"]
    assert sorted(set(re.findall(r"launch/(\w+\.yaml)", readme))) == YAML_NAMES


@pytest.mark.parametrize("name", YAML_NAMES)
def test_words_that_yaml_reads_as_booleans_are_quoted(name: str) -> None:
    values: dict[str, Any] = yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))

    for key, value in values.items():
        assert isinstance(value, bool) == (key in {"use_cpu", "debug"}), f"{key}: {value!r}"


def test_several_gpus_need_their_number() -> None:
    with pytest.raises(ValueError, match="--num_processes"):
        launcher_args(LAUNCH / "multi_gpu.yaml")


@pytest.mark.parametrize(
    ("lines", "ignored"),
    [
        ("fsdp_config:\n  fsdp_versoin: 2\n  fsdp_offload_params: false\n", ["fsdp_config.fsdp_versoin"]),
        ("dynamo_config:\n  backend: inductor\n  use_dinamic: true\n", ["dynamo_config.use_dinamic"]),
        ("rdzv_backend: c10d\n", ["rdzv_backend"]),  # accelerate's own default wins
    ],
)
def test_keys_that_accelerate_ignores_are_found(lines: str, ignored: list[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((LAUNCH / "cpu.yaml").read_text(encoding="utf-8") + lines, encoding="utf-8")

    assert ignored_keys(path) == ignored


@pytest.mark.parametrize("name", ["quickstart.sh", "test.sh", "venv.sh", "../.ci/run"])
def test_scripts_are_valid_bash(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


def test_quickstart_translates_words_that_its_training_shows() -> None:
    script = (LAUNCH / "quickstart.sh").read_text(encoding="utf-8")
    sentences = re.findall(r'^    "(.+)"$', script, flags=re.MULTILINE)
    shown = {word for english, _ in iter_pairs("train", 20_000, seed=1) for word in re.findall(r"\w+", english)}

    assert len(sentences) == 5
    assert {word for sentence in sentences for word in re.findall(r"\w+", sentence)} - shown == set()


@pytest.mark.slow
def test_readmes_command_for_two_cpu_processes_makes_them_talk(tmp_path: Path) -> None:
    readme = (LAUNCH / "README.md").read_text(encoding="utf-8")
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 " in readme
    script = tmp_path / "meet.py"
    script.write_text(
        "import pathlib, torch\n"
        "from accelerate import Accelerator\n"
        "a = Accelerator()\n"
        "seen = a.gather(torch.tensor([a.process_index])).tolist()\n"
        "pathlib.Path(f'process_{a.process_index}').write_text(str(seen))\n"
        "a.end_training()\n",
        encoding="utf-8",
    )
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]

    subprocess.run(
        [sys.executable, *command, str(script)],
        cwd=tmp_path,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        check=True,
        timeout=120,
    )

    assert (tmp_path / "process_0").read_text() == (tmp_path / "process_1").read_text() == "[0, 1]"
