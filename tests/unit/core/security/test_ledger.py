from __future__ import annotations

import sqlite3

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper.core.clock import NS_PER_S, ManualClock, duration, nanoseconds, timestamp
from esper.core.errors import CommandRejected, FutureCommand, NonceReplayed, StaleCommand
from esper.core.security.ledger import NonceLedger
from esper.core.security.signing import MAX_AHEAD_NS, MAX_FRESHNESS_NS
from esper.leyline import CommandSecurity

HOUR_S = 3600


class Plant:
    """A ledger in a database that outlives it, and a clock."""

    def __init__(self, max_entries: int = 10_000) -> None:
        self.clock = ManualClock()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.max_entries = max_entries
        self.restart()
        self.clock.advance(1)

    def restart(self) -> None:
        self.ledger = NonceLedger(self.clock, self.max_entries)
        self.ledger.create(self.connection)

    def register(self, security: CommandSecurity) -> None:
        """As a store does it: what is refused leaves no trace."""
        self.connection.execute("BEGIN")
        try:
            self.ledger.register(self.connection, security)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def issue(self, nonce: str, *, window_s: float = 60, ahead_s: float = 0) -> CommandSecurity:
        return CommandSecurity(
            nonce=nonce,
            key_id="k1",
            issued_at=timestamp(self.clock.now_ns() + round(ahead_s * NS_PER_S)),
            freshness_window=duration(window_s),
        )


@pytest.fixture
def plant() -> object:
    plant = Plant()
    yield plant
    plant.connection.close()


def test_a_nonce_is_accepted_once(plant: Plant) -> None:
    security = plant.issue("n1")
    plant.register(security)
    with pytest.raises(NonceReplayed, match="used before"):
        plant.register(security)
    plant.register(plant.issue("n2"))


def test_the_same_nonce_under_another_key_is_another_nonce(plant: Plant) -> None:
    plant.register(plant.issue("n1"))
    other = plant.issue("n1")
    other.key_id = "k2"
    plant.register(other)


def test_a_nonce_is_still_known_after_a_restart(plant: Plant) -> None:
    security = plant.issue("n1")
    plant.register(security)
    plant.restart()
    with pytest.raises(NonceReplayed):
        plant.register(security)


def test_a_ledger_that_was_lost_accepts_nothing_from_before(plant: Plant) -> None:
    security = plant.issue("n1")
    plant.connection.close()
    plant.clock.advance(1)
    plant.connection = sqlite3.connect(":memory:", isolation_level=None)
    plant.restart()
    with pytest.raises(NonceReplayed, match="fence"):
        plant.register(security)


@pytest.mark.parametrize("step_s", [-HOUR_S, -30, 30, HOUR_S])
def test_a_clock_step_does_not_let_a_nonce_in_again(plant: Plant, step_s: int) -> None:
    security = plant.issue("n1")
    plant.register(security)
    plant.clock.set(plant.clock.now_ns() + step_s * NS_PER_S)
    with pytest.raises(CommandRejected):
        plant.register(security)


def test_a_nonce_swept_before_the_clock_stepped_back_does_not_come_back(plant: Plant) -> None:
    security = plant.issue("n1")
    plant.register(security)
    plant.clock.advance(61)
    plant.register(plant.issue("n2"))
    assert plant.ledger.stats(plant.connection).size == 1
    plant.clock.set(plant.clock.now_ns() - 30 * NS_PER_S)
    plant.restart()
    with pytest.raises(StaleCommand):
        plant.register(security)


def test_a_jump_of_more_than_an_hour_ahead_is_not_believed(plant: Plant) -> None:
    right = plant.clock.now_ns()
    plant.clock.set(right + HOUR_S * NS_PER_S + 10 * NS_PER_S)
    with pytest.raises(FutureCommand):
        plant.register(plant.issue("from the future"))
    plant.clock.set(right)
    plant.register(plant.issue("from now"))


def test_a_jump_within_the_hour_is_believed_for_good(plant: Plant) -> None:
    before = plant.issue("n1")
    plant.clock.set(plant.clock.now_ns() + HOUR_S * NS_PER_S)
    plant.register(plant.issue("n2"))
    plant.clock.set(nanoseconds(before.issued_at))
    with pytest.raises(StaleCommand):
        plant.register(before)


def test_a_pause_between_two_commands_is_no_jump(plant: Plant) -> None:
    plant.register(plant.issue("n1"))
    plant.clock.advance(3 * HOUR_S)
    plant.register(plant.issue("n2"))


def test_a_weekend_between_two_starts_is_no_jump(plant: Plant) -> None:
    plant.clock.advance(60 * HOUR_S)
    plant.restart()
    plant.register(plant.issue("n1"))


