"""What an answer must have in common with what was asked, and with the run: its ids, its slots, its seeds.

Each message is valid in itself when it comes here; a function names every way in which it doesn't fit. Whoever
breaks a rule is refused as a whole, because half an answer would leave trainer and service of two minds.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from esper.core.errors import InvalidAnswer
from esper.core.messages.field_rules import RUN_WIDE_DIRECTIVES
from esper.leyline import (
    AdaptationCommand,
    AdvanceRequest,
    AdvanceResponse,
    CommandOutcome,
    Decision,
    DirectiveKind,
    GrowthState,
    HostManifest,
    KasminaRunState,
    KasminaServiceOpenRunResponse,
    RunStateBlob,
    SeedDirective,
    SeedState,
    SignedCommand,
    SubmitOutcomeResponse,
    SystemStatePacket,
    TamiyoRunState,
    TamiyoServiceCloseRunResponse,
    TamiyoServiceOpenRunResponse,
)

STATE_TYPES = {
    "kasmina": KasminaRunState.DESCRIPTOR.full_name,
    "tamiyo": TamiyoRunState.DESCRIPTOR.full_name,
}
COMMAND_TYPE = AdaptationCommand.DESCRIPTOR.full_name
MAX_TOLD = 8
REPORT = "fr-"
_TOKEN = re.compile(r"[0-9A-Za-z_-]{43}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class RunFacts:
    """What the trainer knows of a run: directives about anything else are not this run's."""

    slots: frozenset[str]
    seeds: set[str] = field(default_factory=set)
    """Every seed that the run ever had, as far as Kasmina told."""


def require(kind: str, found: Iterable[str]) -> None:
    """Raise InvalidAnswer if a rule was broken."""
    broken = list(found)
    if broken:
        raise InvalidAnswer(kind, broken if len(broken) <= MAX_TOLD else [*broken[:MAX_TOLD], "and more"])


def decision_violations(decision: Decision, packet: SystemStatePacket, replayed: Collection[str] = ()) -> Iterator[str]:
    """A decision answers the packet, names the commands that it holds, each once, and repeats none but `replayed`."""
    yield from _differing("packet_index", decision.packet_index, packet.packet_index)
    yield from _differing("generation", decision.generation, packet.generation)
    ids, commands = decision.command_ids, decision.commands
    if len(ids) != len(commands):
        yield f"it names {len(ids)} commands and holds {len(commands)}"
    # A policy has one verdict for each seed, or one seed to germinate.
    most = len(packet.seeds) + 1
    if len(commands) > most:
        yield f"it holds {len(commands)} commands; with {len(packet.seeds)} seeds there can be {most}"
    yield from _repeated("command", [*ids, *decision.replayed_command_ids])
    for command_id in decision.replayed_command_ids:
        if command_id not in replayed:
            yield f"it says that command {command_id!r} is replayed; Kasmina replays {_listed(replayed)}"
    for command_id, envelope in zip(ids, commands, strict=False):
        yield from _envelope_violations(command_id, envelope, packet)


def outcome_violations(outcome: CommandOutcome, command_id: str, facts: RunFacts) -> Iterator[str]:
    """An outcome is that of the command, and orders nothing of slots and seeds that the run doesn't have."""
    yield from _differing("command_id", outcome.command_id, command_id)
    yield from directive_violations(outcome.directives, facts)


def advance_violations(answer: AdvanceResponse, request: AdvanceRequest, facts: RunFacts) -> Iterator[str]:
    """An answer to Advance is of this generation and step, and speaks of the run's own seeds."""
    yield from _differing("generation", answer.generation, request.generation)
    yield from _differing("step", answer.step, request.step)
    yield from _repeated("seed", [seed.seed_id for seed in answer.seeds])
    for seed in answer.seeds:
        if seed.slot_id not in facts.slots:
            yield f"seed {seed.seed_id!r} is in slot {seed.slot_id!r}, which this run doesn't have"
    yield from directive_violations(all_directives(answer), facts, {seed.seed_id for seed in answer.seeds})


