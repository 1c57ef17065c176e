"""`train.compile` and `train.tf32`: what is refused, what is said, and an exact resume with compiled layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel_tx.config import Config, ModelConfig, UserError
from accel_tx.data.collator import DataCollator, TokenPair
from accel_tx.model import attention
from accel_tx.model.transformer import Transformer
from accel_tx.train import compiling, device
from accel_tx.train.loop import train
from tests.conftest import as_options, run_cli
from tests.run_folder import metrics, weights

MakeConfig = Callable[..., Config]

# torch's own, while it imports and traces.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


def test_a_machine_without_a_compiler_gets_one_line_and_an_empty_folder(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    import torch._inductor.config

    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(UserError, match=r"^train.compile is true but there is no C\+\+ compiler; expected g\+\+"),
    ):
        train(tiny_config(train={"compile": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_compiler_that_fails_is_told_in_one_line(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("Python.h: no such file\nand more")

    compile_layers = Transformer.compile_layers
    monkeypatch.setattr(Transformer, "compile_layers", lambda self: compile_layers(self, broken))
    with pytest.raises(UserError, match=r"torch.compile failed here: .*; expected a working compiler") as error:
        train(tiny_config(train={"compile": True}), tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_packed_sentences_of_any_size_take_one_graph_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with our kernels; on the device that computes shapes alone."""
    monkeypatch.setattr(attention.kernels, "runs", lambda _: True)
    model = ModelConfig(d_model=32, d_ff=48, n_heads=2, n_encoder_layers=2, n_decoder_layers=2)
    transformer = Transformer(model, 50, 50).to("meta", torch.bfloat16).train()
    transformer.compile_layers("aot_eager")
    collate = DataCollator(is_packed=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n_pairs in (5, 7, 40):
            lengths = [(3 + i, 40 - i % 20) for i in range(n_pairs)]
            batch = collate([TokenPair(*(np.full(n, 7, dtype=np.int32) for n in pair)) for pair in lengths])
            transformer.hidden(batch.to(torch.device("meta"))).sum().backward()


def test_what_the_launcher_exported_is_told_and_changes_nothing(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_DYNAMIC", "False")
    train(tiny_config(train={"max_updates": 1, "log_every_updates": 1}), tmp_path / "run")
    assert "dynamo_backend inductor, which changes nothing: train.compile decides, and is false" in (
        capsys.readouterr().out
    )
    assert compiling.compile_lines(True)[0] == "layers compiled by torch.compile for every shape"


@pytest.mark.parametrize(("capability", "does"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_set_where_the_gpu_has_it(
    capability: tuple[int, int], does: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "uses_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    try:
        assert device.use_tf32(True) is does
        assert torch.get_float32_matmul_precision() == ("high" if does else "highest")
        assert not device.use_tf32(False)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_tf32_on_a_cpu_sets_nothing_and_says_so(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(train={"max_updates": 1, "tf32": True}), tmp_path / "run")
    assert "train.tf32 has no effect: only NVIDIA GPUs" in capsys.readouterr().out
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.slow
def test_a_compiled_run_goes_on_to_the_same_bytes(tiny_config: MakeConfig, tmp_path: Path) -> None:
    fields = {"compile": True, "max_updates": 12, "save_every_updates": 4}

    def start(name: str, **more: Any) -> str:
        config = tiny_config(train={**fields, **more}, validation={"every_updates": 12})
        options = ["--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / name), *as_options(config)]
        done = run_cli("train", *options)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    assert "layers compiled by torch.compile" in start("whole")
    start("parts", stop_at_update=5)
    start("parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
