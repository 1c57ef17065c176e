#!/usr/bin/env bash
# From nothing to a small trained model, its scores and five translations: bash launch/quickstart.sh [train options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

run_dir=runs/quickstart
previous=
for word in "$@"; do
    case $previous in --run_dir) run_dir=$word ;; esac
    case $word in --run_dir=*) run_dir=${word#--run_dir=} ;; esac
    previous=$word
done
sentences=(
    "The women bought this dress because it was very beautiful."
    "My brother has already lost the blue umbrella."
    "This child would like to buy a red coat."
    "If our grandmother has enough money, she will take the train."
    "Where did the little girls hide the keys?"
)

make_venv
install -r requirements.txt

launch_file=$(.venv/bin/python - <<'END'
import torch

from accel_tx.model.gpu import uses_gpu

if not uses_gpu():
    print("launch/cpu.yaml")
elif torch.cuda.is_bf16_supported(including_emulation=False):
    print("launch/single_gpu_bf16.yaml")
else:
    print("launch/single_gpu_fp16.yaml")
END
)
echo "Training with $launch_file" >&2
# Not .venv/bin/accelerate, which names the folder where it was installed: a checkout may be moved.
.venv/bin/python -m accelerate.commands.launch --quiet --config_file "$launch_file" -m accel_tx train \
    --config configs/quickstart.yaml --run_dir "$run_dir" "$@"

.venv/bin/python -m accel_tx evaluate --run_dir "$run_dir"

translations=$(printf '%s\n' "${sentences[@]}" | .venv/bin/python -m accel_tx translate --run_dir "$run_dir")
for sentence in "${sentences[@]}"; do
    IFS= read -r translation || translation=
    printf '%-62s  %s\n' "$sentence" "$translation"
done <<<"$translations"
