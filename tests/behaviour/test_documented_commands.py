"""Every command that a document shows runs as it stands here or in another test, or the document says what it needs.

Here they run in a folder where C, D, my_folder, runs/mine and the other names of the documents are there, and where the
configs are small: so no word of a command is replaced.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from accel_tx import options
from accel_tx.cli import main
from accel_tx.config import SECTIONS, UserError, build_config, load_yaml, what_is_learned, what_starts_share
from accel_tx.model.precision import computes_bfloat16
from tests.conftest import REPOSITORY
from tests.documented import COMMANDS, DOCUMENTS, Shown, blocks_of, code_spans, option_names, parser_of, shown_commands
from tests.documented_place import write_place

SHOWN = shown_commands()
ON_CPUS = (
    "tests/behaviour/test_launch_files.py::test_the_readmes_commands_for_several_processes_train_the_same_on_a_cpu"
)
TRAIN = "-m accel_tx train --config C --run_dir D"
# What is run elsewhere: too long for here, or without an end of its own.
RUN_BY = {
    "bash launch/quickstart.sh": "tests/behaviour/test_quickstart.py::test_quickstart_trains_scores_and_translates",
    "bash launch/test.sh": ".ci/run",
    "tensorboard --logdir runs": "tests/behaviour/test_tensorboard_page.py::address",
    "python -m accel_tx demo --run_dir runs/quickstart": "tests/pages/test_demo.py::address",
    f"accelerate launch --config_file launch/multi_gpu.yaml --num_processes 4 {TRAIN}": ON_CPUS,
    f"accelerate launch --config_file launch/fsdp2.yaml --num_processes 4 {TRAIN}": ON_CPUS,
    f"torchrun --nproc_per_node 4 {TRAIN}": ON_CPUS,
}
# What a CPU without a network cannot run, and the word for it that stands beside the command.
NOT_HERE = {
    f"accelerate launch --config_file launch/single_gpu_fp16.yaml {TRAIN}": "GPU",
    f"accelerate launch --config_file launch/single_gpu_bf16.yaml {TRAIN}": "GPU",
    "accelerate launch --config_file launch/multi_node.yaml --num_machines 2 --machine_rank 0 --num_processes 16 "
    f"--main_process_ip IP {TRAIN}": "GPUs",
    "python -m accel_tx bench --config configs/opus_books_en_fr.yaml --clean.preset none --data.corpus "
    "path/to/help.tsv.gz --data.subset null --vocab 30000 --precision bf16 --systems ours,original --workers 4 "
    "--seconds 6 --train.max_tokens 32768 --train.micro_batches_per_update 1 --train.cuda_graphs true": "GPU",
    "python -m accel_tx bench --config configs/transformer_big.yaml --synthetic 40000 --precision bf16 --systems ours "
    "--workers 4 --seconds 6 --train.max_tokens 32768 --train.tokens_per_update 32768": "GPU",
    "ACCEL_TX_TEST_GPU=1 python -m pytest tests/gpu": "GPU",
    "sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config C --run_dir D": "cluster",
    "python -m venv ~/comet && ~/comet/bin/pip install unbabel-comet": "fetched",
}
# Put behind a `bench`, which would take minutes: its other options are the document's.
SHORTER = " --seconds 0.3 --rounds 1"
# Options in the documents that are other programs'.
FOREIGN = {
    *("--lr", "--lr-scheduler", "--warmup-updates", "--max-tokens", "--update-freq", "--max-update", "--max-epoch"),
    *("--dropout", "--share-all-embeddings", "--patience", "--best-checkpoint-metric", "--beam"),  # fairseq
    *("--mini-batch-words", "--optimizer-delay", "--after", "--learn-rate", "--lr-warmup", "--lr-decay-inv-sqrt"),
    *("--transformer-dropout", "--tied-embeddings-all", "--early-stopping", "--valid-metrics", "--beam-size"),  # Marian
    *("--batch-size", "--update-interval", "--max-updates", "--max-num-epochs", "--initial-learning-rate"),
    *("--learning-rate-warmup", "--gradient-clipping-threshold", "--transformer-dropout-prepost", "--optimized-metric"),
    *("--weight-tying-type", "--max-num-checkpoint-not-improved"),  # Sockeye
    *("--clip-norm", "--label-smoothing"),  # all three
    *("--paired-bs", "--paired-ar", "--logdir"),
    *("--signal", "--requeue", "--nodes", "--gpus-per-node", "--account", "--partition"),
    *("--nproc_per_node", "--section.field"),
}


def is_run_here(shown: Shown) -> bool:
    is_elsewhere = shown.text in RUN_BY or shown.text in NOT_HERE
    return shown.is_whole and not is_elsewhere and shown.words[0] not in ("pip", "pytest")


HERE = [shown for shown in SHOWN if is_run_here(shown)]
BY_ITSELF = [shown for shown in HERE if not shown.needs_shell and shown.own_words[0] != "bench"]
# What a shell or a launcher starts, trainings left out: each takes a minute.
IN_SHELL = [shown for shown in HERE if shown.needs_shell and shown.own_words[:1] != ["train"]]


def by_time(commands: list[Shown], long: str) -> list[Any]:
    """For the fast tests or, with this option, for the slow ones."""
    return [pytest.param(shown, marks=pytest.mark.slow) if long in shown.text else shown for shown in commands]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the commands run, with runs/quickstart, runs/mine and its likes, and D in it."""
    folder = tmp_path_factory.mktemp("repository")
    write_place(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["train", "--config", "configs/quickstart.yaml", "--run_dir", "runs/quickstart"])
        mine = next(shown for shown in SHOWN if shown.own_words[:1] == ["train"] and "runs/mine" in shown.text)
        main(mine.own_words)
        main(["train", "--config", "configs/quickstart.yaml", "--run_dir", "runs/seed2", "--train.seed", "2"])
        if (folder / "Helsinki-NLP").exists():
            main(next(shown.own_words for shown in SHOWN if shown.own_words[:1] == ["import-marian"]))
    for name in ("runs/small", "runs/large", "runs/q1", "D"):
        shutil.copytree(folder / "runs" / "quickstart", folder / name)
    return folder


