"""Sections `tokenizer` and `model`: what is trained."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from accel_tx.config.checks import all_usable, at_least, at_most, in_range
from accel_tx.config.errors import UserError

# Far beyond any; `tokenizers` makes room for all of it before it has counted, and panics where there is none.
_LARGEST_VOCABULARY = 1 << 24
_MOST_LAYERS = 1_000
SPECIAL_TOKENS = ["<pad>", "<unk>", "<bos>", "<eos>"]


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes token ids.

    Tokenizers are trained on the training split only, or taken from another run or from SentencePiece.
    """

    kind: Literal["wordlevel", "bpe", "unigram"] = "bpe"
    """`wordlevel`: words and punctuation; `bpe`: byte-level, never an unknown token; `unigram`: SentencePiece-like. Of
    files in `sentencepiece` the kind that they are."""
    vocab_size: int = 10_000
    """Largest number of entries of a vocabulary, special tokens included."""
    min_frequency: int = 2
    """Words (wordlevel) or merges (bpe) seen less often than this stay out of the vocabulary."""
    joint: bool = True
    """One vocabulary for both languages, or one for each."""
    max_sentences: int | None = 2_000_000
    """Training pairs that the vocabulary is learned from, drawn by content hash where there are more (null: all)."""
    symbols: list[str] = field(default_factory=list)
    """Tags that are one token each, such as ["<2de>", "<2BT>"] in front of a text; counted in `vocab_size`. A space
    before one inside a text is not kept."""
    from_run: str | None = None
    """Run folder whose vocabularies are taken in place of learning any, so that `--init_from` can go on to other text;
    `kind` and `joint` must be those of that run, the other fields do nothing then."""
    sentencepiece: list[str] = field(default_factory=list)
    """`.model` files of SentencePiece whose vocabularies are taken in place of learning any: one with `joint`, else
    that of the source and that of the target. `kind` must be theirs; `vocab_size`, `min_frequency` and `max_sentences`
    do nothing then, and `symbols` get ids behind theirs."""

    def __post_init__(self) -> None:
        all_usable("tokenizer", self)
        floor = 300 if self.kind == "bpe" else 10
        if self.vocab_size < floor:
            raise UserError(f"tokenizer.vocab_size is {self.vocab_size}; expected at least {floor} for {self.kind}")
        at_most("tokenizer", self, _LARGEST_VOCABULARY, "vocab_size")
        at_least("tokenizer", self, 1, "min_frequency", "max_sentences")
        self._check_symbols(floor)
        if self.sentencepiece:
            self._check_sentencepiece()

    def _check_sentencepiece(self) -> None:
        n_files = len(self.sentencepiece)
        if self.from_run is not None:
            raise UserError(
                f"tokenizer.sentencepiece is {self.sentencepiece}, but tokenizer.from_run {self.from_run} names "
                "vocabularies too; leave one of them out"
            )
        if n_files > 2:
            raise UserError(
                f"tokenizer.sentencepiece has {n_files} files; expected one, or one for each language with "
                "tokenizer.joint false"
            )
        if n_files != (1 if self.joint else 2):
            raise UserError(
                f"tokenizer.sentencepiece has {n_files} file{'s' if n_files > 1 else ''}, but tokenizer.joint is "
                f"{str(self.joint).lower()}; expected {'one file' if self.joint else 'two'}, or "
                f"--tokenizer.joint {str(not self.joint).lower()}"
            )

    def _check_symbols(self, floor: int) -> None:
        for symbol in self.symbols:
            # A word would be found inside of others; and byte-level vocabularies take other letters for bytes.
            if not re.fullmatch(r"(?![a-zA-Z0-9])[!-~]+(?<![a-zA-Z0-9])", symbol):
                raise UserError(
                    f"tokenizer.symbols has {symbol!r}; expected ASCII without spaces, with neither a letter nor a "
                    "digit at its ends, such as <2de>"
                )
            if symbol in SPECIAL_TOKENS:
                raise UserError(f"tokenizer.symbols has {symbol}, which every vocabulary has; leave it out")
        if len(set(self.symbols)) < len(self.symbols):
            raise UserError(f"tokenizer.symbols has {self.symbols}; expected each only once")
        if not self.sentencepiece and self.vocab_size - len(self.symbols) < floor:
            raise UserError(
                f"tokenizer.vocab_size is {self.vocab_size}, with {len(self.symbols)} symbols among them; "
                f"expected {floor} more than symbols"
            )


