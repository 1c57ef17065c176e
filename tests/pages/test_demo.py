"""The page to try a model: in a browser, for a program, and what bad input gets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from accel_tx.cli import main
from accel_tx.config import build_config
from accel_tx.inference.parts import TranslatedLine, Translation
from accel_tx.pages.answers import Answer
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY, TINY, run_cli
from tests.pages.browser import browser

_CLICK = "[...document.querySelectorAll('button')].find(b => b.textContent.trim() == 'Translate').click()"
_STATUS = "document.querySelector('.status').textContent"
_TRANSLATION = "document.querySelectorAll('textarea')[1].value"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    values = {**TINY, "data": {**TINY["data"], "cache_dir": str(cache_dir)}}
    values["train"] = {**TINY["train"], "max_updates": 4}
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(build_config(values), folder)
    return folder


@pytest.fixture(scope="module")
def address(run_dir: Path) -> Iterator[str]:
    """Where a page is served, by the command itself."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    command = [sys.executable, "-m", "accel_tx", "demo", "--run_dir", str(run_dir), "--port", str(free_port())]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert " at http://127.0.0.1:" in line, process.stderr.read()
    yield line.split(" at ")[1].split()[0]
    process.terminate()
    assert process.communicate(timeout=30)[1] == "accel_tx: ended by SIGTERM\n"


@pytest.mark.slow
def test_a_program_gets_what_translate_answers(address: str, run_dir: Path) -> None:
    client_of = pytest.importorskip("gradio_client", reason="gradio is not installed")
    client = client_of.Client(address, verbose=False)
    lines = ["The old man reads.", "", "My sister is tired."]
    found = client.predict("\n".join(lines), 3, 2, api_name="/translate")
    asked = ["--run_dir", str(run_dir), "--beam_size", "3"]
    done = run_cli("translate", *asked, stdin="".join(f"{line}\n" for line in lines))
    assert found["translation"] + "\n" == done.stdout
    assert [len(of_line) for of_line in found["lines"]] == [2, 1, 2]
    with pytest.raises(Exception, match="nothing to translate"):
        client.predict(" ", api_name="/translate")


@pytest.mark.slow
def test_the_page_translates_draws_and_says_what_is_wrong(address: str, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as page:
        text = "The old man reads.\n<b>My sister</b> is tired."
        page.open(f"{address}?text={quote(text)}", 1200, 1600)
        page.wait_for("document.querySelector('.picture img')?.naturalWidth")
        assert page.evaluate("document.querySelectorAll('.found tr').length") == 1 + 2 * 3
        assert page.evaluate(_TRANSLATION).count("\n") == 1
        assert page.evaluate(_STATUS).startswith("2 lines in ")
        assert page.evaluate("document.querySelectorAll('.gradio-container b').length") == 0
        page.save_picture(tmp_path / "page.png")

        page.open(address, 390, 900, dark=True)
        page.wait_for("document.querySelector('.status')?.textContent == 'Ready.'")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.evaluate(_CLICK)
        page.wait_for("document.querySelector('.status.bad')")
        assert "nothing to translate" in page.evaluate(_STATUS)
        assert page.errors == []
        foreign = [a for a in page.addresses if not a.startswith((address, "data:", "blob:", "about:", "chrome:"))]
        assert foreign == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Gradio imports
def test_translations_that_look_like_html_stay_text() -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    from accel_tx.pages.demo import translations_table

    line = TranslatedLine([Translation("<img src=x>", -1.0, -0.5)], n_parts=1, unknown=[], n_searched=1)
    table = translations_table(Answer([line], ["a"], []))
    assert "&lt;img src=x&gt;" in table
    assert "<img" not in table


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--port", "0"], "--port is 0; expected from 1 to 65535"),
        (["--port", "{taken}"], "Address already in use); expected an address of this machine and a free port"),
        (["--host", "203.0.113.7"], "Cannot assign requested address"),
        (["--port", "{free}"], "none: no such folder"),
    ],
)
def test_bad_input_gets_one_line(
    options: list[str], expected: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        given = [option.format(taken=port, free=free_port()) for option in options]
        assert expected in refusal(["--run_dir", "none", *given], capsys)


def test_without_gradio_it_says_what_to_install(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "gradio>=' in refusal(["--run_dir", "none"], capsys)


def refusal(arguments: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    assert ended.value.code == 2
    error: str = capsys.readouterr().err
    assert error.count("\n") == 1
    return error
