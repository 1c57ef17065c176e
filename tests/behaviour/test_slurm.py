"""launch/slurm.sh with stand-ins for SLURM's commands: two nodes are two launchers on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accel_tx.config import Config
from tests.conftest import REPOSITORY, as_options
from tests.run_folder import newest_update

MakeConfig = Callable[..., Config]
SRUN = """\
#!/usr/bin/env bash
# Runs what stands behind its own options once a node, and ends as the worst of them.
while [[ $1 == --* ]]; do shift; done
pids=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
SCONTROL = """\
#!/usr/bin/env bash
case $1 in
    show) for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do echo localhost; done ;;
    requeue) echo "$2" >>"$REQUEUED" ;;
esac
"""


class Cluster:
    """What a job of `launch/slurm.sh` sees."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.requeued = folder / "bin", folder / "requeued"
        self.bin.mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        python = Path(sys.executable).parent
        own = ("ACCELERATE_USE_CPU", "SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in own},
            "PATH": f"{self.bin}{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "REQUEUED": str(self.requeued),
            "SLURM_SUBMIT_DIR": str(REPOSITORY),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[0-1]",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, n_nodes: int, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Run the script as the batch step of a job."""
        return subprocess.Popen(
            ["bash", str(REPOSITORY / "launch" / "slurm.sh"), *options],
            env={**self.environment, "SLURM_JOB_NUM_NODES": str(n_nodes), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def options_of(config: Config, run_dir: Path) -> list[str]:
    return ["--config", "configs/quickstart.yaml", "--run_dir", str(run_dir), *as_options(config)]


def end_of(job: subprocess.Popen[str]) -> str:
    try:
        return job.communicate(timeout=200)[0]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_nodes_train_together_go_back_into_the_queue_and_resume(
    cluster: Cluster, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    config = tiny_config(train={"max_updates": 100_000, "save_every_updates": 100_000, "log_every_updates": 5})
    job = cluster.start(2, *options_of(config, run_dir), PROCESSES_PER_NODE="1")
    assert job.stdout is not None
    lines = []
    for line in job.stdout:
        lines.append(line)
        if line.startswith("update 5/"):
            os.kill(job.pid, signal.SIGUSR1)  # to the script alone, as `--signal=B:USR1@300` does
            break
    printed = "".join(lines) + end_of(job)
    assert "2 process(es) on cpu" in printed
    assert "stopped by the file STOP" in printed
    assert job.returncode == 0, printed
    assert cluster.requeued.read_text() == f"{cluster.environment['SLURM_JOB_ID']}\n"
    assert not (run_dir / "STOP").exists()
    stopped_at = newest_update(run_dir)
    assert stopped_at >= 5

    # The job again, on one node with one process; it has nothing to ask the queue for when it ends by itself.
    more = {"max_updates": 100_000, "save_every_updates": 100_000, "stop_at_update": stopped_at + 2}
    (run_dir / "STOP").touch()  # as a start that crashed leaves it
    job = cluster.start(1, *options_of(tiny_config(train=more), run_dir), PROCESSES_PER_NODE="1")
    printed = end_of(job)
    assert job.returncode == 0, printed
    assert "1 process(es) on cpu" in printed
    assert f"going on from {run_dir}/checkpoints/update_{stopped_at:08d}" in printed
    assert newest_update(run_dir) == stopped_at + 2
    assert len(cluster.requeued.read_text().splitlines()) == 1


def test_what_the_script_misses_it_tells_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    for n_expected, environment, options in (
        ("no --run_dir; expected sbatch", {"PROCESSES_PER_NODE": "1"}, ["--config", "c.yaml"]),
        ("no GPUs; expected --gpus-per-node", {}, ["--run_dir", str(tmp_path / "run")]),
        ("expected sbatch from the repository root", {"SLURM_SUBMIT_DIR": str(tmp_path)}, ["--run_dir=x"]),
    ):
        job = cluster.start(2, *options, **environment)
        printed = end_of(job)
        assert n_expected in printed
        assert len(printed.splitlines()) == 1, printed
        assert job.returncode == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"PROCESSES_PER_NODE": "1"}, "true, unset"),
        ({"PROCESSES_PER_NODE": "1", "ACCELERATE_USE_CPU": "false"}, "false, unset"),
        ({"SLURM_GPUS_ON_NODE": "2"}, "unset, unset"),  # as under --cpus-per-gpu
        ({"SLURM_GPUS_ON_NODE": "2", "PROCESSES_PER_NODE": "1", "SLURM_CPUS_PER_TASK": "7"}, "unset, 7"),
    ],
)
def test_the_step_is_told_of_gpus_and_cores_what_the_job_knows(
    environment: dict[str, str], told: str, cluster: Cluster, tmp_path: Path
) -> None:
    (cluster.bin / "srun").write_text(
        '#!/usr/bin/env bash\necho "${ACCELERATE_USE_CPU:-unset}, ${SRUN_CPUS_PER_TASK:-unset}"\n'
    )
    job = cluster.start(1, "--run_dir", str(tmp_path / "run"), **environment)
    *said, last = end_of(job).splitlines()
    assert last == told
    uses_cpu = told.partition(",")[0]
    line = f"launch/slurm.sh: SLURM gave no GPUs (ACCELERATE_USE_CPU is {uses_cpu}; false trains on those there are)"
    assert said == ([] if uses_cpu == "unset" else [line])
    assert job.returncode == 0


