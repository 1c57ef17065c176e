#!/usr/bin/env bash
#SBATCH --job-name=accel_tx
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#
# Train on the GPUs of a SLURM allocation, from the repository root:
#   sbatch [--account=A --partition=P --nodes=2 --gpus-per-node=8 ...] launch/slurm.sh --config C --run_dir D [options of train]
# D and data.cache_dir lie on a file system that all nodes share. Where these have no network, prepare the data first
# on one that has: python -m accel_tx data --config C.
# 300 seconds before the time is over, or at a preemption that sends USR1, the training saves a checkpoint and the job
# goes back into the queue; its next start resumes from there. After scancel SLURM kills what is left after its own
# KillWait (30 s by default).
# Before sbatch: export LAUNCH_FILE=launch/fsdp2.yaml for sharded weights.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

launch_file=${LAUNCH_FILE:-launch/multi_node.yaml}
if [[ ! -f $launch_file ]]; then
    echo "$PWD/$launch_file: no such file; expected sbatch from the repository root, or LAUNCH_FILE" >&2
    exit 2
fi

run_dir=
previous=
for word in "$@"; do
    case $previous in --run_dir) run_dir=$word ;; esac
    case $word in --run_dir=*) run_dir=${word#--run_dir=} ;; esac
    previous=$word
done
if [[ -z $run_dir ]]; then
    echo "launch/slurm.sh: no --run_dir; expected sbatch launch/slurm.sh --config C --run_dir D" >&2
    exit 2
fi

if [[ -f .venv/bin/activate ]]; then
    # shellcheck source=/dev/null
    source .venv/bin/activate
fi

n_nodes=$SLURM_JOB_NUM_NODES
per_node=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-}}
if [[ -z $per_node ]]; then
    echo "launch/slurm.sh: no GPUs; expected --gpus-per-node, or PROCESSES_PER_NODE for training on CPUs" >&2
    exit 2
fi
if [[ -z ${SLURM_GPUS_ON_NODE:-} ]]; then
    # Without it the processes of a launcher that is to use GPUs, as the file says, would not find each other.
    export ACCELERATE_USE_CPU=${ACCELERATE_USE_CPU:-true}
    echo "launch/slurm.sh: SLURM gave no GPUs (ACCELERATE_USE_CPU is $ACCELERATE_USE_CPU; false trains on those there are)" >&2
fi
n_processes=$((n_nodes * per_node))
# Not by `head`, which may leave scontrol writing into a closed pipe, and that ends this script without a word.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first_node=${nodes%%$'\n'*}

options=(
    --config_file "$launch_file" --num_machines "$n_nodes" --num_processes "$n_processes"
    # Another job on these nodes has another number.
    --main_process_ip "$first_node" --main_process_port "$((20000 + SLURM_JOB_ID % 10000))"
)
# SLURM_NODEID is that of the node where this runs.
# shellcheck disable=SC2016
launcher='exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"'
if ((n_processes == 1)); then
    # accelerate refuses to launch a single process as one of several.
    options=()
    # shellcheck disable=SC2016
    launcher='exec python "$@"'
fi

# srun no longer takes the cores of a task from the job by itself, and kills nothing when one node fails.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi
# Where SLURM itself ends the steps, launchers give the training so long for its checkpoint, and SLURM its KillWait.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=280

# A launcher would die of USR1, and wait for nothing. The file reaches the training on every node.
# shellcheck disable=SC2329 # by the traps
ask_to_stop() {
    mkdir -p "$run_dir"
    touch "$run_dir/STOP"
}
is_over=false
trap 'is_over=true; ask_to_stop' USR1
# From scancel or a preemption: SLURM knows whether this job is to come back.
trap ask_to_stop TERM
# One that an earlier start did not live to see.
rm -f "$run_dir/STOP"

# An empty array is unbound to bash before 4.4.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
    bash -c "$launcher" launcher ${options[@]+"${options[@]}"} -m accel_tx train "$@" &
step=$!
# A trapped signal ends the wait, not the step.
while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
status=0
wait "$step" || status=$?
# The step is over, and may have ended before it looked.
rm -f "$run_dir/STOP"

# Not where the last checkpoint could not be saved: the next allocation would be lost like this one.
if $is_over && grep -qs '^checkpoint: checkpoints/' "$run_dir/PREEMPTED"; then
    echo "going back into the queue as job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
