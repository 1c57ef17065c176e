"""A mirror outlives the machine: the run goes on from it exactly, and nothing that happens to it stops the training."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accel_tx.config import Config, UserError
from accel_tx.train import checkpoint, copied_run, loop, mirror
from accel_tx.train.loop import train
from accel_tx.train.mirror import Mirror, bring_back
from accel_tx.train.run_dir import Resume
from tests.conftest import SmallDisk
from tests.ranks import train_on
from tests.run_folder import assert_only_what_belongs, assert_same_run, read_lines
from tests.train.test_copied_run import contents

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
}


def test_a_run_goes_on_exactly_from_its_mirror_where_the_machine_is_gone(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(name: str, resume: Resume = "auto", **fields: Any) -> None:
        config = tiny_config(**SMALL, train={"max_updates": 16, "save_every_updates": 5, **fields})
        train(config, tmp_path / name, resume)

    mirror = tmp_path / "drive" / "run"
    mirror.parent.mkdir()
    start("whole")
    start("first machine", mirror_dir=str(mirror), stop_at_update=7)
    assert "bringing it back" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "first machine")
    start("second machine", "require", mirror_dir=str(mirror), stop_at_update=12)
    assert f"is behind {mirror}, which is at update 7: bringing it back" in capsys.readouterr().out
    # The first machine is back, but behind.
    shutil.copytree(tmp_path / "second machine", tmp_path / "behind")
    start("second machine", mirror_dir=str(mirror), stop_at_update=14)
    start("behind", mirror_dir=str(mirror))
    assert_same_run(tmp_path / "behind", tmp_path / "whole")
    assert_same_run(mirror, tmp_path / "whole")
    assert_only_what_belongs(mirror)
    start("behind", mirror_dir=str(mirror))
    assert "bringing it back" not in capsys.readouterr().out.rpartition("complete after")[0].rpartition("complete")[2]


def test_of_a_mirror_only_what_is_whole_is_waited_for(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"max_updates": 16, "save_every_updates": 5, "mirror_dir": str(tmp_path / "mirror")}
    config = tiny_config(**SMALL, train={**fields, "stop_at_update": 12})
    train(config, tmp_path / "run")
    damaged = tmp_path / "mirror" / "checkpoints" / "update_00000012" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    shutil.rmtree(tmp_path / "run")
    capsys.readouterr()
    train(config, tmp_path / "run")
    assert "which is at update 10: bringing it back" in capsys.readouterr().out

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "update_00000012")
    damaged.write_bytes(content)
    arguments = config, tmp_path / "run", tmp_path / "mirror", False
    other_process = threading.Thread(target=bring_back, args=arguments, daemon=True)
    other_process.start()
    other_process.join(10)
    assert not other_process.is_alive()


def test_a_run_folder_that_was_damaged_is_healed_from_its_mirror(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"max_updates": 8, "save_every_updates": 4}
    train(tiny_config(**SMALL, train=fields), tmp_path / "whole")
    fields |= {"mirror_dir": str(tmp_path / "mirror")}
    train(tiny_config(**SMALL, train={**fields, "stop_at_update": 4}), tmp_path / "run")
    damaged = checkpoint.checkpoint_dir(tmp_path / "run", 4) / "optimizer.bin"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    capsys.readouterr()
    train(tiny_config(**SMALL, train=fields), tmp_path / "run")
    assert "which is at update 4: bringing it back" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert contents(tmp_path / "mirror") == contents(tmp_path / "run")


@pytest.mark.slow
def test_two_processes_go_on_from_it_as_one_does(tiny_config: MakeConfig, tmp_path: Path) -> None:
    fields = {"max_updates": 16, "save_every_updates": 5}
    train_on(2, tiny_config(**SMALL, train=fields), tmp_path / "whole")
    fields |= {"mirror_dir": str(tmp_path / "mirror")}
    train_on(2, tiny_config(**SMALL, train={**fields, "stop_at_update": 8}), tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts")
    train_on(2, tiny_config(**SMALL, train=fields), tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    assert_same_run(tmp_path / "mirror", tmp_path / "whole")


def test_a_slow_mirror_holds_nothing_up_and_is_complete_at_the_end(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = copied_run.copy_run, []

    def slowly(source: Path, target: Path, brings_back: bool = False) -> None:
        seen.append(len(read_lines(source)) if (source / "metrics.jsonl").exists() else 0)
        if len(seen) == 1:
            ended.wait(60)
        real(source, target, brings_back)
        found, passed_over = checkpoint.newest_valid(target)
        assert found is not None
        assert passed_over == []

    ended, finish = threading.Event(), loop.Run.finish
    monkeypatch.setattr(copied_run, "copy_run", slowly)
    monkeypatch.setattr(loop.Run, "finish", lambda run: (ended.set(), finish(run)))
    config = tiny_config(
        **SMALL, train={"max_updates": 8, "save_every_updates": 1, "mirror_dir": str(tmp_path / "mirror")}
    )
    train(config, tmp_path / "run")
    assert len(seen) <= 5  # of nine times that it was asked for
    assert contents(tmp_path / "mirror") == contents(tmp_path / "run")


def test_what_changes_faster_than_it_can_be_copied_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, said = [20], list[str]()

    def changing(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] > 0:
            raise copied_run.Changing("best")

    monkeypatch.setattr(copied_run, "copy_run", changing)
    monkeypatch.setattr(mirror, "_POLL_S", 0)
    assert Mirror(tmp_path / "run", tmp_path / "mirror", said.append).finish() is None
    assert left == [0]
    (line,) = said
    assert line.startswith(f"{tmp_path / 'mirror'}: best was replaced or removed 5 times in a row before it was copied")


def test_a_full_mirror_costs_lines_and_the_exit_status(
    small_disk: SmallDisk | None, tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if small_disk is None:
        pytest.skip("a tmpfs cannot be mounted here")
    mirror = small_disk.path / "run"
    config = tiny_config(**SMALL, train={"max_updates": 12, "save_every_updates": 3, "mirror_dir": str(mirror)})
    small_disk.fill()
    with pytest.raises(UserError, match=f"{mirror}: behind the run folder: No space left on device .*make room"):
        train(config, tmp_path / "run")
    assert (tmp_path / "run" / "final").is_dir()
    assert capsys.readouterr().out.count("behind the run folder") == 1
    small_disk.make_room()
    train(config, tmp_path / "run")
    assert contents(mirror) == contents(tmp_path / "run")


def test_what_cannot_be_a_mirror_is_refused_before_anything_is_written(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run, mirror = tmp_path / "run", tmp_path / "mirror"

    def refused(message: str, mirror_dir: Path = mirror, resume: Resume = "auto", **fields: Any) -> None:
        config = tiny_config(**SMALL, train={"max_updates": 4, "mirror_dir": str(mirror_dir), **fields})
        before = contents(tmp_path)
        with pytest.raises(UserError, match=message):
            train(config, run, resume)
        assert contents(tmp_path) == before
        assert not run.exists()

    refused("expected two folders side by side", run / "mirror")
    refused("expected two folders side by side", tmp_path)
    refused("no folder .*/not mounted; is it mounted", tmp_path / "not mounted" / "mirror")
    mirror.mkdir()
    (mirror / "photo.jpg").write_text("")
    refused("is not empty and holds no run")
    (mirror / "photo.jpg").unlink()
    train(tiny_config(**SMALL, train={"max_updates": 4, "mirror_dir": str(mirror)}), run)
    shutil.rmtree(run)
    refused("holds a run with train.seed = 1, this start has 2", seed=2)
    refused("holds checkpoints", resume="never")
    train(tiny_config(**SMALL, train={"max_updates": 4, "stop_at_update": 2, "seed": 2}), run)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"{run}: holds a run with train.seed = 2, this start has 1"):
        train(tiny_config(**SMALL, train={"max_updates": 4, "mirror_dir": str(mirror)}), run)
    assert contents(tmp_path) == before


def test_a_mirror_whose_thread_cannot_start_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, said = list[Path](), list[str]()
    monkeypatch.setattr(copied_run, "copy_run", lambda source, _: copied.append(source))

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    copy = Mirror(tmp_path / "run", tmp_path / "mirror", said.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        copy.update()
        assert copy.finish() is not None
    (line,) = said
    assert line.startswith(f"{tmp_path / 'mirror'}: behind the run folder: can't start new thread ")
    assert copied == []
    assert copy.finish() is None
    assert copied == [tmp_path / "run"]
