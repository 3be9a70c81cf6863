"""What two arms need is told before the graft, close to what a grown network then takes; and what follows from it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.kasmina.executor.memory.footprint import (
    Held,
    StepBytes,
    calibrated,
    evaluation_bytes,
    held_by,
    held_by_blocks,
    held_by_seed,
    step_bytes,
)
from esper.kasmina.executor.memory.forecast import BURSTS, LIVE, REFUSED, Forecast, combine, decide, foresee
from esper.kasmina.executor.memory.free import Free
from esper.kasmina.executor.memory.meter import Meter
from esper.kasmina.executor.memory.parked import bytes_of, tensors
from esper.kasmina.executor.memory.peaks import Peaks
from tests.unit.kasmina.executor.conftest import TokenTask, Transformer
from tests.unit.kasmina.executor.memory.test_peaks import FakeGauge

SAMPLES = 16


@pytest.fixture
def run(rig):
    made = rig("transformer")
    made.train(2)
    return made


def measured_step(run, arm):
    """Peak of a real pass over so many samples, gradients included."""
    inputs, targets = run.task.tokens[:SAMPLES, :-1], run.task.tokens[:SAMPLES, 1:]
    with Meter() as meter:
        outputs = arm.model(inputs)  # held, as in a step of the trainer
        loss = run.task.loss(outputs, targets)
        torch.autograd.grad(loss, list(arm.model.parameters()))
    return meter.peak_bytes


def test_a_step_of_few_samples_tells_that_of_many(run):
    found = step_bytes(run.arm, run.task, SAMPLES, key=1)
    assert found.samples == 6
    assert found.peak == pytest.approx(measured_step(run, run.arm), rel=0.02)


def test_of_a_step_the_part_that_does_not_grow_is_told_apart(run):
    some, many = (step_bytes(run.arm, run.task, samples, key=1) for samples in (SAMPLES, 2 * SAMPLES))
    assert some.fixed == many.fixed
    assert many.peak - many.fixed == 2 * (some.peak - some.fixed)
    assert 0 <= some.fixed < held_by(run.arm).gradients


def test_gradients_of_an_earlier_pass_are_there_all_along(run):
    gradients = held_by(run.arm).gradients
    once = step_bytes(run.arm, run.task, SAMPLES, key=1)
    again = step_bytes(run.arm, run.task, SAMPLES, key=1, kept=gradients)
    assert again.fixed >= gradients
    assert once.peak < again.peak <= once.peak + gradients


def test_an_evaluation_counts_at_its_peak_and_so_does_the_probe_batch(run):
    size, samples = evaluation_bytes(run.arm, run.task, key=1)
    assert samples == len(next(iter(run.task.judge_batches()))[0]) + len(run.task.probe_inputs())
    with run.arm.measured(1), Meter() as meter:
        run.arm.model(run.task.probe_inputs())
    assert size >= meter.peak_bytes


@pytest.mark.parametrize(
    ("measured", "factor", "peak", "block"),
    [(None, 1.0, 1000, 100), (550, 0.5, 550, 50), (1900, 2.0, 1900, 200), (120, 0.5, 550, 50), (9100, 4.0, 9100, 400)],
)
def test_a_measured_step_sets_activations_right_within_bounds(measured, factor, peak, block):
    step, found = calibrated(StepBytes(peak=1000, fixed=100, block=100), measured)
    assert (found, step.peak, step.block) == (factor, peak, block)


def test_where_activations_are_the_smaller_part_the_difference_is_no_factor():
    heavy = StepBytes(peak=1000, fixed=900, block=20)
    assert calibrated(heavy, 1300) == (replace(heavy, peak=1300), 1.0)
    assert calibrated(heavy, 500) == (heavy, 1.0)


def foreseen(run, measured, **settings):
    blocks = tuple(run.arm.model.blocks)
    return foresee(
        run.arm,
        run.task,
        added=held_by_blocks(run.arm, blocks),
        samples=SAMPLES,
        key=1,
        blocks=blocks,
        precision=nullcontext,
        measured_step=measured,
        **settings,
    )


def test_what_a_step_of_the_run_took_is_what_the_grown_network_is_foreseen_by(run):
    bare = foreseen(run, None)
    assert bare.figures()["calibrated_by"] == "nothing: no step of this network was measured"
    assert (bare.factor, bare.measured_step) == (1.0, None)
    found = foreseen(run, 2 * bare.foreseen_step)
    assert "as its allocator counted them" in str(found.figures()["calibrated_by"])
    assert found.factor > 1.9
    assert found.measured_step == 2 * bare.foreseen_step
    assert found.block == int(found.factor * bare.block)
    assert found.alone > 1.5 * bare.alone
    rows = foreseen(run, 2 * bare.foreseen_step + 3 * held_by(run.arm).gradients, gradient_rows=3)
    assert rows.factor == found.factor


def test_the_first_steps_of_a_run_set_its_forecast_right_and_those_of_another_network_do_not(rig):
    run = rig("transformer")
    gauge = FakeGauge(10**6)
    peaks = run.executor._state.peaks = Peaks(gauge)

    def steps(count, size):
        for _ in range(count):
            with run.executor.watched_step():
                run.train(1)
                gauge.use(size)

    steps(4, 10**7)
    expected = 10**7 + bytes_of(p.grad for p in run.arm.model.parameters())
    (note,) = run.stack().memory
    assert note.figures["measured_step_bytes"] == expected
    assert note.figures["factor"] > 1.0
    # The grown network has made no step yet.
    assert peaks.step_bytes(run.executor.topology) is None


def test_a_step_of_very_few_samples_is_measured_as_it_is(run):
    assert step_bytes(run.arm, run.task, 3, key=1).samples == 3


def test_measuring_leaves_no_trace(run, rig):
    before = [tensor.detach().clone() for tensor in tensors(run.arm)]
    step_bytes(run.arm, run.task, SAMPLES, key=1, block=run.arm.model.blocks[-1])
    assert all(torch.equal(a, b) for a, b in zip(tensors(run.arm), before, strict=True))
    assert not run.arm.model.blocks[-1]._forward_hooks


def test_what_an_arm_holds_is_weights_gradients_and_optimiser(run):
    held = held_by(run.arm)
    assert held.total == bytes_of(tensors(run.arm))
    assert held.gradients == sum(p.nbytes for p in run.arm.model.parameters())
    blocks = held_by_blocks(run.arm, list(run.arm.model.blocks))
    assert 0 < blocks.optimizer < held.optimizer
    seed = held_by_seed(run.arm, nn.Linear(8, 8))
    assert seed.optimizer == pytest.approx(2 * seed.gradients, rel=0.05)


def test_both_arms_are_foreseen_within_a_tenth(run):
    blocks = tuple(run.arm.model.blocks)
    forecast = foresee(
        run.arm,
        run.task,
        added=held_by_blocks(run.arm, blocks),
        samples=SAMPLES,
        key=1,
        blocks=blocks,
        precision=nullcontext,
    )
    twin = held_by(run.arm)
    run.stack()
    grown = held_by(run.arm)
    alone = grown.parked + measured_step(run, run.arm)
    live = max(alone + twin.total, grown.total + twin.parked + measured_step(run, run.executor.twin))
    # An allocator's slack included.
    assert forecast.alone == pytest.approx(1.05 * alone, rel=0.1)
    assert forecast.live == pytest.approx(1.05 * live, rel=0.1)
    assert forecast.alone < forecast.live
    assert forecast.waiting == grown.total + twin.parked


def test_captured_graphs_and_rows_of_gradients_are_held_by_both_arms():
    twin, grown = Held(weights=100, gradients=100, optimizer=200), Held(weights=200, gradients=200, optimizer=400)
    settings = {"step": StepBytes(peak=1000), "added_gradients": 100, "blocks": 2, "judged": (10, 1)}
    bare = combine(twin, grown, rows=0, graphs=0, **settings)
    rows = combine(twin, grown, rows=4, graphs=0, **settings)
    graphs = combine(twin, grown, rows=0, graphs=1000, **settings)
    assert bare.live == int(1.05 * (600 + 400 + 1100))
    assert rows.live == int(1.05 * (600 + 400 + 1100 + 400 + 800))
    assert graphs.live == int(1.05 * (600 + 400 + 1100 + 1000 + 2000))


FORECAST = Forecast(live=100, bursts=60, waiting=30, alone=50, now=20, passed_samples=6, judged_samples=1)
SMALL, LARGE = Free(10, "a small host"), Free(30, "a large host")


@pytest.mark.parametrize(
    ("wish", "free", "host", "mode", "words"),
    [
        ("auto", 80, LARGE, LIVE, "both arms need 0.00 MiB"),
        ("auto", 79, LARGE, BURSTS, "one at a time"),
        ("auto", 79, SMALL, REFUSED, "of host memory"),
        ("auto", 39, LARGE, REFUSED, "one at a time"),
        ("auto", 29, LARGE, REFUSED, "the grown network alone needs"),
        ("auto", 79, None, BURSTS, "one at a time"),
        ("auto", 69, None, REFUSED, "give a smaller --batch-size"),
        ("live", 79, LARGE, REFUSED, "give --twin auto"),
        ("live", 80, LARGE, LIVE, "as --twin live asks"),
        ("bursts", 999, LARGE, BURSTS, "as --twin bursts asks"),
        ("bursts", 39, LARGE, REFUSED, "one at a time"),
    ],
)
def test_what_fits_decides(wish, free, host, mode, words):
    found = decide(wish, FORECAST, Free(free, "the driver"), host)
    assert found.mode == mode
    assert words in found.why
    assert "the driver" in found.why
    assert "\n" not in found.why
    assert found.free_bytes == free + 20
    assert found.predicted_bytes == {LIVE: 100, BURSTS: 60, REFUSED: 50}[mode]


def test_what_to_do_depends_on_what_needs_the_most():
    free = Free(29, "the driver")
    assert "give a smaller --batch-size" in decide("auto", FORECAST, free, LARGE).why
    judged = replace(FORECAST, is_of_judging=True)
    assert "judging passes up to 512 samples at once" in decide("auto", judged, free, LARGE).why


def test_where_nobody_knows_what_is_free_a_twin_is_tried():
    found = decide("auto", FORECAST, Free(None, "no meminfo"), None)
    assert (found.mode, found.free_bytes) == (LIVE, None)
    assert "no meminfo" in found.why


def test_a_host_that_cannot_be_measured_gets_its_twin(rig_of):
    class Shy(Transformer):
        """Doesn't bear to be watched."""

        def forward(self, tokens):
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None and self.training:
                raise RuntimeError("I am watched")
            return super().forward(tokens)

    run = rig_of(Shy(), TokenTask())
    run.train(2)
    (note,) = run.stack().memory
    assert note.mode == LIVE
    assert "nothing could be predicted" in note.why
    assert "I am watched" in note.why