def test_an_operator_can_make_the_ledger_believe_a_corrected_clock(plant: Plant) -> None:
    plant.clock.set(plant.clock.now_ns() + 24 * HOUR_S * NS_PER_S)
    plant.restart()
    from_the_wrong_time = plant.issue("wrong clock")
    plant.register(from_the_wrong_time)
    plant.clock.set(plant.clock.now_ns() - 24 * HOUR_S * NS_PER_S)
    early = plant.issue("early")
    with pytest.raises(StaleCommand):
        plant.register(early)
    plant.ledger.reset_clock(plant.connection)
    with pytest.raises(NonceReplayed, match="fence"):
        plant.register(early)
    plant.clock.advance(0.001)
    plant.register(plant.issue("right clock"))
    with pytest.raises(NonceReplayed, match="used before"):
        plant.register(from_the_wrong_time)


def test_a_ledger_made_under_a_wrong_clock_recovers_by_the_operators_reset() -> None:
    plant = Plant()
    plant.clock.set(plant.clock.now_ns() - 24 * HOUR_S * NS_PER_S)
    with pytest.raises(NonceReplayed, match="fence"):
        plant.register(plant.issue("n1"))
    plant.ledger.reset_clock(plant.connection)
    plant.clock.advance(0.001)
    plant.register(plant.issue("n2"))
    plant.connection.close()


def test_a_full_ledger_evicts_the_oldest_and_never_lets_it_in_again() -> None:
    plant = Plant(max_entries=3)
    issued = []
    for n in range(5):
        plant.clock.advance(1)
        issued.append(plant.issue(f"n{n}"))
        plant.register(issued[-1])
    stats = plant.ledger.stats(plant.connection)
    assert (stats.size, stats.evictions) == (3, 2)
    assert stats.fence_ns == nanoseconds(issued[1].issued_at)
    for security in issued:
        with pytest.raises(NonceReplayed):
            plant.register(security)
    plant.connection.close()


def test_a_full_ledger_refuses_what_is_older_than_all_that_it_holds() -> None:
    plant = Plant(max_entries=2)
    old = plant.issue("old")
    plant.clock.advance(1)
    for n in range(2):
        plant.register(plant.issue(f"n{n}"))
    with pytest.raises(NonceReplayed, match="full"):
        plant.register(old)
    assert plant.ledger.stats(plant.connection).size == 2
    plant.connection.close()


def test_a_fence_never_falls(plant: Plant) -> None:
    fence = plant.clock.now_ns() + 10
    plant.ledger.raise_fence(plant.connection, fence)
    plant.ledger.raise_fence(plant.connection, fence - 5)
    assert plant.ledger.stats(plant.connection).fence_ns == fence


def test_what_expired_is_forgotten(plant: Plant) -> None:
    for n in range(10):
        plant.register(plant.issue(f"n{n}", window_s=n + 1))
    plant.clock.advance(5.5)
    plant.register(plant.issue("last"))
    stats = plant.ledger.stats(plant.connection)
    counted = plant.connection.execute("SELECT count(*) FROM nonces").fetchone()[0]
    assert stats.size == counted == 6
    assert stats.evictions == 0


def test_a_ledger_needs_room_for_one_nonce() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        NonceLedger(ManualClock(), 0)


class LedgerMachine(RuleBasedStateMachine):
    """Whatever clocks, restarts and limits do, no nonce is ever accepted twice."""

    @initialize(max_entries=st.integers(1, 6))
    def start(self, max_entries: int) -> None:
        self.plant = Plant(max_entries)
        self.issued: list[CommandSecurity] = []
        self.accepted: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "plant"):
            self.plant.connection.close()

    @rule(window_s=st.sampled_from([0.5, 30, 120, 1000]), ahead_s=st.floats(-130, 6))
    def issue(self, window_s: float, ahead_s: float) -> None:
        self.issued.append(self.plant.issue(f"n{len(self.issued)}", window_s=window_s, ahead_s=ahead_s))

    @rule(data=st.data())
    def present(self, data: st.DataObject) -> None:
        if not self.issued:
            return
        security = data.draw(st.sampled_from(self.issued))
        try:
            self.plant.register(security)
        except CommandRejected:
            return
        assert security.nonce not in self.accepted, "a nonce was accepted twice"
        self.accepted.add(security.nonce)

    @rule(seconds=st.sampled_from([0.001, 1, 20, 119, 121, 4000]))
    def let_time_pass(self, seconds: float) -> None:
        self.plant.clock.advance(seconds)

    @rule(seconds=st.sampled_from([-7200, -3600, -100, -3, 3, 100, 3600, 7200]))
    def step_the_clock(self, seconds: int) -> None:
        self.plant.clock.set(self.plant.clock.now_ns() + seconds * NS_PER_S)

    @rule()
    def restart(self) -> None:
        self.plant.restart()

    @invariant()
    def the_size_is_the_number_of_rows_and_within_the_limit(self) -> None:
        if hasattr(self, "plant"):
            size = self.plant.ledger.stats(self.plant.connection).size
            assert size == self.plant.connection.execute("SELECT count(*) FROM nonces").fetchone()[0]
            assert size <= self.plant.max_entries


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestLedgerMachine = LedgerMachine.TestCase


def test_a_nonce_is_kept_as_long_as_its_command_could_be_believed(plant: Plant) -> None:
    assert plant.ledger.stats(plant.connection).ttl_s == (MAX_FRESHNESS_NS + MAX_AHEAD_NS) / NS_PER_S