def directive_violations(
    directives: Sequence[SeedDirective], facts: RunFacts, told: Collection[str] = ()
) -> Iterator[str]:
    """A directive is about a slot of the run, and about a seed that it had, is told of, or builds."""
    built = {d.seed_id for d in directives if d.kind == DirectiveKind.DIRECTIVE_KIND_BUILD}
    known = {*facts.seeds, *told, *built}
    for directive in directives:
        if directive.slot_id and directive.slot_id not in facts.slots:
            yield f"directive {directive.directive_id!r} is about slot {directive.slot_id!r}; the run has no such slot"
        if directive.kind not in RUN_WIDE_DIRECTIVES and directive.seed_id not in known:
            yield f"directive {directive.directive_id!r} is about seed {directive.seed_id!r}; the run has no such seed"


def all_directives(answer: AdvanceResponse) -> list[SeedDirective]:
    """Those of the answer itself and of the outcomes that it delivers."""
    return [*answer.directives, *(d for outcome in answer.outcomes for d in outcome.directives)]


def state_violations(service: str, blob: RunStateBlob) -> Iterator[str]:
    """A state for a checkpoint is that service's, and whole: a damaged one would be noticed only at the resume."""
    yield from _differing("state_type", blob.state_type, STATE_TYPES[service])
    if hashlib.sha256(blob.state).hexdigest() != blob.digest:
        yield "the digest doesn't match the state"


def kasmina_opening_violations(opened: KasminaServiceOpenRunResponse, manifest: HostManifest) -> Iterator[str]:
    """Kasmina judged the slots that it was told of, each once; its token can be sent."""
    yield from _token_violations(opened.run_token)
    judged = [*opened.accepted_slots, *(slot.slot_id for slot in opened.refused_slots)]
    told = sorted(slot.slot_id for slot in manifest.slots)
    if sorted(judged) != told:
        yield f"it judged the slots {', '.join(sorted(judged)) or 'none'}; it was told of {', '.join(told)}"
    yield from _repeated("replayed command", [row.command_id for row in opened.replay])
    yield from counter_violations(opened.seeds, opened.growth)


def tamiyo_opening_violations(opened: TamiyoServiceOpenRunResponse) -> Iterator[str]:
    """A token that can be sent, and a digest that pins the policy."""
    yield from _token_violations(opened.run_token)
    if not _DIGEST.fullmatch(opened.policy_digest):
        yield f"policy_digest is {opened.policy_digest[:80]!r}, expected a SHA-256 in lower-case hex"


def _envelope_violations(command_id: str, envelope: SignedCommand, packet: SystemStatePacket) -> Iterator[str]:
    """What is relayed is a command for this run's Kasmina under that id; its signature is Kasmina's to judge."""
    yield from _differing("audience", envelope.audience, f"kasmina/{packet.training_run_id}")
    yield from _differing("payload_type", envelope.payload_type, COMMAND_TYPE)
    try:
        inside = AdaptationCommand.FromString(envelope.payload).command_id
    except DecodeError:
        yield f"command {command_id!r} doesn't parse"
    else:
        yield from _differing("the command's own id", inside, command_id)


def report_violations(answer: SubmitOutcomeResponse) -> Iterator[str]:
    """Closed reports are each that of one command."""
    yield from _repeated("closed report", answer.closed_report_ids)
    for report_id in answer.closed_report_ids:
        if not report_id.removeprefix(REPORT) or not report_id.startswith(REPORT):
            yield f"closed report {report_id!r} is that of no command"


def closing_violations(answer: TamiyoServiceCloseRunResponse, closed: Collection[str]) -> Iterator[str]:
    """No report that was closed is lost at the end."""
    if answer.reports < len(closed):
        yield f"it has {answer.reports} reports of the run, {len(closed)} of them were closed while it ran"


def counter_violations(seeds: Sequence[SeedState], growth: GrowthState) -> Iterator[str]:
    """Every seed that is told of was germinated."""
    if len(seeds) > growth.germinated:
        yield f"it tells of {len(seeds)} seeds and counts {growth.germinated} as germinated"


def _token_violations(token: str) -> Iterator[str]:
    if not _TOKEN.fullmatch(token):
        yield f"run_token has {len(token)} characters, expected 43 of [0-9A-Za-z_-]"


def _listed(ids: Collection[str]) -> str:
    return ", ".join(sorted(ids)) or "none"


def _differing(name: str, got: object, expected: object) -> Iterator[str]:
    if got != expected:
        yield f"{name} is {got!r}, expected {expected!r}"


def _repeated(what: str, ids: Sequence[str]) -> Iterator[str]:
    yield from (f"{what} {id_!r} stands there {count} times" for id_, count in Counter(ids).items() if count > 1)
