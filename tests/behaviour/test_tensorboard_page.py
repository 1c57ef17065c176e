"""TensorBoard on a run that was killed and gone on with: what its server answers, and what a browser shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, build_config
from accel_tx.train.file_system import read_json
from accel_tx.train.loop import train
from tests.conftest import TINY
from tests.pages.browser import browser
from tests.ranks import start_ranks
from tests.run_folder import newest_update, read_lines

RUN, OTHER = "killed/tensorboard", "other/tensorboard"
CURVES = {
    "train": ["loss", "lr", "grad_norm"],
    "speed": ["tgt_tokens_per_s", "padding_share"],
    "system": ["host_rss_gib"],
    "validation": ["val_loss", "bleu", "chrf", "cer", "wer"],
}
# Most pages keep their text inside of shadow roots.
ALL_TEXT = """(function all(node) {
    return (node.nodeType === 3 ? node.textContent : "")
        + (node.shadowRoot ? all(node.shadowRoot) : "") + [...node.childNodes].map(all).join("");
})(document.body)"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A run that was killed after updates that no checkpoint holds and then gone on with, and another run."""

    def config(**sections: dict[str, Any]) -> Config:
        values = {name: {**TINY[name], **sections.get(name, {})} for name in TINY}
        values["data"]["cache_dir"] = str(cache_dir)
        values["validation"]["draw_attention"] = True
        return build_config(values)

    folder = tmp_path_factory.mktemp("runs")
    killed = folder / "killed"
    long = config(train={"max_updates": 200, "save_every_updates": 40})
    ranks = start_ranks(1, folder / "log", train, long, killed)
    while ranks.are_running() and not (newest_update(killed) >= 40 and last_line(killed) >= newest_update(killed) + 15):
        time.sleep(0.002)
    assert ranks.kill(), (folder / "log").read_text()
    at = newest_update(killed)
    assert last_line(killed) > at
    train(long, killed)
    assert [line["update"] for line in read_lines(killed) if "loss" in line] == list(range(5, 201, 5))
    train(config(train={"max_updates": 20}, optim={"max_lr": 1e-3}), folder / "other")
    return folder


def last_line(run_dir: Path) -> int:
    """The update of the last line of metrics that is whole."""
    path = run_dir / "metrics.jsonl"
    found = re.findall(r'\{"update": (\d+), .*\}\n', path.read_text()) if path.exists() else []
    return int(found[-1]) if found else 0


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """Of a TensorBoard that has read both runs."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines: list[str] = []
            for line in server.stderr or ():
                lines.append(line)
                if found := re.search(r"http://127.0.0.1:\d+/", line):
                    break
            assert found, "".join(lines)
            wait_until(lambda: {RUN, OTHER} <= set(ask(found[0], "runs")))
            wait_until(lambda: steps(found[0], "train/loss")[-1:] == [200])
            yield found[0]
        finally:
            server.terminate()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def ask(address: str, what: str, body: dict[str, Any] | None = None, **query: str) -> Any:
    """The server's answer."""
    url = f"{address}data/{what}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def steps(address: str, tag: str) -> list[int]:
    try:
        return [step for _, step, _ in ask(address, "plugin/scalars/scalars", run=RUN, tag=tag)]
    except urllib.error.HTTPError:  # not read yet
        return []


def test_every_curve_has_each_update_once_as_metrics_jsonl_has_it(address: str, runs: Path) -> None:
    lines = read_lines(runs / "killed")
    for group, names in CURVES.items():
        for name in names:
            points = ask(address, "plugin/scalars/scalars", run=RUN, tag=f"{group}/{name}")
            expected = [(line["update"], line[name]) for line in lines if name in line]
            assert [step for _, step, _ in points] == [update for update, _ in expected]
            assert [value for *_, value in points] == pytest.approx([value for _, value in expected])


def test_texts_and_pictures_of_each_validation_are_there_once(address: str) -> None:
    validated = list(range(20, 201, 20))
    texts = ask(address, "plugin/text/text", run=RUN, tag="samples/text_summary")
    assert [text["step"] for text in texts] == validated
    assert all("<table>" in text["text"] and "nurses" in text["text"] for text in texts)
    assert [text["step"] for text in ask(address, "plugin/text/text", run=RUN, tag="config/text_summary")] == [0]
    pictures = ask(address, "plugin/images/images", run=RUN, tag="attention", sample="0")
    assert [picture["step"] for picture in pictures] == validated
    with urllib.request.urlopen(f"{address}data/plugin/images/individualImage?{pictures[-1]['query']}") as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_page_of_hyper_parameters_puts_first_what_differs_and_the_best_scores(address: str, runs: Path) -> None:
    experiment = ask(address, "plugin/hparams/experiment", {"experimentName": ""})
    assert [info["name"] for info in experiment["hparamInfos"] if info["differs"]] == [
        "optim.max_lr",
        "train.max_updates",
    ]
    assert experiment["hparamInfos"][0]["name"] == "optim.max_lr"
    assert [info["name"]["tag"] for info in experiment["metricInfos"]][:3] == ["best/bleu", "best/cer", "best/chrf"]
    names = [{"metric": {"tag": f"{group}/bleu", "group": ""}} for group in ("best", "validation")]
    wanted = {"startIndex": 0, "sliceSize": 10, "colParams": names}
    wanted["allowedStatuses"] = ["STATUS_SUCCESS", "STATUS_UNKNOWN"]
    groups = {group["name"]: group for group in ask(address, "plugin/hparams/session_groups", wanted)["sessionGroups"]}
    assert groups.keys() == {RUN, OTHER}
    assert groups[RUN]["hparams"]["optim.max_lr"] == 5e-3
    assert groups[OTHER]["hparams"]["optim.max_lr"] == 1e-3
    assert groups[RUN]["sessions"][0]["status"] == "STATUS_SUCCESS"
    final = {value["name"]["tag"]: value["value"] for value in groups[RUN]["metricValues"]}
    last = read_lines(runs / "killed")[-1]
    assert final["validation/bleu"] == pytest.approx(last["bleu"])
    assert final["best/bleu"] == pytest.approx(read_json(runs / "killed" / "best" / "scores.json")["bleu"])


def test_a_browser_shows_a_curve_of_every_number_and_the_texts_and_pictures(address: str, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as tab:
        # Filtered, since only the first groups are open, and of one list a dozen is shown at a time.
        for groups in (("train", "validation"), ("speed", "system")):
            tab.open("about:blank", 1500, 3000)
            tab.open(f"{address}?tagFilter={urllib.parse.quote(f'^({groups[0]}|{groups[1]})/')}#timeseries", 1500, 3000)
            for tag in (f"{group}/{name}" for group in groups for name in CURVES[group]):
                tab.wait_for(f"{ALL_TEXT}.includes('{tag}')")
            tab.wait_for(f"{ALL_TEXT}.includes('{RUN}')")
        tab.open(f"{address}#text", 1500, 2000)
        tab.wait_for(f"{ALL_TEXT}.includes('samples/text_summary')")
        tab.wait_for(f"{ALL_TEXT}.includes('Ces infirmières répareront')")
        tab.open(f"{address}#images", 1500, 2000)
        tab.wait_for(f"{ALL_TEXT}.includes('attention')")
        tab.open(f"{address}#hparams", 1500, 2000)
        for text in ("optim.max_lr", "best/bleu", RUN, OTHER):
            tab.wait_for(f"{ALL_TEXT}.includes('{text}')")
