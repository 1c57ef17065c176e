"""`evaluate`: translate and score, alone or against other systems."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel_tx import options as opt
from accel_tx.cli.outputs import Inputs, check_outputs, told_beside
from accel_tx.cli.score_table import print_comparison, print_scores
from accel_tx.cli.scored_text import (
    ScoredText,
    lines_beside,
    text_of_files,
    text_of_test,
    text_of_validation,
    warn_of_other_data,
)
from accel_tx.cli.trained import (
    add_decode_options,
    add_ensemble_option,
    add_processes_option,
    add_run_options,
    check_n_processes,
    files_of_models,
    members,
    opened_translator,
    warn_of_lengths,
)
from accel_tx.config import DecodeConfig, UserError
from accel_tx.inference.lines import read_lines, write_whole
from accel_tx.inference.members import Member, check_apart
from accel_tx.inference.weights import weights_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from accel_tx.inference.comparison import MetricScores
    from accel_tx.inference.resampling import Resampling


_INPUTS = ("hyp", "src", "ref", "against")


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
    if options.ensemble:
        check_apart(Member(Path(options.run_dir), options.weights), members(options))
    # Once: what came through a pipe is gone afterwards.
    given = None if options.hyp is None else list(read_lines(options.hyp))
    text = _text_to_score(options, given)
    others = [lines_beside(file, text.n_lines, "the reference") for file in options.against or []]
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
            names = [options.hyp or _name_of_run(options), *options.against]
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
        "evaluate", "Score a run on files or on one of its own sets, or an existing translation file (--hyp)."
    )
    add_run_options(parser, required=False)
    add_ensemble_option(parser)
    add_processes_option(parser)
    parser.add_argument(
        "--hyp", type=str, help="translations to score in place of a run's, one a line; - for standard input"
    )
    parser.add_argument("--src", type=str, help="source sentences, one a line; default: the validation set")
    parser.add_argument(
        "--ref", type=str, nargs="+", help="reference translations, line beside line; several files too"
    )
    parser.add_argument("--valid_set", type=str, help="score this one of the run's data.valid_sets instead of files")
    parser.add_argument("--test", action="store_true", help="the run's test text (data.test_*), in place of files")
    parser.add_argument("--against", type=str, nargs="+", help="translations of other systems, line beside line")
    parser.add_argument("--output", type=str, help="also write the run's translations to this file")
    parser.add_argument("--json", type=str, help="also write the scores to this file")
    parser.add_argument(
        "--tokenize",
        type=str,
        help="sacreBLEU's tokenizer, such as `none` for text already tokenized; default: 13a, or validation.tokenize "
        "for a set of the run",
    )
    parser.add_argument("--lowercase", action="store_true", help="fold case (the signatures tell)")
    parser.add_argument("--n_resamples", type=int, default=1_000, help="bootstrap resamples, 0: no intervals")
    parser.add_argument("--n_trials", type=int, default=10_000, help="trials of approximate randomization, 0: none")
    parser.add_argument("--seed", type=int, default=12345, help="of both; sacreBLEU's own by default")
    parser.add_argument(
        "--comet",
        type=str,
        help="command that prints a score last, such as 'comet-score -s {src} -t {hyp} -r {ref} --only_system'; of "
        "several files after --ref it gets the first",
    )
    parser.add_argument("--comet_timeout_s", type=float, default=3_600.0, help="end the command after this")
    add_decode_options(parser)
    return parser


def _check_what_is_given(options: Namespace) -> None:
    check_n_processes(options)
    own_sets = [] if options.valid_set is None else ["--valid_set"]
    own_sets += ["--test"] if options.test else []
    if own_sets and (options.hyp or options.ref or options.src):
        raise UserError(f"{own_sets[0]}: files are given as well; expected a run's own set, or files")
    if len(own_sets) > 1:
        raise UserError("--valid_set and --test: both are given; expected one of them")
    if (options.run_dir is None) == (options.hyp is None):
        given = "neither" if options.run_dir is None else "both"
        raise UserError(f"--run_dir and --hyp: {given} given; expected a run to translate with, or its translations")
    if options.hyp is not None:
        if options.ref is None:
            raise UserError("--hyp: --ref is missing; expected reference translations, line beside line")
        if options.output is not None:
            raise UserError("--output: the translations are in --hyp already; leave it out")
        searched = {"ensemble": options.ensemble, "n_processes": options.n_processes > 1}
        asked = [name for name, is_given in searched.items() if is_given]
        for name in (*asked, *opt.given_fields(options, DecodeConfig)):
            raise UserError(f"--{name}: --hyp is translated already; leave it out")
        if "{src}" in (options.comet or "") and options.src is None:
            raise UserError("--comet: --src is missing; expected the source sentences, line beside line")
    elif (options.src is None) != (options.ref is None):
        raise UserError("--src and --ref: only one is given; expected both, or neither for a set of the run")
    read = [(name, file) for name in _INPUTS for file in _files(options[name])]
    if len(piped := [f"--{name}" for name, file in read if file == "-"]) > 1:
        raise UserError(f"{' and '.join(piped)}: all are standard input; expected files for all but one of them")
    for name in ("n_resamples", "n_trials", "seed"):
        if options[name] < 0:
            raise UserError(f"--{name} is {options[name]}; expected 0 or more")
    from accel_tx.inference.external_metric import LONGEST_TIMEOUT_S

    if not 0 < options.comet_timeout_s <= LONGEST_TIMEOUT_S:
        expected = f"expected seconds above 0 and up to {LONGEST_TIMEOUT_S:,}"
        raise UserError(f"--comet_timeout_s is {options.comet_timeout_s:g}; {expected}")


def _files(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _outputs(options: Namespace) -> dict[str, str | None]:
    return {"--output": options.output, "--json": options.json}


def _inputs(options: Namespace) -> Inputs:
    given: Inputs = {f"--{name}": options[name] for name in _INPUTS}
    return {**given, **files_of_models(options)}


def _text_to_score(options: Namespace, translations: list[str] | None) -> ScoredText:
    if options.ref is not None:
        hyp = None if translations is None else (options.hyp, translations)
        return text_of_files(options.src, options.ref, hyp)
    run_dir, outputs = Path(options.run_dir), _outputs(options)
    if options.test:
        text = text_of_test(run_dir, options.weights, outputs)
    else:
        text = text_of_validation(run_dir, options.weights, options.valid_set, outputs)
    warn_of_other_data(Member(run_dir, options.weights), members(options))
    return text


def _own_translations(options: Namespace, text: ScoredText) -> tuple[list[str], DecodeConfig]:
    """The run's translations, and how they were searched for."""
    with opened_translator(options) as translator:
        translations = translator.translate(text.src)
    warn_of_lengths(translator)
    return translations, translator.decode


