"""From orders to commands: ids, seeds' names, blends, and the list of commands whose effect is still to be seen.

Ids and names are functions of the run's own counters, so that a run that is decided again, decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline import (
    AdaptationCommand,
    DecisionMetadata,
    OpenCommand,
    ParameterValue,
    SeedOperation,
    SystemStatePacket,
    TamiyoRunState,
)
from esper.tamiyo.context import LIVE_STAGES, RunContext, command_number
from esper.tamiyo.growing.blends import blend_for, incubates
from esper.tamiyo.policy import GERMINATE, Order
from esper.urza.catalog import completed

ISSUER = "tamiyo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """A command as decided; a replayed one is delivered by Kasmina and not signed again."""

    command: AdaptationCommand
    is_replayed: bool


def issue(
    order: Order, metadata: DecisionMetadata, state: TamiyoRunState, packet: SystemStatePacket, context: RunContext
) -> Issue:
    """Number an order and enter it among the open commands of `state`."""
    state.commands_issued += 1
    number = state.commands_issued
    replayed = _replayed_id(number, packet.step, context)
    command = AdaptationCommand(
        command_id=replayed or context.command_id(number),
        training_run_id=context.run_id,
        generation=packet.generation,
        step=packet.step,
        issued_by=ISSUER,
        deadline_steps=context.deadline_steps,
        seed=_operation(order, state, packet, context),
        metadata=metadata,
    )
    state.open_commands.append(
        OpenCommand(
            command_id=command.command_id,
            seed_id=command.seed.seed_id,
            operation=order.operation,
            deadline_step=packet.step + context.deadline_steps,
        )
    )
    return Issue(command=command, is_replayed=replayed is not None)


def settle(state: TamiyoRunState, packet: SystemStatePacket, context: RunContext) -> tuple[str, ...]:
    """Forget open commands whose effect the packet shows, or whose deadline is over; return the latter's ids."""
    stages = {seed.seed_id: seed.stage for seed in packet.seeds}
    waiting, expired = [], []
    for command in state.open_commands:
        if command.operation == GERMINATE:
            is_seen = command.seed_id in stages
        else:
            is_seen = stages.get(command.seed_id) not in LIVE_STAGES
        if not is_seen and packet.step > command.deadline_step:
            expired.append(command.command_id)
            if command.operation == GERMINATE:
                state.retry_step = packet.step + context.trigger.window_steps
        elif not is_seen:
            waiting.append(command)
    del state.open_commands[:]
    state.open_commands.extend(waiting)
    return tuple(expired)


def _operation(order: Order, state: TamiyoRunState, packet: SystemStatePacket, context: RunContext) -> SeedOperation:
    if order.blueprint is None:
        return SeedOperation(seed_id=order.seed.seed_id if order.seed else "", operation=order.operation)
    parameters = completed(order.blueprint, order.values)
    germination = SeedOperation(
        seed_id=_next_seed_id(state, packet),
        operation=order.operation,
        slot_id=order.slot_id,
        blueprint_id=order.blueprint.blueprint_id,
        parameters=[ParameterValue(name=name, value=value) for name, value in parameters.items()],
        initialization_seed=context.initialization_seed(state.seeds_named),
        blend=blend_for(order.blueprint, context),
    )
    if packet.growth.teacher_digest and incubates(order.blueprint, context):
        germination.include_teacher = True
    return germination


def _next_seed_id(state: TamiyoRunState, packet: SystemStatePacket) -> str:
    """The next free name; an operator may have used some."""
    taken = {seed.seed_id for seed in packet.seeds}
    state.seeds_named += 1
    while f"s{state.seeds_named}" in taken:
        state.seeds_named += 1
    return f"s{state.seeds_named}"


def _replayed_id(number: int, step: int, context: RunContext) -> str | None:
    replayed = (command.command_id for command in context.replayed_at(step))
    return next((command_id for command_id in replayed if command_number(command_id) == number), None)
