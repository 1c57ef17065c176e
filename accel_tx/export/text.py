"""Our tokenizers as files that stand alone: what our code does around them moves into the file itself."""

from __future__ import annotations

from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from accel_tx.data.tokenizer import EOS_ID, OUTER_SPACE, SPECIAL_TOKENS, Tokenizer

EOS = SPECIAL_TOKENS[EOS_ID]
SOURCE_FILE, TARGET_FILE = "source_tokenizer.json", "target_tokenizer.json"

# `join_words` without groups, which a replacement in a tokenizer file cannot refer to.
_JOIN_WORDS = [
    *((rf"(?<=\w) {joining} (?=\w)", joining) for joining in "'’-"),
    (r" (?=[.,…)\]}%°]+( |$))", ""),
    (r"(?<=^[(\[{]| [(\[{]) ", ""),
    (r"(?<=\w) (?=['’]( |$))", ""),
]


def stand_alone(tokenizer: Tokenizer) -> FastTokenizer:
    """A tokenizer of the `tokenizers` library that ends each text with EOS and decodes to the text that we give.

    Left to the caller is `encode_special_tokens = True`, which no file keeps: without it a text that contains "<eos>"
    has an end there.
    """
    fast = FastTokenizer.from_str(tokenizer.fast.to_str())
    strip = normalizers.Replace(Regex(OUTER_SPACE), "")
    fast.normalizer = normalizers.Sequence([strip, *([fast.normalizer] if fast.normalizer else [])])
    fast.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, EOS_ID)])
    if isinstance(fast.model, models.WordLevel):
        # This decoder puts a space before every token that does not begin with its prefix: none has a line feed.
        joined = [decoders.WordPiece(prefix="\n", cleanup=False), decoders.Fuse()]
        fast.decoder = decoders.Sequence([*joined, *_replacing(_JOIN_WORDS), *_replacing([(OUTER_SPACE, "")])])
    else:
        fast.decoder = decoders.Sequence([fast.decoder, decoders.Fuse(), *_replacing([(OUTER_SPACE, "")])])
    fast.encode_special_tokens = True
    return fast


def _replacing(rules: list[tuple[str, str]]) -> list[decoders.Decoder]:
    return [decoders.Replace(Regex(pattern), content) for pattern, content in rules]


def tokens_by_id(fast: FastTokenizer) -> list[str]:
    """The vocabulary in the order of its ids."""
    return [token for token, _ in sorted(fast.get_vocab().items(), key=lambda entry: entry[1])]
