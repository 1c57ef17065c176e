#!/usr/bin/env bash
# Linters, types and the fast tests, without options also those for a GPU: bash launch/test.sh [pytest options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv
install -e '.[test]'

unset PYTHONDONTWRITEBYTECODE # or each of some hundred processes compiles the package anew

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m mypy accel_tx
.venv/bin/python -m pytest -n 3 --dist worksteal "$@"
if (($# == 0)) && .venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    ACCEL_TX_TEST_GPU=1 .venv/bin/python -m pytest tests/gpu
fi
