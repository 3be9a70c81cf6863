"""The optimiser's side of a seed: parameter groups of its own, learning as the host layers beside it do.

Schedulers that keep one entry for each group are kept in step with the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from esper.kasmina.executor.slots.layers import stored_parameter

SEED_KEY = "seed_id"
HOST_KEY = "host_group"
GROUP_LISTS = ("base_lrs", "lr_lambdas", "_last_lr", "min_lrs", "max_lrs")


def seed_groups(optimizer: torch.optim.Optimizer, seed_id: str) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get(SEED_KEY) == seed_id]


def group_by_host(optimizer: torch.optim.Optimizer, seed: nn.Module, host: nn.Module) -> dict[int, list[nn.Parameter]]:
    """The seed's trainable parameters by the host group that they stand beside; a seed names its neighbours."""
    twins_of: Mapping[str, str] = getattr(seed, "twins_of", {})
    by_group: dict[int, list[nn.Parameter]] = {}
    for name, parameter in seed.named_parameters():
        if parameter.requires_grad:
            module_name, _, parameter_name = name.rpartition(".")
            path = twins_of.get(module_name)
            twin = None if path is None else stored_parameter(host.get_submodule(path), parameter_name)
            by_group.setdefault(_group_of(optimizer, twin), []).append(parameter)
    return by_group


def add_seed_groups(
    optimizer: torch.optim.Optimizer, scheduler: object, seed_id: str, by_group: Mapping[int, list[nn.Parameter]]
) -> None:
    """One group of seed parameters for each host group, with its settings."""
    for index, parameters in sorted(by_group.items()):
        options = {key: value for key, value in optimizer.param_groups[index].items() if key != "params"}
        optimizer.add_param_group({**options, "params": parameters, SEED_KEY: seed_id, HOST_KEY: index})
        for part in _schedulers(scheduler):
            for values in _group_lists(part):
                values.append(values[index])


def remove_seed_groups(optimizer: torch.optim.Optimizer, scheduler: object, seed_id: str) -> None:
    """Takes the seed's groups and their state out."""
    for index in reversed(range(len(optimizer.param_groups))):
        group = optimizer.param_groups[index]
        if group.get(SEED_KEY) != seed_id:
            continue
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
        del optimizer.param_groups[index]
        for part in _schedulers(scheduler):
            for values in _group_lists(part):
                del values[index]


def _group_of(optimizer: torch.optim.Optimizer, twin: object) -> int:
    for index, group in enumerate(optimizer.param_groups):
        if any(member is twin for member in group["params"]):
            return index
    return 0


def _schedulers(scheduler: object) -> Iterator[object]:
    if scheduler is None:
        return
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _schedulers(inner)


def _group_lists(scheduler: object) -> Iterator[list[Any]]:
    for name in GROUP_LISTS:
        values = getattr(scheduler, name, None)
        if isinstance(values, list) and values:
            yield values
