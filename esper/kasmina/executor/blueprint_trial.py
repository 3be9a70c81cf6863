"""A user's own blueprint is tried before it is believed: built in small slots, and held to what its sheet says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.blueprints.own import Factory
from esper.kasmina.executor.judge.macs import counted
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import Blueprint, SlotKind
from esper.urza.cost import declared

SAMPLES, LENGTH, SIDE, SEED = 3, 6, 5, 1


def try_blueprint(blueprint: Blueprint, factory_name: str, factory: Factory, *, sizes: Sequence[int]) -> None:
    """Build it in slots of each kind that it fits, of these features. Raises ConfigError that names what isn't so."""
    values = {bound.name: bound.default_value for bound in blueprint.parameters}
    for kind in blueprint.slot_kinds:
        for features in sizes:
            _try_in(blueprint, _slot(kind, features, is_causal=blueprint.is_causal), factory_name, factory, values)


def _slot(kind: SlotKind, features: int, *, is_causal: bool) -> Slot:
    is_conv = kind == SlotKind.SLOT_KIND_RESIDUAL_CONV
    positions = SIDE * SIDE if is_conv else LENGTH
    return Slot(
        slot_id="trial",
        kind=kind,
        read_path="layer",
        write_path="layer",
        order=0,
        dims=4 if is_conv else 3,
        features=features,
        read_positions=positions,
        write_positions=positions,
        is_causal=is_causal and not is_conv,
    )


class _Host(nn.Module):
    """Has the layer that a slot names, and nothing else."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, features)


def _try_in(blueprint: Blueprint, slot: Slot, factory_name: str, factory: Factory, values: Mapping[str, float]) -> None:
    host = _Host(slot.features)
    seed = build_seed(host, slot, factory_name, values, initialization_seed=SEED, own={factory_name: factory})
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(SEED)
        size = (slot.features, SIDE, SIDE) if slot.is_conv else (LENGTH, slot.features)
        value = torch.randn(SAMPLES, *size)
        given = value.clone()
        output = _output(blueprint, seed, value)
    if any(isinstance(part, _DropoutNd) for part in seed.modules()):
        remedy = "its module has a dropout, whose draws would not be the same again; leave dropout out"
        raise ConfigError("factory", "dropout", remedy)
    where = f"in a slot of kind {SlotKind.Name(slot.kind)} with {slot.features} features"
    if output.shape != value.shape:
        raise ConfigError("factory", list(output.shape), f"{where} it must give what it gets, {list(value.shape)}")
    if not torch.equal(value, given):
        remedy = "it changes the activation that it reads, which is the host's; compute from it out of place"
        raise ConfigError("factory", blueprint.blueprint_id, f"{where} {remedy}")
    if not bool(output.isfinite().all()):
        raise ConfigError("factory", "NaN or infinity", f"{where} its output is not finite when it is built")
    if blueprint.is_zero_output and bool(output.detach().abs().max() != 0):
        remedy = (
            "its output isn't zero when it is built; let its last weights begin at zero, or say zero_output = false"
        )
        raise ConfigError("zero_output", True, remedy)
    _require_cost(blueprint, slot, seed, value, values, where)
    if blueprint.is_causal and not slot.is_conv:
        _require_causal(blueprint, seed, value)


def _output(blueprint: Blueprint, seed: nn.Module, value: Tensor) -> Tensor:
    try:
        output = seed(value)
    except (Exception, SystemExit) as error:
        first = (str(error).splitlines() or [""])[0]
        why = f"{blueprint.blueprint_id} fails on an activation of {list(value.shape)}: {type(error).__name__}: {first}"
        raise GraftFailed(why) from error
    if not isinstance(output, Tensor):
        raise ConfigError("factory", type(output).__name__, "its module must give one tensor")
    return output


def _require_cost(
    blueprint: Blueprint, slot: Slot, seed: nn.Module, value: Tensor, values: Mapping[str, float], where: str
) -> None:
    """A forecast that is wrong would break a budget, or refuse what fits it."""
    said = declared(blueprint.cost, features=slot.features, positions=slot.write_positions, values=values)
    parameters = sum(parameter.numel() for parameter in seed.parameters())
    with torch.no_grad():
        _, macs = counted(lambda: seed(value))
    for key, stated, found in (
        ("parameters", said.parameters, parameters),
        ("forward_macs", said.forward_macs, macs // SAMPLES),
    ):
        if stated != found:
            raise ConfigError(f"cost.{key}", stated, f"{where} it has {found}; write products that give that")


def _require_causal(blueprint: Blueprint, seed: nn.Module, value: Tensor) -> None:
    """With trained weights, which those of now may hide: zero ones show nothing."""
    for parameter in seed.parameters():
        nn.init.normal_(parameter)
    changed = value.clone()
    changed[:, -1] += 1.0
    seed.eval()
    with torch.no_grad():
        before, after = seed(value), seed(changed)
    if not torch.equal(before[:, :-1], after[:, :-1]):
        remedy = "what it adds at earlier positions changed with the last one; say causal = false"
        raise ConfigError("causal", True, remedy)
