"""Whether the GPU is used and this torch has code for it, with the hardware replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.utils import parse_flag_from_env

from accel_tx.cli import main
from accel_tx.config import Config, UserError
from accel_tx.inference.translator import Translator, best_device
from accel_tx.model import gpu
from accel_tx.model.gpu import build_drives, check_gpu_build, told_cpu, uses_gpu
from accel_tx.train.loop import train
from tests.conftest import REPOSITORY, as_options


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a GPU, a V100, and a torch that has code for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Pretended GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=0: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80"])
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)


@pytest.mark.parametrize("word", [*"y Yes t true TRUE on 1 n no f false False off 0 2 ja".split(), ""])
def test_accelerate_use_cpu_is_read_as_accelerate_reads_it(
    word: str, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", word)
    try:
        expected = parse_flag_from_env("ACCELERATE_USE_CPU")
    except ValueError:
        with pytest.raises(UserError, match=f"ACCELERATE_USE_CPU is '{word}'; expected true or false"):
            uses_gpu()
        return
    assert told_cpu() is expected
    assert uses_gpu() is not expected
    assert best_device().type == ("cpu" if expected else "cuda")


def test_without_a_word_a_gpu_is_used_where_there_is_one(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not uses_gpu()
    assert best_device().type == "cpu"


def test_the_tests_and_what_they_start_see_no_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()


def test_every_command_that_computes_says_what_to_install(
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run, text = str(tmp_path / "run"), str(tmp_path / "text")
    Path(text).write_text("We eat.\n")
    config = tiny_config(train={"max_updates": 1, "save_every_updates": 1}, validation={"every_updates": 1})
    train(config, Path(run))
    capsys.readouterr()
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
    settings = ["--config", f"{run}/config.yaml", *as_options(config), "--precision", "no"]
    for argv in (
        ["translate", "--run_dir", run, "--input", text, "--output", f"{text}.out"],
        ["evaluate", "--run_dir", run, "--src", text, "--ref", text],
        ["score", "--run_dir", run, "--src", text, "--tgt", text, "--output", f"{text}.out"],
        ["attention", "--run_dir", run, "--input", "We eat.", "--output", f"{text}.png"],
        ["bench", *settings],
        ["bench", "--measure", "parts", *settings],
        ["bench", "--measure", "decode", "--run_dir", run, *settings],
        ["train", "--run_dir", f"{run}2", *settings[:-2]],
    ):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2
        assert "is built for sm_75, not for this GPU (Pretended GPU, sm_70); pip install" in line
    assert {path.name for path in tmp_path.iterdir()} == {"run", "text"}


@pytest.mark.parametrize(
    ("built_for", "capability", "drives"),
    [
        (["sm_70", "sm_75", "sm_80"], (7, 0), True),
        (["sm_75", "sm_80", "sm_90"], (7, 0), False),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_75", "compute_75"], (9, 0), True),
        (["compute_90"], (8, 0), False),
        (["sm_90a", "sm_100", "sm_120"], (12, 0), True),
        ([], (7, 0), False),
    ],
)
def test_a_build_drives_a_gpu_it_has_code_for(built_for: list[str], capability: tuple[int, int], drives: bool) -> None:
    assert build_drives(built_for, *capability) is drives


def test_a_v100_under_a_build_without_its_code_is_told_what_to_install(
    pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    with pytest.raises(UserError, match=r'pip install "torch>=2.10,<2.11"'):
        check_gpu_build()
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80"])
    check_gpu_build()


@pytest.mark.parametrize(
    ("capability", "advice"),
    [
        ((7, 0), r'sm_70\); pip install "torch>=2.10,<2.11", or pip install .* --index-url .*/cu126$'),
        ((6, 1), r'sm_61\); pip install "torch>=2.10,<2.14" --index-url .*/cu126$'),
        ((3, 7), r"sm_37\); no torch from 2.10 on drives it; take the CPU"),
        ((12, 0), r"sm_120\); install the newest torch within requirements.txt"),
    ],
)
def test_each_process_looks_at_its_own_gpu_and_is_told_what_to_install(
    capability: tuple[int, int],
    advice: str,
    pretended: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(8, 0), capability][index])
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_gpu_build()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=advice):
        check_gpu_build()


def test_the_launch_files_range_of_torch_is_that_of_the_requirements() -> None:
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    assert "torch>=2.10,<2.14\n" in requirements
    assert '"torch>=2.10,<2.14"' in gpu._CUDA_126


def test_attention_needs_no_plan_for_every_new_shape(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    for use in (
        lambda: train(tiny_config(train={"max_updates": 4}), tmp_path / "run"),
        lambda: Translator.from_run_dir(tmp_path / "run", "best", torch.device("cpu")),
    ):
        torch.backends.cuda.enable_cudnn_sdp(True)
        use()
        assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