def made_by(shown: Shown, folder: Path) -> list[Path]:
    """The files that a command says it writes, and the run folder of a training; removed, to be made by it."""
    names = re.findall(r"(?:--(?:output|json|html|report)|(?<!<) >) (\S+)", shown.text)
    if shown.own_words[:2] == ["train", "--config"]:
        names += re.findall(r"--run_dir (\S+)", shown.text)
    for path in (folder / name for name in names):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    return [folder / name for name in names]


def in_bash(shown: Shown, folder: Path) -> subprocess.CompletedProcess[str]:
    shorter = SHORTER if shown.own_words[:1] == ["bench"] else ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment |= {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", as_this_cpu_can(shown).text + shorter]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def as_this_cpu_can(shown: Shown) -> Shown:
    """The command with no share of identical translations to reach where 8-bit sums overflow, on CPUs without VNNI."""
    cpuinfo = Path("/proc/cpuinfo")
    has_vnni = cpuinfo.exists() and "vnni" in cpuinfo.read_text(encoding="utf-8")
    text = shown.text if has_vnni else shown.text.replace("--least_identical 0.9", "--least_identical 0")
    return dataclasses.replace(shown, text=text)


def needs(shown: Shown) -> None:
    """Skip where a package that a command needs is not installed, or it would take minutes on this CPU."""
    if "bench" in shown.own_words and "bf16" in shown.text and not computes_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU emulates bfloat16, which takes minutes here")
    wanted = {"--format ctranslate2": "ctranslate2", " attention ": "matplotlib", "--peer hf": "transformers"}
    wanted["--tokenizer.sentencepiece"] = "sentencepiece"
    wanted["opus_en_fr"] = "transformers"  # what makes the model there
    for words, package in wanted.items():
        if words in shown.text and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if shown.text == "source .venv/bin/activate" and not Path(sys.prefix, "bin", "activate").exists():
        pytest.skip("this Python is in no virtual environment")


@pytest.mark.parametrize("shown", by_time(BY_ITSELF, "--train.max_updates"), ids=lambda shown: shown.place)
def test_a_command_runs_and_writes_what_it_names(
    shown: Shown, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(shown)
    monkeypatch.chdir(place)
    # For configs that leave the threads open: two of them wait for each other beside other tests.
    monkeypatch.setattr("accel_tx.train.device.n_cores", lambda: 1)
    made = made_by(shown, place)
    status: Any = 0
    try:
        main(as_this_cpu_can(shown).own_words)
    except SystemExit as ended:
        status = ended.code
    assert not status, capsys.readouterr().err
    assert all(path.is_dir() or path.stat().st_size for path in made)
    assert capsys.readouterr().out or made


@pytest.mark.parametrize("shown", by_time(IN_SHELL, "--n_processes"), ids=lambda shown: shown.place)
def test_a_line_for_the_shell_runs_and_writes_what_it_names(shown: Shown, place: Path) -> None:
    needs(shown)
    made = made_by(shown, place)
    done = in_bash(shown, place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(path.is_dir() or path.stat().st_size for path in made)
    if "comet-score" in shown.text:
        assert re.search(r"^COMET +0\.5", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("shown", BY_ITSELF, ids=lambda shown: shown.place)
def test_a_shell_gives_python_the_words_that_are_run_above(shown: Shown) -> None:
    recorder = "python() { printf '%s\\0' \"$@\"; }"
    told = subprocess.run(["bash", "-euc", f"{recorder}\n{shown.text}"], check=True, capture_output=True, text=True)
    assert told.stdout.split("\0")[:-1] == ["-m", "accel_tx", *shown.own_words]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shown", [shown for shown in HERE if shown not in (*IN_SHELL, *BY_ITSELF)], ids=lambda shown: shown.place
)
def test_every_other_command_runs_in_a_shell_too(shown: Shown, place: Path) -> None:
    test_a_line_for_the_shell_runs_and_writes_what_it_names(shown, place)


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.place)
def test_a_command_is_run_or_its_document_says_what_it_needs(shown: Shown) -> None:
    if shown.text in NOT_HERE:
        assert NOT_HERE[shown.text] in shown.beside
    elif shown.text in RUN_BY:
        file, _, name = RUN_BY[shown.text].partition("::")
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text or not name
        words = [word for word in shown.words if word.startswith("--") or "/" in word or word in COMMANDS]
        assert [word for word in words if word not in text and word != "runs/quickstart"] == []
    elif shown.words[0] == "pip":
        extras = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
        for package in shown.words[2:]:
            if named := re.fullmatch(r"\.\[(.*)\]", package):
                assert all(f"\n{extra} = [" in extras for extra in named[1].split(","))
            else:
                assert package in ("-e", ".") or f'"{package}>=' in extras
    elif shown.words[0] == "pytest":
        (path,) = (REPOSITORY / word for word in shown.words if word.startswith("tests/"))
        assert ("-m" in shown.words) == ("mark.slow" in path.read_text(encoding="utf-8"))
    elif shown.is_whole:
        assert shown in HERE


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.place)
def test_the_programs_parsers_take_its_options(shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shown.words
    launcher = words[: words.index("-m")] if words[0] in ("accelerate", "torchrun") and "-m" in words else words
    if words[0] == "accelerate":
        assert launch_command_parser().parse_args([*(w for w in launcher[2:] if w != "…"), "-m", "accel_tx"]).module
    elif words[0] == "torchrun":
        assert get_args_parser().parse_args([*launcher[1:], "-m", "accel_tx"]).module
    if not shown.own_words or "--help" in words:
        return
    command, *arguments = shown.own_words
    assert [word for word in arguments if word.startswith("--") and word not in option_names(command)] == []
    if not shown.is_whole:
        return
    # As they are, not small: what they say must fit the command's options.
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    for name in ("runs/mine", "opus_en_fr"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("C", "runs/mine/config.yaml", "opus_en_fr/config.yaml"):
        (tmp_path / name).symlink_to(REPOSITORY / "configs" / "quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    parser, with_config = parser_of(command)
    if with_config:
        options.parse_with_config(parser, arguments)
    else:
        options.parse(parser, arguments)


def test_options_and_fields_named_in_the_text_are_there() -> None:
    launcher = {name.replace("_", "-") for name in launch_command_parser()._option_string_actions}
    known = {name for command in COMMANDS for name in option_names(command)} | FOREIGN
    fields = {f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)}
    unknown = []
    for span, document in code_spans():
        names = [word.partition("=")[0] for word in span.split() if re.match(r"--\w", word)]
        unknown += [
            f"{document}: {name}" for name in names if name not in known and name.replace("_", "-") not in launcher
        ]
        found = re.match(r"(\w+)\.(\w{3,})\b", span)  # and not `train.en`
        if found and found[1] in SECTIONS and found[0] not in {*fields, "model.safetensors"}:
            unknown.append(f"{document}: {span}")
    assert unknown == []


def anchors_of(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings_that_are_there() -> None:
    dead = []
    for document in DOCUMENTS:
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            name, _, anchor = link.partition("#")
            path = (REPOSITORY / document).parent / name if name else REPOSITORY / document
            if "://" not in link and (not path.exists() or (anchor and anchor not in anchors_of(path))):
                dead.append(f"{document}: {link}")
    assert dead == []


def test_no_command_hides_in_a_block_of_another_kind() -> None:
    blocks = [block for document in DOCUMENTS for _, block in blocks_of(document) if block.startswith("```")]
    assert {block.splitlines()[0] for block in blocks} == {
        "```",
        "```bash",
        "```json",
        "```yaml",
        "```mermaid",
        "```python",
    }
    others = [block for block in blocks if not block.startswith("```bash")]
    assert [
        block for block in others if re.search(r"^\s*(\$ |python |accelerate |pip |bash )", block, re.MULTILINE)
    ] == []


PYTHON = [(document, block) for document in DOCUMENTS for _, block in blocks_of(document) if "```python" in block]


@pytest.mark.parametrize(("document", "block"), PYTHON, ids=[document for document, _ in PYTHON])
def test_python_runs(document: str, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile("\n".join(block.splitlines()[1:-1]), document, "exec"), {})
    assert "signature" in capsys.readouterr().out


def test_the_first_page_shows_the_two_commands_for_a_fresh_machine() -> None:
    first = next(block for _, block in blocks_of("README.md") if block.startswith("```bash"))
    assert re.findall(r"^bash \S+", first, re.MULTILINE) == ["bash launch/quickstart.sh", "bash launch/test.sh"]


def test_every_document_is_reached_by_links_from_the_first_page() -> None:
    found, ahead = set(), ["README.md"]
    while ahead:
        name = ahead.pop()
        if name in DOCUMENTS and name not in found:
            found.add(name)
            text = (REPOSITORY / name).read_text(encoding="utf-8")
            links = re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text)
            ahead += [os.path.normpath(Path(name).parent / link) for link in links]
    assert found == set(DOCUMENTS)


def test_the_files_that_the_code_layout_names_are_there() -> None:
    text = (REPOSITORY / "docs" / "code_layout.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `accel_tx/")]
    missing = []
    for folder, _, files in rows:
        place = REPOSITORY / folder.strip(" `")
        assert place.is_dir()
        for name in re.findall(r"`([^`]+)`", files):
            pattern = name.rstrip("/") if name.endswith(("/", ".py")) else f"{name}.py"
            if not list(place.glob(pattern)) and not (place / pattern).exists():
                missing.append(f"{folder.strip()} {name}")
    packages = {path.parent.name for path in (REPOSITORY / "accel_tx").glob("*/__init__.py")}
    assert missing == []
    assert {row[0].strip(" `").split("/")[1] for row in rows} == packages


def test_the_table_of_what_may_differ_between_two_starts_is_what_is_compared() -> None:
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8").split("| may it differ? | what |")[1]
    rows = [line.split("|")[1:3] for line in text.split("\n\n")[0].splitlines()[2:]]
    shown: dict[str, set[str]] = defaultdict(set)
    for kind, what in rows:
        shown[kind.split(":")[0].strip()] |= set(re.findall(r"`(train\.\w+)`", what))
    compared = what_is_learned(build_config(load_yaml(REPOSITORY / "configs" / "quickstart.yaml")))
    every = {f"train.{field.name}" for field in dataclasses.fields(SECTIONS["train"])}
    assert shown["free"] == every - compared.keys() - {"train.precision"}
    by_length = {"optim.schedule": "inverse_sqrt", **dict.fromkeys(compared.keys() - {"optim.schedule"}, 1)}
    assert shown["only with `inverse_sqrt`, and only more"] == by_length.keys() - what_starts_share(by_length).keys()


def test_the_lists_above_name_what_the_documents_show() -> None:
    texts = {shown.text for shown in SHOWN}
    assert {*RUN_BY, *NOT_HERE} - texts == set()
    assert len(SHOWN) > 50
    assert len(HERE) > 25


def test_an_option_that_no_longer_exists_is_found() -> None:
    parser, _ = parser_of("evaluate")
    with pytest.raises(UserError, match="--refs"):
        options.parse(parser, ["--run_dir", "D", "--refs", "test.fr"])
