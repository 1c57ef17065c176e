"""`import-marian`: a model of `transformers` becomes a run that translates the same and can be trained further."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from accel_tx.cli import main
from accel_tx.data.phrasebook import iter_pairs
from tests.conftest import SmallDisk, refusal
from tests.marian_folders import write_marian
from tests.run_folder import read_lines

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
pytest.importorskip("google.protobuf", reason="protobuf is not installed")

MODEL = "Helsinki-NLP/opus-mt-en-fr"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model in `theirs`, sentences in `in.en` and what became of the model in `ours`."""
    folder = tmp_path_factory.mktemp("marian")
    write_marian(folder / "theirs", tags=(">>fra<<",))
    lines = [f">>fra<< {src}" for src, _ in iter_pairs("validation", 60, seed=1)]
    (folder / "in.en").write_text("\n".join(lines) + "\n", encoding="utf-8")
    main(["import-marian", "--model", str(folder / "theirs"), "--output", str(folder / "ours")])
    return folder


def test_it_translates_as_transformers_does_and_says_so(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours"
    arguments = ["--model", str(place / "theirs"), "--output", str(output), "--sentences", str(place / "in.en")]
    main(["import-marian", *arguments])
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "begin each source with the language that is asked for, 1 in all: >>fra<<"
    assert printed[2].startswith("identical: 60 of 60 translations (greedy; transformers ")
    assert json.loads((output / "imported.json").read_text())["sentences"]["identical"] == 60
    # It is the model that is imported without sentences, too.
    assert (output / "model.safetensors").read_bytes() == (place / "ours" / "model.safetensors").read_bytes()
    config = yaml.safe_load((output / "config.yaml").read_text())
    assert (config["data"]["src_lang"], config["data"]["tgt_lang"]) == ("en", "fr")
    assert (config["decode"]["beam_size"], config["decode"]["length_exponent"]) == (4, 0.8)
    assert config["tokenizer"]["kind"] == "unigram"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("generation_config.json", {"early_stopping": "x"}),
        ("config.json", {"init_std": "x"}),
        ("tokenizer_config.json", {"sp_model_kwargs": {"nosuch": 1}}),
        ("added_tokens.json", None),
    ],
)
def test_what_transformers_refuses_is_one_line(
    name: str, fields: dict[str, Any] | None, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(place / "theirs", tmp_path / "theirs"))
    values = {} if fields is None else {**json.loads((folder / name).read_text()), **fields}
    (folder / name).write_text(json.dumps(values) if values else "{")
    arguments = ["--model", str(folder), "--output", str(tmp_path / "ours")]
    error = refusal(capsys, "import-marian", *arguments, "--sentences", str(place / "in.en"))
    assert f"--sentences: transformers cannot use {folder} (" in error
    assert error.endswith("mend it, or leave --sentences out\n")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    main(["import-marian", *arguments])


def test_the_search_is_that_of_the_folder_and_greedy_where_it_is_compared(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(place / "theirs", tmp_path / "theirs"))
    values = json.loads((folder / "generation_config.json").read_text())
    values |= {"no_repeat_ngram_size": 2, "min_length": 30, "num_beams": 7, "length_penalty": None}
    (folder / "generation_config.json").write_text(json.dumps(values))
    arguments = ["--model", str(folder), "--output", str(tmp_path / "ours"), "--sentences", str(place / "in.en")]
    main(["import-marian", *arguments])
    assert "identical: 60 of 60" in capsys.readouterr().out
    decode = yaml.safe_load((tmp_path / "ours" / "config.yaml").read_text())["decode"]
    assert [decode[name] for name in ("beam_size", "length_exponent", "no_repeat_ngram")] == [7, 1.0, 2]


@pytest.mark.parametrize("fields", [{"num_beams": float("inf")}, {"num_beams": 4.7}, {"length_penalty": 10**400}])
def test_a_search_that_is_none_is_one_line(
    fields: dict[str, Any], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(place / "theirs", tmp_path / "theirs"))
    (folder / "generation_config.json").write_text(json.dumps(fields))
    error = refusal(capsys, "import-marian", "--model", str(folder), "--output", str(tmp_path / "ours"))
    assert f"{folder}: {next(iter(fields))} of generation_config.json or config.json is " in error


def test_one_group_of_languages_on_both_sides_needs_two_names(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(place / "theirs", tmp_path / "theirs"))
    (folder / "tokenizer_config.json").write_text('{"source_lang": "gmq", "target_lang": "gmq"}')
    arguments = ["--model", str(folder), "--output", str(tmp_path / "ours")]
    error = refusal(capsys, "import-marian", *arguments, "--src_lang", "de", "--tgt_lang", "de")
    assert error == "accel_tx: --src_lang and --tgt_lang: both are 'de'; expected two names\n"
    main(["import-marian", *arguments, "--src_lang", "sv"])
    data = yaml.safe_load((tmp_path / "ours" / "config.yaml").read_text())["data"]
    assert (data["src_lang"], data["tgt_lang"]) == ("sv", "tgt")


