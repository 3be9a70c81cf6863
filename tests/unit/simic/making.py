"""Field reports as Tamiyo writes them, of a world in which widening narrow layers is worth it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from esper.core.clock import ManualClock
from esper.core.security.keys import Keyring
from esper.leyline import (
    BusEnvelope,
    BusLane,
    CoverageGroup,
    CoverageSummary,
    DecisionMetadata,
    DecisionReason,
    FieldReport,
    FieldReportDelta,
    FieldReportOutcome,
    MessagePriority,
    Observation,
    ObservedCandidate,
    ObservedFeature,
    PolicyMetadata,
    PolicySignal,
)
from esper.oona.envelope import seal
from esper.tamiyo.learned.observation import CANDIDATE_FEATURES, RUN_FEATURES, VERSION

SECRET = "a secret that is long enough for tests 0123456789"
KEYRING = Keyring.from_secret(SECRET)
SUCCESS = FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS
REGRESSION = FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION
World = Callable[[dict[str, float], dict[str, float], random.Random], float]


def narrow_pays(run: dict[str, float], taken: dict[str, float], draw: random.Random) -> float:
    """Gain, as a share of the score: much where a narrow layer is widened, nothing in a host that fits its data."""
    return 0.3 * taken["widening"] * (taken["bottleneck"] < 0) * (run["error"] > -4) + draw.gauss(0, 0.02)


def report(
    number: int,
    *,
    run: int = 0,
    candidates: int = 4,
    world: World = narrow_pays,
    shift: float = 0.0,
    version: str = VERSION,
) -> FieldReport:
    """One of many: everything about it follows from its number."""
    draw = random.Random(f"report {number}")
    seen = {name: draw.uniform(-1, 1) + shift for name in RUN_FEATURES} | {"error": draw.uniform(-7, 0) + shift}
    offered = [_candidate(draw, shift) for _ in range(candidates)]
    wait, chosen = 0.8, draw.randrange(candidates)
    chance = (1.0 - wait) / candidates
    gain = world(seen, offered[chosen], draw)
    kept = gain > 0.03
    made = FieldReport(
        report_id=f"fr-r{run}-g1-c{number}",
        command_id=f"r{run}-g1-c{number}",
        training_run_id=f"r{run}",
        generation=1,
        seed_id="s1",
        slot_id=f"slot{chosen}",
        blueprint_id="span.linear",
        opened_step=100,
        closed_step=300,
        outcome=SUCCESS if kept else REGRESSION,
        decision=DecisionMetadata(
            policy=PolicyMetadata(
                policy_id="heuristic",
                version="1.0.0",
                action="germinate",
                log_probability=math.log(chance),
                observation_digest="0" * 64,
                signals=[PolicySignal(id=1, value=0.5)],
            ),
            coverage=CoverageSummary(
                average=1.0, groups=[CoverageGroup(group="loss", present=1, expected=1)], provenance="packet:v1"
            ),
            reasons=[DecisionReason.DECISION_REASON_EXPLORED],
            conservative=False,
        ),
        delta=FieldReportDelta(
            risk_score=0.0,
            steps=200,
            gain=gain,
            gain_standard_error=0.01,
            twin_score=1.0,
            effect=gain if kept else 0.0,
            judgement_macs=30,
            run_macs=100,
        ),
        observation=Observation(
            version=version,
            features=_named(seen),
            candidates=[
                ObservedCandidate(
                    slot_id=f"slot{place}",
                    blueprint_id="span.linear",
                    score=1.0,
                    probability=chance,
                    features=_named(each),
                )
                for place, each in enumerate(offered)
            ],
            chosen=chosen,
            wait_probability=wait,
        ),
    )
    made.opened_at.FromSeconds(1_760_000_000 + number)
    made.closed_at.FromSeconds(1_760_000_100 + number)
    return made


def reports(count: int, *, per_run: int = 3, world: World = narrow_pays, shift: float = 0.0) -> Sequence[FieldReport]:
    return [report(number, run=number // per_run, world=world, shift=shift) for number in range(count)]


def envelope(made: FieldReport, clock: ManualClock, *, keyring: Keyring = KEYRING) -> BusEnvelope:
    return seal(
        keyring,
        clock,
        made,
        source="tamiyo",
        lane=BusLane.BUS_LANE_NORMAL,
        priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
        event_id=made.report_id,
    )


def _candidate(draw: random.Random, shift: float) -> dict[str, float]:
    found = {name: draw.uniform(-1, 1) + shift for name in CANDIDATE_FEATURES}
    return found | {"widening": draw.choice((0.2, 0.7, 1.6)) + shift}


def _named(values: dict[str, float]) -> list[ObservedFeature]:
    return [ObservedFeature(name=name, value=value) for name, value in values.items()]
