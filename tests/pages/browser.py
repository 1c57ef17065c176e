"""A headless Chromium that tests drive through its DevTools: open, ask, click, look, and see what it fetches."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._last_id = socket, 0
        self.addresses: list[str] = []
        """What was fetched."""
        self.errors: list[str] = []
        """What scripts threw."""
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, width: int, height: int, dark: bool = False) -> None:
        """Go to a page in a window of this size and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState == 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        ends_at_s = time.monotonic() + timeout_s
        while not self.evaluate(f"!!({script})"):
            if time.monotonic() > ends_at_s:
                raise TimeoutError(
                    f"{script} is not true after {timeout_s:g} s: {self.evaluate('document.body.innerText')}"
                )
            time.sleep(0.1)

    def save_picture(self, path: Path) -> None:
        """A PNG of the window."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        self._socket.send(json.dumps({"id": self._last_id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("method") == "Network.requestWillBeSent":
                self.addresses.append(message["params"]["request"]["url"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message.get("id") == self._last_id:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                found: dict[str, Any] = message["result"]
                return found


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A tab of a browser whose profile is in `folder`; the test skips where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here ({', '.join(_NAMES)})")
    client = pytest.importorskip(
        "websockets.sync.client", reason="websockets is not installed, which comes with gradio"
    )
    # Without these Chromium asks its maker for updates and the like.
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = next((match for line in process.stderr if (match := re.search(r"ws://([\d.]+:\d+)/", line))), None)
        assert found, "the browser ended"
        with urllib.request.urlopen(f"http://{found[1]}/json") as answer:
            tab = next(target for target in json.load(answer) if target["type"] == "page")
        with client.connect(tab["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stderr.close()  # type: ignore[union-attr]
