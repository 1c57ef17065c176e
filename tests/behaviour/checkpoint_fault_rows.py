"""What can befall a run folder: each row does one thing to it and says what a start makes of it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

NEWEST, BEFORE = "update_00000004", "update_00000002"
TENSORS = ("model.safetensors", "ema.safetensors", "optimizer.bin", "scheduler.bin", "scaler.pt")
FILES = (*TENSORS, "trainer_state.json", "manifest.json")


@dataclass(frozen=True)
class Place:
    """The folders that a fault works on."""

    run: Path
    """A run with intact checkpoints after 2 and 4 updates, to be damaged."""
    other: Path
    """The same of another seed."""
    marker: Path
    """What the malicious code would create."""

    @property
    def newest(self) -> Path:
        return self.run / "checkpoints" / NEWEST

    @property
    def before(self) -> Path:
        return self.run / "checkpoints" / BEFORE


Fault = Callable[[Place], object]


class Malice:
    """Unpickled with code allowed, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (self.marker,)


def make_manifest(folder: Path) -> None:
    """A manifest that holds for whatever lies in the folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "manifest.json"]
    entries = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    }
    (folder / "manifest.json").write_text(json.dumps(entries))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # A hash in the manifest may read well with another digit; its first byte cannot be another.
    content[0 if path.name == "manifest.json" else len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def on_file(change: Callable[[Path], object], name: str) -> Fault:
    return lambda place: change(place.newest / name)


def with_new_manifest(fault: Fault) -> Fault:
    def do(place: Place) -> None:
        fault(place)
        make_manifest(place.newest)

    return do


def from_other_run(name: str) -> Fault:
    return lambda place: shutil.copy(place.other / "checkpoints" / NEWEST / name, place.newest / name)


def from_before(name: str) -> Fault:
    return lambda place: shutil.copy(place.before / name, place.newest / name)


def malicious(name: str) -> Fault:
    """In the form that each file has, where it is a pickle."""

    def do(place: Place) -> None:
        if name.endswith((".bin", ".pt")):
            torch.save({"state": Malice(place.marker)}, place.newest / name)
        else:
            (place.newest / name).write_bytes(pickle.dumps(Malice(place.marker)))

    return do


def malicious_legacy(place: Place) -> None:
    (place.newest / "optimizer.bin").write_bytes(pickle.dumps(Malice(place.marker)))


def passed_over(reason: str) -> str:
    return f"`{BEFORE}` is loaded; {NEWEST} passed over: {reason}"


NEWER = f"refused: RUN/checkpoints/{NEWEST}: was written by a newer version of accel_tx ({{}}); update it; nothing"
LOADED = f"`{NEWEST}` is loaded"
NO_MANIFEST = passed_over("manifest.json is missing or damaged")
UNREADABLE = "is damaged, or cannot be read without running code"


def file_rows() -> dict[str, tuple[Fault, str]]:
    """Rows for each file of a checkpoint: the fault, and the beginning of the outcome expected."""
    rows: dict[str, tuple[Fault, str]] = {}
    for name in FILES:
        plain = {
            "missing": on_file(Path.unlink, name),
            "empty": on_file(lambda path: path.write_bytes(b""), name),
            "cut in half": on_file(cut, name),
            "one flipped bit": on_file(flip_bit, name),
            "that of another run": from_other_run(name),
            "a malicious pickle": malicious(name),
        }
        for what, fault in plain.items():
            expected = passed_over(f"{name} is damaged")
            if name == "manifest.json" and what == "that of another run":
                expected = passed_over("")  # the first file that differs
            elif name == "manifest.json":
                expected = NO_MANIFEST
            elif what == "missing":
                expected = passed_over(f"its files are not those of its manifest: {name}")
            rows[f"`{name}`: {what}"] = fault, expected
        if name == "manifest.json":
            continue
        again = {
            "missing": f"{name} is missing",
            "cut in half": f"{name} is no JSON file" if name.endswith("json") else f"{name} {UNREADABLE}",
            "that of another run": f"{name} belongs to another checkpoint",
            "a malicious pickle": f"{name} is no JSON file" if name.endswith("json") else f"{name} {UNREADABLE}",
        }
        for what, reason in again.items():
            rows[f"`{name}`: {what}, with a manifest made anew"] = with_new_manifest(plain[what]), passed_over(reason)
        rows[f"`{name}`: that of the checkpoint before, with a manifest made anew"] = (
            with_new_manifest(from_before(name)),
            passed_over(
                f"{name} {'is that of update 2' if name.endswith('json') else 'belongs to another checkpoint'}"
            ),
        )
    rows["`trainer_state.json`: that of another run, with a manifest made anew"] = (
        rows["`trainer_state.json`: that of another run, with a manifest made anew"][0],
        f"refused: RUN/checkpoints/{NEWEST}: was made with train.seed = 2, this start has 1",
    )
    return rows


def change_state(change: Callable[[dict[str, object]], object]) -> Fault:
    def do(place: Place) -> None:
        path = place.newest / "trainer_state.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return with_new_manifest(do)


def add_field(place: Place) -> None:
    path = place.newest / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "color": "red"}))


def point_latest(text: str) -> Fault:
    return lambda place: (place.run / "checkpoints" / "latest").write_text(text)


def add(path: str) -> Fault:
    def do(place: Place) -> None:
        (place.run / path).parent.mkdir(parents=True, exist_ok=True)
        (place.run / path).write_bytes(b"x")

    return do


def replace_all_checkpoints(place: Place) -> None:
    shutil.rmtree(place.run / "checkpoints")
    shutil.copytree(place.other / "checkpoints", place.run / "checkpoints")


def replace_by_pipe(place: Place) -> None:
    (place.newest / "optimizer.bin").unlink()
    os.mkfifo(place.newest / "optimizer.bin")


def replace_by_folder(place: Place) -> None:
    (place.newest / "optimizer.bin").unlink()
    (place.newest / "optimizer.bin").mkdir()


def damage_both(place: Place) -> None:
    flip_bit(place.newest / "optimizer.bin")
    flip_bit(place.before / "optimizer.bin")


def drop_checkpoints(place: Place) -> None:
    shutil.rmtree(place.run / "checkpoints")


def leave_lock(place: Place) -> None:
    (place.run / ".lock").write_text('{"host": "gone", "pid": 1, "started": "2026-01-01 00:00:00"}')


def manifest_above(place: Place) -> None:
    path = place.newest / "manifest.json"
    values = json.loads(path.read_text())
    values["../../config.yaml"] = values["optimizer.bin"]
    path.write_text(json.dumps(values))


FOLDER_ROWS: dict[str, tuple[Fault, str]] = {
    "nothing": (lambda place: None, LOADED),
    "`trainer_state.json`: a field that no version has, with a manifest made anew": (
        change_state(lambda values: values.update(color="red")),
        NEWER.format("field color of state"),
    ),
    "`trainer_state.json`: a field that no version has, under the old manifest": (
        add_field,
        passed_over("trainer_state.json is damaged"),
    ),
    "`trainer_state.json`: a field missing, with a manifest made anew": (
        change_state(lambda values: values.pop("n_updates")),
        passed_over("trainer_state.json is not that of a run (state lacks the field n_updates)"),
    ),
    "`trainer_state.json`: text where a number belongs, with a manifest made anew": (
        change_state(lambda values: values.update(update="four")),
        passed_over("trainer_state.json is not that of a run (update is 'four'; expected int)"),
    ),
    "`trainer_state.json`: of other training data, with a manifest made anew": (
        change_state(lambda values: values.update(data_sha256="0" * 64)),
        f"refused: RUN/checkpoints/{NEWEST}: was made with another training or validation data (000000000000, "
        "this start has",
    ),
    "`trainer_state.json`: of another schedule, with a manifest made anew": (
        change_state(lambda values: values.update(n_updates=9)),
        f"refused: RUN/checkpoints/{NEWEST}: was made with another schedule length in updates (9, this start has 8)",
    ),
    "`manifest.json`: names a file outside of the checkpoint": (
        manifest_above,
        passed_over("../../config.yaml is no part of a checkpoint"),
    ),
    "`optimizer.bin`: a malicious pickle as torch wrote it before version 1.6, with a manifest made anew": (
        with_new_manifest(malicious_legacy),
        passed_over(f"optimizer.bin {UNREADABLE}"),
    ),
    "an unknown file in the checkpoint": (
        add(f"checkpoints/{NEWEST}/custom_checkpoint_0.pkl"),
        LOADED,
    ),
    "an unknown file in the checkpoint, with a manifest made anew": (
        with_new_manifest(add(f"checkpoints/{NEWEST}/custom_checkpoint_0.pkl")),
        NEWER.format("file custom_checkpoint_0.pkl"),
    ),
    "a pipe in place of `optimizer.bin`": (replace_by_pipe, passed_over("optimizer.bin is damaged")),
    "a folder in place of `optimizer.bin`": (replace_by_folder, passed_over("optimizer.bin is damaged")),
    "the checkpoint under the name of a later update": (
        lambda place: place.newest.rename(place.newest.with_name("update_00000006")),
        f"`{BEFORE}` is loaded; update_00000006 passed over: trainer_state.json is that of update 4",
    ),
    "an empty folder named like a newer checkpoint": (
        lambda place: (place.run / "checkpoints" / "update_00000006").mkdir(),
        f"{LOADED}; update_00000006 passed over: manifest.json is missing or damaged",
    ),
    "a file named like a newer checkpoint": (add("checkpoints/update_00000006"), LOADED),
    "a folder `update_later`": (add("checkpoints/update_later/x"), LOADED),
    "unknown files in the run folder and in `checkpoints/`": (
        lambda place: (add("notes.txt")(place), add("checkpoints/.DS_Store")(place)),
        LOADED,
    ),
    "`latest` missing": (lambda place: (place.run / "checkpoints" / "latest").unlink(), LOADED),
    "`latest` points nowhere": (point_latest("update_00000099\n"), LOADED),
    "`latest` points to the checkpoint before": (point_latest(f"{BEFORE}\n"), LOADED),
    "`latest` points out of the run folder": (point_latest("../../other/checkpoints\n"), LOADED),
    "`latest` holds garbage": (point_latest("\x00\x01"), LOADED),
    "a save that was interrupted (`.writing_…`)": (add("checkpoints/.writing_update_00000006/optimizer.bin"), LOADED),
    "a removal that was interrupted (`.removing_…`)": (add("checkpoints/.removing_update_00000001/x"), LOADED),
    "`best/` was being replaced": (lambda place: (place.run / "best").rename(place.run / ".removing_best"), LOADED),
    "`metrics.jsonl`: the last line cut off": (lambda place: cut(place.run / "metrics.jsonl"), LOADED),
    "`metrics.jsonl`: garbage": (lambda place: (place.run / "metrics.jsonl").write_bytes(b"\xff\x00{"), LOADED),
    "both checkpoints damaged": (damage_both, "refused: RUN: no checkpoint in it is valid"),
    "both checkpoints those of another run": (
        replace_all_checkpoints,
        f"refused: RUN/checkpoints/{NEWEST}: was made with train.seed = 2, this start has 1",
    ),
    "no checkpoints, but `best/`": (drop_checkpoints, "refused: RUN: holds best of a run but no checkpoint to go on"),
    "`.lock` left by a process that was killed": (leave_lock, LOADED),
}
