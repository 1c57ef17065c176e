"""Options of the commands: a YAML file and --section.field flags -> a checked Config; errors in one line."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from accel_tx.config import (
    SECTIONS,
    Config,
    UserError,
    build_config,
    check_key,
    default_of,
    load_yaml,
    nearest_of,
    out_of_use,
)

_PATHS = ("run_dir", "init_from", "train.mirror_dir", "tokenizer.from_run", "tokenizer.sentencepiece")
"""Where `~` is expanded: a shell does so in `--run_dir ~/r`, but not in `--run_dir=~/r`, and YAML never."""


def plain_parser(command: str, description: str) -> ArgumentParser:
    """A parser without the config's fields; no option may be abbreviated."""
    return ArgumentParser(
        prog=f"python -m accel_tx {command}",
        usage=f"python -m accel_tx {command} [options]",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def config_parser(command: str, description: str) -> ArgumentParser:
    """A parser with `--config` and every field of the config as `--section.field`."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = plain_parser(command, description)
    parser.add_argument("--config", type=str, required=True, help="YAML file, see configs/; options beat what it says")
    for section, cls in SECTIONS.items():
        parser.add_class_arguments(cls, section)
        # jsonargparse would also take a file for each section; one way to give a file is enough.
        next(action for action in parser._actions if action.dest == section).help = SUPPRESS
    return parser


def add_section_options(parser: ArgumentParser, section: type, title: str) -> None:
    """Every field of a section as `--field` under a title; none has a default, so that a run's own value can stand."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(section, help=title)
    for action in parser._actions:
        if action.dest in _field_names(section):
            action.default = SUPPRESS  # with None the help would say `default: null`


def given_fields(options: Namespace, section: type) -> dict[str, Any]:
    """The fields of a section that stand on the command line."""
    return {name: options[name] for name in _field_names(section) if options.get(name) is not None}


def _field_names(section: type) -> list[str]:
    return [f.name for f in dataclasses.fields(section)]


def parse(parser: ArgumentParser, argv: list[str], **kwargs: Any) -> Namespace:
    """Parse the command line. Raises: UserError for what does not fit, and for an option with an empty value."""
    options = _one_line_errors("command line", parser, lambda: parser.parse_args(argv, **kwargs))
    name = _empty_one(parser, options)
    if name is not None:
        raise UserError(f"command line: --{name} is empty; expected a value (is a shell variable unset?)")
    for name in _PATHS:
        if isinstance(given := options.get(name), list):
            options[name] = [os.path.expanduser(path) for path in given]
        elif given is not None:
            options[name] = os.path.expanduser(given)
    return options


def _empty_one(parser: ArgumentParser, options: Namespace) -> str | None:
    """A field or option with an empty value, as of an unset shell variable: a path would mean this folder."""
    for name, value in options.items():
        is_empty = value == "" or (isinstance(value, list) and "" in value)
        if is_empty and value != parser.get_default(name):
            return name
    return None


def parse_with_config(parser: ArgumentParser, argv: list[str]) -> tuple[Config, Namespace]:
    """The config of the file and the flags, which win wherever they stand, and the options that are not in it.

    Raises: UserError that names the file and the nearest valid key for an unknown one.
    """
    if any(word in ("-h", "--help") for word in argv):
        parser.parse_args(["--help"])
    fields = [word.split("=")[0][2:] for word in argv if re.match(r"--\w+\.", word)]
    for name in fields:
        check_key(name, where="command line")
    for word in argv:
        if word.startswith("--") and (section := word[2:].partition("=")[0]) in SECTIONS:
            first = _field_names(SECTIONS[section])[0]
            raise UserError(
                f"command line: --{section} is a section; expected one of its fields, as --{section}.{first}"
            )
    path = _value_of(argv, "--config")
    if not path:
        raise UserError("command line: --config is missing; expected a YAML file, such as configs/quickstart.yaml")
    values = load_yaml(Path(path))
    from_file = _one_line_errors(path, parser, lambda: parser.parse_object({"config": path, **values}))
    empty = _empty_one(parser, from_file)
    if empty is not None:
        raise UserError(f"{path}: {empty} is empty; expected a value, or leave it out")
    if "data.corpus" in fields and "data.train_src" not in fields and from_file["data.train_src"] is not None:
        raise UserError(
            f"command line: --data.corpus is given, but data.train_src and data.train_tgt of {path} go before it; add "
            "--data.train_src null --data.train_tgt null"
        )
    options = parse(parser, argv, namespace=from_file)
    _make_room(options, fields, path)
    size, n = options["train.tokens_per_update"], options["train.micro_batches_per_update"]
    if "train.micro_batches_per_update" in fields and size and (n != 1 or "train.tokens_per_update" not in fields):
        raise UserError(
            f"command line: --train.micro_batches_per_update is {n}, but train.tokens_per_update, {size}, goes before "
            "it; give that one another value, or add --train.tokens_per_update null"
        )
    try:
        return build_config({name: options[name].as_dict() for name in SECTIONS}), options
    except UserError as error:
        where = "command line" if any(re.search(rf"{re.escape(name)}\b", str(error)) for name in fields) else path
        raise UserError(f"{where}: {error}") from None


def _make_room(options: Namespace, given: list[str], path: str) -> None:
    """Take what the file has in the place of a field on the command line back to its default, and tell."""
    for key in given:
        for rival in out_of_use(key, options[key]):
            old, default = options[rival], default_of(rival)
            if rival not in given and old != default:
                options[rival] = default
                if os.environ.get("RANK", "0") == "0":
                    sys.stderr.write(f"accel_tx: --{key} {options[key]}: {rival} {old} of {path} does not count\n")


def _value_of(argv: list[str], option: str) -> str | None:
    """Where it is given twice, the last one, which is what the parser takes of every other option."""
    found = None
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            found = argv[i + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _one_line_errors(where: str, parser: ArgumentParser, parse: Callable[[], Namespace]) -> Namespace:
    try:
        return parse()
    except (ArgumentError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
    if found := re.search(r'Parser key "([\w.]+)".*(?:Got value|Given value): (.*)', text):
        hint = next((_hint(action) for action in parser._actions if action.dest == found[1]), None)
        if hint is not None:
            expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            text = f"{'' if '.' in found[1] else '--'}{found[1]} is {found[2]}; expected {expected}"
    elif found := re.match(r"unrecognized arguments: (-\S+)", text):
        given = found[1].partition("=")[0]
        text = f"unknown option {given}; did you mean {nearest_of(given, parser._option_string_actions)}?"
    elif found := re.match(r"the following arguments are required: (.*)", text):
        text = f"missing: {', '.join(f'--{name}' for name in found[1].split(', '))}"
    raise UserError(f"{where}: {text}")


def _hint(action: Action) -> Any:
    return getattr(action, "_typehint", None) or action.type
