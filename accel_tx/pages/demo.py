"""A page to try a model in the browser, made with Gradio, which only this module needs.

Nothing is sent anywhere: no telemetry, no fonts or scripts from elsewhere. Nothing that is sent here is kept.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from typing import Any, get_args

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from accel_tx.config import RunError, UserError
from accel_tx.inference.translator import Translator
from accel_tx.pages.answers import (
    LARGEST_BEAM,
    MOST_CHARS,
    About,
    Answer,
    Asked,
    LengthPenalty,
    answer,
    attention_picture,
)
from accel_tx.pages.without_text import WithoutText

# In the source languages that we can write; the page has no examples for others.
EXAMPLES = {
    "en": [
        "The old man is reading a long letter.",
        "My sister would like to buy a green coat because it is cold.",
        "Where did the children hide the key?\nThey do not want to say it.",
    ],
    "fr": [
        "Le vieil homme lit une longue lettre.",
        "Ma sœur voudrait acheter un manteau vert parce qu'il fait froid.",
        "Où est-ce que les enfants ont caché la clé ?\nIls ne veulent pas le dire.",
    ],
    "de": [
        "Der alte Mann liest einen langen Brief.",
        "Meine Schwester möchte einen grünen Mantel kaufen, weil es kalt ist.",
        "Wo haben die Kinder den Schlüssel versteckt?\nSie wollen es nicht sagen.",
    ],
}
_RIGHT_TO_LEFT = frozenset("ar arc dv fa he ku ps sd ug ur yi".split())
_CLOSED = frozenset(["upload", "process_recording", "deep_link", "monitoring"])
_MEAN = "mean of all"
_LONGEST_CHOICE_CHARS = 70
_N_SHOWN = 3
"""Translations of a line at first, where the run has no more and its beam as many."""
_LARGEST_EXPONENT = 3.0
_STYLE = """
.status{border-left:4px solid #2f6fb3;padding:6px 12px;margin:0}
.status.bad{border-left-color:#cf4a3c}
.found{overflow-x:auto}
.found table{width:100%;margin:0;border:0!important;border-collapse:collapse;font-variant-numeric:tabular-nums}
.found tr{border:0!important}
.found tr>*{padding:5px 8px;border:solid rgba(128,128,128,.3);border-width:0 0 1px;vertical-align:top;
width:1%;white-space:nowrap;text-align:right}
.found th{font-weight:500;opacity:.75}
.found tr>.text{width:auto;min-width:150px;white-space:normal;overflow-wrap:anywhere;text-align:left}
.picture{overflow-x:auto}
.picture img{max-width:none;background:#fff;border-radius:6px}
"""


def build_page(translator: Translator, about: About) -> gr.Blocks:
    """The page for one model."""
    with gr.Blocks(analytics_enabled=False, title=about.title) as page:
        widgets = _Widgets(translator, about)
        _connect(page, widgets, translator)
    return page


def serve(page: gr.Blocks, host: str, port: int, share: bool) -> str:
    """Start to answer, in a thread of its own, and give the page's address; only `share` reaches beyond `host`.

    Raises: UserError where the address cannot be used.
    """
    WithoutText.install()
    try:
        _, local, public = page.launch(
            # Gradio makes a link of it.
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=False,
            footer_links=["api"],
            run_history=False,
            ssr_mode=False,
            # The fonts of the default theme come from another server.
            app_kwargs={"middleware": [Middleware(_KeepsNothing)]},
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=_STYLE,
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--host {host} --port {port}: cannot be served ({reason})") from None
    if share and not public:
        raise UserError("--share: no tunnel could be opened; leave it out, or see whether this machine has a network")
    return str(public or local)


class _KeepsNothing:
    """Refuses what Gradio has beside the page that keeps something.

    Uploads, links to what somebody wrote, and counts of all calls, whose secret address would be printed here.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self.app
        if scope["type"] == "http":
            kind = dict(scope["headers"]).get(b"content-type", b"").lower()
            if b"multipart" in kind or _CLOSED & set(scope["path"].split("/")):
                app = PlainTextResponse("This page keeps nothing.", 404)
        await app(scope, receive, send)


class _Widgets:
    """What stands on the page, from top to bottom."""

    def __init__(self, translator: Translator, about: About) -> None:
        gr.HTML(f"<h1>{escape(about.title)}</h1><p>{escape(about.description)}</p>")
        with gr.Row():
            self.text = gr.Textbox(
                label=f"Text ({about.src_lang})",
                placeholder="One or more lines; Shift+Enter translates",
                lines=6,
                max_lines=20,
                max_length=MOST_CHARS,
                min_width=300,
                rtl=_is_right_to_left(about.src_lang),
                autofocus=True,
            )
            self.translation = gr.Textbox(
                label=f"Translation ({about.tgt_lang})",
                lines=6,
                max_lines=20,
                interactive=False,
                min_width=300,
                rtl=_is_right_to_left(about.tgt_lang),
                buttons=["copy"],
            )
        self.button = gr.Button("Translate", variant="primary")
        self.status = gr.HTML(_status("Ready."))
        if examples := EXAMPLES.get(about.src_lang):
            gr.Examples([[example] for example in examples], [self.text], label="Examples")
        with gr.Accordion("Search"):
            self._add_search(Asked.usual(translator))
        with gr.Accordion("All translations"):
            self.table = gr.HTML()
        with gr.Accordion("Attention"):
            self._add_attention(translator)

    def _add_search(self, usual: Asked) -> None:
        n_shown = min(max(usual.n_best, _N_SHOWN), usual.beam_size)
        largest = max(usual.length_exponent, _LARGEST_EXPONENT)
        with gr.Row():
            beam = gr.Slider(1, LARGEST_BEAM, usual.beam_size, step=1, label="Beam", info="1 is greedy search")
            n_best = gr.Slider(1, LARGEST_BEAM, n_shown, step=1, label="Translations", info="of a line, best first")
            penalty = gr.Dropdown(
                list(get_args(LengthPenalty)), value=usual.length_penalty, label="Length penalty", info="of the score"
            )
            exponent = gr.Slider(
                0.0, largest, usual.length_exponent, step=0.05, label="Exponent", info="more: longer ones"
            )
        self.search = [beam, n_best, penalty, exponent]

    def _add_attention(self, translator: Translator) -> None:
        config = translator.transformer.config
        n_layers, n_heads = config.n_decoder_layers, config.n_heads
        layers, heads = [str(i) for i in range(1, n_layers + 1)], [str(i) for i in range(1, n_heads + 1)]
        with gr.Row():
            self.sentence = gr.Dropdown([], label="Sentence", scale=3)
            self.layer = gr.Dropdown(layers, value=layers[-1], label="Decoder layer")
            self.head = gr.Dropdown([_MEAN, *heads], value=_MEAN, label="Head")
        self.picture = gr.HTML()


def _connect(page: gr.Blocks, widgets: _Widgets, translator: Translator) -> None:
    """Say what happens when. All that asks the model waits for its turn."""
    shown = [widgets.translation, widgets.table, widgets.sentence, widgets.status]
    asked = [widgets.text, *widgets.search]
    to_draw = [widgets.sentence, widgets.layer, widgets.head, *widgets.search]
    in_turn: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model"}

    def show_translations(text: str, *search: Any) -> tuple[Any, ...]:
        return _translated(translator, text, search)

    def show_picture(sentence: str | None, layer: str, head: str, *search: Any) -> str:
        return _drawn(translator, sentence, int(layer), None if head == _MEAN else int(head), search)

    def text_of_link(request: gr.Request) -> str:
        return str(request.query_params.get("text", ""))

    def show_if_any(text: str, *search: Any) -> tuple[Any, ...]:
        return show_translations(text, *search) if text else (gr.skip(),) * len(shown)

    # A link such as /?text=A+sentence. opens the page with its translation.
    opened = page.load(text_of_link, None, widgets.text, api_visibility="private")
    for done in (
        widgets.button.click(show_translations, asked, shown, **in_turn),
        widgets.text.submit(show_translations, asked, shown, **in_turn),
        opened.then(show_if_any, asked, shown, **in_turn),
    ):
        done.then(show_picture, to_draw, widgets.picture, show_progress="minimal", **in_turn)
    for change in (widgets.sentence.input, widgets.layer.input, widgets.head.input):
        change(show_picture, to_draw, widgets.picture, show_progress="minimal", **in_turn)
    _offer_to_programs(translator)


def _offer_to_programs(translator: Translator) -> None:
    """The endpoint `/translate`, for `gradio_client` and others."""
    usual = Asked.usual(translator)

    def translate(
        text: str,
        beam_size: int = usual.beam_size,
        n_best: int = usual.n_best,
        length_penalty: str = usual.length_penalty,
        length_exponent: float = usual.length_exponent,
    ) -> dict[str, Any]:
        """Translate a text; for each of its lines the best translations."""
        try:
            asked = Asked.read(beam_size, n_best, length_penalty, length_exponent)
            return answer(translator, text, asked).to_dict()
        except (UserError, RunError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.api(translate, api_name="translate", concurrency_id="model")


def _asked(search: Sequence[Any]) -> Asked:
    """What the sliders say: no more translations than the beam has, wherever theirs was left."""
    asked = Asked.read(*search)
    return dataclasses.replace(asked, n_best=min(asked.n_best, asked.beam_size))


def _translated(translator: Translator, text: str, search: Sequence[Any]) -> tuple[Any, ...]:
    """Translation, table, choice of sentences and status."""
    found = _or_error(lambda: answer(translator, text, _asked(search)))
    if isinstance(found, str):
        return "", "", gr.Dropdown(choices=[], value=None), _status(found, is_bad=True)
    choices = [(_short(i, one), one) for i, one in enumerate(found.sentences, start=1)]
    choice = gr.Dropdown(choices=choices, value=found.sentences[0])
    return found.text, translations_table(found), choice, _status(" ".join(found.remarks))


def _drawn(translator: Translator, sentence: str | None, layer: int, head: int | None, search: Sequence[Any]) -> str:
    """The picture of a sentence, nothing where none is chosen."""
    if not sentence:
        return ""
    found = _or_error(lambda: attention_picture(translator, sentence, Asked.read(*search), layer, head))
    if isinstance(found, str):
        return _status(found, is_bad=True)
    alt = f"{found.title}: “{found.translation}” by “{sentence}”"
    source = f"data:image/png;base64,{base64.b64encode(found.png).decode()}"
    return f'<div class="picture"><img alt="{escape(alt)}" src="{source}"></div>'


def _or_error(compute: Callable[[], Any]) -> Any:
    """What it gives, or the words of a UserError or RunError."""
    try:
        return compute()
    except (UserError, RunError) as error:
        return str(error)


def _status(text: str, is_bad: bool = False) -> str:
    return f'<p class="status{" bad" if is_bad else ""}" role="{"alert" if is_bad else "status"}">{escape(text)}</p>'


def translations_table(found: Answer) -> str:
    """All translations of all lines with their scores, as HTML."""
    first = 0 if len(found.lines) > 1 else 1  # the number of the only line says nothing
    rows = [("line", "rank", "translation", "score", "log-probability")]
    for number, line in enumerate(found.lines, start=1):
        for rank, one in enumerate(line.translations if line.n_parts else (), start=1):
            numbers = [f"{value:.3f}" if line.n_searched else "–" for value in (one.score, one.log_prob)]
            rows.append((f"{number:,}", f"{rank:,}", one.text, numbers[0], numbers[1]))
    head, *body = [_row(row[first:], 2 - first, "td" if i else "th") for i, row in enumerate(rows)]
    return f'<div class="found"><table>{head}{"".join(body)}</table></div>'


def _row(cells: Sequence[str], text_at: int, tag: str) -> str:
    kinds = [' class="text"' if i == text_at else "" for i in range(len(cells))]
    return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells)) + "</tr>"


def _short(i: int, sentence: str) -> str:
    cut = len(sentence) > _LONGEST_CHOICE_CHARS
    return f"{i}: {sentence[:_LONGEST_CHOICE_CHARS]}{'…' if cut else ''}"


def _is_right_to_left(language: str) -> bool:
    return language.replace("_", "-").partition("-")[0].lower() in _RIGHT_TO_LEFT
