"""events.jsonl: everything that happened in a run, one JSON object a line, written as it happens.

Boundaries alone wait for each other, a quarter of a second at most; whatever else happens takes them along.

Kinds: run (with what it was started with), network (layers, slots and where it can't grow; at the start and at each
change), boundary, twin (the losses of a twin's steps, one for each from `from_step` to `step`; null where it is no
number), evaluation (a stack and its twin on the judging data at one step), epoch (also with the growth reason's numbers
of then and how its gradients came together), gradient (a seed's share or conflicts are high), slow (boundaries are),
growth (why the run grows or waits, at each change), decision, command, directive, memory (how a twin makes its steps,
and why), transition, gate, snapshot (a boundary's state is kept in memory), checkpoint (one is on the disk, which may
be told a while later), finished, and the incidents that `reading.INCIDENTS` names. Every line has `time` (UTC), `kind`
and, where it has one, `step`.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.message import Message

from esper.core.enums import short_name
from esper.core.errors import UnwritableStorage
from esper.core.storage.file_lock import is_at
from esper.core.storage.files import named
from esper.leyline import (
    CommandOutcome,
    Decision,
    DecisionReason,
    DirectiveKind,
    DirectiveReport,
    GateEvidence,
    GateVerdict,
    RejectionReason,
    SeedGate,
    SeedStage,
    SelectionContext,
    StackEvaluation,
    StageTransition,
    TraceContext,
)
from esper.tolaria.record.figures.gradients import CONFLICT, HOOK, JUMP, Aggregation
from esper.tolaria.record.network import Network
from esper.tolaria.record.observer import (
    Boundary,
    CheckpointWritten,
    EpochDone,
    Notice,
    Observer,
    RunStarted,
    StepDone,
    TwinStep,
    named_means,
)

Fields = dict[str, Any]

# What happens all the time may stand in the file so much later; everything else is written at once.
LONGEST_WAIT_S = 1.0
# The W3C's traceparent, and the flag of a trace that is exported.
TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?P<id>[0-9a-f]{32})-[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})")
KEPT_FLAG = 1


STACK = (
    *("look", "evaluations", "graft_step", "margin", "gain", "standard_error", "document_error", "wander_error"),
    *("z", "z_threshold", "clipped_share", "gain_at_equal_flops"),
    *("forecast_grown", "forecast_twin", "forecast_twin_at_equal_flops"),
)
"""Figures of a stack's look."""
TOLD_CANDIDATES = 16


def present(message: Message, *names: str) -> Fields:
    """The named fields that are set."""
    return {name: getattr(message, name) for name in names if message.HasField(name)}


