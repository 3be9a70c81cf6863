"""The executor's state as a checkpoint keeps it: tensors and plain containers, readable with weights_only=True.

Structure is not pickled: seeds are built again from their plans, then their weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any, TypeVar

import torch
from google.protobuf.message import Message

from esper.core.errors import ConfigError
from esper.kasmina.executor.blueprints import build_seed
from esper.kasmina.executor.collected import MemoryNote
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft, SeedPlan
from esper.kasmina.executor.judge.incubate import Incubation, shadow_graft
from esper.kasmina.executor.judge.macs import count_macs
from esper.kasmina.executor.memory.bursts import Bursts
from esper.kasmina.executor.memory.forecast import AUTO, BURSTS, LIVE, Decision
from esper.kasmina.executor.memory.parked import copied_to_host
from esper.kasmina.executor.passes.trace import trace_forward
from esper.kasmina.executor.slots.slot import refreshed
from esper.kasmina.executor.stack_slots import STACK_FACTORIES
from esper.kasmina.executor.stacks.run import Run
from esper.kasmina.executor.state import Evidence, ExecutorState, Life
from esper.kasmina.executor.twin import pace
from esper.leyline import (
    BlendConfig,
    DirectiveReport,
    JudgeResult,
    PairedScore,
    ProbeResult,
    SeedDirective,
    StackEvaluation,
)

FORMAT = 3
M = TypeVar("M", bound=Message)


def saved(state: ExecutorState, reports: Sequence[DirectiveReport]) -> dict[str, Any]:
    """Everything that `restore` needs; of a twin that waits a copy that has made every step."""
    twin = None
    if state.bursts is not None:
        with state.twin_at_hand() as fetched:
            twin = copied_to_host(fetched.state_dict())
    elif state.twin is not None:
        twin = state.twin.state_dict()
    return {
        "format": FORMAT,
        "arm": state.arm.state_dict(),
        "arm_seeds": [_graft_record(graft) for graft in state.arm.grafts],
        "twin": twin,
        "pace": None if state.twin is None else pace(state),
        "is_teacher_dropped": state.is_teacher_dropped,
        "given_up": dict(state.given_up),
        "memory": [{**asdict(note), "figures": dict(note.figures)} for note in state.memory_notes],
        "peaks": state.peaks.state_dict(),
        "steps_done": state.steps_done,
        "twin_seeds": [] if state.twin is None else [_graft_record(graft) for graft in state.twin.grafts],
        "lives": [_life_record(state, life) for life in state.lives.values()],
        "queue": [directive.SerializeToString(deterministic=True) for directive in state.queue],
        "reports": [report.SerializeToString(deterministic=True) for report in reports],
        "done": sorted(state.done),
        "folded": dict(state.folded),
        "topology": state.topology,
        "boundary_step": state.boundary_step,
        "side_macs": state.side_macs,
        "evaluation_macs": dict(state.evaluation_macs),
        "smoothed_loss": state.smoothed_loss,
        "loss_standard_error": state.loss_standard_error,
    }


def saved_network(state: ExecutorState) -> dict[str, Any]:
    """Copies of the grown network alone, in host memory: no moments, no twin."""
    arm = state.arm.state_dict()
    arm["optimizer"] = {"state": {}, "param_groups": arm["optimizer"]["param_groups"]}
    found: dict[str, Any] = copied_to_host({"arm": arm, "arm_seeds": [_graft_record(g) for g in state.arm.grafts]})
    return found


def load_network(state: ExecutorState, arm: TrainingArm, network: Mapping[str, Any]) -> None:
    """Give an arm the weights and the growth of a network that was saved."""
    slots = state.slots
    try:
        _load_arm(state, arm, network["arm"], network["arm_seeds"])
    finally:
        state.slots = slots


def restore(state: ExecutorState, data: Mapping[str, Any]) -> list[DirectiveReport]:
    """Puts a saved state in place of the present one; returns the reports that nobody had collected."""
    if data.get("format") != FORMAT:
        raise ConfigError("checkpoint", data.get("format"), f"expected executor state of format {FORMAT}")
    is_alike, slots = _is_alike(state, data), state.slots
    _restore_arms(state, data)
    state.is_teacher_dropped = data.get("is_teacher_dropped", False)
    state.given_up = dict(data.get("given_up", {}))
    state.memory_notes = [MemoryNote(**record) for record in data.get("memory", ())]
    state.peaks.load_state_dict(data.get("peaks", {}))
    state.lives = {record["plan"]["seed_id"]: _life(state, record) for record in data["lives"]}
    state.queue = [SeedDirective.FromString(content) for content in data["queue"]]
    state.done = set(data["done"])
    state.folded = dict(data["folded"])
    state.boundary_step, state.side_macs = data["boundary_step"], data["side_macs"]
    state.evaluation_macs = dict(data.get("evaluation_macs", {}))
    state.smoothed_loss, state.loss_standard_error = data["smoothed_loss"], data["loss_standard_error"]
    # Whoever holds lists of parameters from before must notice, also where the saved count is the present one.
    state.topology = max(state.topology, data["topology"])
    if is_alike:
        state.slots, state.topology = slots, state.topology + 1
    else:
        state.topology_changed()
    return [DirectiveReport.FromString(content) for content in data["reports"]]


def _is_alike(state: ExecutorState, data: Mapping[str, Any]) -> bool:
    """Whether the saved networks are the present ones in all but values: their slots and costs are known then.

    Measuring them passes each network forward and backward, which takes longer than to restore it.
    """
    plans = [_plan_record(life.plan) for life in state.lives.values()]
    return (
        bool(state.specs)
        and plans == [record["plan"] for record in data["lives"]]
        and _is_arm_alike(state.arm, data["arm"], data["arm_seeds"])
        and _is_arm_alike(state.twin, data["twin"], data["twin_seeds"])
    )


def _is_arm_alike(
    arm: TrainingArm | None, wanted: Mapping[str, Any] | None, seeds: Sequence[Mapping[str, Any]]
) -> bool:
    if arm is None or wanted is None:
        return arm is None and wanted is None
    return (
        [[run.path, run.start, run.stop] for run in arm.stacks] == [list(run) for run in wanted["stacks"]]
        and [(_plan_record(graft.plan), graft.is_muted) for graft in arm.grafts]
        == [(record["plan"], record.get("is_muted", False)) for record in seeds]
        and _shapes(arm.model.state_dict()) == _shapes(wanted["model"])
    )


def _shapes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in tensors.items()}


def _restore_arms(state: ExecutorState, data: Mapping[str, Any]) -> None:
    """Both arms, the twin first: where it makes its steps in bursts there may be no room for the two at once."""
    state.twin = state.bursts = state.twin_decision = None
    record = data["twin"]
    pace = data.get("pace") or {}
    wish, mode = state.config.twin, pace.get("mode", LIVE)
    mode = mode if wish == AUTO else wish
    state.steps_done = data.get("steps_done", data["boundary_step"])
    if record is not None:
        if mode == BURSTS:
            state.arm.optimizer.zero_grad(set_to_none=True)
        state.twin = state.arm.clone()
        _load_arm(state, state.twin, record, data["twin_seeds"])
        if mode == BURSTS:
            state.twin_macs = count_macs(state.twin, state.task.probe_inputs(), forward=state.task.forward)
            state.bursts = Bursts(state.arm, state.twin, pace.get("steps_made", state.steps_done))
        state.twin_decision = Decision(
            mode=mode,
            why=pace.get("why", ""),
            predicted_bytes=pace.get("predicted_bytes"),
            free_bytes=pace.get("free_bytes"),
        )
        state.other_bytes = pace.get("other_bytes", 0)
    state.twin_seed = pace.get("seed_id", "")
    _load_arm(state, state.arm, data["arm"], data["arm_seeds"])


def _load_arm(
    state: ExecutorState, arm: TrainingArm, data: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> None:
    def regraft(reshaped: TrainingArm) -> list[Graft]:
        if not records:
            return []
        trace = trace_forward(reshaped.model, state.task.probe_inputs(), forward=state.task.forward)
        state.slots = {slot.slot_id: slot for slot in refreshed(list(state.slots.values()), trace)}
        return [_graft(state, reshaped, record) for record in records]

    arm.load_state_dict(data, regraft)


def _graft_record(graft: Graft) -> dict[str, Any]:
    return {
        "plan": _plan_record(graft.plan),
        "blend": graft.blend.config.SerializeToString(deterministic=True),
        "start_step": graft.blend.start_step,
        "alpha": graft.alpha,
        "is_isolated": graft.is_isolated,
        "is_muted": graft.is_muted,
        "rms": None if graft.rms is None else [part.clone() for part in graft.rms],
    }


def _graft(state: ExecutorState, arm: TrainingArm, record: Mapping[str, Any]) -> Graft:
    plan = _plan(record["plan"])
    blend = Blend(config=BlendConfig.FromString(record["blend"]), start_step=record["start_step"])
    graft = Graft(plan, state.slot(plan.slot_id), _module(state, arm, plan), blend, is_isolated=record["is_isolated"])
    graft.set_alpha(record["alpha"])
    graft.is_muted = record.get("is_muted", False)
    graft.rms = None if record["rms"] is None else (record["rms"][0], record["rms"][1])
    return graft


def _module(state: ExecutorState, arm: TrainingArm, plan: SeedPlan) -> torch.nn.Module:
    if plan.factory in STACK_FACTORIES:
        return torch.nn.Module()
    slot, seed = state.slot(plan.slot_id), plan.initialization_seed
    own, values = state.config.factories, dict(plan.parameters)
    return build_seed(arm.model, slot, plan.factory, values, initialization_seed=seed, own=own)


def _plan_record(plan: SeedPlan) -> dict[str, Any]:
    return {**asdict(plan), "parameters": [list(pair) for pair in plan.parameters]}


def _plan(record: Mapping[str, Any]) -> SeedPlan:
    parameters = tuple((str(name), float(value)) for name, value in record["parameters"])
    return SeedPlan(**{**record, "parameters": parameters})


def _life_record(state: ExecutorState, life: Life) -> dict[str, Any]:
    is_grafted = state.arm.graft(life.plan.seed_id) is not None
    return {
        "plan": _plan_record(life.plan),
        "module": None if is_grafted else dict(life.module.state_dict()),
        "statistics": life.statistics.state_dict(),
        "incubation": None if life.incubation is None else life.incubation.state_dict(),
        "evidence": [
            None if part is None else part.SerializeToString(deterministic=True)
            for part in (life.evidence.probe, life.evidence.judgement, life.evidence.incubation_score)
        ],
        "evaluations": [part.SerializeToString(deterministic=True) for part in life.evidence.evaluations],
        "run": None if life.run is None else list(astuple(life.run)),
        "loss_at_graft": life.loss_at_graft,
        "leaks": life.leaks,
        "fade": None if life.fade is None else life.fade.SerializeToString(deterministic=True),
        "fade_end_step": life.fade_end_step,
        "is_permanent": life.is_permanent,
        "was_schedule_done": life.was_schedule_done,
        "paused_step": life.paused_step,
    }


def _life(state: ExecutorState, record: Mapping[str, Any]) -> Life:
    plan = _plan(record["plan"])
    graft = state.arm.graft(plan.seed_id)
    module = _module(state, state.arm, plan) if graft is None else graft.module
    if record["module"] is not None:
        module.load_state_dict(record["module"])
    probe, judgement, score = record["evidence"]
    life = Life(
        plan=plan,
        module=module,
        evidence=Evidence(
            probe=_message(ProbeResult, probe),
            judgement=_message(JudgeResult, judgement),
            incubation_score=_message(PairedScore, score),
            evaluations=[StackEvaluation.FromString(content) for content in record["evaluations"]],
        ),
        run=None if record["run"] is None else Run(*record["run"]),
        loss_at_graft=record["loss_at_graft"],
        leaks=record["leaks"],
        fade=_message(SeedDirective, record["fade"]),
        fade_end_step=record["fade_end_step"],
        is_permanent=record["is_permanent"],
        was_schedule_done=record["was_schedule_done"],
        paused_step=record.get("paused_step"),
    )
    life.statistics.load_state_dict(record["statistics"])
    if (incubation := record["incubation"]) is not None:
        shadow = shadow_graft(plan, state.slot(plan.slot_id), module, incubation["start_step"])
        steps = incubation["duration_steps"]
        teacher = state.teacher if incubation.get("distils") else None
        if incubation.get("distils") and teacher is None:
            raise ConfigError("teacher", None, f"seed {plan.seed_id} learns from one: give the same --teacher again")
        life.incubation = Incubation(
            shadow, state.arm.optimizer, state.arm.model, duration_steps=steps, teacher=teacher
        )
        life.incubation.load_state_dict(incubation)
    return life


def _message(kind: type[M], content: bytes | None) -> M | None:
    if content is None:
        return None
    message = kind()
    message.ParseFromString(content)
    return message
