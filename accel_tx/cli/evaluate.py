"""`evaluate`: translate and score, alone or against other systems."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx import options as opt
from accel_tx.cli.outputs import Inputs, check_apart, check_outputs, files_of_run, told_beside
from accel_tx.cli.score_table import print_comparison, print_scores
from accel_tx.cli.trained import add_decode_options, add_run_options, load_translator, warn_of_split_lines
from accel_tx.config import DecodeConfig, UserError
from accel_tx.inference.lines import read_lines, write_whole
from accel_tx.inference.stream import readable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from accel_tx.inference.comparison import MetricScores
    from accel_tx.inference.resampling import Resampling


_INPUTS = ("hyp", "src", "ref", "against")


@dataclass(frozen=True)
class _Text:
    """What is scored."""

    src: list[str]
    """Empty where translations are given and no source."""
    references: list[list[str]]
    """One list of lines a file."""
    tokenize: str = "13a"
    """sacreBLEU's tokenizer, where the user names no other."""

    @property
    def n_lines(self) -> int:
        return len(self.references[0])

    def references_sha256(self) -> str:
        """By which `report` knows scores that may be compared."""
        return hashlib.sha256(json.dumps(self.references).encode()).hexdigest()


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    options = opt.parse(_parser(), argv)
    _check_what_is_given(options)
    from accel_tx.inference.comparison import score_systems
    from accel_tx.inference.external_metric import check_command
    from accel_tx.inference.line_metrics import METRICS, TOKENIZERS, line_metric
    from accel_tx.inference.resampling import Resampling

    if options.tokenize is not None and options.tokenize not in TOKENIZERS:
        raise UserError(f"--tokenize {options.tokenize}: expected one of {', '.join(TOKENIZERS)}")
    if options.comet is not None:
        check_command(options.comet)
    check_outputs(_outputs(options), _inputs(options))
    # Once: what came through a pipe is gone afterwards.
    given = None if options.hyp is None else list(read_lines(options.hyp))
    text = _text_to_score(options, given)
    others = [_as_many(file, text.n_lines, "the reference") for file in options.against or []]
    tokenize = options.tokenize or text.tokenize
    metrics = {key: line_metric(key, text.references, tokenize, options.lowercase) for key in METRICS}
    own, decode = _own_translations(options, text) if given is None else (given, None)
    if options.output is not None:
        write_whole(Path(options.output), iter(own))
    systems, drawn = [own, *others], Resampling(options.n_resamples, options.n_trials, options.seed)
    found = {key: score_systems(metric, systems, drawn) for key, metric in metrics.items()}
    comet, failed = _comet(options, text, systems)
    with told_beside(_outputs(options)):
        if others:
            names = [options.hyp or f"{options.run_dir} {options.weights}", *options.against]
            print_comparison(names, found, comet, drawn, text.n_lines)
        else:
            print_scores(found, comet[0] if comet else None, drawn, text.n_lines)
    if options.json is not None:
        searched = {"decode": None if decode is None else dataclasses.asdict(decode)}
        values = {**_as_dict(options, found, comet, drawn, text), **searched}
        write_whole(Path(options.json), iter([_as_text(values)]))
    if failed is not None:
        raise failed


