from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper.core.errors import CorruptRecord, DependencyViolationError, StorageError
from esper.leyline import (
    FieldReport,
    FieldReportDelta,
    FieldReportOutcome,
    Observation,
    PolicyUpdateRejection,
)
from esper.tamiyo.deciding.decide import decide
from esper.tamiyo.growing.survey import survey
from esper.tamiyo.learned.adoption import Adoption
from esper.tamiyo.learned.policies import Policies
from esper.tamiyo.learned.standing import HEURISTIC, Shelf
from esper.tamiyo.learned.weights import digest_of
from esper.tamiyo.policy import HeuristicPolicy
from esper.tamiyo.update import Refusal
from tests.unit.tamiyo.builders import ALWAYS, CATALOG, context, first_state, look_up, packet, spec
from tests.unit.tamiyo.learned.weighing import content, update, view

GOOD, BETTER = content(constant=0.1), content("1.2.0", constant=0.2)


@dataclass(kw_only=True)
class Service:
    """One life of what keeps learned policies, over a directory."""

    path: Path
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policies = Policies(Shelf(self.path), explore=0.0)
        self.adoption = Adoption(
            self.policies,
            shadow_decisions=2,
            rollback_after=4,
            tell=lambda spec, attributes: self.told.append((spec.name, dict(attributes))),
        )

    @property
    def version(self) -> str:
        return self.policies.live.version

    def swap_in(self, weights: bytes, version: str, update_id: str) -> None:
        assert self.adoption.take(update(weights, version, update_id)) is None
        for _ in range(2):
            self.adoption.beside(view(packet(500)))

    def outcomes(self, digest: str, effects: list[float], *, prefix: str = "r") -> None:
        reports = [report(f"{prefix}{i}", effect) for i, effect in enumerate(effects)]
        self.adoption.learned_from(digest, reports)


def report(report_id: str, effect: float) -> FieldReport:
    """A judged germination: its effect on a score of 1, and a judgement that cost half a run."""
    kept = effect > 0
    outcomes = FieldReportOutcome.FIELD_REPORT_OUTCOME_SUCCESS, FieldReportOutcome.FIELD_REPORT_OUTCOME_REGRESSION
    delta = FieldReportDelta(effect=effect, gain=effect, twin_score=1.0, judgement_macs=50, run_macs=100)
    return FieldReport(
        report_id=report_id, outcome=outcomes[not kept], delta=delta, observation=Observation(version="growth:v1")
    )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    return Service(path=tmp_path / "policies")


def name(refusal: Refusal | None) -> str:
    assert refusal is not None
    return PolicyUpdateRejection.Name(refusal.reason).removeprefix("POLICY_UPDATE_REJECTION_")


def test_new_weights_are_tried_in_the_shadow_and_then_in_force(service: Service) -> None:
    assert service.adoption.take(update(GOOD)) is None
    service.adoption.beside(view(packet(500)))
    assert service.version == "1.0.0", "one decision in the shadow is not enough"
    service.adoption.beside(view(packet(1400)))
    assert service.version == "1.0.0", "no decision was to be made: it is too late to grow"
    service.adoption.beside(view(packet(510)))
    assert service.version == "1.1.0"
    assert [event for event, _ in service.told] == ["policy_shadowed", "policy_swapped"]
    assert service.told[-1][1]["agreed"] == 2


def test_a_decision_to_grow_is_seen_from_the_shadow_as_it_was_before_it_was_made(service: Service) -> None:
    def surveyed(state, given, run):  # type: ignore[no-untyped-def]
        return survey(state, given, run, CATALOG)

    service.adoption.take(update(GOOD))
    state, run = first_state(spec(ALWAYS)), context(spec(ALWAYS))
    verdict = decide(run, state, packet(500), policy=HeuristicPolicy(), select=look_up, survey=surveyed)
    assert verdict.issues
    service.adoption.beside(verdict.view)
    trial = service.policies.shelf.standing.trial
    assert trial is not None
    assert (trial.decisions, trial.agreed) == (1, 1)


