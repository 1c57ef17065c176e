"""What is read back is what was written, and what does not fit is found before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from accel_tx.train.averaging import RunningAverage
from accel_tx.train.checkpoint_content import (
    Content,
    Parts,
    copy_content,
    find_misfit,
    put_back,
    read_content,
    write_content,
)
from accel_tx.train.state import TrainState

STATE = TrainState("data", {"train.seed": 1}, n_updates=10, update=3)


def parts_after(updates: int, width: int = 3) -> Parts:
    torch.manual_seed(updates)
    model = nn.Linear(width, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    scheduler = LambdaLR(optimizer, lambda update: 1 / (1 + update))
    for _ in range(updates):
        model(torch.randn(4, width)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return Parts(model, optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=2.0**updates))


def flat(value: Any) -> Any:
    """Nested state with its tensors as lists, to be compared."""
    if isinstance(value, dict):
        return {key: flat(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(entry) for entry in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_what_is_put_back_is_what_was_copied(tmp_path: Path) -> None:
    parts, other = parts_after(3), parts_after(1)
    content = copy_content(parts)
    write_content(content, tmp_path, STATE)
    read = read_content(tmp_path, STATE)
    assert find_misfit(read, other, STATE) is None
    put_back(read, other)
    for name in ("model", "optimizer", "scheduler", "scaler"):
        assert flat(getattr(other, name).state_dict()) == flat(getattr(parts, name).state_dict())


def test_a_copy_does_not_follow_the_run() -> None:
    parts = parts_after(3)
    content = copy_content(parts)
    before = flat(vars(content))
    parts.model(torch.ones(1, 3)).sum().backward()
    parts.optimizer.step()
    parts.scheduler.step()
    assert flat(vars(content)) == before
    assert flat(parts.model.state_dict()) != before["model"]


def test_not_a_number_is_written_and_read_back(tmp_path: Path) -> None:
    parts = parts_after(3)
    with torch.no_grad():
        parts.model.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    write_content(copy_content(parts), tmp_path, STATE)
    assert read_content(tmp_path, STATE).model["weight"].isnan().all()


MISFITS: dict[str, tuple[Callable[[Content], Content], str]] = {
    "a missing tensor": (
        lambda c: replace(c, model={"weight": c.model["weight"]}),
        "model.safetensors holds other tensors than this model: bias",
    ),
    "another width": (
        lambda c: copy_content(replace(parts_after(3, width=4))),
        "model.safetensors holds weight as torch.float32 [2, 4]; this model needs torch.float32 [2, 3]",
    ),
    "another precision": (
        lambda c: replace(c, model={name: tensor.double() for name, tensor in c.model.items()}),
        "model.safetensors holds",
    ),
    "moments of another width": (
        lambda c: replace(c, optimizer=copy_content(parts_after(3, width=4)).optimizer),
        "optimizer.bin holds exp_avg of parameter 0 as [2, 4]; expected [2, 3]",
    ),
    "other groups": (
        lambda c: replace(c, optimizer={**c.optimizer, "param_groups": []}),
        "optimizer.bin has other parameter groups",
    ),
    "no optimizer": (lambda c: replace(c, optimizer={"x": 1}), "optimizer.bin is not the state of an optimizer"),
    "a state too many": (
        lambda c: replace(c, optimizer={**c.optimizer, "state": {7: {}}}),
        "optimizer.bin has a state for parameter 7",
    ),
    "another update's schedule": (
        lambda c: replace(c, scheduler={**c.scheduler, "last_epoch": 4}),
        "scheduler.bin is not that of update 3",
    ),
    "no schedule": (lambda c: replace(c, scheduler={"last_epoch": 3}), "scheduler.bin is not that of update 3"),
    "no scaler": (lambda c: replace(c, scaler=None), "scaler.pt is missing"),
    "half a scaler": (lambda c: replace(c, scaler={"scale": 1.0}), "scaler.pt is not the state of a gradient scaler"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(case: str) -> None:
    change, message = MISFITS[case]
    parts = parts_after(3)
    content = copy_content(parts)
    assert find_misfit(content, parts, STATE) is None
    assert (find_misfit(change(content), parts, STATE) or "").startswith(message)


def test_a_scaler_that_the_run_lacks_is_named() -> None:
    parts = parts_after(3)
    misfit = find_misfit(copy_content(parts), replace(parts, scaler=None), STATE)
    assert misfit == "scaler.pt is there, but this run has no scaler"


@pytest.mark.parametrize("other", [replace(STATE, update=4), replace(STATE, settings={"train.seed": 2})])
def test_files_of_another_update_or_run_are_not_taken(other: TrainState, tmp_path: Path) -> None:
    write_content(copy_content(parts_after(3)), tmp_path, STATE)
    with pytest.raises(ValueError, match=r"model\.safetensors belongs to another checkpoint"):
        read_content(tmp_path, other)


def with_average(parts: Parts) -> Parts:
    return replace(parts, ema=RunningAverage(parts.model, decay=0.5))


def test_a_running_average_is_written_and_put_back(tmp_path: Path) -> None:
    parts, other = with_average(parts_after(3)), with_average(parts_after(1))
    content = copy_content(parts)
    write_content(content, tmp_path, STATE)
    assert parts.ema is not None
    assert other.ema is not None
    expected = flat(parts.ema.weights)
    parts.ema.weights["weight"].zero_()
    read = read_content(tmp_path, STATE)
    assert find_misfit(read, other, STATE) is None
    put_back(read, other)
    assert flat(other.ema.weights) == expected
    assert content.n_bytes() - copy_content(parts_after(3)).n_bytes() == sum(
        tensor.nbytes for tensor in other.ema.weights.values()
    )


def test_a_running_average_that_is_missing_too_many_or_of_another_shape_is_found() -> None:
    plain, averaged = parts_after(3), with_average(parts_after(3))
    assert find_misfit(copy_content(plain), averaged, STATE) == "ema.safetensors is missing"
    found = find_misfit(copy_content(averaged), plain, STATE)
    assert found == "ema.safetensors is there, but this run has no train.ema_decay"
    content = copy_content(averaged)
    assert content.ema is not None
    content.ema["weight"] = torch.zeros(9)
    assert "ema.safetensors holds weight as torch.float32 [9]" in str(find_misfit(content, averaged, STATE))
