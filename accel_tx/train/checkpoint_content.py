"""The tensors of a checkpoint: copied from a run, written, read without running any code, checked, put back."""

from __future__ import annotations

import errno
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from accel_tx.train.averaging import RunningAverage
from accel_tx.train.checkpoint import EMA, MODEL, OPTIMIZER, SCALER, SCHEDULER
from accel_tx.train.checkpoint_identity import identity
from accel_tx.train.sharding import laid_out_as, load_weights, whole
from accel_tx.train.shortage import is_shortage
from accel_tx.train.state import TrainState

STAMP = "checkpoint_of"
"""Key under which every file carries the identity of its checkpoint."""
_UNREADABLE = "is damaged, or cannot be read without running code"


@dataclass(frozen=True)
class Parts:
    """What of a run is saved, each as it is without Accelerate's wrappers.

    `scaler` is None but for fp16, `ema` but where `train.ema_decay` is set.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    scaler: Any
    ema: RunningAverage | None = None


@dataclass(frozen=True)
class Content:
    """State dicts on the host, apart from the run: it may go on while they are written."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None
    ema: dict[str, Tensor] | None = None

    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        state = self.optimizer["state"].values()
        in_optimizer = [value for entry in state for value in entry.values() if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in [*self.model.values(), *(self.ema or {}).values(), *in_optimizer])


def copy_content(parts: Parts) -> Content:
    """A copy of everything; it takes as much host memory as the checkpoint, and waits for the device.

    Under FSDP all other processes call `help_copy` meanwhile.
    """
    return _content(parts, lambda tensor: whole(tensor).to("cpu", copy=True).contiguous())


def help_copy(parts: Parts) -> None:
    """Hand this process' parts of every tensor over to the one that calls `copy_content`."""

    def hand_over(tensor: Tensor) -> None:
        whole(tensor)

    _content(parts, hand_over)


def _content(parts: Parts, copy: Callable[[Tensor], Any]) -> Content:
    return Content(
        _map(parts.model.state_dict(), copy),
        _map(parts.optimizer.state_dict(), copy),
        _map(parts.scheduler.state_dict(), copy),
        None if parts.scaler is None else _map(parts.scaler.state_dict(), copy),
        None if parts.ema is None else _map(parts.ema.weights, copy),
    )


def _map(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value.detach())
    if isinstance(value, dict):
        return {key: _map(entry, change) for key, entry in value.items()}
    if isinstance(value, list):
        return [_map(entry, change) for entry in value]
    return value


def write_content(content: Content, folder: Path, state: TrainState) -> None:
    """Write the files and read them back.

    Raises: OSError, RuntimeError or SafetensorError from the writing; OSError where a file holds something else.
    """
    stamp = identity(state)
    weights = {MODEL: content.model} if content.ema is None else {MODEL: content.model, EMA: content.ema}
    for name, tensors in weights.items():
        save_file(tensors, folder / name, metadata={STAMP: stamp})
    pickled = {OPTIMIZER: content.optimizer, SCHEDULER: content.scheduler, SCALER: content.scaler}
    for name, values in pickled.items():
        if values is not None:
            torch.save({**values, STAMP: stamp}, folder / name)
            try:
                with ZipFile(folder / name) as archive:
                    damaged = archive.testzip()
            except BadZipFile:
                damaged = name
            if damaged is not None:
                raise OSError(f"{name} is not what was written")
    for name, tensors in weights.items():
        # safetensors lets only the owner read what it writes.
        shutil.copymode(folder / SCHEDULER, folder / name)
        _check_written(folder / name, tensors)


def _check_written(path: Path, tensors: dict[str, Tensor]) -> None:
    with safe_open(path, framework="pt") as file:
        for name, tensor in tensors.items():
            read, meant = (t.reshape(-1).view(torch.uint8) for t in (file.get_tensor(name), tensor))
            if not torch.equal(read, meant):
                raise OSError(f"{path.name} is not what was written: {name}")


def read_content(folder: Path, state: TrainState) -> Content:
    """Read every file; nothing is unpickled with code allowed.

    Raises: ValueError that names the file that is damaged or belongs to another checkpoint. What is no fault of the
    file stays what it is: OSError, and a lack of memory (`is_shortage`).
    """
    stamp = identity(state)
    model = _load_weights(folder / MODEL, stamp)
    ema = _load_weights(folder / EMA, stamp) if (folder / EMA).exists() else None
    scaler = _load(folder / SCALER, stamp) if (folder / SCALER).exists() else None
    return Content(model, _load(folder / OPTIMIZER, stamp), _load(folder / SCHEDULER, stamp), scaler, ema)