def test_a_restart_finds_the_trial_and_then_the_policy_that_was_swapped_in(service: Service) -> None:
    service.adoption.take(update(GOOD))
    service.adoption.beside(view(packet(500)))
    second = Service(path=service.path)
    second.adoption.beside(view(packet(510)))
    assert second.version == "1.1.0"
    assert Service(path=service.path).version == "1.1.0"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weights_digest": "0" * 64}, "DIGEST_MISMATCH"),
        ({"policy_id": "gnn"}, "UNKNOWN_POLICY"),
        ({"version": "1.0.5"}, "UNKNOWN_POLICY"),
        ({"weights": b"junk", "weights_digest": digest_of(b"junk")}, "INVALID_WEIGHTS"),
    ],
)
def test_an_update_that_does_not_hold_is_refused_and_remembered(
    service: Service, changes: dict[str, object], expected: str
) -> None:
    assert name(service.adoption.take(update(GOOD, **changes))) == expected
    assert service.version == "1.0.0"
    assert service.told[-1][0] == "policy_update_rejected"
    assert name(service.adoption.take(update(GOOD))) == "REPLAYED", "that id was decided on"


def test_an_older_version_and_one_that_was_rolled_back_do_not_come_again(service: Service) -> None:
    service.swap_in(BETTER, "1.2.0", "u2")
    assert name(service.adoption.take(update(GOOD, update_id="u3"))) == "STALE_VERSION"
    service.outcomes(digest_of(BETTER), [-0.0] * 4)
    assert service.version == "1.0.0"
    assert name(service.adoption.take(update(BETTER, "1.2.0", "u4"))) == "STALE_VERSION"


def test_weights_whose_decisions_are_worth_less_than_nothing_are_rolled_back_by_themselves(service: Service) -> None:
    service.swap_in(GOOD, "1.1.0", "u1")
    service.outcomes(digest_of(GOOD), [0.0, 0.0, 0.0])
    assert service.version == "1.1.0", "three outcomes are too few"
    service.outcomes(digest_of(GOOD), [0.0], prefix="s")
    assert service.version == "1.0.0"
    event, attributes = service.told[-1]
    assert event == "policy_rolled_back"
    assert "growing nothing is worth 0" in str(attributes["reason"])
    assert Service(path=service.path).version == "1.0.0"


def test_weights_that_do_worse_than_those_before_them_are_rolled_back_to_those(service: Service) -> None:
    service.swap_in(GOOD, "1.1.0", "u1")
    service.outcomes(digest_of(GOOD), [0.5, 0.52, 0.51, 0.5])
    service.swap_in(BETTER, "1.2.0", "u2")
    service.outcomes(digest_of(BETTER), [0.2, 0.21, 0.2, 0.22], prefix="s")
    assert service.version == "1.1.0"
    assert "those before it 0.458" in str(service.told[-1][1]["reason"])


def test_weights_that_do_as_well_stay_and_a_report_counts_once(service: Service) -> None:
    service.swap_in(GOOD, "1.1.0", "u1")
    for _ in range(3):
        service.outcomes(digest_of(GOOD), [0.3, 0.2])
    record = service.adoption.record(digest_of(GOOD))
    assert record is not None
    assert record.count == 2
    assert service.version == "1.1.0"


def test_the_heuristic_is_never_rolled_back(service: Service) -> None:
    service.outcomes(HEURISTIC, [0.0] * 9)
    assert service.version == "1.0.0"


def test_a_run_whose_weights_are_not_here_is_told_so(service: Service) -> None:
    with pytest.raises(DependencyViolationError, match="policy weights"):
        service.policies.of("0" * 64)


def test_damage_on_the_disk_is_told_and_not_decided_by(service: Service) -> None:
    service.swap_in(GOOD, "1.1.0", "u1")
    path = service.path / f"{digest_of(GOOD)}.safetensors"
    path.write_bytes(BETTER)
    with pytest.raises(CorruptRecord, match="damaged"):
        Service(path=service.path).policies.live  # noqa: B018
    (service.path / "standing.json").write_text("{")
    with pytest.raises(CorruptRecord, match="put a copy back"):
        Shelf(service.path)
    (service.path / "standing.json").unlink()
    (service.path / "standing.json").mkdir()
    with pytest.raises(StorageError, match="Is a directory; put a copy back"):
        Shelf(service.path)
    with pytest.raises(StorageError, match="is a file, no folder"):
        Shelf(path)
