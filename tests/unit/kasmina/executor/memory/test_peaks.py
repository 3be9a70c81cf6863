"""Peaks are of training alone, and a step's is of the network that made it, in this process."""

from __future__ import annotations

import pytest

from esper.kasmina.executor.memory.peaks import FIRST_STEP, STEPS, Peaks

GRADIENTS = 10


class FakeGauge:
    """An allocator that holds 100 bytes between steps, 10 of them gradients."""

    def __init__(self, held: int = 100) -> None:
        self.held = self.highest = held

    def allocated(self) -> int:
        return self.held

    def peak(self) -> int:
        return self.highest

    def reset(self) -> None:
        self.highest = self.held

    def use(self, size: int) -> None:
        """Takes so much beside what is held, and gives it back."""
        self.highest = max(self.highest, self.held + size)


def step(peaks: Peaks, gauge: FakeGauge, size: int, topology: int = 1) -> None:
    with peaks.of_step(topology, lambda: GRADIENTS):
        gauge.use(size)


def test_a_step_is_what_it_adds_to_all_that_stays_gradients_of_the_last_one_left_out():
    gauge = FakeGauge()
    peaks = Peaks(gauge)
    for size in (900, 800, 50, 70, 60, 40, 700):
        step(peaks, gauge, size)
    assert FIRST_STEP == 2
    assert STEPS == 4
    assert peaks.step_bytes(1) == 70 + GRADIENTS
    assert peaks.end_phase(has_twin=False) == 100 + 900


def test_nothing_is_known_before_a_step_was_measured_nor_of_another_network():
    gauge = FakeGauge()
    peaks = Peaks(gauge)
    assert peaks.step_bytes(1) is None
    for _ in range(FIRST_STEP):
        step(peaks, gauge, 50)
        assert peaks.step_bytes(1) is None
    step(peaks, gauge, 50)
    assert peaks.step_bytes(1) == 60
    assert peaks.step_bytes(2) is None
    step(peaks, gauge, 500, topology=2)
    assert peaks.step_bytes(1) is peaks.step_bytes(2) is None


def test_what_trials_and_evaluations_took_is_no_step_and_trials_are_no_training():
    gauge = FakeGauge()
    peaks = Peaks(gauge)
    gauge.use(5000)  # a trial on copies
    peaks.begin()
    for _ in range(3):
        step(peaks, gauge, 50)
        gauge.use(900)  # an evaluation
    assert peaks.step_bytes(1) == 60
    assert peaks.end_phase(has_twin=False) == 100 + 900
    gauge.use(300)
    peaks.end_phase(has_twin=True)
    assert (peaks.without_twin, peaks.with_twin) == (1000, 400)


def test_after_a_twin_a_phase_begins_with_the_first_step():
    gauge = FakeGauge()
    peaks = Peaks(gauge)
    gauge.held = gauge.highest = 5000
    assert peaks.end_phase(has_twin=True) == 5000
    peaks.end_phase(has_twin=False)  # no step was made
    assert peaks.without_twin is None
    peaks.end_phase(has_twin=True)
    gauge.held = 100  # the other arm is freed after its phase
    step(peaks, gauge, 50)
    peaks.end_phase(has_twin=False)
    assert peaks.without_twin == 150


def test_a_step_that_fails_measures_nothing_and_hides_no_peak():
    gauge = FakeGauge()
    peaks = Peaks(gauge)
    for _ in range(FIRST_STEP):
        step(peaks, gauge, 50)

    def failing() -> None:
        with peaks.of_step(1, lambda: GRADIENTS):
            gauge.use(2000)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert peaks.step_bytes(1) is None
    assert peaks.end_phase(has_twin=False) == 2100


def test_a_state_that_is_put_back_brings_peaks_but_no_step_and_forgets_the_one_that_was_known():
    gauge = FakeGauge()
    before, peaks = Peaks(FakeGauge()), Peaks(gauge)
    before.without_twin = 7000
    for _ in range(3):
        step(peaks, gauge, 50)
    peaks.load_state_dict(before.state_dict())
    assert peaks.without_twin == 7000
    assert peaks.step_bytes(1) is None
    for _ in range(FIRST_STEP + 1):
        step(peaks, gauge, 80)
    assert peaks.step_bytes(1) == 90


def test_where_nobody_counts_nothing_is_known_and_that_is_said():
    peaks = Peaks(None)
    peaks.begin()
    with peaks.of_step(1, lambda: GRADIENTS):
        pass
    assert peaks.end_phase(has_twin=False) is peaks.step_bytes(1) is None
    assert "on the CPU" in (peaks.unmeasured or "")