class EventLog(Observer):
    """Observer that appends to events.jsonl and counts commands for the summary."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._steps: list[StepDone] = []
        self._twin_steps: list[TwinStep] = []
        self._waiting: list[tuple[float, str, Fields]] = []
        self._written_s = 0.0
        self._reason: str | None = None

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with named(self._path), self._file:
            self._write_out()

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event."""
        self._add(kind, fields)
        self._write_out()

    def _add(self, kind: str, fields: Fields) -> None:
        self._waiting.append((time.time(), kind, fields))

    def _write_out(self) -> None:
        """Whole lines at once: each write hands the interpreter to other threads, and a kill may cut it short."""
        waiting, self._waiting = self._waiting, []
        self._written_s = time.monotonic()
        if not is_at(self._file, self._path):
            remedy = "put it back, with its checkpoints, and give --resume, or start the run anew"
            raise UnwritableStorage(f"{self._path} was removed or replaced under the run: {remedy}")
        with named(self._path):
            self._file.write("".join(line(*event) for event in waiting))

    def _write_out_if_due(self) -> None:
        if time.monotonic() - self._written_s >= LONGEST_WAIT_S:
            self._write_out()

    def on_start(self, started: RunStarted) -> None:
        kind = "resumed" if started.is_resumed else "run"
        self.write(
            kind,
            name=f"generation {started.generation}",
            run_id=started.run_id,
            seed=started.seed,
            step=started.step,
            total_steps=started.total_steps,
            splits=dict(started.splits),
            parameters=started.parameters,
            task=started.task,
            **started.facts,
        )

    def on_network(self, network: Network) -> None:
        self.write("network", **network.as_fields())

    def on_steps(self, steps: Sequence[StepDone]) -> None:
        self._steps.extend(steps)

    def on_twin_steps(self, steps: Sequence[TwinStep]) -> None:
        self._twin_steps.extend(steps)

    def on_boundary(self, boundary: Boundary) -> None:
        steps, self._steps = self._steps, []
        if steps:
            self._add("boundary", boundary_fields(boundary, steps))
        self._twin(boundary)
        self._write_out_if_due()
        for report in boundary.collected.reports:
            self.write("directive", **directive_fields(report))
        for note in boundary.collected.memory:
            told = {"step": note.step, "seed_id": note.seed_id, "mode": note.mode, "why": note.why}
            self.write("memory", **told, **note.figures)
        if boundary.result is None:
            return
        self._growth(boundary)
        decision = boundary.result.decision
        if decision is not None and decision.command_ids:
            self.write("decision", step=boundary.step, **decision_fields(decision))
        for outcome in boundary.result.outcomes:
            self._command(boundary, outcome)
        for transition in boundary.result.transitions:
            self.write("transition", **transition_fields(transition))
        for gate in boundary.result.gates:
            self.write("gate", **gate_fields(gate))

    def _twin(self, boundary: Boundary) -> None:
        """What the boundary knows of the twin; it may have been a few steps behind, and is told with its own steps."""
        twin_steps, self._twin_steps = self._twin_steps, []
        for stretch in stretches(twin_steps):
            self._add("twin", twin_fields(stretch))
        for observation in boundary.collected.observations:
            for evaluation in observation.evaluations:
                self._add("evaluation", evaluation_fields(observation.seed_id, evaluation))

    def _growth(self, boundary: Boundary) -> None:
        before, reason = self._reason, boundary.reason
        self._reason = None if reason is None else reason.name
        if reason is not None and reason.name != before:
            self.write("growth", step=boundary.step, **reason.as_fields())

    def _command(self, boundary: Boundary, outcome: CommandOutcome) -> None:
        fields = outcome_fields(outcome)
        decision = boundary.result.decision if boundary.result else None
        if decision is not None and outcome.command_id in decision.command_ids:
            fields["action"] = decision.metadata.policy.action
            fields["reasons"] = [short_name(DecisionReason, reason) for reason in decision.metadata.reasons]
        self.write("command", step=boundary.step, **fields)

    def on_events(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            if notice.name == "tolaria.rollback":
                self._steps.clear()
                self._twin_steps.clear()
                self._reason = None  # what was written of it may be undone
            more = {**({"cause": notice.cause} if notice.cause else {}), **notice.facts}
            self.write(incident_kind(notice.name), step=notice.step, name=notice.name, detail=notice.message, **more)

    def on_epoch(self, done: EpochDone) -> None:
        fields: Fields = {
            "step": done.step,
            "epoch": done.epoch,
            "train_loss": done.train_loss,
            "train_accuracy": done.train_accuracy,
            "val_loss": done.validation_loss,
            "val_accuracy": done.validation_accuracy,
            "duration_s": done.duration_s,
        }
        if done.validation_metrics:
            fields["val_metrics"] = dict(done.validation_metrics)
        if done.reason is not None:
            fields["growth"] = done.reason.as_fields()
        if done.aggregation is not None:
            fields["gradients"] = aggregation_fields(done.aggregation)
        self._add("epoch", fields)
        self._write_out_if_due()

    def on_snapshot(self, step: int) -> None:
        self._add("snapshot", {"step": step})
        self._write_out_if_due()

    def on_checkpoint(self, written: CheckpointWritten) -> None:
        self.write("checkpoint", step=written.step, path=written.path.name, size_bytes=written.size_bytes)

    def on_finish(self, summary: Mapping[str, Any]) -> None:
        self.write("finished", step=summary.get("steps"), weights_digest=summary.get("weights_digest"))


def line(time_s: float, kind: str, fields: Fields) -> str:
    """An event as it stands in the file."""
    stamp = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": stamp, "kind": kind, **fields}, default=str) + "\n"


INCIDENT_WORDS = (
    *("timeout", "mode", "service", "fault", "rollback", "resumed", "stopped", "doubt", "compiled", "room", "started"),
    *("emergency", "breaker", "graph"),
)


MEASURED = {CONFLICT: "gradient", JUMP: "gradient", HOOK: "slow"}
"""What was measured of steps goes with them where a run goes back: it is no incident."""


def incident_kind(name: str) -> str:
    """The incident's kind from its registered name: tolaria.tamiyo_timeout -> timeout."""
    if name in MEASURED:
        return MEASURED[name]
    if name.startswith("tolaria.rollback."):  # of a restore that failed: nothing went back
        return "failure"
    return next((word for word in INCIDENT_WORDS if word in name), "failure")


def aggregation_fields(told: Aggregation) -> Fields:
    """How an epoch's gradients came together; what was not measured is left out."""
    known = {
        "conflicts": told.conflicts,
        "conflict_ratio": told.conflict_ratio,
        "teacher_share": told.teacher_share,
        "hook_ms": told.hook_ms,
    }
    fields: Fields = {name: value for name, value in known.items() if value is not None}
    if told.seeds:
        fields["seeds"] = [
            {
                **{name: value for name, value in asdict(seed.gradient).items() if value is not None},
                "blended": seed.gradient.blended._asdict(),
                "layers": dict(seed.gradient.layers),
                "stage": seed.stage,
                "share_delta": seed.share_delta,
            }
            for seed in told.seeds
        ]
    return fields


def boundary_fields(boundary: Boundary, steps: Sequence[StepDone]) -> Fields:
    """One boundary and the steps before it, in means."""
    count = len(steps)
    accuracies = [done.accuracy for done in steps if done.accuracy is not None]
    named = named_means(steps)
    return {
        "step": boundary.step,
        "epoch": boundary.epoch,
        **({"named": named} if named else {}),
        "loss": sum(done.loss for done in steps) / count,
        "smoothed_loss": boundary.packet.metrics.smoothed_loss,
        "accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "learning_rate": steps[-1].learning_rate,
        "training_macs": boundary.packet.metrics.training_macs,
        **({"macs": dict(boundary.macs)} if boundary.macs else {}),
        "mode": boundary.mode,
        **({} if boundary.plane.is_quiet else {"plane": boundary.plane.as_fields()}),
        "seeds": [
            {"seed_id": seed.seed_id, "stage": seed.stage, "alpha": seed.alpha, "slot_id": seed.slot_id}
            | ({"is_paused": True} if seed.is_paused else {})
            for seed in boundary.seeds
        ],
        "timings": {
            "step_ms": sum(done.step_ms for done in steps) / count,
            "packet_ms": boundary.hook_ms / count,
            "directives_ms": boundary.apply_ms / count,
            "wait_ms": boundary.wait_ms / count,
        },
    }


def stretches(steps: Sequence[TwinStep]) -> Iterator[list[TwinStep]]:
    """Steps of one twin that follow each other."""
    for _, stretch in groupby(enumerate(steps), key=lambda placed: (placed[1].seed_id, placed[1].step - placed[0])):
        yield [step for _, step in stretch]


def twin_fields(steps: Sequence[TwinStep]) -> Fields:
    """A stretch of a twin's steps."""
    losses = [done.loss if math.isfinite(done.loss) else None for done in steps]
    known = [loss for loss in losses if loss is not None]
    return {
        "step": steps[-1].step,
        "from_step": steps[0].step,
        "seed_id": steps[0].seed_id,
        "loss": sum(known) / len(known) if known else None,
        "losses": losses,
    }


def evaluation_fields(seed_id: str, evaluation: StackEvaluation) -> Fields:
    """Both arms at one step on the judging data; the error is that of the paired samples alone."""
    paired = evaluation.twin
    is_usable = paired.samples > 0 and paired.variance >= 0.0
    return {
        "step": evaluation.step,
        "seed_id": seed_id,
        "gain": paired.mean,
        "standard_error": math.sqrt(paired.variance / paired.samples) if is_usable else math.nan,
        "twin_score": evaluation.mean_twin_score,
        "grown_score": evaluation.mean_twin_score - paired.mean,
        "samples": paired.samples,
        "clipped_share": evaluation.clipped_share,
        "part": evaluation.part if evaluation.HasField("part") else None,
    }


def decision_fields(decision: Decision) -> Fields:
    """Why something was decided, what was known of the run, and what it was chosen from."""
    why = decision.metadata
    fields: Fields = {
        "commands": list(decision.command_ids),
        "reasons": [short_name(DecisionReason, reason) for reason in why.reasons],
        "detail": why.detail,
        **({"conservative": True} if why.conservative else {}),
        "coverage": {
            "share": why.coverage.average,
            "missing": [each.group for each in why.coverage.groups if each.present < each.expected],
            "inputs": why.coverage.provenance,
        },
    }
    if why.HasField("selection"):
        fields["selection"] = selection_fields(why.selection)
    return fields


def selection_fields(selection: SelectionContext) -> Fields:
    """What was chosen, and from what: the best of the candidates, those that were out with the reason."""
    ranked = sorted(selection.candidates, key=lambda each: (bool(each.excluded), -each.score))
    return {
        "slot_id": selection.slot_id,
        "blueprint_id": selection.blueprint_id,
        "candidates": len(ranked),
        "best": [
            {
                "slot_id": each.slot_id,
                "blueprint_id": each.blueprint_id,
                "score": each.score,
                "parameters": each.parameters,
                "forward_macs": each.forward_macs,
                **present(each, "excluded"),
            }
            for each in ranked[:TOLD_CANDIDATES]
        ],
    }


def outcome_fields(outcome: CommandOutcome) -> Fields:
    """What became of a command."""
    fields: Fields = {"command_id": outcome.command_id, "accepted": outcome.accepted}
    if not outcome.accepted:
        fields["rejection"] = short_name(RejectionReason, outcome.rejection)
    fields |= present(outcome, "detail", "ledger_seq", "issued_by")
    fields["directives"] = [short_name(DirectiveKind, directive.kind) for directive in outcome.directives]
    if rationale := rationale_of(outcome):
        fields["rationale"] = rationale
    if outcome.HasField("trace"):
        fields |= trace_fields(outcome.trace)
    return fields


def trace_fields(trace: TraceContext) -> Fields:
    """The id under which a trace that is kept can be looked up."""
    found = TRACEPARENT.fullmatch(trace.traceparent)
    return {"trace_id": found["id"]} if found and int(found["flags"], 16) & KEPT_FLAG else {}


def rationale_of(outcome: CommandOutcome) -> str:
    """Why an operator gave the order, as far as its directives say."""
    return "; ".join(dict.fromkeys(directive.rationale for directive in outcome.directives if directive.rationale))


def directive_fields(report: DirectiveReport) -> Fields:
    """What the executor did."""
    fields: Fields = {
        "seed_id": report.seed_id,
        "directive": short_name(DirectiveKind, report.kind),
        **present(report, "step", "succeeded", "max_logit_delta", "added_parameters", "added_forward_macs", "folded"),
    }
    if report.failure:
        fields["failure"] = report.failure
    return fields


def transition_fields(transition: StageTransition) -> Fields:
    """A move between stages."""
    return {
        "step": transition.step,
        "seed_id": transition.seed_id,
        "from_stage": short_name(SeedStage, transition.from_stage),
        "to_stage": short_name(SeedStage, transition.to_stage),
        "command_id": transition.command_id,
        "reason": transition.reason,
        **({"gate": short_name(SeedGate, transition.gate)} if transition.gate else {}),
    }


def gate_fields(gate: GateEvidence) -> Fields:
    """What a gate measured and said."""
    fields: Fields = {
        "step": gate.step,
        "seed_id": gate.seed_id,
        "gate": short_name(SeedGate, gate.gate),
        "verdict": short_name(GateVerdict, gate.verdict),
        "quantity": gate.quantity,
        "detail": gate.detail,
        **present(gate, "measured", "threshold", "standard_error", "samples", "documents"),
    }
    if gate.HasField("twin"):
        fields |= dict(_twin_fields(gate))
    if gate.HasField("stack"):
        fields |= present(gate.stack, *STACK)
    return fields


def _twin_fields(gate: GateEvidence) -> Iterator[tuple[str, Any]]:
    for name in ("look", "gain", "margin", "tau", "z", "z_threshold", "mean_twin_score", "samples", "variance"):
        yield name, getattr(gate.twin, name)
    twin = gate.twin
    # A judgement without usable scores is evidence too: that it failed.
    is_usable = twin.samples > 0 and twin.variance >= 0.0
    yield "standard_error", math.sqrt(twin.variance / twin.samples + twin.tau**2) if is_usable else math.nan