def _comet(
    options: Namespace, text: ScoredText, systems: list[list[str]]
) -> tuple[list[float] | None, UserError | None]:
    """A score a system, or why there is none: a program that fails must not cost the other scores."""
    from accel_tx.inference.external_metric import external_score

    if options.comet is None:
        return None, None
    reference, timeout_s = text.references[0], options.comet_timeout_s
    try:
        return [external_score(options.comet, text.src, lines, reference, timeout_s) for lines in systems], None
    except UserError as error:
        return None, error


def _weights(options: Namespace) -> str:
    return weights_name(Path(options.run_dir), options.weights)


def _name_of_run(options: Namespace) -> str:
    others = f" + {len(options.ensemble)} more" if options.ensemble else ""
    return f"{options.run_dir} {_weights(options)}{others}"


def _as_dict(
    options: Namespace, found: dict[str, MetricScores], comet: list[float] | None, drawn: Resampling, text: ScoredText
) -> dict[str, Any]:
    """For JSON: plain scores under the names that metrics.jsonl has, then everything about each system."""
    values: dict[str, Any] = {key: metric.systems[0].score for key, metric in found.items()}
    values |= {"signature": found["bleu"].plain_signature, "chrf_signature": found["chrf"].plain_signature}
    values |= {"text": text.name, "n_sentences": text.n_lines, "references_sha256": text.references_sha256()}
    values |= {"weights": None if options.hyp else _weights(options), "ensemble": list(map(str, members(options)))}
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
