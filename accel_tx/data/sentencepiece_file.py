"""A vocabulary of SentencePiece, a `.model` file, as a tokenizer of the `tokenizers` library that gives its ids.

The ids are ours: the four special tokens come first, then all other pieces in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from accel_tx.config import SPECIAL_TOKENS, UserError
from accel_tx.config.extras import lack_of
from accel_tx.data.sentencepiece_text import SPACE, cut_inside, space_normalizers, table_normalizers
from accel_tx.data.tokenizer import UNK_ID, Tokenizer

FIELD = "tokenizer.sentencepiece"
_PACKAGES = ("sentencepiece", "protobuf")
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
# One character stands for each symbol of the user's: what is one cannot be cut. From a plane that is for private use.
_FIRST_STAND_IN = 0x100000
# What SentencePiece adds for each byte of a symbol but the first, so that it is rather one piece than several.
_BONUS = 0.1
# What it takes from the least score of all for a character that is no piece.
_UNKNOWN_COSTS = 10.0


@dataclass(frozen=True)
class Piece:
    """An entry of the file."""

    text: str
    score: float
    type: int


class SentencePieceFile:
    """What a `.model` file says."""

    def __init__(self, path: Path, where: str | None = None) -> None:
        """`where`: what messages call the file; else the field of the config with its path.

        Raises: UserError for a file that cannot be read or used, or packages that are missing.
        """
        self.where = f"{FIELD} {path}" if where is None else where
        self.bytes = bytes_of(path, self.where)
        if lack := lack_of(_PACKAGES):
            raise UserError(f"{self.where}: to read it needs {lack}")
        self._proto = self._parsed()
        self.kind = _KINDS.get(self._proto.trainer_spec.model_type, "unknown")
        self.pieces = [Piece(piece.piece, piece.score, piece.type) for piece in self._proto.pieces]
        self._check()

    def _parsed(self) -> Any:
        try:
            from google.protobuf.message import DecodeError
            from sentencepiece import sentencepiece_model_pb2
        except Exception as error:  # protobuf has an error of its own for versions that do not fit
            raise UserError(f"{self.where}: sentencepiece and protobuf do not fit together ({error})") from None
        proto = sentencepiece_model_pb2.ModelProto()
        try:
            proto.ParseFromString(self.bytes)
        except DecodeError:
            proto.Clear()
        is_whole = proto.HasField("trainer_spec") and proto.HasField("normalizer_spec")
        if not proto.pieces or not is_whole or not all(isinstance(piece.piece, str) for piece in proto.pieces):
            raise UserError(f"{self.where}: is no SentencePiece model, or a damaged one; expected a .model file")
        try:
            self.processor()
        except RuntimeError as error:
            raise UserError(f"{self.where}: is a damaged SentencePiece model ({error})") from None
        return proto

    def processor(self) -> Any:
        """SentencePiece itself with this model."""
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_proto=self.bytes)

    def _check(self) -> None:
        normalizer = self._proto.normalizer_spec
        if self.kind not in ("unigram", "bpe"):
            raise UserError(f"{self.where}: is a {self.kind} model; expected a unigram or bpe one")
        unsupported = {
            "spaces at the end of words (treat_whitespace_as_suffix)": (
                self._proto.trainer_spec.treat_whitespace_as_suffix
            ),
            "spaces that are not ▁ (escape_whitespaces false)": not normalizer.escape_whitespaces,
            "rules that change decoded text (denormalizer_spec)": self._proto.denormalizer_spec.precompiled_charsmap,
            "unused pieces, of which bpe makes others": (
                self.kind == "bpe" and any(piece.type == _UNUSED for piece in self.pieces)
            ),
        }
        for what, has_it in unsupported.items():
            if has_it:
                raise UserError(f"{self.where}: has {what}, which cannot be taken over; expected a model without")
        for piece in self.kept():
            if piece.text in SPECIAL_TOKENS:
                raise UserError(
                    f"{self.where}: has a piece {piece.text}, which is a special token here; expected {piece.text} "
                    "as a control symbol of the model, or none"
                )

    def kept(self) -> list[Piece]:
        """The pieces that get ids behind the special tokens, in order: those that a text can become."""
        return [piece for piece in self.pieces if piece.type in (_NORMAL, _USER_DEFINED, _BYTE)]

    def leave_out(self, names: Set[str]) -> None:
        """Cut no text into these pieces any more."""
        self.pieces = [piece for piece in self.pieces if piece.text not in names]

    def add_characters(self, characters: Iterable[str]) -> None:
        """Make each a piece, at the end, that is none yet; it costs what SentencePiece charges for an unknown one."""
        known = {piece.text for piece in self.pieces}
        least = min((piece.score for piece in self.pieces if piece.type == _NORMAL), default=0.0)
        score = float(np.float32(least - _UNKNOWN_COSTS))
        self.pieces += [Piece(char, score, _NORMAL) for char in dict.fromkeys(characters) if char not in known]

    def our_ids(self) -> list[int]:
        """Our id of each piece of the file; that of UNK for what no text becomes: control symbols, unused pieces."""
        numbers = iter(range(len(SPECIAL_TOKENS), len(self.pieces) + len(SPECIAL_TOKENS)))
        kept = (_NORMAL, _USER_DEFINED, _BYTE)
        return [next(numbers) if piece.type in kept else UNK_ID for piece in self.pieces]

    def tokenizer(self) -> Tokenizer:
        """The vocabulary as ours. Raises: UserError for a table of characters that cannot be had."""
        symbols = [piece.text for piece in self.pieces if piece.type == _USER_DEFINED]
        symbols.sort(key=len, reverse=True)
        stand_ins = {symbol: chr(_FIRST_STAND_IN + i) for i, symbol in enumerate(symbols)}
        fast = FastTokenizer(self._unigram() if self.kind == "unigram" else self._bpe(stand_ins))
        fast.normalizer = self._normalizer(stand_ins)
        if self.kind == "unigram":
            fast.pre_tokenizer = self._cut_names()
        stood_for = {char: symbol.replace(SPACE, " ") for symbol, char in stand_ins.items()}
        shown = [] if self.kind == "unigram" else [decoders.Replace(char, text) for char, text in stood_for.items()]
        of_bytes = [decoders.ByteFallback()] if self._proto.trainer_spec.byte_fallback else []
        fast.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *of_bytes, *shown, decoders.Fuse()])
        fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
        return Tokenizer(fast)

    def _unigram(self) -> models.Unigram:
        # A special token's score counts for nothing but the least score of all, which that of UNK follows from.
        vocab = [(token, 0.0) for token in SPECIAL_TOKENS]
        vocab += [(piece.text, _score(piece)) for piece in self.kept()]
        return models.Unigram(vocab, UNK_ID, self._proto.trainer_spec.byte_fallback)

    def _bpe(self, stand_ins: dict[str, str]) -> models.BPE:
        names = [*SPECIAL_TOKENS, *(stand_ins.get(piece.text, piece.text) for piece in self.kept())]
        return models.BPE(
            {name: i for i, name in enumerate(names)},
            _merges([piece for piece in self.pieces if piece.type == _NORMAL]),
            unk_token=SPECIAL_TOKENS[UNK_ID],
            fuse_unk=True,
            byte_fallback=self._proto.trainer_spec.byte_fallback,
        )

    def _normalizer(self, stand_ins: dict[str, str]) -> normalizers.Normalizer:
        spec = self._proto.normalizer_spec
        try:
            of_table = table_normalizers(spec.precompiled_charsmap)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{self.where}: has a table of characters that is damaged or too large ({error})") from None
        # Out of the table's reach, which would change some, and put a mark behind one to its last letter.
        hidden = stand_ins if of_table else {}
        before = [normalizers.Replace(text, char) for text, char in hidden.items()]
        spaces = space_normalizers(spec.remove_extra_whitespaces, spec.add_dummy_prefix)
        after = [normalizers.Replace(char, text) for text, char in hidden.items()]
        if self.kind == "bpe":  # those that the table made, too
            after += [normalizers.Replace(text, char) for text, char in stand_ins.items()]
        if not spec.remove_extra_whitespaces and spec.add_dummy_prefix:
            # In front of what becomes nothing, too.
            of_table.insert(0, spaces.pop(0))
        return normalizers.Sequence([*before, *of_table, *spaces, *after])

    def _cut_names(self) -> pre_tokenizers.PreTokenizer:
        """Cuts texts that spell the name of a piece which stands for something else."""
        texts = [piece.text for piece in self.pieces if piece.type in (_NORMAL, _USER_DEFINED)]
        names = [*SPECIAL_TOKENS, *(piece.text for piece in self.pieces if piece.type == _BYTE)]
        return pre_tokenizers.Split(Regex(cut_inside(names, texts)), "merged_with_previous")


def bytes_of(path: Path, where: str) -> bytes:
    """What is in a `.model` file, which messages call `where`. Raises: UserError for one that cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: no such file; expected a .model file of SentencePiece") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); expected a .model file") from None


def _score(piece: Piece) -> float:
    if piece.type == _USER_DEFINED:
        # As a float32, like the others: sums of such are exact, so that what ties by them does.
        return float(np.float32(_BONUS * (len(piece.text.encode()) - 1)))
    return piece.score if piece.type == _NORMAL else 0.0


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every pair of pieces that are one together, best first: SentencePiece joins what has the highest score."""
    texts = {piece.text for piece in pieces}
    best_first = sorted(pieces, key=lambda piece: -piece.score)
    return [
        (piece.text[:at], piece.text[at:])
        for piece in best_first
        for at in range(len(piece.text) - 1, 0, -1)
        if piece.text[:at] in texts and piece.text[at:] in texts
    ]
