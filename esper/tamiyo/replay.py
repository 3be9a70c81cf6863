"""Tamiyo's decisions in the decision ledger, and decided again from it.

The rules that decide have a version. Whoever changes what is decided on the same inputs, be it by a threshold, raises
it: `esper ledger replay` fails where a decision differs and the version doesn't say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from esper.core.decisions.decision_ledger import Decided
from esper.core.decisions.replayed import Outcome, Replayed
from esper.leyline import Decision, SignedCommand, SystemStatePacket, TamiyoRunSpec, TamiyoRunState
from esper.tamiyo.config import RiskLimits, TamiyoConfig, Thresholds
from esper.tamiyo.context import RunContext, context_of
from esper.tamiyo.deciding.decide import Verdict, decide
from esper.tamiyo.growing.survey import Offers
from esper.tamiyo.learned.exploring import ExploringPolicy
from esper.tamiyo.policy import HeuristicPolicy, Policy
from esper.urza.catalog import Catalog

DECISION_VERSION = 5
PACKET = "packet"
_POLICY = "policy"
_WAS_LATE = "was_late"
_SETTINGS = "settings"
_DEFAULT = TamiyoConfig()


def record(
    context: RunContext, before: TamiyoRunState, packet: SystemStatePacket, verdict: Verdict, *, was_late: bool
) -> Decided:
    """A verdict as the ledger keeps it."""
    return Decided(
        run_id=context.run_id,
        generation=context.spec.generation,
        step=packet.step,
        kind=PACKET,
        version=DECISION_VERSION,
        before=_bytes(before),
        given=_bytes(packet),
        decision=_bytes(decision_of(packet, verdict)),
        after=_bytes(verdict.state),
        circumstances={
            _POLICY: verdict.metadata.policy.policy_id,
            **({_WAS_LATE: True} if was_late else {}),
            **({_SETTINGS: changed} if (changed := own_settings(context.config)) else {}),
        },
    )


def replay(rows: Iterable[Decided]) -> Iterator[Replayed]:
    """Decide again what the ledger holds of policies that are built in; a learned one is decided by its weights."""
    policies: dict[str, Policy] = {HeuristicPolicy.policy_id: HeuristicPolicy()}
    catalog = Catalog.builtin()
    for row in rows:
        policy = policies.get(str(row.circumstances.get(_POLICY)))
        if policy is not None:
            yield _again(row, policy, catalog)


def decision_of(packet: SystemStatePacket, verdict: Verdict) -> Decision:
    """The decision without what depends on the moment: traces, latency, signatures."""
    return Decision(
        packet_index=packet.packet_index,
        generation=packet.generation,
        commands=[_unsigned(issue.command) for issue in verdict.issues if not issue.is_replayed],
        command_ids=[issue.command.command_id for issue in verdict.issues if not issue.is_replayed],
        metadata=verdict.metadata,
        replayed_command_ids=verdict.replayed_ids,
    )


def own_settings(config: TamiyoConfig) -> dict[str, Any]:
    """What an operator set otherwise than the defaults, which are the rules' own and so not recorded."""
    found: dict[str, Any] = {}
    for item in fields(config):
        value, default = getattr(config, item.name), getattr(_DEFAULT, item.name)
        if value != default:
            found[item.name] = _differing(value, default) if is_dataclass(value) else value
    return found


def _differing(value: Any, default: Any) -> dict[str, Any]:
    names = (item.name for item in fields(value))
    return {name: getattr(value, name) for name in names if getattr(value, name) != getattr(default, name)}


def with_settings(settings: Mapping[str, Any]) -> TamiyoConfig:
    """The settings of now, with what the operator had set."""
    default = TamiyoConfig()
    given = {name: _changed(getattr(default, name), value) for name, value in settings.items()}
    return replace(default, **given)


def _changed(default: Any, value: Any) -> Any:
    return replace(default, **value) if isinstance(default, Thresholds | RiskLimits) else value


def _again(row: Decided, policy: Policy, catalog: Catalog) -> Replayed:
    spec, before = TamiyoRunSpec.FromString(row.spec), TamiyoRunState.FromString(row.before)
    packet = SystemStatePacket.FromString(row.given)
    context = context_of(spec, before.trigger, with_settings(row.circumstances.get(_SETTINGS, {})))
    offers = Offers(context, catalog.with_own(spec.own_blueprints))
    explore = context.config.explore
    verdict = decide(
        context,
        before,
        packet,
        policy=ExploringPolicy(policy, explore) if explore else policy,
        select=lambda state, given, _: offers.select(state, given),
        survey=lambda state, given, _: offers.survey(state, given),
        was_late=bool(row.circumstances.get(_WAS_LATE)),
    )
    return Replayed(
        row=row,
        given=packet,
        recorded=Outcome(decision=Decision.FromString(row.decision), after=TamiyoRunState.FromString(row.after)),
        now=Outcome(decision=decision_of(packet, verdict), after=verdict.state),
        version=DECISION_VERSION,
    )


def _unsigned(command: Any) -> SignedCommand:
    bare = type(command)()
    bare.CopyFrom(command)
    bare.ClearField("trace")
    return SignedCommand(payload=_bytes(bare), payload_type=command.DESCRIPTOR.full_name)


def _bytes(message: Any) -> bytes:
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw
