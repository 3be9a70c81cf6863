"""Germination: every condition of a new seed in one table, and what follows when all of them hold.

Each check reads the turn and answers with a refusal or nothing. The first refusal is the outcome; no check has
an effect.
"""

from __future__ import annotations

from collections.abc import Callable

from esper.core.blends import blend_problem, graft_problem
from esper.core.enums import short_name
from esper.core.errors import ContractError, DependencyViolationError
from esper.kasmina.control.orders.budget import budget_problem
from esper.kasmina.control.stages.lifecycle import ALIVE, CLOSING, DORMANT, GERMINATED, stage_name
from esper.kasmina.control.stages.moves import attach
from esper.kasmina.control.stages.stack_course import plan_problem
from esper.kasmina.control.stages.turn import Refusal, Turn
from esper.kasmina.metrics import BLEND_CONFIG
from esper.leyline import (
    AdaptationCommand,
    BlendConfig,
    BlendMode,
    BlendSchedule,
    Blueprint,
    DirectiveKind,
    EmergencyLevel,
    HandlingClass,
    HealthStatus,
    ParameterValue,
    RejectionReason,
    SeedOperation,
    SeedRecord,
    SeedState,
)
from esper.urza.catalog import completed, is_stack, misfit
from esper.urza.cost import cost

R = RejectionReason
Check = Callable[[Turn, AdaptationCommand], Refusal | None]


def given_parameters(operation: SeedOperation) -> dict[str, float]:
    return {parameter.name: parameter.value for parameter in operation.parameters}


def _values(turn: Turn, blueprint: Blueprint, command: AdaptationCommand) -> dict[str, float]:
    """What the seed is built with, in the slot as it is now."""
    slot, signal = turn.slot(command.seed.slot_id), turn.signal(command.seed.slot_id)
    now = signal if signal is not None and signal.HasField("width") else slot
    return completed(
        blueprint,
        given_parameters(command.seed),
        units=None if now is None else now.width,
        unit=1 if slot is None else max(1, slot.width_unit),
    )


def _no_seed_is_alive(turn: Turn, _: AdaptationCommand) -> Refusal | None:
    for record in turn.state.seeds:
        if record.state.stage in ALIVE:
            detail = (
                f"seed {record.state.seed_id} is {stage_name(record.state.stage)}; one seed at a time, wait for its end"
            )
            return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, detail)
    return None