def _load_weights(path: Path, stamp: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            found_stamp = (file.metadata() or {}).get(STAMP)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever damaged bytes bring about
        if _is_of_the_machine(error):
            raise
        raise ValueError(f"{path.name} {_UNREADABLE}") from None
    if found_stamp != stamp:
        raise ValueError(f"{path.name} belongs to another checkpoint")
    return weights


def _load(path: Path, stamp: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a format that we do not write, before it is refused
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged or hostile bytes bring about
        if _is_of_the_machine(error):
            raise
        raise ValueError(f"{path.name} {_UNREADABLE}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds {type(values).__name__}; expected a dict")
    if values.pop(STAMP, None) != stamp:
        raise ValueError(f"{path.name} belongs to another checkpoint")
    return values


def _is_of_the_machine(error: Exception) -> bool:
    # EINVAL is what torch makes of a file that is shorter than it says.
    is_of_disk = isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.EINVAL)
    return is_shortage(error) or is_of_disk


def find_misfit(content: Content, parts: Parts, state: TrainState) -> str | None:
    """Why `content`, read from a checkpoint of `state`, cannot be put into a run, or None; changes nothing."""
    misfit = _shape_misfit(content.model, parts.model.state_dict())
    if misfit is not None:
        return f"{MODEL} {misfit}"
    if (content.ema is None) != (parts.ema is None):
        return f"{EMA} is missing" if content.ema is None else f"{EMA} is there, but this run has no train.ema_decay"
    if content.ema is not None and parts.ema is not None and (misfit := _shape_misfit(content.ema, parts.ema.weights)):
        return f"{EMA} {misfit}"
    parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
    misfit = _optimizer_misfit(content.optimizer, parts.optimizer.state_dict(), parameters)
    if misfit is not None:
        return f"{OPTIMIZER} {misfit}"
    if content.scheduler.get("last_epoch") != state.update or not parts.scheduler.state_dict().keys() <= (
        content.scheduler.keys()
    ):
        return f"{SCHEDULER} is not that of update {state.update}"
    if (content.scaler is None) != (parts.scaler is None):
        return f"{SCALER} is missing" if content.scaler is None else f"{SCALER} is there, but this run has no scaler"
    if content.scaler is not None and not parts.scaler.state_dict().keys() <= content.scaler.keys():
        return f"{SCALER} is not the state of a gradient scaler"
    return None


def _shape_misfit(saved: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    if saved.keys() != own.keys():
        return f"holds other tensors than this model: {', '.join(sorted(saved.keys() ^ own.keys())[:3])}"
    for name, tensor in own.items():
        if saved[name].shape != tensor.shape or saved[name].dtype != tensor.dtype:
            return (
                f"holds {name} as {saved[name].dtype} {list(saved[name].shape)}; "
                f"this model needs {tensor.dtype} {list(tensor.shape)}"
            )
    return None


def _optimizer_misfit(saved: dict[str, Any], own: dict[str, Any], parameters: list[nn.Parameter]) -> str | None:
    groups, states = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict):
        return "is not the state of an optimizer"
    if [g.get("params") if isinstance(g, dict) else None for g in groups] != [g["params"] for g in own["param_groups"]]:
        return f"has other parameter groups than this model's {len(parameters)} parameters"
    for index, entry in states.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, dict):
            return f"has a state for parameter {index}, which this model has not"
        shape = parameters[index].shape
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape != shape:
                return f"holds {name} of parameter {index} as {list(value.shape)}; expected {list(shape)}"
    return None


def put_back(content: Content, parts: Parts) -> None:
    """Load what `find_misfit` has found to fit."""
    load_weights(parts.model, content.model)
    if parts.ema is not None and content.ema is not None:
        parts.ema.put_back(content.ema)
    parts.optimizer.load_state_dict(_laid_out(content.optimizer, parts.optimizer))
    parts.scheduler.load_state_dict(content.scheduler)
    if parts.scaler is not None:
        parts.scaler.load_state_dict(content.scaler)


def _laid_out(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer with its moments in the parts that the parameters of `optimizer` are in."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        index: {
            name: laid_out_as(value, parameters[index]) if isinstance(value, Tensor) and value.ndim > 0 else value
            for name, value in entry.items()
        }
        for index, entry in saved["state"].items()
    }
    return {**saved, "state": state}
