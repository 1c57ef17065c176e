"""SentencePiece models of the embedded grammar and of awkward characters, and text to try them on."""

from __future__ import annotations

import io
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from accel_tx.data.phrasebook import iter_pairs

# Marks, spaces of every kind, controls, ligatures, other widths and scripts, emoji, and what spells a token.
AWKWARD = (
    "\u0301\u0308\u0323\u0327\u0302\u3099\uff9e\u05bc\u05c1\u064b\u0651\u0653\u093c\u200b\u200c\u200d\u200e\ufeff\u2060\xad"
    "\t\n\r\x0b\x0c\x1c\x01\x7f\x85\x8f\xa0\u2003\u2028\u3000\u202fﬁﬃ①½™ªº²…Ａａ９！ｶｷか゛は漢字中文한글각ㄱㅏ\u1112\u1161\u11ab"
    "العربيةﷺﻼעברहिन्दीไทยกำ🙂👩👧🇫🇷👍🏽❤\ufe0f☃\ufffd\u212b\u2126ǆİıßẞΣς´¨µ‘«»—▁ abcdeéàçEÉA19.,;:!?'-()<>/_\\"
)
WORDS = [
    *(
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
        "<bos>",
        "<eos>",
        "<0x41>",
        "<0xE2>",
        "<sep>",
        "<BT>",
        "<bt>",
        "＜sep＞",
        "<ctl>",
    ),
    *(
        "été",
        "e\u0301te\u0301",
        "e\u0323\u0302",
        "the",
        "old",
        "man",
        "Le",
        "chat",
        "  ",
        "   ",
        "\r\n",
        "▁▁",
        "\t",
        "FW",
        "ＦＷ",
    ),
]
SYMBOLS = ["<sep>", "<BT>", "ＦＷ", "Le"]
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all folded": {"normalization_rule_name": "nmt_nfkc_cf", "user_defined_symbols": SYMBOLS},
    "bytes": {
        "normalization_rule_name": "nfkc",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": SYMBOLS,
        "split_digits": True,
        "control_symbols": ["<ctl>"],
        "vocab_size": 720,
    },
    "as it is": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_by_whitespace": False,
        "pad_id": 3,
    },
    "spaces kept": {"remove_extra_whitespaces": False, "user_defined_symbols": ["▁▁", "▁▁▁", "New▁York"]},
    "as it is, bare": {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "byte_fallback": True,
        "vocab_size": 720,
    },
}


@cache
def training_text() -> list[str]:
    """Sentences of both languages, and some awkward characters so that the vocabularies know of these."""
    pairs = list(islice(iter_pairs("train", 250, seed=1), 250))
    awkward = [f"a{char}b {char}" for char in AWKWARD[::3] if char not in "\n\r"]
    return [*(side for pair in pairs for side in pair), *awkward, "x = 12, 99 (or 345)", "a<sep>b <BT>"]


@cache
def model_bytes(kind: str, features: str = "plain") -> bytes:
    """What SentencePiece writes into a `.model` file."""
    import sentencepiece

    written = io.BytesIO()
    fields = {"vocab_size": 480, "character_coverage": 0.999, **FEATURES[features]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_text()),
        model_writer=written,
        model_type=kind,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **fields,
    )
    return written.getvalue()


def write_model(path: Path, kind: str, features: str = "plain") -> Path:
    path.write_bytes(model_bytes(kind, features))
    return path
