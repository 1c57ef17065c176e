"""Tokenizers of the `tokenizers` library: train, save, load; text -> ids -> text."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from accel_tx.config import SPECIAL_TOKENS as SPECIAL_TOKENS
from accel_tx.config import TokenizerConfig, UserError

PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
# As `str.strip`, to which the four separators of ASCII are space as well, but not to `normalizers.Strip`; ^ and $ would
# be ends of lines here. The lookbehind and the possessive + keep it linear in long spaces inside a text.
OUTER_SPACE = r"\A[\s\x1c-\x1f]+|(?<![\s\x1c-\x1f])[\s\x1c-\x1f]++\z"


class Tokenizer:
    """One language's (or the joint) text <-> ids mapping. Adds no BOS and EOS: the collator does."""

    def __init__(self, fast: FastTokenizer) -> None:
        self.fast = fast

    @property
    def vocab_size(self) -> int:
        """Entries, special tokens included."""
        return self.fast.get_vocab_size()

    @property
    def is_of_sentencepiece(self) -> bool:
        """Whether the vocabulary was converted from a `.model` file: it normalizes and decodes as that says."""
        return isinstance(self.fast.decoder, decoders.Sequence)

    @property
    def knows_every_text(self) -> bool:
        """Whether no text has an unknown token: what is no piece is bytes."""
        if self.is_of_sentencepiece:
            return self.fast.token_to_id("<0x00>") is not None
        return isinstance(self.fast.model, models.BPE)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and EOS."""
        # Without this, a text that contains "<eos>" would end there. Not in the file, and lost in pickling to workers.
        self.fast.encode_special_tokens = True
        return [encoding.ids for encoding in self.fast.encode_batch_fast(list(texts))]

    def decode(self, sequences: Iterable[Sequence[int]]) -> list[str]:
        """Text of each sequence of ids; special tokens are left out, but an unknown word shows as `<unk>`."""
        kept = [[i for i in ids if i not in (PAD_ID, BOS_ID, EOS_ID)] for ids in sequences]
        texts = self.fast.decode_batch(kept, skip_special_tokens=False)
        if isinstance(self.fast.model, models.WordLevel):
            return [join_words(text) for text in texts]
        return [text.strip() for text in texts]

    def piece(self, token_id: int) -> str:
        """A token as a person reads it; ▁ stands for the space before it, where the vocabulary knows of spaces."""
        raw = str(self.fast.id_to_token(token_id))
        if raw in SPECIAL_TOKENS or not isinstance(self.fast.model, models.BPE):
            return raw
        if self.is_of_sentencepiece and len(raw) > 1:
            return raw  # a symbol is one character, which stands for its name
        # Bytes that are a part of a character only show as U+FFFD.
        text: str = self.fast.decode([token_id], skip_special_tokens=False)
        return text.replace(" ", "▁")

    def unknown_words(self, text: str) -> list[tuple[int, str]]:
        """The text's tokens that the vocabulary lacks: where each stands among the ids, and what the text has there."""
        self.fast.encode_special_tokens = True
        if not self.is_of_sentencepiece:
            # As the vocabulary's own normalizer does; its offsets into other text may miss an accent.
            text = unicodedata.normalize("NFC", text)
        encoding = self.fast.encode(text)
        return [
            (i, text[start:end])
            for i, (token, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True))
            if token == UNK_ID
        ]

    def decode_with(self, ids: Sequence[int], words: Iterable[str]) -> str:
        """Text of ids, with the k-th of the words, or nothing where that is empty, in place of the k-th unknown one."""
        substitutes = iter(words)
        tokens: list[str] = []
        for i in ids:
            if i in (PAD_ID, BOS_ID, EOS_ID):
                continue
            token = next(substitutes) if i == UNK_ID else self.fast.id_to_token(i)
            if token:
                tokens.append(token)
            elif tokens and tokens[-1] == "▁":  # the space of the word that is left out: Unigram has it as a token
                tokens.pop()
        if self.fast.decoder is None:
            return join_words(" ".join(tokens))
        return self.fast.decoder.decode(tokens).strip()  # type: ignore[no-any-return]

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Give each an id of its own, behind all others.

        The text around a symbol comes apart, as a text of its own: without the spaces at its ends.
        """
        self.fast.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
        self.fast.normalizer = normalizers.Sequence([normalizers.Replace(Regex(OUTER_SPACE), ""), self.fast.normalizer])

    def save(self, path: Path) -> None:
        """Write the JSON file of the `tokenizers` library."""
        self.fast.save(str(path))

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read what `save` wrote. Raises: UserError if the file is missing or damaged."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected a tokenizer")
        try:
            fast = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path}: is not a tokenizer file ({error})") from None
        if isinstance(fast.model, models.Unigram) and isinstance(fast.pre_tokenizer, pre_tokenizers.Metaspace):
            fast.pre_tokenizer = _unigram_words()  # that of earlier versions let a text spell a special token
        return cls(fast)


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides; one object twice where the vocabulary is joint."""

    src: Tokenizer
    tgt: Tokenizer

    def save(self, folder: Path) -> None:
        """Write `src.json` and `tgt.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.src.save(folder / "src.json")
        self.tgt.save(folder / "tgt.json")

    @classmethod
    def load(cls, folder: Path) -> TokenizerPair:
        """Read what `save` wrote."""
        src = Tokenizer.load(folder / "src.json")
        tgt = Tokenizer.load(folder / "tgt.json")
        return cls(src, src if tgt.fast.to_str() == src.fast.to_str() else tgt)


def tokenizers_of_run(config: TokenizerConfig) -> TokenizerPair:
    """The vocabularies of the run `config.from_run`.

    Raises: UserError if it has none, ones of another kind than the config says, or of another program.
    """
    where = f"tokenizer.from_run {config.from_run}"
    folder = Path(config.from_run or "") / "tokenizer"
    if not folder.is_dir():
        raise UserError(f"{where}: has no folder tokenizer; expected the folder of a run, such as the one that goes on")
    pair = TokenizerPair.load(folder)
    kind, joint = type(pair.src.fast.model).__name__.lower(), pair.src is pair.tgt
    if (kind, joint) != (config.kind, config.joint):
        raise UserError(
            f"{where}: has {_shown(kind, joint)}, this config {_shown(config.kind, config.joint)}; expected the same"
        )
    for name, tokenizer in (("src", pair.src), ("tgt", pair.tgt)):
        if [tokenizer.fast.token_to_id(token) for token in SPECIAL_TOKENS] != [PAD_ID, UNK_ID, BOS_ID, EOS_ID]:
            raise UserError(
                f"{where}: {folder / name}.json does not begin with {', '.join(SPECIAL_TOKENS)}; expected a vocabulary "
                "that this program has learned"
            )
    return pair


def _shown(kind: str, joint: bool) -> str:
    return f"tokenizer.kind {kind} and joint {str(joint).lower()}"


def train_tokenizer(texts: Iterator[str] | Iterator[list[str]], config: TokenizerConfig) -> Tokenizer:
    """Learn a vocabulary from texts, or from batches of them."""
    build = {"wordlevel": _wordlevel, "bpe": _byte_level_bpe, "unigram": _unigram}[config.kind]
    n_learned = config.vocab_size - len(config.symbols)
    fast, trainer = build(dataclasses.replace(config, vocab_size=n_learned, symbols=[]))
    fast.normalizer = normalizers.NFC()
    try:
        fast.train_from_iterator(_without(config.symbols, texts) if config.symbols else texts, trainer)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"tokenizer.vocab_size {config.vocab_size}: no {config.kind} vocabulary ({error})") from None
    if config.kind == "unigram":
        fast = _settle_unigram(fast)
    tokenizer = Tokenizer(fast)
    if config.symbols:
        tokenizer.add_symbols(config.symbols)
    return tokenizer


def _without(symbols: Sequence[str], texts: Iterator[str] | Iterator[list[str]]) -> Iterator[list[str]]:
    """The texts between symbols: no part of these is to be learned."""
    names = "|".join(map(re.escape, sorted(symbols, key=len, reverse=True)))
    for some in texts:
        parts = (re.split(names, text) for text in ([some] if isinstance(some, str) else some))
        yield [" ".join(part.strip() for part in of_text).strip() for of_text in parts]


def _wordlevel(config: TokenizerConfig) -> tuple[FastTokenizer, trainers.Trainer]:
    fast = FastTokenizer(models.WordLevel(unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    return fast, trainer


def _byte_level_bpe(config: TokenizerConfig) -> tuple[FastTokenizer, trainers.Trainer]:
    # Bytes as the alphabet: every text has ids, and comes back as it was.
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return fast, trainer


def _unigram(config: TokenizerConfig) -> tuple[FastTokenizer, trainers.Trainer]:
    fast = FastTokenizer(models.Unigram())
    fast.pre_tokenizer = _unigram_words()
    fast.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=SPECIAL_TOKENS,
        unk_token="<unk>",
        show_progress=False,
    )
    return fast, trainer


def _unigram_words() -> pre_tokenizers.PreTokenizer:
    """Words with their spaces; one that spells a special token is cut behind its `<`.

    To this model a special token is a piece like others, and "<eos>" in a text would become one: whatever its score, it
    is above that of a character that the vocabulary lacks, as `<` may be.
    """
    names = "|".join(token.strip("<>") for token in SPECIAL_TOKENS)
    cut = pre_tokenizers.Split(Regex(f"<(?=(?:{names})>)"), "isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), cut])


def _settle_unigram(fast: FastTokenizer) -> FastTokenizer:
    """The same pieces in an order that does not change from one training to the next: the trainer's threads leave
    pieces of equal score in any order. The special ones are out of reach.
    """
    values = json.loads(fast.to_str())
    n_special = len(SPECIAL_TOKENS)
    vocab = values["model"]["vocab"]
    special = [[piece, _OUT_OF_REACH] for piece, _ in vocab[:n_special]]
    pieces = sorted(vocab[n_special:], key=lambda entry: (-round(entry[1], 6), entry[0]))
    values["model"]["vocab"] = special + pieces
    return FastTokenizer.from_str(json.dumps(values))


_OUT_OF_REACH = -1e6  # as a log-probability
_CLOSING = re.compile(r" ([.,…)\]}%°]+)(?= |$)")
_OPENING = re.compile(r"(?<![^ ])([(\[{]) ")
_JOINING = re.compile(r"(?<=\w) (['’-]) (?=\w)")
_ENDING_APOSTROPHE = re.compile(r"(?<=\w) (['’])(?= |$)")


def join_words(text: str) -> str:
    """Word-level tokens joined by spaces -> running text: `l ' eau , ici .` gives `l'eau, ici.`.

    A word-level vocabulary does not record where spaces stood; this applies what French and English share.
    """
    text = _JOINING.sub(r"\1", text)
    text = _CLOSING.sub(r"\1", text)
    text = _OPENING.sub(r"\1", text)
    return _ENDING_APOSTROPHE.sub(r"\1", text).strip()
