"""Averages of weights: the running one in closed form, the mean of files in float64, and weights lent to a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from accel_tx.config import UserError
from accel_tx.train.averaging import RunningAverage, decay_of, mean_of_files, weights_in


def test_the_decay_grows_from_nothing_to_what_was_asked() -> None:
    assert [decay_of(update, 0.5) for update in range(4)] == [0, 1 / 10, 2 / 11, 3 / 12]
    assert decay_of(9, 0.5) == decay_of(10_000, 0.5) == 0.5
    assert decay_of(8, 0.5) == 8 / 17


def test_the_running_average_is_the_sum_in_closed_form_and_the_first_weights_never_count() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(1e6)
    average = RunningAverage(model, decay=0.6)
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]
    for update, value in enumerate(values):
        model.weight.data.fill_(value)
        average.add(update)
    decays = [min(0.6, update / (9 + update)) for update in range(len(values))]
    shares = [
        (1 - decays[i]) * torch.tensor(decays[i + 1 :], dtype=torch.float64).prod().item() for i in range(len(values))
    ]
    assert sum(shares) == pytest.approx(1)
    assert average.weights["weight"].item() == pytest.approx(sum(s * v for s, v in zip(shares, values, strict=True)))
    assert model.weight.item() == 9.0


def test_what_is_put_back_goes_on_as_if_it_had_never_stopped() -> None:
    models = [nn.Linear(3, 2) for _ in range(2)]
    averages = [RunningAverage(model, decay=0.9) for model in models]
    for update in range(20):
        if update == 11:
            averages[1].put_back(averages[0].weights)
        weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(update))
        for model, average in zip(models, averages, strict=True):
            model.weight.data.copy_(weight)
            if model is models[0] or update >= 11:
                average.add(update)
    assert torch.equal(averages[0].weights["weight"], averages[1].weights["weight"])


def test_a_model_has_lent_weights_inside_and_its_own_to_the_bit_behind() -> None:
    model = nn.Linear(3, 2)
    parameter, before = model.weight, model.weight.detach().clone()
    lent = {name: torch.full_like(tensor, 0.1) for name, tensor in model.state_dict().items()}
    with pytest.raises(AssertionError, match="lent"), weights_in(model, lent):
        assert not torch.equal(model(torch.ones(3)), torch.full((2,), 0.4)), "lent"
    assert torch.equal(model.weight, before)
    assert model.weight is parameter
    with weights_in(model, None):
        assert torch.equal(model.weight, before)


def test_the_mean_of_files_is_summed_in_float64(tmp_path: Path) -> None:
    # In float32 the ones would be lost beside 1e8.
    columns = [[1e8, 0.1], [1.0, 0.2], [1.0, 0.3], [-1e8, 0.4]]
    paths = [tmp_path / f"{i}.safetensors" for i in range(len(columns))]
    for path, column in zip(paths, columns, strict=True):
        save_file({"w": torch.tensor(column)}, path)
    mean = mean_of_files(paths)["w"]
    assert mean.dtype == torch.float32
    assert torch.equal(mean, torch.tensor([0.5, 0.25]))


def test_weights_of_another_shape_or_name_and_damaged_ones_are_named(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file({"w": torch.zeros(2, 3)}, first)
    save_file({"w": torch.zeros(3)}, second)
    with pytest.raises(UserError, match=r"2\.safetensors: w is \[3\], in .*1\.safetensors \[2, 3\]; expected the w"):
        mean_of_files([first, second])
    save_file({"w": torch.zeros(2, 3), "v": torch.zeros(1)}, second)
    with pytest.raises(UserError, match=r"v is .*no such tensor"):
        mean_of_files([first, second])
    second.write_bytes(second.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"2\.safetensors: cannot be read as weights"):
        mean_of_files([first, second])
