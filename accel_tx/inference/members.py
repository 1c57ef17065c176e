"""The members of an ensemble as the command line names them: which weights of which run. Starts without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from accel_tx.config import UserError
from accel_tx.inference.weights import check_is_run, recorded_sha256, weights_folder, weights_name

if TYPE_CHECKING:
    from accel_tx.data.tokenizer import TokenizerPair


class Member(NamedTuple):
    """Weights of a run."""

    run_dir: Path
    weights: str

    def __str__(self) -> str:
        """As `read` takes it, with the name that the run has for the weights."""
        return f"{self.run_dir}:{weights_name(self.run_dir, self.weights)}"

    @classmethod
    def read(cls, text: str, weights: str) -> Member:
        """From RUN, whose weights are those given, or RUN:WEIGHTS. A folder that has a colon in its name is a RUN.

        Raises: UserError where either is empty.
        """
        run_dir, colon, own = text.rpartition(":")
        if not colon or os.path.isdir(text):
            return cls(Path(text), weights)
        if not run_dir or not own:
            raise UserError(f"--ensemble {text}: expected a run folder, or RUN:WEIGHTS such as runs/b:final")
        return cls(Path(run_dir), own)

    def folder(self) -> Path:
        """Where the weights are. Raises: UserError if there are none."""
        check_is_run(self.run_dir, is_member=True)
        return weights_folder(self.run_dir, self.weights, is_member=True)


def check_apart(first: Member, others: Sequence[Member]) -> None:
    """Raise UserError if two members are the same weights, or one has none.

    Such an ensemble would only be slower: members weigh the same.
    """
    seen: list[tuple[Member, Path, str | None]] = []
    for member in (first, *others):
        folder = member.folder() if seen else _folder_of_first(first)
        sha256 = recorded_sha256(folder)
        for other, its_folder, its_sha256 in seen:
            if os.path.samefile(folder, its_folder) or (sha256 is not None and sha256 == its_sha256):
                raise UserError(f"--ensemble {member}: holds the same weights as {other}; expected each model once")
        seen.append((member, folder, sha256))


def _folder_of_first(first: Member) -> Path:
    """Apart, because options of their own name it."""
    check_is_run(first.run_dir)
    return weights_folder(first.run_dir, first.weights)


def check_same_tokenizers(first: Path, tokenizers: TokenizerPair, other: Path, its: TokenizerPair) -> None:
    """Raise UserError unless two run folders have the same tokenizers on either side."""
    for side, ours, theirs in (("src", tokenizers.src, its.src), ("tgt", tokenizers.tgt, its.tgt)):
        if ours.fast.to_str() != theirs.fast.to_str():
            sizes = f"{theirs.vocab_size:,} entries, there {ours.vocab_size:,}"
            raise UserError(
                f"--ensemble {other}: its tokenizer/{side}.json is not that of {first} ({sizes}); expected runs with "
                f"the same vocabularies, such as one with --tokenizer.from_run {first}"
            )
