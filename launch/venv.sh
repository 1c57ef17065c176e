# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh, in the repository root.

# Make .venv unless it is there.
make_venv() {
    local python=${PYTHON:-python3} found
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        found=$("$python" --version 2>/dev/null) || found="not found"
        echo "$python: $found; expected Python 3.10 or newer, for example: PYTHON=python3.12 bash $0" >&2
        return 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python: cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
        return 1
    fi
    "$python" -m venv .venv
}

# install PIP_ARGUMENTS...: pip install, unless the same was installed from the same files before.
install() {
    local torch="torch" stamp=".venv/installed $*"
    # The default builds of later releases have no code for a V100 (compute capability 7.0). Without -q grep reads all:
    # nvidia-smi would die of a closed pipe, and the answer be no.
    if nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -x '7\.0' >/dev/null; then
        torch="torch>=2.10,<2.11"
    fi
    if { echo "$torch"; cat requirements.txt pyproject.toml; } | cmp -s - "$stamp"; then
        return
    fi
    echo "Installing $* into .venv" >&2
    rm -f "$stamp"
    if [[ $torch != torch ]]; then .venv/bin/python -m pip install --quiet "$torch"; fi
    .venv/bin/python -m pip install --quiet "$@"
    { echo "$torch"; cat requirements.txt pyproject.toml; } >"$stamp"
}
