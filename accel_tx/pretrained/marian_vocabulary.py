"""The vocabularies of a MarianMTModel as ours, and which of its rows each of our ids has.

There a SentencePiece file cuts a text into pieces and `vocab.json`, which both languages may share, gives these their
ids. Here each language has the pieces of its own file, in the file's order, and single characters of the other one.
Rows that no text of a language reaches are left out, so the matrix of the logits is about the target's pieces alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from accel_tx.config import SPECIAL_TOKENS, UserError
from accel_tx.data.sentencepiece_file import SentencePieceFile
from accel_tx.data.tokenizer import TokenizerPair
from accel_tx.pretrained.marian_folder import (
    CONFIG,
    SOURCE_PIECES,
    TARGET_PIECES,
    TARGET_VOCABULARY,
    VOCABULARY,
    MarianFolder,
)

# In front of a source, of the language to translate into.
_LANGUAGE_TAG = re.compile(r">>[!-~]+<<")


@dataclass(frozen=True)
class Vocabularies:
    """Both languages' tokenizers, and the rows of their matrices."""

    tokenizers: TokenizerPair
    kind: str
    """Of the files: unigram or bpe."""
    tags: list[str]
    """Languages to translate into, each a token of the source."""
    src_rows: list[int]
    tgt_rows: list[int]
    n_unknown: int
    """Pieces of the source that `vocab.json` lacks: they have the row of `<unk>`, as there."""
    n_left_out: int
    """Pieces of the target that it lacks: the text that they would be is cut into others."""

    @classmethod
    def of(cls, folder: MarianFolder) -> Vocabularies:
        """Raises: UserError for files that cannot be taken over, or do not fit together."""
        src, tgt = (
            SentencePieceFile(folder.path / name, str(folder.path / name)) for name in (SOURCE_PIECES, TARGET_PIECES)
        )
        if src.kind != tgt.kind:
            raise UserError(f"{folder.path}: {SOURCE_PIECES} is {src.kind}, {TARGET_PIECES} {tgt.kind}; expected one")
        n_pieces = len(tgt.kept())
        tgt.leave_out({piece.text for piece in tgt.kept()} - folder.tgt_ids.keys())
        n_left_out = n_pieces - len(tgt.kept())
        for file, ids in ((src, folder.src_ids), (tgt, folder.tgt_ids)):
            # There the text of what a file does not know is looked up as well, and may be a character of the other one.
            file.add_characters(name for name in ids if len(name) == 1)
        tags = [name for name in folder.src_ids if _LANGUAGE_TAG.fullmatch(name)]
        src.leave_out(set(tags))  # there the text behind a tag is cut by itself, as behind a symbol here
        ours = [src.tokenizer(), tgt.tokenizer()]
        if tags:
            ours[0].add_symbols(tags)
        src_rows = [*_special_rows(folder, folder.src_ids, VOCABULARY), *_rows(src, folder.src_ids)]
        src_rows += [folder.src_ids[tag] for tag in tags]
        tgt_vocabulary = VOCABULARY if folder.tgt_ids is folder.src_ids else TARGET_VOCABULARY
        tgt_rows = [*_special_rows(folder, folder.tgt_ids, tgt_vocabulary), *_rows(tgt, folder.tgt_ids)]
        if src_rows == tgt_rows and ours[0].fast.to_str() == ours[1].fast.to_str():
            ours[1] = ours[0]
        n_unknown = len({piece.text for piece in src.kept()} - folder.src_ids.keys())
        return cls(TokenizerPair(*ours), src.kind, tags, src_rows, tgt_rows, n_unknown, n_left_out)

    @property
    def is_joint(self) -> bool:
        """Whether both languages have the same ids."""
        return self.tokenizers.src is self.tokenizers.tgt


def _special_rows(folder: MarianFolder, ids: dict[str, int], vocabulary: str) -> list[int]:
    """The rows of our special tokens."""
    # Where a translation begins Marian has no token; its models there begin with that of the padding.
    named = {"<pad>": "pad_token_id", "<bos>": "decoder_start_token_id", "<eos>": "eos_token_id"}
    rows = {"<unk>": ids["<unk>"], **{token: folder.size(name) for token, name in named.items()}}
    if rows["<eos>"] != ids["</s>"]:
        raise UserError(
            f"{folder.path / CONFIG}: eos_token_id is {rows['<eos>']}, {vocabulary} has </s> as {ids['</s>']}; "
            "expected the same"
        )
    return [rows[token] for token in SPECIAL_TOKENS]


def _rows(file: SentencePieceFile, ids: dict[str, int]) -> list[int]:
    return [ids.get(piece.text, ids["<unk>"]) for piece in file.kept()]
