"""Trained weights in a host: every name, every shape, or a line that says what differs and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.start.fitting import Start, digest_of, put_in


def config(**fields: Any) -> TrainConfig:
    return TrainConfig(**{"hidden": (6, 5), "init_from": "w.safetensors"} | fields)


def weights(**fields: Any) -> dict[str, Tensor]:
    """Of another network like the host."""
    return dict(build_model(config(**{"seed": 5} | fields), (64,), 10).state_dict())


def started(tensors: dict[str, Tensor], host: nn.Module | None = None, **fields: Any) -> Any:
    settings = config(**fields)
    host = build_model(settings, (64,), 10) if host is None else host
    return put_in(settings, host, Start(source="w.safetensors", tensors=tensors)), host


def holds(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(model.state_dict()[name], value) for name, value in tensors.items())


@pytest.mark.parametrize(
    ("prefix", "stripped"),
    [("", ()), ("module.", ("module.",)), ("_orig_mod.", ("_orig_mod.",)), ("module._orig_mod.", None)],
)
def test_weights_arrive_whatever_wrapped_their_names(prefix: str, stripped: Any) -> None:
    given = weights()
    told, model = started({prefix + name: value for name, value in given.items()})
    assert holds(model, given)
    assert told.tensors == len(given)
    assert stripped is None or told.stripped == stripped
    assert (told.digest, digest_of(given)) == (digest_of(given), told.digest)


def test_an_averaged_model_gives_its_weights() -> None:
    network = build_model(config(seed=5), (64,), 10)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    _, model = started(dict(averaged.state_dict()))
    assert holds(model, dict(network.state_dict()))


def test_a_compiled_host_takes_plain_names_and_a_host_of_that_name_keeps_them() -> None:
    given = weights()
    _, model = started(given, torch.compile(build_model(config(), (64,), 10), backend="eager"))  # type: ignore[arg-type]
    assert holds(model._orig_mod, given)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    own = Wrapper()
    told, _ = started({name: value + 1 for name, value in own.state_dict().items()}, own)
    assert told.stripped == ()


def test_half_precision_is_converted_and_said() -> None:
    told, model = started({name: value.bfloat16() for name, value in weights().items()})
    assert model.fc1.weight.dtype == torch.float32
    assert "converted from bfloat16" in told.line


def test_a_replaced_head_keeps_its_own_weights() -> None:
    given = weights()
    given["fc3.weight"], own = torch.zeros(3, 5), build_model(config(), (64,), 10).fc3.weight
    del given["fc3.bias"]
    told, model = started(given, init_except=("fc3",))
    assert torch.equal(model.fc3.weight, own)
    assert told.left_out == ("fc3.weight", "fc3.bias")
    assert "left out: fc3.weight, fc3.bias" in told.line


def test_a_tied_weight_need_not_stand_twice_and_can_t_differ() -> None:
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
        network[1].weight = network[0].weight
        return network

    value = torch.randn(7, 4)
    assert holds(started({"0.weight": value}, tied())[1], {"0.weight": value, "1.weight": value})
    with pytest.raises(ConfigError, match=r"0.weight and 1.weight are one tensor in the model and differ"):
        started({"0.weight": value, "1.weight": value + 1}, tied())


def test_batch_norm_s_counter_may_be_missing() -> None:
    settings = {"model": "cnn", "hidden": (3, 4)}
    host = build_model(config(**settings), (1, 8, 8), 10)
    given = {name: value for name, value in host.state_dict().items() if not name.endswith("tracked")}
    assert started(given, host, **settings)[0].tensors == len(given)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: given.pop("fc3.bias"), r"1 missing \(fc3.bias\); --init-except"),
        (lambda given: given.update(head=torch.ones(1)), r"1 unexpected \(head\)"),
        (
            lambda given: given.update({"fc1.weight": torch.ones(14, 64), "fc1.bias": torch.ones(14)}),
            r"2 of another shape \(fc1.weight \[14, 64\], here \[6, 64\].*--hidden 14,5 builds it so",
        ),
        (lambda given: given.update({"fc1.bias": torch.ones(6, dtype=torch.int64)}), "1 of another type"),
        (
            lambda given: [given.update({f"layer.{name}": given.pop(name)}) for name in list(given)],
            "6 missing .*, ....; 6 unexpected .*no name is in both: is it another architecture",
        ),
    ],
)
def test_what_differs_is_named_and_the_host_stays_as_it_was(change: Any, says: str) -> None:
    given, host = weights(), build_model(config(), (64,), 10)
    before = {name: value.clone() for name, value in host.state_dict().items()}
    change(given)
    with pytest.raises(ConfigError, match=says):
        started(given, host)
    assert holds(host, before)


def test_an_exception_that_names_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"init_except = 'head': names nothing"):
        started(weights(), init_except=("head",))
    with pytest.raises(ConfigError, match="give both"):
        TrainConfig(init_except=("head",))


def test_a_grown_decoder_says_how_it_is_built() -> None:
    small = {"model": "transformer", "width": 16, "heads": 2}
    deeper = build_model(config(**small, hidden=(24, 32, 32)), (12,), 20)
    host = build_model(config(**small, hidden=(32,), depth=2), (12,), 20)
    with pytest.raises(ConfigError, match="--depth 3 --hidden 24,32,32 builds it so"):
        started(dict(deeper.state_dict()), host, **small, hidden=(32,), depth=2)