def _parser() -> ArgumentParser:
    parser = opt.plain_parser(
        "evaluate", "Score translations: of a run on a file or on its own validation set, or of a file (--hyp)."
    )
    add_run_options(parser, required=False)
    parser.add_argument(
        "--hyp", type=str | None, help="translations to score in place of a run's, one a line; - for standard input"
    )
    parser.add_argument("--src", type=str | None, help="source sentences, one a line; default: the validation set")
    parser.add_argument(
        "--ref", type=str, nargs="+", help="reference translations, line beside line; several files too"
    )
    parser.add_argument("--valid_set", type=str | None, help="that one of the run's data.valid_sets, in place of files")
    parser.add_argument("--against", type=str, nargs="+", help="translations of other systems, line beside line")
    parser.add_argument("--output", type=str | None, help="also write the run's translations to this file")
    parser.add_argument("--json", type=str | None, help="also write the scores to this file")
    parser.add_argument(
        "--tokenize",
        type=str | None,
        help="sacreBLEU's tokenizer, such as `none` for text already tokenized; default: 13a, or validation.tokenize "
        "for a validation set of the run",
    )
    parser.add_argument("--lowercase", action="store_true", help="fold case (the signatures tell)")
    parser.add_argument("--n_resamples", type=int, default=1_000, help="bootstrap resamples, 0: no intervals")
    parser.add_argument("--n_trials", type=int, default=10_000, help="trials of approximate randomization, 0: none")
    parser.add_argument("--seed", type=int, default=12345, help="of both; sacreBLEU's own by default")
    parser.add_argument(
        "--comet",
        type=str | None,
        help="command that prints a score last, such as 'comet-score -s {src} -t {hyp} -r {ref} --only_system'",
    )
    parser.add_argument("--comet_timeout_s", type=float, default=3_600.0, help="end the command after this")
    add_decode_options(parser)
    return parser


def _check_what_is_given(options: Namespace) -> None:
    if (options.run_dir is None) == (options.hyp is None):
        given = "neither" if options.run_dir is None else "both"
        raise UserError(f"--run_dir and --hyp: {given} given; expected a run to translate with, or its translations")
    if options.hyp is not None:
        if options.ref is None:
            raise UserError("--hyp: --ref is missing; expected reference translations, line beside line")
        if options.output is not None:
            raise UserError("--output: the translations are in --hyp already; leave it out")
        for name in opt.given_fields(options, DecodeConfig):
            raise UserError(f"--{name}: --hyp is translated already; leave it out")
        if "{src}" in (options.comet or "") and options.src is None:
            raise UserError("--comet: --src is missing; expected the source sentences, line beside line")
    elif (options.src is None) != (options.ref is None):
        raise UserError("--src and --ref: only one is given; expected both, or neither for the validation set")
    if options.valid_set is not None and (options.hyp or options.ref):
        raise UserError("--valid_set: --hyp or --ref is given as well; expected a run's own set, or files")
    read = [(name, file) for name in _INPUTS for file in _files(options[name])]
    if len(piped := [f"--{name}" for name, file in read if file == "-"]) > 1:
        raise UserError(f"{' and '.join(piped)}: all are standard input; expected files for all but one of them")
    for name in ("n_resamples", "n_trials", "seed"):
        if options[name] < 0:
            raise UserError(f"--{name} is {options[name]}; expected 0 or more")
    if not options.comet_timeout_s > 0:
        raise UserError(f"--comet_timeout_s is {options.comet_timeout_s:g}; expected seconds above 0")