@dataclass(frozen=True)
class ModelConfig:
    """The encoder-decoder Transformer."""

    d_model: int = 512
    """Width of embeddings and hidden states."""
    d_ff: int = 2048
    """Inner width of the feed-forward blocks."""
    n_heads: int = 8
    """Attention heads; divides d_model."""
    n_encoder_layers: int = 6
    """Encoder layers executed."""
    n_decoder_layers: int = 6
    """Decoder layers executed."""
    encoder_sharing: str | list[int] = "none"
    """Which layer's weights each executed layer uses: `none` (its own), `sequence` (1 1 2 2 3 3),
    `cycle` (1 2 3 1 2 3), `palindrome` (1 2 3 3 2 1), or the 1-based list itself, such as [1, 2, 2, 3]."""
    decoder_sharing: str | list[int] = "none"
    """The same for the decoder."""
    n_unique_encoder_layers: int | None = None
    """Layers with weights of their own under `sequence`, `cycle` or `palindrome` (null: half of the executed ones)."""
    n_unique_decoder_layers: int | None = None
    """The same for the decoder."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each block with a final one behind each stack, or after each residual sum."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Non-linearity of the feed-forward blocks; `silu` is what Marian calls swish."""
    attention_bias: bool = False
    """Biases of attention's queries and of its output. One of the keys would have no effect, and that of the values is
    in the output's."""
    positions: Literal["sinusoidal", "rotary"] = "sinusoidal"
    """Added to the embeddings (Vaswani et al. 2017), or as angles of the queries and keys of self-attention (Su et al.
    2021); neither has weights."""
    dropout: float = 0.1
    """On embeddings and on the output of every block."""
    attention_dropout: float = 0.0
    """On the attention weights."""
    tie_embeddings: Literal["none", "decoder", "all"] = "none"
    """Weights shared with the output projection: none, the target embedding, or both embeddings."""
    quantization: Literal["none", "int8"] = "none"
    """`int8`: weights, and what they are multiplied with, are rounded as an int8 export has them, in training and in
    translating, so that the export translates like the model (Jacob et al. 2018)."""
    init: Literal["xavier", "normal_0.02"] = "xavier"
    """Xavier-uniform matrices with N(0, 1/d_model) embeddings, or N(0, 0.02^2) for all of them."""
    max_positions: int = 1024
    """Longest sequence in tokens, on either side."""

    def __post_init__(self) -> None:
        all_usable("model", self)
        at_least("model", self, 1, "d_model", "d_ff", "n_heads", "n_encoder_layers", "n_decoder_layers")
        at_least("model", self, 2, "max_positions")
        at_most("model", self, _MOST_LAYERS, "n_encoder_layers", "n_decoder_layers")
        if self.d_model % self.n_heads:
            raise UserError(f"model.n_heads is {self.n_heads}; expected a divisor of model.d_model = {self.d_model}")
        if self.d_model % 2:
            raise UserError(f"model.d_model is {self.d_model}; expected an even number (sine and cosine positions)")
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise UserError(
                f"model.positions is rotary, but a head is {self.d_model // self.n_heads} channels wide (model.d_model "
                f"{self.d_model} / model.n_heads {self.n_heads}); expected an even number: they are turned in pairs"
            )
        in_range("model.dropout", self.dropout, 0.0, 1.0)
        in_range("model.attention_dropout", self.attention_dropout, 0.0, 1.0)
        self.encoder_layer_order()
        self.decoder_layer_order()

    def encoder_layer_order(self) -> list[int]:
        """The unique encoder layer (0-based) that each executed layer uses."""
        return _layer_order("encoder", self.n_encoder_layers, self.encoder_sharing, self.n_unique_encoder_layers)

    def decoder_layer_order(self) -> list[int]:
        """The unique decoder layer (0-based) that each executed layer uses."""
        return _layer_order("decoder", self.n_decoder_layers, self.decoder_sharing, self.n_unique_decoder_layers)


def _layer_order(stack: str, n_layers: int, sharing: str | list[int], n_unique: int | None) -> list[int]:
    """Source of the orders: Takase and Kiyono 2021, "Lessons on Parameter Sharing across Layers in Transformers"."""
    where = f"model.{stack}_sharing"
    if isinstance(sharing, list):
        if n_unique not in (None, max(sharing, default=0)):
            raise UserError(
                f"model.n_unique_{stack}_layers is {n_unique} but {where} names the layers; leave one of them out"
            )
        return _explicit_order(where, n_layers, sharing)
    if sharing == "none":
        if n_unique not in (None, n_layers):
            raise UserError(
                f"model.n_unique_{stack}_layers is {n_unique} but {where} is 'none'; expected a sharing order"
            )
        return list(range(n_layers))
    if sharing not in ("sequence", "cycle", "palindrome"):
        raise UserError(
            f"{where} is {sharing!r}; expected none, sequence, cycle, palindrome or a list like [1, 2, 2, 1]"
        )
    n = (n_layers + 1) // 2 if n_unique is None else n_unique
    if not 1 <= n <= n_layers:
        raise UserError(f"model.n_unique_{stack}_layers is {n}; expected 1 to {n_layers}, the layers executed")
    if sharing == "sequence":
        return [i * n // n_layers for i in range(n_layers)]
    if sharing == "cycle":
        return [i % n for i in range(n_layers)]
    there_and_back = [*range(n), *reversed(range(n))]
    return [there_and_back[i % (2 * n)] for i in range(n_layers)]


def _explicit_order(where: str, n_layers: int, order: list[int]) -> list[int]:
    if len(order) != n_layers:
        raise UserError(f"{where} has {len(order)} entries; expected {n_layers}, one for each layer executed")
    if (min(order), max(order)) != (1, len(set(order))):
        raise UserError(f"{where} is {order}; expected every number from 1 to {max(order)} to occur")
    return [i - 1 for i in order]
