"""`demo`: a page to try a model in the browser."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from accel_tx import options as opt
from accel_tx.cli.trained import add_run_options, load_translator
from accel_tx.config import UserError
from accel_tx.config.extras import lack_of
from accel_tx.inference.weights import weights_name

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from accel_tx.inference.translator import Translator
    from accel_tx.pages.answers import About


def run(argv: list[str]) -> None:
    """Parse the options and do it."""
    parser = opt.plain_parser(
        "demo",
        "Serve a page to try a run's model in the browser: text in, translations with their scores out, pictures of "
        "attention. On this machine only, unless --host or --share says otherwise; nothing is recorded or reported. "
        "Needs gradio. Example: python -m accel_tx demo --run_dir runs/quickstart",
    )
    add_run_options(parser)
    parser.add_argument("--port", type=int, default=7860, help="port to serve at")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0: all that this machine has")
    parser.add_argument("--share", action="store_true", help="also through a tunnel of gradio's, open to everyone")
    options = opt.parse(parser, argv)
    if not 1 <= options.port <= 65_535:
        raise UserError(f"--port is {options.port}; expected from 1 to 65535")
    if lack := lack_of(["gradio"]):
        raise UserError(f"demo needs {lack}")
    host = _plain(options.host)
    _check_can_serve(host, options.port)
    translator = load_translator(options)
    name = weights_name(Path(options.run_dir), options.weights)
    about = _about(options, name, translator)  # now: a training that goes on replaces best/, scores and all
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    from accel_tx.pages.demo import build_page, serve

    page = build_page(translator, about)
    address = serve(page, host, options.port, options.share)
    print(f"{options.run_dir} {name} at {address} (Ctrl-C ends it)", flush=True)
    if not _is_loopback(host):
        print(f"accel_tx: --host {host}: all who reach this machine can use the page", file=sys.stderr)
    threading.Event().wait()


def _about(options: Namespace, weights: str, translator: Translator) -> About:
    from accel_tx.inference.translator import load_run_config
    from accel_tx.inference.weights import load_scores, weights_folder
    from accel_tx.model.transformer import count_parameters
    from accel_tx.pages.answers import About

    run_dir = Path(options.run_dir)
    data = load_run_config(run_dir).data
    scores = load_scores(weights_folder(run_dir, options.weights))
    known = [f"run {run_dir.resolve().name}", f"weights {weights}"]
    known += [f"update {scores['update']:,}"] if "update" in scores else []
    known += [f"BLEU {scores['bleu']:.2f} on its validation set"] if "bleu" in scores else []
    model = translator.transformer
    known.append(f"{count_parameters(model):,} parameters on {model.positions.device.type}")
    return About(f"Translate {data.src_lang} to {data.tgt_lang}", ", ".join(known), data.src_lang, data.tgt_lang)


def _plain(host: str) -> str:
    """The host without the brackets that an IPv6 address has in a link."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _check_can_serve(host: str, port: int) -> None:
    """Raise UserError now, before a model is loaded, if the address is taken or not one of this machine."""
    if "%" in host:
        raise UserError(f"--host {host}: has a zone, which no link can have; expected an address without one")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except (OSError, UnicodeError) as error:
        reason = str(error.strerror).partition(" (")[0] if isinstance(error, OSError) else "not a name of a host"
        raise UserError(
            f"--host {host} --port {port}: cannot be served ({reason}); expected an address of this machine "
            "and a free port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
