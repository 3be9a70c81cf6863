"""Opening a run: which slots it may use, from which state it starts, what is delivered to it again.

A run opens new, or resumes from a checkpoint's state under a higher generation; what its ledger holds beyond that
state is replayed; of a course that the trainer gives up, only what operators ordered. The same opening twice, as
after a lost answer, is one opening.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from esper.core.errors import ContractError, LifecycleConflict
from esper.core.growth import no_growth
from esper.core.messages.validation import violations
from esper.core.security.tokens import new_run_token, token_digest
from esper.kasmina.control.ledger import command_rows, database
from esper.kasmina.control.ledger.command_rows import CommandRow
from esper.kasmina.control.ledger.database import RunRow
from esper.leyline import (
    KasminaRunSpec,
    KasminaRunState,
    KasminaServiceOpenRunResponse,
    RefusedSlot,
    ReplayedCommand,
    RunStateBlob,
    SignedCommand,
    SlotSpec,
)
from esper.urza.catalog import Catalog, misfit

STATE_TYPE = KasminaRunState.DESCRIPTOR.full_name


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotChoice:
    """Slots that seeds may use, and the others with the reason."""

    accepted: tuple[SlotSpec, ...]
    refused: tuple[RefusedSlot, ...]


def open_run(
    connection: sqlite3.Connection, spec: KasminaRunSpec, envelope: SignedCommand, catalog: Catalog
) -> KasminaServiceOpenRunResponse:
    """Open or resume; the answer holds the only copy of the token. Raises the error tree."""
    catalog = catalog.with_own(spec.own_blueprints)
    choice = choose_slots(spec, catalog)
    require_blueprints(spec, choice, catalog)
    state = _first_state(connection, spec)
    _require_generation(database.run_by_id(connection, spec.training_run_id), spec, choice)
    token = new_run_token()
    if spec.HasField("resume") and spec.gives_up_course:
        state.applied_seq = command_rows.give_up_course(
            connection, spec.training_run_id, envelope, applied_seq=state.applied_seq, step=state.step
        )
    elif spec.HasField("resume"):
        command_rows.rewind(connection, spec.training_run_id, applied_seq=state.applied_seq, step=state.step)
    else:
        command_rows.abandon_due(connection, spec.training_run_id)
    database.put_run(connection, token_digest(token), _kept(spec, choice), state)
    due = command_rows.all_due_commands(connection, spec.training_run_id)
    return KasminaServiceOpenRunResponse(
        run_token=token,
        accepted_slots=[slot.slot_id for slot in choice.accepted],
        refused_slots=choice.refused,
        replay=[_replayed(row) for row in due],
        seeds=[record.state for record in state.seeds],
        growth=state.growth,
    )


def choose_slots(spec: KasminaRunSpec, catalog: Catalog) -> SlotChoice:
    """Refuse slots that no seed could ever use; none left is an error that lists them all."""
    accepted: list[SlotSpec] = []
    refused: list[RefusedSlot] = []
    for slot in spec.manifest.slots:
        problem = _slot_problem(slot, {known.slot_id for known in accepted}, catalog)
        if problem is None:
            accepted.append(slot)
        else:
            refused.append(RefusedSlot(slot_id=slot.slot_id, reason=problem))
    if not accepted:
        problems = [f"slot {slot.slot_id!r}: {slot.reason}" for slot in refused]
        raise ContractError("HostManifest", problems or ["it has no slot"])
    return SlotChoice(accepted=tuple(accepted), refused=tuple(refused))


def require_blueprints(spec: KasminaRunSpec, choice: SlotChoice, catalog: Catalog) -> None:
    """Every blueprint that the user named is in this catalogue and fits an accepted slot, or the run isn't opened."""
    for blueprint_id in spec.named_blueprint_ids:
        blueprint = catalog.get(blueprint_id)
        misfits = [misfit(blueprint, slot, spec.manifest.task) for slot in choice.accepted]
        if all(misfits):
            raise ContractError("KasminaRunSpec.named_blueprint_ids", [problem for problem in misfits if problem])


def _slot_problem(slot: SlotSpec, known: set[str], catalog: Catalog) -> str | None:
    if slot.slot_id in known:
        return "its id is used twice"
    if not any(not blueprint.is_control for blueprint in catalog.for_slot(slot.kind)):
        return "no blueprint fits its kind"
    sizes = ("in_features", "out_features", "width", "read_positions", "write_positions", "read_kernel", "write_kernel")
    empty = [name for name in sizes if getattr(slot, name) == 0]
    return f"{', '.join(empty)} must not be zero" if empty else None


def _first_state(connection: sqlite3.Connection, spec: KasminaRunSpec) -> KasminaRunState:
    if spec.HasField("resume"):
        state = read_state(spec.resume, spec.training_run_id)
        state.generation = spec.generation
        return state
    return KasminaRunState(
        training_run_id=spec.training_run_id,
        generation=spec.generation,
        step=0,
        applied_seq=command_rows.last_seq(connection),
        growth=no_growth(),
        directives_issued=0,
    )


def state_blob(state: KasminaRunState) -> RunStateBlob:
    """The state as a checkpoint keeps it."""
    content = state.SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).hexdigest()
    return RunStateBlob(state_type=STATE_TYPE, state=content, digest=digest, step=state.step)


def read_state(blob: RunStateBlob, run_id: str) -> KasminaRunState:
    """The state in a checkpoint's blob. Raises ContractError unless it is whole and this run's."""
    if blob.state_type != STATE_TYPE:
        raise ContractError("RunStateBlob", [f"state_type is {blob.state_type!r}, expected {STATE_TYPE!r}"])
    if hashlib.sha256(blob.state).hexdigest() != blob.digest:
        raise ContractError("RunStateBlob", ["the digest doesn't match the state; the checkpoint is damaged"])
    try:
        state = KasminaRunState.FromString(blob.state)
    except DecodeError as error:
        raise ContractError("RunStateBlob", [f"the state doesn't parse: {error}"]) from error
    problems = violations(state)
    if state.training_run_id != run_id:
        problems.append(f"it is the state of run {state.training_run_id!r}, this is {run_id!r}")
    if problems:
        raise ContractError("RunStateBlob", problems)
    return state


def _require_generation(row: RunRow | None, spec: KasminaRunSpec, choice: SlotChoice) -> None:
    """Generations rise. The same one again is a retry, as long as nothing has happened since."""
    if row is None or spec.generation > row.state.generation:
        return
    is_untouched = row.answer_step is None and row.is_open
    if spec.generation == row.state.generation and is_untouched and _kept(spec, choice) == row.spec:
        return
    known = row.state.generation
    detail = (
        f"run {spec.training_run_id} is known here at generation {known}, this opens generation {spec.generation}; "
        "resume that run from its own directory (--resume), or give another one a name of its own (--run-id)"
    )
    raise LifecycleConflict(detail)


def _kept(spec: KasminaRunSpec, choice: SlotChoice) -> KasminaRunSpec:
    """The spec as the run keeps it: accepted slots only."""
    kept = KasminaRunSpec()
    kept.CopyFrom(spec)
    del kept.manifest.slots[:]
    kept.manifest.slots.extend(choice.accepted)
    return kept


def _replayed(row: CommandRow) -> ReplayedCommand:
    return ReplayedCommand(
        command_id=row.command_id,
        decision_step=row.decision_step,
        delivery_step=max(row.decision_step, row.delivery_step or 0),
        issued_by=row.issued_by,
    )
