"""Factories of seeds, by the name that a recipe gives: the torch side of the blueprint catalogue.

A factory builds a seed for a slot of a live host. Zero-output seeds have their last weights at zero, so that a graft
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.blueprints.adapter import low_rank
from esper.kasmina.executor.blueprints.attention import self_attention
from esper.kasmina.executor.blueprints.control import random_frozen
from esper.kasmina.executor.blueprints.gate import channel_gate
from esper.kasmina.executor.blueprints.heads import span_heads
from esper.kasmina.executor.blueprints.joins import bundled
from esper.kasmina.executor.blueprints.lora import low_rank_layer
from esper.kasmina.executor.blueprints.own import Factory
from esper.kasmina.executor.blueprints.residual import residual_conv, residual_linear
from esper.kasmina.executor.blueprints.span import span_conv, span_linear
from esper.kasmina.executor.passes.keys import draw_key, forked_generators
from esper.kasmina.executor.passes.side_pass import device_of
from esper.kasmina.executor.slots.slot import Slot

FACTORIES: dict[str, Factory] = {
    "span.linear": span_linear,
    "span.conv": span_conv,
    "span.heads": span_heads,
    "residual.linear": residual_linear,
    "residual.conv": residual_conv,
    "adapter.low_rank": low_rank,
    "adapter.lora": low_rank_layer,
    "gate.channel": channel_gate,
    "attention.self": self_attention,
    "control.random_frozen": random_frozen,
}


def build_seed(
    host: nn.Module,
    slot: Slot,
    factory: str,
    parameters: Mapping[str, float],
    *,
    initialization_seed: int,
    own: Mapping[str, Factory] = MappingProxyType({}),
) -> nn.Module:
    """A new seed with weights drawn from its own initialisation seed; `own` are factories of the run's user."""
    factories = {**FACTORIES, **own}
    if factory not in factories:
        raise GraftFailed(f"the recipe names factory {factory!r}, which this executor lacks: {', '.join(factories)}")
    with forked_generators(draw_key("initialization", initialization_seed), device_of(host)):
        parts = [factories[factory](host, part, parameters) for part in slot.parts(host)]
        seed = bundled(parts) if slot.container else parts[0]
        return seed.train(host.training)
