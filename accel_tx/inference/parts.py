"""Lines as a model takes them, in parts no longer than its positions; and the parts' translations as those of lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accel_tx.data.tokenizer import UNK_ID, Tokenizer
from accel_tx.inference.sentences import split_to_fit

# A text with more characters than this for each position is split without asking the tokenizer, which would toil at a
# line of megabytes.
_CHARS_PER_POSITION = 64


@dataclass(frozen=True)
class Part:
    """What is translated in one go: a line, or a sentence or less of one that is too long."""

    text: str
    ids: list[int]
    """Without EOS; never empty."""
    unknown: list[tuple[int, str]]
    """Words that the vocabulary lacks, see `Tokenizer.unknown_words`."""
    is_all_unknown: bool
    """Nothing in it is known to the model, but perhaps the space before a word, which Unigram has as a token."""


@dataclass(frozen=True)
class Translation:
    """A text and how probable the model holds it. Of a line in parts the numbers are sums over the parts."""

    text: str
    log_prob: float
    """See `Hypothesis`."""
    score: float
    """See `Hypothesis`."""
    is_cut: bool = False
    """See `Hypothesis`."""
    copied: tuple[str, ...] = ()
    """Words of the source that stand in it because the vocabulary lacks them."""


@dataclass(frozen=True)
class TranslatedLine:
    """The translations of a line, and what there is to say about it."""

    translations: list[Translation]
    """Best first, at least one."""
    n_parts: int
    """0 for a line without words, more than 1 for one that was longer than the model's positions."""
    unknown: list[str]
    """Words of the source that the vocabulary lacks."""
    n_searched: int
    """Parts that the model has seen; one that holds nothing but unknown words may be copied without it."""


def one_line(text: str) -> str:
    """The text with a space for every character that ends a line to some program."""
    return " ".join(text.splitlines())


def parts_of(lines: Sequence[str], tokenizer: Tokenizer, max_positions: int) -> list[list[Part]]:
    """The parts of each line, in order, none for a line without words.

    A line that is too long for the model is split as `split_to_fit` says.
    """
    longest = max_positions - 1

    def may_fit(text: str) -> bool:
        return len(text) <= _CHARS_PER_POSITION * longest

    def fits(text: str) -> bool:
        return may_fit(text) and len(tokenizer.encode([text])[0]) <= longest

    texts = [line.strip() for line in lines]
    short = [i for i, text in enumerate(texts) if may_fit(text)]
    whole = dict(zip(short, tokenizer.encode([texts[i] for i in short]), strict=True))
    parts: list[list[Part]] = []
    for i, text in enumerate(texts):
        if i in whole and len(whole[i]) <= longest:
            pieces, encoded = [text], [whole[i]]
        else:
            pieces = split_to_fit(text, fits)
            # A single character can have more tokens than a model of a dozen positions takes.
            encoded = [ids[:longest] for ids in tokenizer.encode(pieces)]
        parts.append([_part(tokenizer, *both) for both in zip(pieces, encoded, strict=True) if both[1]])
    return parts


def joined(parts: Sequence[Sequence[Translation]], n_best: int, ranked: bool) -> list[Translation]:
    """The `n_best` translations of a line from those of its parts, joined by spaces.

    Ranked: the best combinations by the sum of the scores, those with fewer parts that were cut first. Else, for
    samples: the first of each part, the second of each, and so on; then the best of these come first.
    """
    if not parts:
        return [Translation("", 0.0, 0.0)]
    if not ranked:
        n_samples = min(n_best, max(map(len, parts)))
        samples = [_as_one(choices[min(i, len(choices) - 1)] for choices in parts) for i in range(n_samples)]
        return sorted(samples, key=lambda sample: (sample.is_cut, -sample.score))
    if len(parts) == 1:
        return list(parts[0][:n_best])
    # A part's place among the combinations never changes their order, so the best so far are enough.
    best: list[_Chain | None] = [None]
    for choices in parts:
        longer = (_Chain.behind(chain, choice) for chain in best for choice in choices)
        best = [*sorted(longer, key=lambda chain: (chain.n_cut, -chain.score))[:n_best]]
    return [_as_one(chain.translations()) for chain in best if chain is not None]


class _Chain(NamedTuple):
    """One translation of each of the first parts; linked, because a line can have thousands of parts."""

    last: Translation
    before: _Chain | None
    n_cut: int
    score: float

    @classmethod
    def behind(cls, before: _Chain | None, last: Translation) -> _Chain:
        n_cut, score = (0, 0.0) if before is None else (before.n_cut, before.score)
        return cls(last, before, n_cut + last.is_cut, score + last.score)

    def translations(self) -> list[Translation]:
        found: list[Translation] = []
        chain: _Chain | None = self
        while chain is not None:
            found.append(chain.last)
            chain = chain.before
        return found[::-1]


def _as_one(parts: Iterable[Translation]) -> Translation:
    parts = list(parts)
    return Translation(
        text=" ".join(part.text for part in parts if part.text),
        log_prob=sum(part.log_prob for part in parts),
        score=sum(part.score for part in parts),
        is_cut=any(part.is_cut for part in parts),
        copied=tuple(word for part in parts for word in part.copied),
    )


def _part(tokenizer: Tokenizer, text: str, ids: list[int]) -> Part:
    # Where the tokens stand in the text is costly to know, and rarely asked for.
    unknown = tokenizer.unknown_words(text) if UNK_ID in ids else []
    says_nothing = bool(unknown) and all(i == UNK_ID or tokenizer.piece(i) == "▁" for i in ids)
    return Part(text, ids, [found for found in unknown if found[0] < len(ids)], says_nothing)
