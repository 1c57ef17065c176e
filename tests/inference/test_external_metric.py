"""A metric of another program: called with the right files, read strictly, never waited for longer than allowed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from accel_tx.config import UserError
from accel_tx.inference.external_metric import LONGEST_TIMEOUT_S, check_command, external_score

TEXTS = (["a b", "été"], ["un", "deux"], ["le", "la"])

COUNTS = """
import sys
src, hyp, ref = (open(path, encoding="utf-8").read().split("\\n") for path in sys.argv[1:])
assert (src, hyp, ref) == (["a b", "été", ""], ["un", "deux", ""], ["le", "la", ""]), (src, hyp, ref)
print("a line of something else 17")
print(sys.argv[2] + "\\tscore: 0.8125")
"""


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "a metric.py"
    path.write_text(text, encoding="utf-8")
    return f"{sys.executable} '{path}' {{src}} {{hyp}} {{ref}}"


def test_the_score_is_the_number_that_ends_the_last_line(tmp_path: Path) -> None:
    assert external_score(script(tmp_path, COUNTS), *TEXTS, timeout_s=60) == 0.8125


def test_the_longest_time_is_one_that_the_system_can_wait(tmp_path: Path) -> None:
    assert external_score(script(tmp_path, COUNTS), *TEXTS, timeout_s=LONGEST_TIMEOUT_S) == 0.8125


def test_a_text_of_several_lines_is_one_line_of_a_file(tmp_path: Path) -> None:
    texts = (["a\nb", "été"], ["un\r", "deux"], ["le", "la"])
    assert external_score(script(tmp_path, COUNTS), *texts, timeout_s=60) == 0.8125


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('score: 0.5 (good)')", r"printed 'score: 0.5 \(good\)' last; expected a line that ends with the score"),
        ("print('0.5'); print()", None),
        ("print('nan')", "printed 'nan' last"),
        ("pass", "printed '' last"),
        ("import sys; sys.exit('no such model')", "ended with status 1: no such model"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with status -9: it printed nothing"),
    ],
)
def test_anything_else_is_one_clear_line(text: str, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert external_score(script(tmp_path, text), *TEXTS, timeout_s=60) == 0.5
        return
    with pytest.raises(UserError, match=message) as caught:
        external_score(script(tmp_path, text), *TEXTS, timeout_s=60)
    assert "\n" not in str(caught.value)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    hangs = (
        f"import subprocess\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '99']).pid))\n"
    )
    started_at_s = time.monotonic()

    with pytest.raises(UserError, match="took longer than --comet_timeout_s 1; ended"):
        external_score(script(tmp_path, f"{hangs}import time; time.sleep(99)"), *TEXTS, timeout_s=1)

    assert time.monotonic() - started_at_s < 30
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of the program is still there")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = f"{tmp_path}/no_such_program {{src}} {{hyp}}"
    with pytest.raises(UserError, match="no_such_program cannot be started"):
        external_score(command, *TEXTS, timeout_s=5)
    with pytest.raises(UserError, match="no_such_program is no program that can be started; is its environment made"):
        check_command(command)


@pytest.mark.parametrize("command", ["comet-score", "score {src} {ref}", "score {hyp}", "score {src} {hyp} {mt}"])
def test_a_template_without_the_files_is_refused(command: str) -> None:
    with pytest.raises(UserError, match=r"expected \{hyp\} and \{src\} or \{ref\} or both"):
        check_command(command)


@pytest.mark.parametrize("command", ["x {hyp:{y}} {ref}", "x {hyp:d} {ref}", "x {hyp!r} {ref}"])
def test_a_template_with_formats_is_refused(command: str) -> None:
    with pytest.raises(UserError, match=r"has a field with a format; expected plain \{src\}, \{hyp\} and \{ref\}"):
        check_command(command)


@pytest.mark.parametrize("command", ["score '{src} {hyp}", "score {src} {hyp"])
def test_a_template_that_cannot_be_read_is_refused(command: str) -> None:
    with pytest.raises(UserError, match="cannot be taken apart"):
        check_command(command)
