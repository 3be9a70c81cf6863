"""The optimiser's side of a seed: parameter groups of its own, learning as the host layers beside it do.

Schedulers that keep one entry for each group are kept in step with the groups. What no group of the host's can take,
such as a bias under an optimiser for matrices alone, doesn't learn, as the host's own doesn't.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.slots.layers import stored_parameter

SEED_KEY = "seed_id"
HOST_KEY = "host_group"
GROUP_LISTS = ("base_lrs", "lr_lambdas", "_last_lr", "min_lrs", "max_lrs", "base_momentums", "max_momentums")

# What a group holds beside its settings: its members, our marks, and what schedulers remember.
NO_SETTINGS = frozenset(
    {"params", SEED_KEY, HOST_KEY, "initial_lr", "min_lr", "max_lr", "base_momentum", "max_momentum", "swa_lr"}
)


def seed_groups(optimizer: torch.optim.Optimizer, seed_id: str) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get(SEED_KEY) == seed_id]


def group_by_host(
    optimizer: torch.optim.Optimizer, seed: nn.Module, host: nn.Module | None = None
) -> dict[int, list[nn.Parameter]]:
    """The seed's trainable parameters by the host group that they stand beside; a seed names its neighbours.

    Without a neighbour (or without the host to look for it) it is the first group that can take such a parameter; one
    that no group can take is frozen.
    """
    twins_of: Mapping[str, str] = getattr(seed, "twins_of", {})
    by_group: dict[int, list[nn.Parameter]] = {}
    for name, parameter in seed.named_parameters():
        if parameter.requires_grad:
            module_name, _, parameter_name = name.rpartition(".")
            path = twins_of.get(module_name)
            twin = None if path is None or host is None else stored_parameter(host.get_submodule(path), parameter_name)
            index = _group_of(optimizer, twin, parameter)
            if index is None:
                parameter.requires_grad_(False)
            else:
                by_group.setdefault(index, []).append(parameter)
    return by_group


def add_seed_groups(
    optimizer: torch.optim.Optimizer, scheduler: object, seed_id: str, by_group: Mapping[int, list[nn.Parameter]]
) -> None:
    """One group of seed parameters for each host group, with its settings."""
    for index, parameters in sorted(by_group.items()):
        options = {key: value for key, value in optimizer.param_groups[index].items() if key != "params"}
        optimizer.add_param_group({**options, "params": parameters, SEED_KEY: seed_id, HOST_KEY: index})
        _begin_state(optimizer, parameters)
        for values in _group_lists(scheduler):
            values.append(values[index])


def _begin_state(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """State that the class makes with the optimiser, not at a step: Adagrad, before torch 2.13, makes none later."""
    if isinstance(optimizer, torch.optim.Adagrad):
        group = optimizer.param_groups[-1]
        fresh = torch.optim.Adagrad(parameters, **{name: group[name] for name in optimizer.defaults})
        optimizer.state.update(fresh.state)


def remove_seed_groups(optimizer: torch.optim.Optimizer, scheduler: object, seed_id: str) -> None:
    """Takes the seed's groups and their state out."""
    for index in reversed(range(len(optimizer.param_groups))):
        group = optimizer.param_groups[index]
        if group.get(SEED_KEY) != seed_id:
            continue
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
        del optimizer.param_groups[index]
        for values in _group_lists(scheduler):
            del values[index]


def optimizer_like(
    optimizer: torch.optim.Optimizer, by_group: Mapping[int, list[nn.Parameter]]
) -> torch.optim.Optimizer:
    """A new optimiser of the same class for other parameters, set as the groups that they stand beside."""
    accepted = inspect.signature(type(optimizer).__init__).parameters
    options = {name: value for name, value in _settings(optimizer.param_groups[0]).items() if name in accepted}
    groups = [{**_settings(optimizer.param_groups[index]), "params": by_group[index]} for index in sorted(by_group)]
    try:
        new = type(optimizer)(groups, **options)
    except Exception as error:
        raise GraftFailed(f"no second {type(optimizer).__name__} can be made for a seed: {error}") from error
    for index, group in zip(sorted(by_group), new.param_groups, strict=True):
        group[HOST_KEY] = index
    return new


def schedulers(scheduler: object) -> Iterator[object]:
    """The scheduler and those that it chains."""
    if scheduler is None:
        return
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from schedulers(inner)


def _group_of(optimizer: torch.optim.Optimizer, twin: object, parameter: nn.Parameter) -> int | None:
    hosts = {index: group for index, group in enumerate(optimizer.param_groups) if SEED_KEY not in group}
    for index, group in hosts.items():
        if any(member is twin for member in group["params"]):
            return index
    alike = [index for index, group in hosts.items() if any(m.dim() == parameter.dim() for m in group["params"])]
    if alike:
        return alike[0]
    # Beside nothing alike a vector learns where nothing decays, if there is such a group.
    order = sorted(hosts, key=lambda index: parameter.dim() < 2 and bool(hosts[index].get("weight_decay")))
    return next((index for index in order if not _refuses(optimizer, index, parameter)), None)


def _refuses(optimizer: torch.optim.Optimizer, index: int, parameter: nn.Parameter) -> bool:
    """Whether a step fails on a parameter of this shape that works on one of the group's own."""
    own = next((member for member in optimizer.param_groups[index]["params"] if member.dim() > 0), parameter)
    return _steps_on(optimizer, index, own) and not _steps_on(optimizer, index, parameter)


def _steps_on(optimizer: torch.optim.Optimizer, index: int, parameter: Tensor) -> bool:
    stand_in = nn.Parameter(parameter.detach().new_zeros([min(2, size) for size in parameter.shape]))
    stand_in.grad = torch.ones_like(stand_in)
    try:
        optimizer_like(optimizer, {index: [stand_in]}).step()
    except Exception:  # noqa: BLE001 - the question is whether it works, whatever it raises
        return False
    return True


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in NO_SETTINGS}


def _group_lists(scheduler: object) -> list[list[Any]]:
    """Each list once: a chain of schedulers shows the list of its present part as its own."""
    found = [getattr(part, name, None) for part in schedulers(scheduler) for name in GROUP_LISTS]
    return list({id(values): values for values in found if isinstance(values, list) and values}.values())