def _files(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _outputs(options: Namespace) -> dict[str, str | None]:
    return {"--output": options.output, "--json": options.json}


def _inputs(options: Namespace) -> Inputs:
    given: Inputs = {f"--{name}": options[name] for name in _INPUTS}
    return {**given, "a file of --run_dir": files_of_run(options.run_dir, options.weights)}


def _text_to_score(options: Namespace, given: list[str] | None) -> _Text:
    """`given`: the lines of --hyp."""
    if options.ref is None:
        return _validation_set(options)
    src = None if options.src is None else list(read_lines(options.src))
    first, lines = (options.hyp, given) if src is None else (options.src, src)
    if not lines:
        raise UserError(f"{readable(first)}: is empty; expected one sentence a line")
    if given is not None:
        _check_as_many(given, options.hyp, len(lines), first)
    references = [_as_many(file, len(lines), first) for file in options.ref]
    if not any(line.strip() for reference in references for line in reference):
        raise UserError(f"{', '.join(options.ref)}: holds only empty lines; expected reference translations")
    return _Text(src or [], references)


def _validation_set(options: Namespace) -> _Text:
    from accel_tx.data.corpus import input_files
    from accel_tx.data.dataset import prepare_data
    from accel_tx.inference.translator import load_run_config
    from accel_tx.inference.weights import load_scores, weights_folder

    run_dir = Path(options.run_dir)
    config = load_run_config(run_dir)
    check_apart(_outputs(options), {"a file of the run's corpus": input_files(config.data)})
    folder = weights_folder(run_dir, options.weights)
    trained_on = load_scores(folder).get("data_sha256")
    if trained_on is None:
        raise UserError(f"{folder}: does not say what its weights were trained on (data_sha256); give --src and --ref")
    data = prepare_data(config)
    if data.sha256 != trained_on:
        raise UserError(f"{run_dir}: its corpus has changed since the training; give --src and --ref")
    if options.valid_set is None:
        return _Text(data.valid_src.to_pylist(), [data.valid_tgt.to_pylist()], config.validation.tokenize)
    if options.valid_set not in data.valid_sets:
        names = ", ".join(data.valid_sets) or "none (data.valid_sets)"
        raise UserError(f"--valid_set {options.valid_set}: the run has {names}; leave it out for its main one")
    own = data.valid_sets[options.valid_set]
    return _Text(own.src.to_pylist(), [own.tgt.to_pylist()], config.validation.tokenize)


def _as_many(file: str, n_lines: int, other: str) -> list[str]:
    return _check_as_many(list(read_lines(file)), file, n_lines, other)


def _check_as_many(lines: list[str], file: str, n_lines: int, other: str) -> list[str]:
    if len(lines) != n_lines:
        found = f"{readable(other)} has {n_lines} lines and {readable(file)} has {len(lines)}"
        raise UserError(f"{found}; expected as many")
    return lines


def _own_translations(options: Namespace, text: _Text) -> tuple[list[str], DecodeConfig]:
    """The run's translations, and how they were searched for."""
    translator = load_translator(options)
    translations = translator.translate(text.src)
    warn_of_split_lines(translator)
    return translations, translator.decode


def _comet(options: Namespace, text: _Text, systems: list[list[str]]) -> tuple[list[float] | None, UserError | None]:
    """A score a system, or why there is none: a program that fails must not cost the other scores."""
    from accel_tx.inference.external_metric import external_score

    if options.comet is None:
        return None, None
    reference, timeout_s = text.references[0], options.comet_timeout_s
    try:
        return [external_score(options.comet, text.src, lines, reference, timeout_s) for lines in systems], None
    except UserError as error:
        return None, error


def _as_dict(
    options: Namespace, found: dict[str, MetricScores], comet: list[float] | None, drawn: Resampling, text: _Text
) -> dict[str, Any]:
    """For JSON: plain scores under the names that metrics.jsonl has, then everything about each system."""
    values: dict[str, Any] = {key: metric.systems[0].score for key, metric in found.items()}
    values |= {"signature": found["bleu"].plain_signature, "chrf_signature": found["chrf"].plain_signature}
    values |= {"n_sentences": text.n_lines, "references_sha256": text.references_sha256()}
    values |= {"weights": None if options.hyp else options.weights}
    values |= dataclasses.asdict(drawn)
    values["signatures"] = {key: metric.signature for key, metric in found.items()}
    files = [options.hyp, *(options.against or [])]
    values["systems"] = [
        {"file": file, **{key: metric.systems[i].to_dict() for key, metric in found.items()}}
        for i, file in enumerate(files)
    ]
    if comet is not None:
        values["comet"] = comet[0]
        for system, score in zip(values["systems"], comet, strict=True):
            system["comet"] = {"score": score}
    return values


def _as_text(values: dict[str, Any]) -> str:
    """JSON, where a byte of a file's name that is not UTF-8 is written as \\udc.., which gives the name again."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
