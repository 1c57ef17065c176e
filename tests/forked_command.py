"""Commands in processes of their own, forked like `tests.ranks` from a server that has imported everything."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from accel_tx.cli import main
from tests.conftest import REPOSITORY
from tests.ranks import CONTEXT, begin_as_started, ensure_server


def run_forked(
    arguments: Sequence[str], env: Mapping[str, str], stdin: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """What `python -m accel_tx ARGUMENTS` would print and return.

    Raises: subprocess.TimeoutExpired.
    """
    ensure_server()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_bytes(stdin.encode())
        process = CONTEXT.Process(target=_be_a_command, args=(list(arguments), dict(env), *map(str, files)))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            printed = [path.read_bytes() for path in files[1:] if path.exists()]
            raise subprocess.TimeoutExpired(list(arguments), timeout_s, *printed)
        out, err = (path.read_text(encoding="utf-8") for path in files[1:])
        return subprocess.CompletedProcess(list(arguments), process.exitcode, out, err)


def _be_a_command(arguments: list[str], env: dict[str, str], stdin: str, stdout: str, stderr: str) -> None:
    begin_as_started(env)
    os.chdir(REPOSITORY)
    for number, path in enumerate((stdin, stdout, stderr)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(path, flags), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.argv = [str(REPOSITORY / "accel_tx" / "__main__.py"), *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()
