"""The speed of training: systems take turns in rounds, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel_tx.bench import systems
from accel_tx.bench.report import SpeedReport, SystemResult, machine
from accel_tx.bench.systems import MATMUL, Player, Task
from accel_tx.bench.workload import Workload, load_workload
from accel_tx.config import Config, UserError

if TYPE_CHECKING:
    from accel_tx.train.device import Precision

# Of a turn that measures matrix products.
_MATMUL_S = 2.0
# What the systems beside ours can do, where that is not all.
_OTHERS_HAVE: dict[str, tuple[object, ...]] = {
    "model.positions": ("sinusoidal",),
    "model.quantization": ("none",),
    "optim.name": ("adam", "adamw"),
    "optim.r_drop": (0.0,),
    "train.ema_decay": (None,),
    "train.gradient_checkpointing": (False,),
}


@dataclass(frozen=True)
class SpeedOptions:
    """What to run, and for how long."""

    systems: tuple[str, ...] = systems.SYSTEMS
    precisions: tuple[str, ...] = ("auto",)
    loader_workers: tuple[int, ...] = (0, 2)
    """Of ours; each gets a row of its own."""
    compiles: tuple[bool, ...] = (False,)
    """Of ours; each gets a row of its own."""
    n_threads: int | None = None
    seconds: float = 60.0
    """Of each system, over all rounds; warm-up comes on top."""
    n_rounds: int = 3
    n_synthetic: int | None = None
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        known = (*systems.SYSTEMS, *systems.PEERS)
        for name in self.systems:
            if name not in known:
                raise UserError(f"--systems {name}: expected some of {', '.join(known)}")
        for name in self.precisions:
            if name not in ("auto", "no", "bf16", "fp16"):
                raise UserError(f"--precision {name}: expected some of auto, no, bf16, fp16")
        for option, value, low, high in (
            ("rounds", self.n_rounds, 1, 10_000),
            ("threads", self.n_threads, 1, 1_024),
            ("synthetic", self.n_synthetic, 64, 100_000_000),
            ("vocab", self.vocab_size, 10, 1 << 24),
            *(("workers", n_workers, 0, 1_024) for n_workers in self.loader_workers),
        ):
            if value is not None and not low <= value <= high:
                raise UserError(f"--{option} {value}: expected {low} to {high:,}")
        if not self.seconds > 0:
            raise UserError(f"--seconds {self.seconds}: expected more than 0")


def measure_speed(config: Config, options: SpeedOptions) -> SpeedReport:
    """Run every system in turn, round after round. Raises: UserError for what cannot run here."""
    from accel_tx.train.cuda_graphs import check_graphs
    from accel_tx.train.device import resolve_precision, set_cpu_threads, tf32_lines, use_tf32

    _check_others(config, [system for system in options.systems if system != "ours"])
    if "hf" in options.systems:
        from accel_tx.bench.peer_hf import check_installed

        check_installed()
    precisions = list(dict.fromkeys(resolve_precision(name) for name in options.precisions))
    if "ours" in options.systems:
        for precision in precisions:
            check_graphs(config, precision)
    # Prepares the corpus before the systems, which then find it in the cache.
    workload = load_workload(config, options.n_synthetic, options.vocab_size)
    config = with_batches(config, workload, precisions)
    n_threads = set_cpu_threads(options.n_threads or config.train.cpu_threads)
    tasks = _tasks(config, options, precisions, n_threads)
    matmul = [Task(MATMUL, precision, config, None, None, n_threads) for precision in _of_tasks(tasks)]
    with _players([*matmul, *tasks]) as players:
        _play_rounds(players[: len(matmul)], players[len(matmul) :], options)
    peaks = {player.task.precision: max(player.turns) for player in players[: len(matmul)]}
    results = [
        SystemResult(p.task.label, p.task.precision, p.n_parameters, p.turns, p.peak.mib)
        for p in players[len(matmul) :]
    ]
    settings = {
        "data": workload.name,
        "vocabularies": [workload.src_vocab_size, workload.tgt_vocab_size],
        "dropout": config.model.dropout,
        "attention_dropout": config.model.attention_dropout,
        "label_smoothing": config.optim.label_smoothing,
        "tf32": tf32_lines(config.train.tf32, use_tf32(config.train.tf32)),
        "config": dataclasses.asdict(config),
        "options": dataclasses.asdict(options),
    }
    return SpeedReport(settings, machine(n_threads), peaks, results)


def _check_others(config: Config, systems: list[str]) -> None:
    """Raise UserError where other systems cannot do what the config says."""
    for key, theirs in _OTHERS_HAVE.items():
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if systems and value not in theirs:
            raise UserError(
                f"bench: {key} is {value}, which {' and '.join(systems)} cannot do; expected "
                f"{' or '.join(map(str, theirs))}, or --systems ours"
            )


def with_batches(config: Config, workload: Workload, precisions: list[Precision]) -> Config:
    """Under `train.max_tokens: auto`, micro-batches that fit in every precision, so that all systems have the same."""
    from accel_tx.train.auto_tokens import assumed

    found = [assumed(config, workload.as_prepared_data(), precision) for precision in precisions]
    for line in dict.fromkeys(line for _, line in found):
        if line is not None:
            _say(line)
    return min((settled for settled, _ in found), key=lambda settled: settled.train.max_tokens or 0)


def _tasks(config: Config, options: SpeedOptions, precisions: list[Precision], n_threads: int) -> list[Task]:
    tasks = []
    only_float32: list[Precision] = ["no"]
    for system in options.systems:
        # The original's first version knew no other precision.
        for precision in only_float32 if system == "original-before" else precisions:
            for n_workers, compiles in _variants(options) if system == "ours" else [(0, False)]:
                train = dataclasses.replace(
                    config.train,
                    precision=precision,
                    loader_workers=n_workers,
                    compile=compiles,
                    cpu_threads=n_threads,
                )
                task_config = dataclasses.replace(config, train=train)
                tasks.append(Task(system, precision, task_config, options.n_synthetic, options.vocab_size, n_threads))
    return tasks


def _variants(options: SpeedOptions) -> list[tuple[int, bool]]:
    """Loader workers, and whether layers are compiled."""
    return [(n_workers, compiles) for n_workers in options.loader_workers for compiles in options.compiles]


def _of_tasks(tasks: list[Task]) -> list[str]:
    return list(dict.fromkeys(task.precision for task in tasks))


@contextlib.contextmanager
def _players(tasks: list[Task]) -> Iterator[list[Player]]:
    players: list[Player] = []
    try:
        for task in tasks:
            players.append(Player(task))
        yield players
    except KeyboardInterrupt:
        players.clear()  # not to be waited for: they end with the command
        raise
    finally:
        for player in players:
            player.stop()


def _play_rounds(matmul: list[Player], players: list[Player], options: SpeedOptions) -> None:
    turn_s = options.seconds / options.n_rounds
    for player in players:
        _say(f"warm-up: {player.task.label} ({player.task.precision})")
        player.warm_up(options.seconds / 10)
    for number in range(1, options.n_rounds + 1):
        for player in matmul:
            player.turn(_MATMUL_S)
        for player in players:
            turn = player.turn(turn_s)
            _say(
                f"round {number} of {options.n_rounds}: {player.task.label} ({player.task.precision})  "
                f"{turn.n_tgt_tokens / turn.seconds:,.0f} target tokens/s, {turn.n_updates} updates"
            )
    for player in matmul:
        player.turn(_MATMUL_S)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
