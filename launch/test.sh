#!/usr/bin/env bash
# Linters, types and the fast tests: bash launch/test.sh [pytest options]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv
install -e '.[test]'

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy accel_tx
.venv/bin/python -m pytest -n 2 "$@"