def _seed_is_new(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    seed_id = command.seed.seed_id
    if turn.find(seed_id) is None:
        return None
    detail = f"seed id {seed_id!r} was used before in this run; name a new one"
    return Refusal(R.REJECTION_REASON_LIFECYCLE_CONFLICT, detail)


def _growth_goes_on(turn: Turn, _: AdaptationCommand) -> Refusal | None:
    if turn.state.growth.ended:
        return Refusal(R.REJECTION_REASON_GROWTH_ENDED, f"{turn.state.growth.culls_in_row} culls in a row ended growth")
    if turn.state.growth.emergency >= EmergencyLevel.EMERGENCY_LEVEL_L3_CONSERVATIVE:
        return Refusal(R.REJECTION_REASON_PAUSED, "an emergency ended growth; acknowledge it at Weatherlight first")
    if turn.plane is not None:
        return Refusal(R.REJECTION_REASON_PAUSED, turn.plane)
    if turn.state.growth.paused:
        return Refusal(R.REJECTION_REASON_PAUSED, "growth is paused; resume it first")
    return None


def _life_fits(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """No seed's stages may end in the schedule's last phase."""
    life = turn.life
    blueprint = _blueprint(turn, command.seed)
    if blueprint and is_stack(blueprint):
        return None  # its window is its own
    incubation = life.incubation_steps if blueprint and turn.incubates(blueprint) else 0
    end = turn.step + 4 * life.reaction_steps + incubation + life.window_steps
    if end <= life.growth_end_step:
        return None
    detail = f"the seed would be judged at step {end}, growth ends at step {life.growth_end_step}"
    return Refusal(R.REJECTION_REASON_GROWTH_ENDED, detail)


def _stack_can_be_judged(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """A stack needs blocks to copy, and a plan of looks that ends before the schedule's last phase."""
    slot, blueprint = turn.slot(command.seed.slot_id), turn.catalog.get(command.seed.blueprint_id)
    if slot is None or not is_stack(blueprint):
        return None
    signal = turn.signal(slot.slot_id)
    depth = signal.depth if signal else slot.depth
    blocks = _values(turn, blueprint, command).get("blocks", depth)
    if blocks > depth:
        detail = f"{slot.slot_id} has {depth} blocks; {blocks:g} of them can't be repeated"
        return Refusal(R.REJECTION_REASON_BLUEPRINT_MISFIT, detail)
    problem = plan_problem(turn, turn.step + 4 * turn.life.reaction_steps)
    return Refusal(R.REJECTION_REASON_GROWTH_ENDED, f"it can't be judged: {problem}") if problem else None


def _slot_is_open(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    slot_id = command.seed.slot_id
    if turn.slot(slot_id) is None:
        known = ", ".join(slot.slot_id for slot in turn.spec.manifest.slots)
        return Refusal(R.REJECTION_REASON_UNKNOWN_SLOT, f"no slot {slot_id!r}; this run has {known}")
    until = max((e.until_step for e in turn.state.growth.embargoes if e.slot_id == slot_id), default=0)
    closing = [r.state.seed_id for r in turn.state.seeds if r.state.slot_id == slot_id and r.state.stage in CLOSING]
    if turn.step < until or closing:
        seed = f", seed {closing[0]} is being cleared from it" if closing else ""
        return Refusal(R.REJECTION_REASON_SLOT_EMBARGOED, f"slot {slot_id} is closed until step {until}{seed}")
    return None


def _blueprint_fits(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    slot = turn.slot(command.seed.slot_id)
    try:
        blueprint = turn.catalog.get(command.seed.blueprint_id)
        _values(turn, blueprint, command)
    except DependencyViolationError as error:
        return Refusal(R.REJECTION_REASON_UNKNOWN_BLUEPRINT, str(error))
    except ContractError as error:
        return Refusal(R.REJECTION_REASON_BLUEPRINT_MISFIT, str(error))
    problem = misfit(blueprint, slot, turn.spec.manifest.task) if slot else None
    return Refusal(R.REJECTION_REASON_BLUEPRINT_MISFIT, problem) if problem else None


def _artifact_is_there(turn: Turn, _: AdaptationCommand) -> Refusal | None:
    if turn.artifact_problem is None:
        return None
    return Refusal(R.REJECTION_REASON_UNKNOWN_BLUEPRINT, turn.artifact_problem)


def _restricted_is_named(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """A policy may use controls and restricted blueprints only where the user named them; an operator names them."""
    blueprint = turn.catalog.get(command.seed.blueprint_id)
    is_free = not blueprint.is_control and blueprint.safety.handling == HandlingClass.HANDLING_CLASS_STANDARD
    if is_free or command.issued_by != "tamiyo" or blueprint.blueprint_id in turn.spec.named_blueprint_ids:
        return None
    detail = f"{blueprint.blueprint_id} may be used only if named_blueprint_ids names it when the run opens"
    return Refusal(R.REJECTION_REASON_BLUEPRINT_MISFIT, detail)


def _blend_is_sound(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    slot, blueprint = turn.slot(command.seed.slot_id), turn.catalog.get(command.seed.blueprint_id)
    if slot is None:
        return None
    blend = command.seed.blend
    if is_stack(blueprint):
        is_plain = blend.mode == BlendMode.BLEND_MODE_RESIDUAL and blend.alpha_start == blend.alpha_target == 1.0
        problem = None if is_plain else "a stack has no blend: give RESIDUAL with alpha_start = alpha_target = 1"
        return Refusal(R.REJECTION_REASON_INVALID_BLEND, problem) if problem else None
    is_silent = blueprint.is_zero_output and not turn.incubates(blueprint)
    problem = blend_problem(blend, turn.channels(slot), turn.spec.manifest, turn.life)
    problem = problem or graft_problem(blend, is_silent=is_silent)
    return Refusal(R.REJECTION_REASON_INVALID_BLEND, problem) if problem else None


def _teacher_can_teach(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Seeds learn from a teacher while they incubate, and from one that is registered."""
    if not command.seed.include_teacher:
        return None
    blueprint = turn.catalog.get(command.seed.blueprint_id)
    if not turn.incubates(blueprint):
        detail = f"{blueprint.blueprint_id} doesn't incubate in this run, and seeds learn from a teacher only then"
        return Refusal(R.REJECTION_REASON_UNSUPPORTED_ACTION, f"include_teacher is set, but {detail}")
    if not turn.state.growth.teacher_digest:
        detail = "include_teacher is set, but no teacher is registered; register one, or germinate without it"
        return Refusal(R.REJECTION_REASON_UNSUPPORTED_ACTION, detail)
    return None


def _budget_holds(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    slot, blueprint = turn.slot(command.seed.slot_id), turn.catalog.get(command.seed.blueprint_id)
    if slot is None:
        return None
    values = _values(turn, blueprint, command)
    price = cost(blueprint, slot, turn.signal(slot.slot_id), values, turn.spec.manifest.task)
    problem = budget_problem(turn.spec, turn.state, price, step=turn.step if is_stack(blueprint) else None)
    return Refusal(R.REJECTION_REASON_BUDGET_EXCEEDED, problem) if problem else None


# In this order; later checks rely on what earlier ones made sure of.
CHECKS: tuple[Check, ...] = (
    _no_seed_is_alive,
    _seed_is_new,
    _growth_goes_on,
    _slot_is_open,
    _blueprint_fits,
    _artifact_is_there,
    _restricted_is_named,
    _life_fits,
    _stack_can_be_judged,
    _blend_is_sound,
    _teacher_can_teach,
    _budget_holds,
)


def germinate(turn: Turn, command: AdaptationCommand) -> Refusal | None:
    """Open a seed's life: GERMINATED, with what the executor needs to build it."""
    for check in CHECKS:
        if refusal := check(turn, command):
            return refusal
    operation = command.seed
    blueprint = turn.catalog.get(operation.blueprint_id)
    record = _new_record(turn, command)
    turn.move(record, GERMINATED, command.command_id, f"germinated as {blueprint.blueprint_id}{_by(operation.blend)}")
    tell_blend(turn, command)
    turn.state.growth.germinated += 1
    incubates = turn.incubates(blueprint)
    if not incubates and turn.has_twins:
        turn.direct(DirectiveKind.DIRECTIVE_KIND_SNAPSHOT_TWIN, command.command_id, record)
    _build(turn, record, blueprint, command)
    if incubates:
        turn.direct(
            DirectiveKind.DIRECTIVE_KIND_INCUBATE,
            command.command_id,
            record,
            duration_steps=turn.life.incubation_steps,
            isolate=turn.life.isolate,
            teacher_digest=turn.state.growth.teacher_digest if command.seed.include_teacher else "",
        )
    else:
        attach(turn, record, command.command_id)
    return None


def _by(blend: BlendConfig) -> str:
    """A blend worth a word: most seeds are added."""
    is_plain = blend.mode == BlendMode.BLEND_MODE_RESIDUAL and blend.alpha_target == 1.0
    return "" if is_plain else f", blended by {short_name(BlendMode, blend.mode)} to {blend.alpha_target:g}"


def tell_blend(turn: Turn, command: AdaptationCommand) -> None:
    """Which blend a seed has from now on."""
    blend, seed_id = command.seed.blend, command.seed.seed_id
    mode, schedule = short_name(BlendMode, blend.mode), short_name(BlendSchedule, blend.schedule)
    turn.tell(
        BLEND_CONFIG,
        f"{mode}, alpha {blend.alpha_start:g} to {blend.alpha_target:g}, {schedule} in {blend.schedule_steps} steps",
        seed_id=seed_id,
        mode=mode,
        schedule=schedule,
        source=command.issued_by,
        alpha_vec_len=len(blend.alpha_vec),
    )


def _new_record(turn: Turn, command: AdaptationCommand) -> SeedRecord:
    operation = command.seed
    return turn.state.seeds.add(
        state=SeedState(
            seed_id=operation.seed_id,
            stage=DORMANT,
            slot_id=operation.slot_id,
            blueprint_id=operation.blueprint_id,
            alpha=0.0,
            age_steps=0,
            health=HealthStatus.HEALTH_STATUS_HEALTHY,
            stage_step=turn.step,
            command_id=command.command_id,
        ),
        germination=operation,
        germinated_step=turn.step,
        extended=False,
    )


def _build(turn: Turn, record: SeedRecord, blueprint: Blueprint, command: AdaptationCommand) -> None:
    values = _values(turn, blueprint, command)
    turn.direct(
        DirectiveKind.DIRECTIVE_KIND_BUILD,
        command.command_id,
        record,
        slot_id=command.seed.slot_id,
        blueprint_id=blueprint.blueprint_id,
        parameters=[ParameterValue(name=name, value=value) for name, value in values.items()],
        artifact_digest=blueprint.artifact.digest,
        initialization_seed=command.seed.initialization_seed,
    )


def _blueprint(turn: Turn, operation: SeedOperation) -> Blueprint | None:
    try:
        return turn.catalog.get(operation.blueprint_id)
    except DependencyViolationError:
        return None
