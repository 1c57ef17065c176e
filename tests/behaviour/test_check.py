"""`check` says before training what would go wrong, and leaves the run folder as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sacrebleu.tokenizers import tokenizer_ja_mecab

from accel_tx.cli import main
from accel_tx.config import Config, UserError
from accel_tx.data.batch import Block
from accel_tx.model.transformer import Transformer
from accel_tx.train import check as checking
from accel_tx.train import checkpoint, checkpoint_writer, file_system, host_memory, results, try_out
from accel_tx.train.check import check
from accel_tx.train.checkpoint_content import read_content
from accel_tx.train.loop import train
from accel_tx.train.outlook import Outlook
from accel_tx.train.run_dir import Resume
from tests.conftest import as_options
from tests.ranks import start_ranks
from tests.run_folder import assert_same_run, bytes_of

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {
    "data": {"phrasebook_valid_pairs": 3},
    "train": {"max_updates": 8, "save_every_updates": 2, "log_every_updates": 2},
    "validation": {"every_updates": 40, "best_metric": "val_loss"},
}


@pytest.fixture(autouse=True)
def _few_timed_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(try_out, "_MOST_TIMED", 2)


def checked(config: Config, run_dir: Path, init_from: Path | None = None, resume: Resume = "auto") -> Outlook:
    found = check(config, run_dir, init_from, resume)
    assert found is not None
    return found


def test_the_command_prints_what_will_happen_and_writes_nothing(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "runs" / "new"
    call = ["check", "--config", "configs/quickstart.yaml", "--run_dir", str(run_dir), *as_options(tiny_config())]
    main(call)
    printed = capsys.readouterr()
    for words in ("a new run in", "600 training and 23 validation pairs", "went through", "40 updates", "no problem"):
        assert words in printed.out, words
    assert printed.err == ""
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit) as ended:
        main([*call, "--train.max_updates", "100000", "--train.stop_at_update", "8"])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "1 problem(s):" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("accel_tx: train.max_updates is 100,000, which is 6,667 passes")


def test_a_disk_too_small_for_the_checkpoints_is_found(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    (line,) = checked(config, tmp_path / "run").problems
    assert "copies of the weights" in line
    assert "0.1 MB are free" in line
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert checked(config, tmp_path / "run").problems == []


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_run_takes_no_more_disk_than_was_said_and_not_much_less(
    name: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"keep_checkpoints": 1, "ema_decay": 0.9}
    config = tiny_config(
        **{**SMALL, "train": {**SMALL["train"], **more}, "validation": {"every_updates": 2}, "optim": {"name": name}}
    )
    disks = list[Any]()
    plain_problem = checking.Disk.problem
    monkeypatch.setattr(checking.Disk, "problem", lambda d, *names: disks.append(d) or plain_problem(d, *names))
    assert checked(config, tmp_path / "run").problems == []
    peaks, plain_seal = [0], checkpoint.seal

    def seal(beside: Path, final: Path, state: Any) -> None:
        peaks.append(sum(file_system.size_bytes(tmp_path / "run" / name) for name in ("checkpoints", "best")))
        plain_seal(beside, final, state)

    monkeypatch.setattr(checkpoint_writer.checkpoint, "seal", seal)
    train(config, tmp_path / "run")
    (disk,) = disks
    folder = checkpoint.checkpoint_dir(tmp_path / "run", 8)
    assert disk.checkpoint == read_content(folder, checkpoint.load_state(folder)).n_bytes()
    # Headers and JSON weigh something in checkpoints so small, and the last save comes before final/.
    assert 0.5 * disk.needed < max(peaks) < 1.25 * disk.needed


def test_a_run_that_was_stopped_between_two_saves_takes_no_more_disk_than_was_said(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(**fields: Any) -> Config:
        train = {**SMALL["train"], "keep_checkpoints": 1, **fields}
        return tiny_config(**{**SMALL, "train": train, "validation": {"every_updates": 2}})

    run_dir, plain_seal, n_there, disks = tmp_path / "run", checkpoint.seal, list[int](), list[Any]()
    plain_needed = checking.Disk.row
    monkeypatch.setattr(checking.Disk, "row", lambda disk: disks.append(disk) or plain_needed(disk))

    def seal(beside: Path, final: Path, state: Any) -> None:
        n_there.append(len([*final.parent.glob("*update_*")]))
        plain_seal(beside, final, state)

    checked(config(), run_dir)
    monkeypatch.setattr(results, "is_better", lambda score, metric, state: state.best_score is None)
    monkeypatch.setattr(checkpoint_writer.checkpoint, "seal", seal)
    train(config(stop_at_update=5), run_dir)
    train(config(), run_dir)
    # That of the best validation, the regular one, that of the stop, and the one that is being written.
    assert max(n_there) == 4
    assert [disk.n_checkpoints for disk in disks] == [4]


def test_a_batch_that_the_forecast_has_no_room_for_is_not_tried(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 50 << 20)
    monkeypatch.setattr(checking, "try_out", lambda *_: pytest.fail("tried"))
    (line,) = checked(tiny_config(), tmp_path / "run").problems
    assert line.startswith("the largest micro-batch does not fit: ")
    assert "50 MiB free" in line


@pytest.mark.parametrize(("most_tokens", "words"), [(200, "in halves"), (1, "a single pair")])
def test_a_batch_that_the_device_has_no_room_for_is_found(
    most_tokens: int, words: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_encoder = Transformer._run_encoder

    def encoder(self: Transformer, x: torch.Tensor, blocks: Sequence[Block], *turns: Any) -> torch.Tensor:
        if len(x) > most_tokens:
            raise torch.OutOfMemoryError("planted")
        return plain_encoder(self, x, blocks, *turns)

    monkeypatch.setattr(Transformer, "_run_encoder", encoder)
    found = checked(tiny_config(), tmp_path / "run")
    (line,) = found.problems
    assert words in line
    assert "disk" in dict(found.rows)  # what else there is to say is said


def test_a_validation_pair_longer_than_the_positions_is_found_beside_other_problems(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, lines in (("train", ["a house", "two cats", "a red door"] * 9), ("valid", ["a cat", "so " * 99])):
        for language in ("en", "fr"):
            (corpus / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    config = tiny_config(data={"corpus": str(corpus), "phrasebook_train_pairs": 60_000}, clean={"preset": "none"})
    problems = checked(config, tmp_path / "run").problems
    assert len(problems) == 2
    assert "holds no run; give a new or an empty folder" in problems[0]
    assert "validation pair 2 has 100 tokens; expected at most model.max_positions = 96" in problems[1]


def test_a_tokenizer_of_scores_that_is_not_installed_is_found_and_train_refuses_it_at_once(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    config = tiny_config(validation={"tokenize": "ja-mecab"})
    (line,) = checked(config, tmp_path / "run").problems
    assert line.startswith("validation.tokenize ja-mecab: sacreBLEU cannot use it here (")
    with pytest.raises(UserError) as refused:
        train(config, tmp_path / "run")
    assert str(refused.value) == line
    assert not (tmp_path / "run").exists()


def test_what_a_start_would_make_of_a_run_folder_is_told_and_the_folder_stays_as_it_is(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir, config = tmp_path / "run", tiny_config(**SMALL)
    train(tiny_config(**{**SMALL, "train": {**SMALL["train"], "stop_at_update": 4}}), run_dir)
    before = bytes_of(run_dir)

    def start(config: Config) -> str:
        return dict(checked(config, run_dir).rows)["this start"]

    assert start(config) == "goes on from update 4 of 8 (update_00000004)"
    other = checked(tiny_config(**SMALL, optim={"max_lr": 1e-3}), run_dir)
    assert dict(other.rows)["this start"] == "refused, see below"
    assert ["optim.max_lr = 0.005, this start has 0.001" in line for line in other.problems] == [True]
    other = checked(tiny_config(**{**SMALL, "data": {"phrasebook_train_pairs": 500}}), run_dir)
    assert ["made with another training or validation data" in line for line in other.problems] == [True]
    with pytest.MonkeyPatch.context() as patch:  # nothing is tried, so that only the state can tell
        patch.setattr(host_memory, "available_bytes", lambda: 50 << 20)
        other = checked(tiny_config(**{**SMALL, "data": {"phrasebook_train_pairs": 500}}), run_dir)
    assert ["made with another training or validation data" in line for line in other.problems] == [False, True]
    damaged = run_dir / "checkpoints" / "update_00000004" / "optimizer.bin"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert start(config) == "goes on from update 2 of 8 (update_00000002)"
    damaged.write_bytes(whole)
    assert bytes_of(run_dir) == before

    train(config, run_dir)
    train(config, tmp_path / "unchecked")
    assert_same_run(run_dir, tmp_path / "unchecked")
    assert start(config).startswith("nothing to train: the run is complete at update 8 of 8")


def test_a_source_that_is_gone_is_a_problem_only_where_a_start_would_read_it(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    source, run_dir = tmp_path / "source", tmp_path / "run"
    stopped = tiny_config(**{**SMALL, "train": {**SMALL["train"], "stop_at_update": 2}})
    train(stopped, source)
    train(stopped, run_dir, init_from=source)
    shutil.rmtree(source)
    going_on = checked(tiny_config(**SMALL), run_dir, source, "require")
    assert going_on.problems == []
    assert dict(going_on.rows)["this start"] == "goes on from update 2 of 8 (update_00000002)"
    (problem,) = checked(tiny_config(**SMALL), tmp_path / "new", source).problems
    assert problem.startswith(f"--init_from {source}: no such folder")


def test_what_resume_asks_for_is_held_against_the_run_folder_and_its_mirror(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run_dir, mirror = tmp_path / "run", tmp_path / "mirror"
    config = tiny_config(**{**SMALL, "train": {**SMALL["train"], "stop_at_update": 2, "mirror_dir": str(mirror)}})
    (problem,) = checked(config, run_dir, resume="require").problems
    assert problem.startswith(f"{run_dir}: --resume require, but it holds no checkpoint")
    train(config, run_dir)
    assert any("--resume never, but it holds" in line for line in checked(config, run_dir, resume="never").problems)
    shutil.rmtree(run_dir)
    assert checked(config, run_dir, resume="require").problems == []
    assert any("--resume never, but it holds" in line for line in checked(config, run_dir, resume="never").problems)


def test_that_a_complete_run_would_get_longer_is_told(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def config(n_updates: int) -> Config:
        optim = {"schedule": "inverse_sqrt", "warmup_updates": 2, "pct_start": 0.3}
        return tiny_config(**{**SMALL, "optim": optim, "train": {**SMALL["train"], "max_updates": n_updates}})

    train(config(4), tmp_path / "run")
    row = dict(checked(config(8), tmp_path / "run").rows)["this start"]
    assert row == "goes on from update 4 of 8, longer than the 4 before (update_00000004)"


def test_a_start_that_its_mirror_will_be_brought_back_for_is_told_and_nothing_is_written(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, mirror = tmp_path / "run", tmp_path / "mirror"

    def config(**fields: Any) -> Config:
        return tiny_config(**{**SMALL, "train": {**SMALL["train"], "mirror_dir": str(mirror), **fields}})

    train(config(stop_at_update=4), run_dir)
    shutil.copytree(run_dir, tmp_path / "other")
    shutil.rmtree(run_dir)
    before = bytes_of(tmp_path)
    found = checked(config(), run_dir)
    assert found.problems == []
    rows = dict(found.rows)
    assert rows["this start"] == f"goes on from update 4 of 8 (update_00000004), brought back from {mirror}"
    assert "MB of them are there" in rows["disk of the mirror"]
    assert "MB of them are there" not in rows["disk"]

    other = checked(config(seed=2), run_dir)
    assert [f"{mirror}: holds a run with train.seed = 1, this start has 2" in line for line in other.problems] == [True]
    assert dict(other.rows)["this start"] == "refused, see below"
    assert "disk of the mirror" not in dict(other.rows)
    # What is in the run folder stands in the way of bringing it back.
    (tmp_path / "other" / "config.yaml").rename(tmp_path / "config.yaml")
    shutil.rmtree(tmp_path / "other" / "checkpoints")
    other = checked(config(), tmp_path / "other")
    assert [f"{tmp_path / 'other'}: is not empty and holds no run" in line for line in other.problems] == [True]
    (tmp_path / "config.yaml").rename(tmp_path / "other" / "config.yaml")
    shutil.rmtree(tmp_path / "other")
    assert {name: content for name, content in before.items() if not name.startswith("other")} == bytes_of(tmp_path)

    def free(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000 if mirror == Path(path) else 10**12)

    monkeypatch.setattr(checking.shutil, "disk_usage", free)
    (line,) = checked(config(keep_checkpoints=8), run_dir).problems
    assert line.startswith(f"{mirror}: ")
    assert "make room, give a train.mirror_dir on another disk" in line


@pytest.mark.parametrize(
    ("mirror", "words"), [("not mounted/mirror", "is it mounted?"), ("run/mirror", "expected two folders side by side")]
)
def test_a_mirror_that_train_refuses_is_a_problem(
    mirror: str, words: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config(**{**SMALL, "train": {**SMALL["train"], "mirror_dir": str(tmp_path / mirror)}})
    (line,) = checked(config, tmp_path / "run").problems
    assert words in line
    assert list(tmp_path.iterdir()) == []


def check_and_tell(config: Config, run_dir: Path) -> None:
    found = check(config, run_dir)
    if found is not None:
        print(found.rows, found.problems)
    assert (found is None) == (os.environ["RANK"] != "0")


def test_two_processes_try_together_and_one_tells(tiny_config: MakeConfig, tmp_path: Path) -> None:
    printed = start_ranks(2, tmp_path / "log", check_and_tell, tiny_config(), tmp_path / "run").wait()
    assert printed.count("2 process(es) on cpu") == 1
    assert "went through" in printed
    assert not (tmp_path / "run").exists()
