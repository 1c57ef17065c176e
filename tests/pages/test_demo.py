"""The page to try a model: in a browser, for a program, and what bad input gets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from accel_tx.cli import main
from accel_tx.config import UserError, build_config
from accel_tx.inference.parts import TranslatedLine, Translation
from accel_tx.pages.answers import Answer
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY, TINY, run_cli
from tests.export.runs import make_run
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
    values["decode"] = {"beam_size": 4, "length_penalty": "gnmt", "length_exponent": 0.65}
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(build_config(values), folder)
    return folder


@pytest.fixture(scope="module")
def address(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a page is served; at the end nothing has been left in the folder for temporary files."""
    left = tmp_path_factory.mktemp("left")
    with serving(run_dir, left) as found:
        yield found
    assert [path for path in left.rglob("*") if path.is_file()] == []


@contextlib.contextmanager
def serving(run_dir: Path, temporary: Path, *options: str, told: list[str] | None = None) -> Iterator[str]:
    """The address of a page that the command itself serves; `told` gets what it prints behind that on both streams."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    port = str(free_port())
    command = [sys.executable, "-m", "accel_tx", "demo", "--run_dir", str(run_dir), "--port", port, *options]
    folders = {"TMPDIR": str(temporary), "GRADIO_TEMP_DIR": str(temporary / "gradio")}
    env = {**os.environ, **folders, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert f":{port}/ (Ctrl-C" in line, process.stderr.read()
    yield line.split(" at ")[1].split()[0]
    process.terminate()
    out, err = process.communicate(timeout=30)
    if told is None:
        assert err == "accel_tx: ended by SIGTERM\n"
    else:
        told += [out, err]


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
def test_page_and_programs_begin_with_the_search_of_the_run(address: str, run_dir: Path) -> None:
    client_of = pytest.importorskip("gradio_client", reason="gradio is not installed")
    with urllib.request.urlopen(f"{address}config") as content:
        widgets = [one["props"] for one in json.load(content)["components"]]
    values = {props["label"]: props["value"] for props in widgets if props.get("label") and "value" in props}
    expected = {"Beam": 4, "Translations": 3, "Length penalty": "gnmt", "Exponent": 0.65}
    assert {name: values[name] for name in expected} == expected
    client = client_of.Client(address, verbose=False)
    found = client.predict("The old man reads.", api_name="/translate")
    done = run_cli("translate", "--run_dir", str(run_dir), "--format", "jsonl", stdin="The old man reads.\n")
    assert found["lines"][0][0]["score"] == pytest.approx(json.loads(done.stdout)["translations"][0]["score"], rel=1e-4)
    with pytest.raises(Exception, match="beam_size is null; expected a whole number"):
        client.predict("The old man reads.", None, api_name="/translate")


@pytest.mark.parametrize(("beam_size", "n_best", "expected"), [(1.0, 3.0, 1), (5, 3, 3), (2, 2, 2)])
def test_a_page_shows_no_more_translations_than_its_beam_has(beam_size: float, n_best: float, expected: int) -> None:
    demo = pytest.importorskip("accel_tx.pages.demo", reason="gradio is not installed")
    assert demo._asked([beam_size, n_best, "average", 1.0]).n_best == expected


@pytest.mark.slow
def test_nothing_that_is_sent_is_kept(address: str) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    for route in ("upload", "upload/", "process_recording", "component_server", "deep_link?session_hash=a"):
        is_form = "deep_link" not in route
        request = urllib.request.Request(f"{address}gradio_api/{route}", form if is_form else None)
        request.add_header("Content-Type", "Multipart/form-data; boundary=x" if is_form else "text/plain")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert (refused.value.code, refused.value.read()) == (404, b"This page keeps nothing.")


@pytest.mark.slow
def test_neither_traffic_nor_what_cannot_be_read_is_told(run_dir: Path, tmp_path: Path) -> None:
    told: list[str] = []
    with serving(run_dir, tmp_path, told=told) as found:
        for route in ("monitoring", "monitoring/", "monitoring/summary", "monitoring/a", "%6Donitoring"):
            assert status_of(f"{found}{route}") == 404
        event = json.load(urllib.request.urlopen(posted(f"{found}gradio_api/call/translate", {"data": ["my secret"]})))
        with urllib.request.urlopen(f"{found}gradio_api/call/translate/{event['event_id']}") as content:
            assert b"event: error" in content.read()
        bad: list[dict[str, Any]] = [{"data": [{"my": "secret"}]}, {"data": ["my secret"] * 9}, {"data": "my secret"}]
        for body in (*bad, {"fn_index": 99, "data": ["my secret"]}):
            assert status_of(posted(f"{found}gradio_api/run/translate", body)) in (422, 500)
        assert status_of(posted(f"{found}gradio_api/call/v2/translate", {"my secret": "my secret"})) == 500
    out, err = told
    assert out == ""
    assert "secret" not in err
    assert "Traceback" not in err
    *calls, last = err.splitlines()
    assert len(calls) >= 3
    assert all("a call could not be answered (" in line for line in calls)
    assert last == "accel_tx: ended by SIGTERM"


def posted(address: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})


def status_of(request: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request) as answered:
            return int(answered.status)
    except urllib.error.HTTPError as refused:
        return refused.code


@pytest.mark.slow
def test_an_ipv6_address_is_served(run_dir: Path, tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(run_dir, tmp_path, "--host", "[::1]") as found:
        assert found.startswith("http://[::1]:")
        with urllib.request.urlopen(found) as content:
            assert content.status == 200


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
        (["--host", "a..b"], "--host a..b --port 7860: cannot be served (not a name of a host)"),
        (["--host", "fe80::1%eth0"], "has a zone, which no link can have"),
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


def test_the_scores_are_those_of_the_weights_that_were_read(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page(ModuleType):
        """Importing it takes so long that a training leaves other weights meanwhile."""

        def __getattr__(self, name: str) -> Any:
            if name != "build_page":
                raise AttributeError(name)
            (run_dir / "best" / "scores.json").write_text('{"update": 99}')
            return self._build

        def _build(self, translator: Any, about: Any) -> None:
            raise UserError(about.description)

        def serve(self) -> None:
            """Never called."""

    run_dir = make_run(tmp_path)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "accel_tx.pages.demo", Page("demo"))
    arguments = ["--run_dir", str(run_dir), "--port", str(free_port())]
    assert "weights best, update 12, BLEU 12.35 on its validation set, " in refusal(arguments, capsys)


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
