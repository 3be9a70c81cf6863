from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.core.clock import ManualClock
from esper.core.errors import ConfigError
from esper.core.security.keys import Keyring
from esper.leyline import FieldReport, FieldReportOutcome
from esper.simic import replay
from esper.simic.bounds import MIB, Bounds
from esper.simic.replay import ReplayStore
from tests.unit.simic.making import KEYRING, envelope, report, reports


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[ReplayStore]:
    opened = ReplayStore(tmp_path / "replay.db", clock)
    yield opened
    opened.close()


def test_a_report_is_kept_once_however_often_it_comes(store: ReplayStore, clock: ManualClock) -> None:
    for _ in range(3):
        store.take(envelope(report(1), clock), KEYRING)
    assert len(store) == 1
    assert (store.intake.taken, store.intake.repeated, store.intake.refused) == (1, 2, 0)
    assert list(store.reports()) == [report(1)]
    assert store.versions() == {"growth:v1": 1}


def test_what_was_kept_is_there_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    first = ReplayStore(tmp_path / "replay.db", clock)
    first.take(envelope(report(1), clock), KEYRING)
    first.close()
    second = ReplayStore(tmp_path / "replay.db", clock)
    second.take(envelope(report(1), clock), KEYRING)
    assert (len(second), second.intake.repeated) == (1, 1)
    second.close()


def test_another_report_under_a_known_id_is_refused(store: ReplayStore, clock: ManualClock) -> None:
    other = report(2)
    other.report_id = report(1).report_id
    for each in (report(1), other):
        store.take(envelope(each, clock), KEYRING)
    assert list(store.reports()) == [report(1)]
    assert "another report is kept under the id" in store.refusals()[0][1]


def test_a_forged_report_and_one_that_is_cut_are_refused(store: ReplayStore, clock: ManualClock) -> None:
    forged = Keyring.from_secret("another secret that is long enough 0123456789")
    store.take(envelope(report(1), clock, keyring=forged), KEYRING)
    damaged = envelope(report(2), clock)
    damaged.payload = damaged.payload[:40]
    store.take(damaged, KEYRING)
    assert len(store) == 0
    assert [reason.partition(":")[0] for _, reason in store.refusals()] == ["unsound", "unsound"]


def poisoned(change: Callable[[FieldReport], None]) -> FieldReport:
    made = report(1)
    change(made)
    return made


def _set(path: str, value: float) -> Callable[[FieldReport], None]:
    def change(made: FieldReport) -> None:
        *places, name = path.split(".")
        target = made
        for place in places:
            target = getattr(target, place)
        setattr(target, name, value)

    return change


def _candidate_chance(made: FieldReport) -> None:
    made.observation.candidates[0].probability = 0.9


def _swapped_names(made: FieldReport) -> None:
    made.observation.features[0].name, made.observation.features[1].name = "room", "progress"


def _wild_feature(made: FieldReport) -> None:
    made.observation.candidates[0].features[0].value = 1e12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("delta.gain", float("nan")), "gain"),
        (_set("delta.gain_standard_error", -1.0), "gain_standard_error"),
        (_set("delta.effect", 5.0), "its outcome leaves"),
        (_set("delta.twin_score", 1e-4), "beyond belief"),
        (_set("decision.policy.log_probability", -0.1), "its logarithm is told as"),
        (_set("observation.wait_probability", 0.1), "add up to"),
        (_set("observation.chosen", 9), "candidate 9 of 4"),
        (_candidate_chance, "add up to"),
        (_swapped_names, "the run's features are room, progress"),
        (_wild_feature, "beyond 1e+06"),
        (_set("outcome", FieldReportOutcome.FIELD_REPORT_OUTCOME_UNSPECIFIED), "still open"),
    ],
)
def test_a_poisoned_report_is_refused_with_its_reason_and_the_rest_is_kept(
    store: ReplayStore, clock: ManualClock, change: Callable[[FieldReport], None], words: str
) -> None:
    store.take(envelope(poisoned(change), clock), KEYRING)
    store.take(envelope(report(2), clock), KEYRING)
    assert list(store.reports()) == [report(2)]
    assert words in store.refusals()[0][1]


SMALL = Bounds(max_reports=400)


def test_of_a_full_store_whole_runs_give_way_those_that_ended_first(tmp_path: Path, clock: ManualClock) -> None:
    store = ReplayStore(tmp_path / "replay.db", clock, SMALL)
    given = reports(403, per_run=10)
    for each in (*given[300:], *given[:300]):  # what comes first isn't what ended first
        store.put(each, event_id=each.report_id)
        assert len(store) <= 400
    ended = [each.training_run_id for each in store.reports()]
    assert (store.intake.dropped, store.intake.dropped_runs, store.intake.refused) == (50, 5, 0)
    assert set(ended) == {f"r{run}" for run in range(5, 41)}
    assert min(ended.count(run) for run in set(ended) - {"r40"}) == 10
    store.close()
    again = ReplayStore(tmp_path / "replay.db", clock, SMALL)
    assert again._held == (len(ended), sum(len(each.SerializeToString()) for each in again.reports()))
    again.close()


def test_a_store_is_bounded_by_bytes_too(tmp_path: Path, clock: ManualClock) -> None:
    store = ReplayStore(tmp_path / "replay.db", clock, Bounds(max_bytes=MIB))
    for each in reports(1500):
        store.put(each, event_id=each.report_id)
    held = sum(len(each.SerializeToString()) for each in store.reports())
    assert 0.8 * MIB < held <= MIB
    assert len(store) + store.intake.dropped == 1500
    store.close()


def test_the_newest_runs_stay_as_many_as_the_gate_asks_for(tmp_path: Path, clock: ManualClock) -> None:
    store = ReplayStore(tmp_path / "replay.db", clock, SMALL)
    for each in reports(450, per_run=45):
        store.put(each, event_id=each.report_id)
    assert (len(store), store.intake.dropped, store.intake.refused) == (400, 0, 50)
    assert "the newest 10 runs, which stay, fill the store: 400 reports and 1,024 MiB at most" in store.refusals()[0][1]
    store.close()


def test_refusals_are_bounded_too(store: ReplayStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_FORGET_REFUSALS", replay._FORGET_REFUSALS.replace("10000", "3"))
    other = report(2)
    other.report_id = report(1).report_id
    store.put(report(1), event_id="first")
    for number in range(6):
        clock.advance(1.0)
        store.put(other, event_id=f"e{number}")
    assert [event_id for event_id, _ in store.refusals()] == ["e3", "e4", "e5"]


@pytest.mark.parametrize("given", [{"max_reports": 399}, {"max_bytes": MIB - 1}])
def test_bounds_that_would_starve_the_gate_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="the gate asks for that much"):
        Bounds(**given)
