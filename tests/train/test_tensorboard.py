"""Event files hold each update once, whatever became of the start that wrote them, and say what the config was."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util.tensor_util import make_ndarray

from accel_tx.config import Config
from accel_tx.data.batch import Batch
from accel_tx.train.file_system import read_json
from accel_tx.train.loop import train
from accel_tx.train.run_samples import as_markdown
from accel_tx.train.tensorboard import TensorBoard, histogram_of
from accel_tx.train.update import Updater
from tests.run_folder import read_lines

MakeConfig = Callable[..., Config]


def events_of(run_dir: Path) -> EventAccumulator:
    """What TensorBoard's server reads."""
    events = EventAccumulator(str(run_dir / "tensorboard"), {TENSORS: 0})
    events.Reload()
    return events


def steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Tensors(tag)]


def test_a_further_start_of_a_complete_run_adds_no_point(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(train={"max_updates": 4}, validation={"every_updates": 2})
    for _ in range(3):
        train(config, tmp_path / "run")
    assert steps(events_of(tmp_path / "run"), "best/bleu") == [4]


class Killed(Exception):  # noqa: N818 - a planted end
    pass


def kill_at(update: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the training end without a word when it comes to this update (from 0)."""
    real = Updater.train

    def make_update(self: Updater, number: int, batches: list[Batch], *rest: Any) -> torch.Tensor:
        if number == update:
            raise Killed
        return real(self, number, batches, *rest)

    monkeypatch.setattr(Updater, "train", make_update)


@pytest.mark.parametrize("killed_at", [8, pytest.param(24, marks=pytest.mark.slow)])
def test_curves_go_on_where_the_checkpoint_stands_and_hold_each_update_once(
    killed_at: int, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        train={"max_updates": 30, "log_every_updates": 2, "histograms_every_updates": 3},
        validation={"every_updates": 6, "draw_attention": killed_at == 24},
        data={"phrasebook_valid_pairs": 3},
    )
    with monkeypatch.context() as patch:
        kill_at(killed_at, patch)
        with pytest.raises(Killed):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    events, lines = events_of(tmp_path / "run"), read_lines(tmp_path / "run")
    groups = {"loss": "train", "grad_norm": "train", "lr": "train", "tgt_tokens_per_s": "speed"}
    groups |= {"padding_share": "speed", "host_rss_gib": "system", "validation_s": "speed"}
    groups |= dict.fromkeys(("val_loss", "bleu", "chrf", "cer", "wer"), "validation")
    for name, group in groups.items():
        expected = [(line["update"], line[name]) for line in lines if name in line]
        tag = f"{group}/{name}"
        assert steps(events, tag) == [update for update, _ in expected]
        values = [make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)]
        assert values == pytest.approx([value for _, value in expected])
    scalars = events.PluginTagToContent("scalars")
    assert {tag.partition("/")[0] for tag in scalars} == {"train", "validation", "speed", "system", "best"}
    validated = [6, 12, 18, 24, 30]
    assert steps(events, "samples/text_summary") == validated
    assert steps(events, "config/text_summary") == [0]
    assert "attention" not in events.Tags()[TENSORS] if killed_at == 8 else steps(events, "attention") == validated
    for kind in ("weights", "gradients"):
        name = f"{kind}/decoder_layers.0.feed_forward_residual.norm.weight"
        assert steps(events, name) == list(range(3, 31, 3))


def test_the_config_is_there_as_hyper_parameters_and_the_run_as_complete(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    def session(tag: str) -> bytes:
        return events_of(tmp_path / "run").SummaryMetadata(tag).plugin_data.content

    train(tiny_config(train={"stop_at_update": 10}), tmp_path / "run")
    start = hparams.parse_session_start_info_plugin_data(session(hparams.SESSION_START_INFO_TAG))
    known = {name: value.number_value or value.string_value for name, value in start.hparams.items()}
    assert (known["optim.max_lr"], known["model.d_model"], known["optim.name"]) == (5e-3, 16, "adam")
    assert known["optim.betas"] == "[0.9, 0.98]"
    assert "optim.warmup_updates" not in known
    with pytest.raises(KeyError):
        session(hparams.SESSION_END_INFO_TAG)
    train(tiny_config(), tmp_path / "run")
    end = hparams.parse_session_end_info_plugin_data(session(hparams.SESSION_END_INFO_TAG))
    assert end.status == api_pb2.STATUS_SUCCESS
    best = read_json(tmp_path / "run" / "best" / "scores.json")
    events = events_of(tmp_path / "run")
    for name in ("bleu", "val_loss"):
        (point,) = events.Tensors(f"best/{name}")
        assert (point.step, make_ndarray(point.tensor_proto).item()) == (40, pytest.approx(best[name]))


def test_without_tensorboard_among_the_trackers_there_is_none(tiny_config: MakeConfig, tmp_path: Path) -> None:
    train(tiny_config(train={"max_updates": 10, "trackers": []}), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(read_lines(tmp_path / "run")) == 3


def test_a_histogram_counts_as_numpy_does() -> None:
    values = torch.randn(40, 25, dtype=torch.bfloat16)
    found = histogram_of(values)
    assert found is not None
    as_float = values.float().numpy()
    counts, edges = np.histogram(as_float, bins=64)
    assert sum(found["bucket_counts"]) == found["num"] == 1000
    assert np.abs(np.array(found["bucket_counts"]) - counts).sum() <= 4  # values on an edge
    np.testing.assert_allclose(found["bucket_limits"], edges[1:], rtol=1e-5, atol=1e-6)
    assert found["sum"] == pytest.approx(float(as_float.sum(dtype=float)))
    assert found["sum_squares"] == pytest.approx(float((as_float.astype(float) ** 2).sum()))
    same = histogram_of(torch.full((3,), 2.0))
    assert same is not None
    assert sum(same["bucket_counts"]) == 3
    assert histogram_of(torch.tensor([1.0, float("nan")])) is None
    assert histogram_of(torch.tensor([1.0, float("inf")])) is None


def test_a_table_shows_text_as_it_is(tmp_path: Path) -> None:
    import markdown

    board = TensorBoard(tmp_path / "tensorboard", print)
    board.open(0)
    strange = "a | b <unk> *c* _d_ `e` [f](g) \\ & #"
    board.add_text("samples", as_markdown([(strange, "x", "y")]), 1)
    board.close()
    text = events_of(tmp_path).Tensors("samples/text_summary")[0].tensor_proto.string_val[0].decode()
    shown = markdown.markdown(text, extensions=["markdown.extensions.tables"])
    cells = [html.unescape(line) for line in shown.splitlines() if line.startswith("<td>")]
    assert cells == [f"<td>{strange}</td>", "<td>x</td>", "<td>y</td>"]
    assert "&lt;unk&gt;" in shown