def test_where_it_would_translate_otherwise_nothing_is_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accel_tx.pretrained import marian_weights

    exact = marian_weights._in_our_order
    monkeypatch.setattr(marian_weights, "_in_our_order", lambda d_model: exact(d_model).flip(0))
    arguments = ["--model", str(place / "theirs"), "--output", str(tmp_path / "ours")]
    error = refusal(capsys, "import-marian", *arguments, "--sentences", str(place / "in.en"))
    assert "of 60 sentences as this program does; expected at least 100.0%" in error
    assert list(tmp_path.iterdir()) == []
    main(["import-marian", *arguments, "--sentences", str(place / "in.en"), "--least_identical", "0"])


def test_it_is_trained_further_and_goes_on_exactly(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = list(iter_pairs("train", 120, seed=1))
    lines = ["en\tfr", *(f">>fra<< {src}\t{tgt}" for src, tgt in pairs)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")

    def train(run: str, *options: str) -> Path:
        given = ["--config", str(place / "ours" / "config.yaml"), "--run_dir", str(tmp_path / run)]
        given += ["--init_from", str(place / "ours"), "--tokenizer.from_run", str(place / "ours")]
        given += ["--data.corpus", str(tmp_path / "pairs.tsv"), "--data.cache_dir", str(tmp_path / "cache")]
        given += ["--optim.max_lr", "3e-3", "--train.max_updates", "16", "--train.max_tokens", "256"]
        given += ["--train.log_every_updates", "2", "--validation.every_updates", "8"]
        given += ["--validation.draw_attention", "false", "--train.trackers", "[]", "--train.precision", "no"]
        given += ["--train.cpu_threads", "1"]
        main(["train", *given, *options])
        return tmp_path / run

    whole = train("whole")
    stopped = train("stopped", "--train.stop_at_update", "7")
    assert train("stopped") == stopped
    assert (stopped / "final/model.safetensors").read_bytes() == (whole / "final/model.safetensors").read_bytes()
    losses = [line["loss"] for line in read_lines(whole) if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (place / "ours", whole / "final"))
    unchanged = {name for name in before if before[name].equal(after[name])}
    assert unchanged == set()
    capsys.readouterr()
    main(["translate", "--run_dir", str(whole), "--input", str(place / "in.en")])
    assert capsys.readouterr().out.count("\n") == 60
    main(["export", "--run_dir", str(whole), "--format", "safetensors", "--output", str(tmp_path / "tuned")])
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "Training began with the weights `ours` (SHA-256 " in card
    assert ", of `theirs`); what those were trained on" in card


def test_an_export_of_it_says_whose_model_it_is(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(
        capsys, "export", "--run_dir", str(place / "ours"), "--format", "transformers", "--output", f"{tmp_path}/out"
    )
    assert "data.corpus ./your_corpus: no such file or folder" in error
    assert error.endswith("or give --sentences FILE\n")
    arguments = ["--run_dir", str(place / "ours"), "--format", "transformers", "--output", str(tmp_path / "out")]
    main(["export", *arguments, "--sentences", str(place / "in.en")])
    assert "identical: 60 of 60" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "taken over from `theirs` (model.safetensors, SHA-256 " in card
    assert "it was not trained any further" in card
    assert "your_corpus" not in card
    assert "- A source begins with the language to translate into, such as >>fra<<.\n" in card
    again = ["--run_dir", str(place / "ours"), "--format", "safetensors", "--sentences", str(place / "in.en")]
    main(["export", *again, "--output", str(tmp_path / "once")])
    again[1] = str(tmp_path / "once")
    main(["export", *again, "--output", str(tmp_path / "twice")])
    assert "taken over from `theirs` (model.safetensors, SHA-256 " in (tmp_path / "twice" / "README.md").read_text()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("theirs", "is a folder that holds something; expected a new or an empty one"),
        ("in.en", "is a file; expected a folder to make"),
        ("nowhere/ours", "there is no folder "),
    ],
)
def test_nothing_that_is_there_is_touched(
    output: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    error = refusal(capsys, "import-marian", "--model", str(place / "theirs"), "--output", str(place / output))
    assert f"--output {place / output}: {expected}" in error
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_full_disk_is_one_line_and_leaves_nothing(
    place: Path, small_disk: SmallDisk | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if small_disk is None:
        pytest.skip("this user may not mount a small disk")
    small_disk.fill()
    output = small_disk.path / "ours"
    error = refusal(capsys, "import-marian", "--model", str(place / "theirs"), "--output", str(output))
    assert f"--output {output}: cannot be written (" in error
    assert "No space left on device" in error
    assert [path.name for path in small_disk.path.iterdir()] == ["filler"]
    small_disk.make_room()
    main(["import-marian", "--model", str(place / "theirs"), "--output", str(output)])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("./opus", "--model ./opus: no such folder; expected one, or a name of the Hub such as owner/model"),
        ("{place}/in.en", "is a file; expected the folder of a MarianMTModel"),
        ("~nosuch/x", "is no path ("),
        ("x" * 5_000, "is no path (File name too long); expected a folder"),
    ],
)
def test_what_is_no_model_is_one_line(
    model: str, expected: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model.format(place=place)
    assert expected in refusal(capsys, "import-marian", "--model", model, "--output", str(tmp_path / "ours"))


class Hub:
    """What `huggingface_hub` does with a model that lies in a folder."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.asked = folder, cache, list[tuple[str, Any]]()

    def download(self, repo_id: str, filename: str, revision: str | None = None) -> str:
        assert repo_id == MODEL
        self.asked.append((filename, revision))
        if not (self.folder / filename).exists():
            raise EntryNotFoundError("404")
        snapshot = self.cache / "snapshots" / "0123abc"
        snapshot.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(self.folder / filename, snapshot / filename))


@pytest.fixture
def hub(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    shutil.copytree(place / "theirs", tmp_path / "on_the_hub")
    hub = Hub(tmp_path / "on_the_hub", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return hub


def test_a_name_of_the_hub_is_fetched_as_one_state_without_what_is_not_needed(
    hub: Hub, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    torch.save(load_file(hub.folder / "model.safetensors"), hub.folder / "pytorch_model.bin")
    main(["import-marian", "--model", MODEL, "--output", str(tmp_path / "ours")])
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (place / "ours/model.safetensors").read_bytes()
    assert json.loads((tmp_path / "ours/imported.json").read_text())["model"] == MODEL
    assert hub.asked[0] == ("config.json", None)
    assert {revision for _, revision in hub.asked[1:]} == {"0123abc"}
    assert "pytorch_model.bin" not in {name for name, _ in hub.asked}


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("config.json", f"--model {MODEL}: the Hub has no config.json of it; expected a MarianMTModel"),
        ("source.spm", f"--model {MODEL}: the Hub has no source.spm of it; expected a MarianMTModel with source.spm"),
        ("model.safetensors", f"--model {MODEL}: the Hub has neither model.safetensors nor pytorch_model.bin of it"),
    ],
)
def test_a_model_of_the_hub_that_lacks_a_file_is_one_line(
    gone: str, expected: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub.folder / gone).unlink()
    error = refusal(capsys, "import-marian", "--model", MODEL, "--output", str(tmp_path / "ours"))
    assert error == f"accel_tx: {expected}\n"
    assert not (tmp_path / "ours").exists()


def test_offline_what_was_fetched_before_is_taken(
    hub: Hub, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        try:
            return hub.download(repo_id, filename, revision)
        except EntryNotFoundError:
            raise LocalEntryNotFoundError("not in the cache") from None

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    arguments = ["import-marian", "--model", MODEL, "--output", str(tmp_path / "ours")]
    assert "HF_HUB_OFFLINE=1 to take what was fetched before" in refusal(capsys, *arguments)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    main(arguments)
    assert (tmp_path / "ours/model.safetensors").read_bytes() == (place / "ours/model.safetensors").read_bytes()


def test_a_share_without_sentences_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(place / "theirs"), "--output", str(tmp_path / "ours"), "--least_identical", "0.5"]
    assert "--least_identical: there is nothing to compare; expected --sentences FILE" in refusal(
        capsys, "import-marian", *arguments
    )


def test_without_a_network_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("An error happened\nwhile trying to locate the file on the Hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    error = refusal(capsys, "import-marian", "--model", MODEL, "--output", str(tmp_path / "ours"))
    assert f"--model {MODEL}: no such folder here, and config.json could not be had from the Hub (LocalEntry" in error
    assert "check the name and the network, give a local folder, or HF_HUB_OFFLINE=1" in error


def test_weights_that_are_damaged_leave_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(place / "theirs", tmp_path / "theirs"))
    state = load_file(folder / "model.safetensors")
    save_file({name: x for name, x in state.items() if "fc1" not in name}, folder / "model.safetensors")
    error = refusal(capsys, "import-marian", "--model", str(folder), "--output", str(tmp_path / "ours"))
    assert "has no model.encoder.layers.0.fc1.weight; expected the weights of a MarianMTModel" in error
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
