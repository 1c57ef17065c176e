"""The options of `bench` -> what is measured -> a text to paste and values for JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accel_tx.bench.speed import SpeedOptions, measure_speed, with_batches
from accel_tx.config import Config, UserError


def run_bench(config: Config, options: Any) -> tuple[str, dict[str, Any]]:
    """The text and the values of the measurement that `options` (the command line's) ask for.

    Raises: UserError for what cannot be measured here.
    """
    asked = SpeedOptions(
        systems=tuple(dict.fromkeys([*_names(options.systems), *([options.peer] if options.peer else [])])),
        precisions=_names(options.precision or config.train.precision),
        loader_workers=_numbers("--workers", options.workers),
        compiles=_flags("--compile", options.compile) if options.compile else (config.train.compile,),
        n_threads=options.threads,
        seconds=options.seconds,
        n_rounds=options.rounds,
        n_synthetic=options.synthetic,
        vocab_size=options.vocab,
    )
    if options.measure == "padding":
        return _padding(config, asked)
    from accel_tx.model.gpu import check_gpu_build

    check_gpu_build()
    if options.measure == "loss":
        return _loss(config, asked)
    if options.measure == "parts":
        return _parts(config, asked)
    if options.measure == "decode":
        return _decode(config, asked, options)
    report = measure_speed(config, asked)
    return report.to_markdown(), report.to_dict()


def _padding(config: Config, asked: SpeedOptions) -> tuple[str, dict[str, Any]]:
    from accel_tx.bench.padding import measure_padding, padding_markdown

    rows = measure_padding(config, asked.n_synthetic)
    return padding_markdown(rows), {"padding": rows}


def _loss(config: Config, asked: SpeedOptions) -> tuple[str, dict[str, Any]]:
    from accel_tx.bench.loss import loss_markdown, measure_loss
    from accel_tx.bench.report import machine
    from accel_tx.train.device import resolve_precision, set_cpu_threads

    n_threads = set_cpu_threads(asked.n_threads or config.train.cpu_threads)
    found = [measure_loss(resolve_precision(precision), n_threads) for precision in asked.precisions]
    return "\n\n".join(map(loss_markdown, found)), {"loss": found, "machine": machine(n_threads)}


def _parts(config: Config, asked: SpeedOptions) -> tuple[str, dict[str, Any]]:
    from accel_tx.bench.parts import measure_parts, parts_markdown
    from accel_tx.bench.report import machine
    from accel_tx.bench.workload import load_workload
    from accel_tx.train.device import resolve_precision, set_cpu_threads, tf32_lines, use_tf32

    remarks = tf32_lines(config.train.tf32, use_tf32(config.train.tf32))
    n_threads = set_cpu_threads(asked.n_threads or config.train.cpu_threads)
    workload = load_workload(config, asked.n_synthetic, asked.vocab_size)
    precisions = list(dict.fromkeys(resolve_precision(precision) for precision in asked.precisions))
    config = with_batches(config, workload, precisions)
    found = [measure_parts(config, workload, precision, asked.n_rounds) for precision in precisions]
    text = "\n\n".join([*map(parts_markdown, found), *(f"- {remark}." for remark in remarks)])
    return text, {"parts": found, "tf32": remarks, "machine": machine(n_threads)}


def _decode(config: Config, asked: SpeedOptions, options: Any) -> tuple[str, dict[str, Any]]:
    if options.run_dir is None:
        raise UserError("--measure decode: --run_dir is missing; expected a run whose weights translate")
    from accel_tx.bench.decode import decode_markdown, measure_decode
    from accel_tx.train.device import resolve_precision, set_cpu_threads

    n_threads = set_cpu_threads(asked.n_threads or config.train.cpu_threads)
    if options.precision and "fp16" in asked.precisions:
        raise UserError("--precision fp16: expected no or bf16; translating knows no fp16")
    resolved = [name if name == "fp16" else resolve_precision(name) for name in asked.precisions]
    precisions = tuple(dict.fromkeys("no" if precision == "fp16" else precision for precision in resolved))
    found = measure_decode(
        config, Path(options.run_dir), options.weights, precisions, options.peer, asked.n_rounds, n_threads
    )
    text = decode_markdown(found)
    if "fp16" in resolved:
        given = (
            f"{'--precision' if options.precision else 'train.precision'} {asked.precisions[resolved.index('fp16')]}"
        )
        text += f"\n- In float32, because translating knows no fp16, which {given} is here."
    return text, {"decode": found}


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def _flags(option: str, text: str) -> tuple[bool, ...]:
    names = _names(text)
    if not set(names) <= {"false", "true"}:
        raise UserError(f"{option} {text}: expected false, true or false,true")
    return tuple(name == "true" for name in names)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    names = _names(text)
    if not all(name.isdecimal() for name in names):
        raise UserError(f"{option} {text}: expected numbers such as 0,2")
    return tuple(map(int, names))