def test_the_first_of_many_nodes_is_where_all_meet(cluster: Cluster, tmp_path: Path) -> None:
    # More than a pipe holds.
    (cluster.bin / "scontrol").write_text("#!/usr/bin/env bash\nfor ((i = 0; i < 20000; i++)); do echo node-$i; done\n")
    (cluster.bin / "srun").write_text('#!/usr/bin/env bash\necho "$@"\n')
    job = cluster.start(2, "--run_dir", str(tmp_path / "run"), SLURM_GPUS_ON_NODE="4")
    printed = end_of(job)
    assert job.returncode == 0, printed
    assert " --num_processes 8 --main_process_ip node-0 --main_process_port " in printed


def test_a_training_that_fails_fails_the_job(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.start(1, "--config", "missing.yaml", "--run_dir", str(tmp_path / "run"), PROCESSES_PER_NODE="1")
    printed = end_of(job)
    assert "missing.yaml" in printed
    assert job.returncode == 2
    assert not cluster.requeued.exists()


def test_the_directives_ask_for_a_signal_in_time_and_a_place_in_the_queue() -> None:
    script = (REPOSITORY / "launch" / "slurm.sh").read_text(encoding="utf-8")
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=B:USR1@300", "--ntasks-per-node=1", "--open-mode=append"} <= set(directives)
    # The first line that is no comment ends the directives.
    assert script.index("#SBATCH --open-mode") < script.index("set -euo")


def test_the_script_waits_for_the_checkpoint_however_long_it_takes(cluster: Cluster, tmp_path: Path) -> None:
    # Instead of a training, a step that ends a second after it was asked to.
    (cluster.bin / "srun").write_text(
        '#!/usr/bin/env bash\ntouch "$RUN/begun"\nuntil [[ -e $RUN/STOP ]]; do sleep 0.1; done\nsleep 1\n'
        'echo "checkpoint: $SAVED" >"$RUN/PREEMPTED"\n'
    )
    saved, lost = "checkpoints/update_00000007", "that of an earlier update"
    for number, checkpoint, n_requeued in (
        (signal.SIGTERM, saved, 0),
        (signal.SIGUSR1, lost, 0),
        (signal.SIGUSR1, saved, 1),
    ):
        run_dir = tmp_path / f"{number.name} {checkpoint[:4]}"
        run_dir.mkdir()
        job = cluster.start(1, f"--run_dir={run_dir}", PROCESSES_PER_NODE="2", RUN=str(run_dir), SAVED=checkpoint)
        while not (run_dir / "begun").exists():
            time.sleep(0.05)
        os.kill(job.pid, number)
        printed = end_of(job)
        assert job.returncode == 0, printed
        n_found = len(cluster.requeued.read_text().splitlines()) if cluster.requeued.exists() else 0
        assert n_found == n_requeued
        assert not (run_dir / "STOP").exists()
