"""Which run a checkpoint belongs to: whether a start may go on from it, and what its files carry to tell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from accel_tx.config import UserError, default_of, has_free_length, what_starts_share
from accel_tx.train.state import TrainState


def check_belongs(saved: TrainState, fresh: TrainState, folder: Path) -> None:
    """Raise UserError, naming both, if a checkpoint belongs to other data, settings or schedule, or a longer run."""
    settings_before, settings_now = what_starts_share(saved.settings), what_starts_share(fresh.settings)
    for key in sorted(settings_before.keys() | settings_now.keys()):
        # A field that the version of the saved run did not have yet: what it did then is the default now.
        before, now = settings_before.get(key, default_of(key)), settings_now.get(key)
        if before != now:
            raise UserError(
                f"{folder}: was made with {key} = {before}, this start has {now}; "
                "give the same value, or another --run_dir"
            )
    may_be_longer = has_free_length(fresh.settings)
    must_agree = [("training or validation data", saved.data_sha256[:12], fresh.data_sha256[:12])]
    if not may_be_longer:
        must_agree.append(("schedule length in updates", str(saved.n_updates), str(fresh.n_updates)))
    for name, before, now in must_agree:
        if before != now:
            raise UserError(
                f"{folder}: was made with another {name} ({before}, this start has {now}); "
                "give the same data, or another --run_dir"
            )
    if may_be_longer and fresh.n_updates < saved.n_updates:
        raise UserError(
            f"{folder}: is of a run of {saved.n_updates:,} updates, this start has {fresh.n_updates:,}; "
            "give as many or more, --train.stop_at_update to end earlier, or another --run_dir"
        )


def run_identity(state: TrainState) -> str:
    """What all weights of a run carry, so that they are not averaged with those of another."""
    values = [state.data_sha256, state.settings, state.n_updates_at_first]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def identity(state: TrainState) -> str:
    """What every file of a checkpoint carries, so that one from another run or update is found out."""
    values = [state.data_sha256, state.settings, state.n_updates_at_first, state.update]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
