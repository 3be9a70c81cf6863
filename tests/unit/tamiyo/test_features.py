from __future__ import annotations

import math

import pytest

from esper.leyline import HardwareContext, RunStateBlob, SeedStage, SlotKind, SystemStatePacket, TaskType
from esper.tamiyo.features import GROUPS, METRICS_FEATURES, coverage, digest, read
from tests.unit.tamiyo.builders import EVERY_STEPS, context, manifest, packet, seed_state, spec


def test_a_complete_packet_is_covered_completely() -> None:
    summary = coverage(read(packet(500), context()))
    assert summary.average == 1.0
    assert {group.group for group in summary.groups} == set(GROUPS) - {"seeds"}


def test_an_absent_input_is_counted_as_absent_in_its_group() -> None:
    given = packet(500)
    given.metrics.ClearField("gradient_norm")
    groups = {group.group: group for group in coverage(read(given, context())).groups}
    assert (groups["gradient"].present, groups["gradient"].expected) == (1, 2)
    assert groups["loss"].present == groups["loss"].expected


def test_a_packet_with_nothing_measured_is_hardly_covered() -> None:
    given = packet(500, slots=[], hardware=HardwareContext())
    given.metrics.Clear()
    assert coverage(read(given, context())).average == 0.0


def test_a_nan_is_no_reading() -> None:
    whole, broken = coverage(read(packet(500), context())), coverage(read(packet(500, loss=math.nan), context()))
    assert broken.average < whole.average


def test_what_cannot_exist_for_a_run_is_not_expected() -> None:
    host = manifest()
    host.task = TaskType.TASK_TYPE_REGRESSION
    given = packet(500)
    given.metrics.ClearField("training_accuracy")
    assert coverage(read(given, context(spec(manifest=host)))).average == 1.0
    assert coverage(read(given, context())).average < 1.0


@pytest.mark.parametrize(("device", "waits"), [("cpu", {"hardware.processor_wait"}), ("cuda", set())])
def test_memory_is_expected_of_each_device_and_a_wait_of_the_processor(device: str, waits: set[str]) -> None:
    readings = read(packet(500, hardware=HardwareContext(device_type=device, cpu_cores=2)), context())
    absent = {reading.name for reading in readings if reading.value is None}
    assert absent == {"hardware.memory_total_bytes", "hardware.memory_used_bytes"} | waits


def test_only_attached_seeds_are_expected_to_be_measured() -> None:
    attached = seed_state("s1", SeedStage.SEED_STAGE_SHADOWING)
    attached.ClearField("rms_ratio")
    new = seed_state("s3", SeedStage.SEED_STAGE_BLENDING)
    new.ClearField("rms_ratio")
    dead = seed_state("s2", SeedStage.SEED_STAGE_DORMANT)
    dead.ClearField("rms_ratio")
    given = packet(500, seeds=[attached, dead, new])
    names = {reading.name for reading in read(given, context()) if reading.value is None}
    assert names == {"seed s1.rms_ratio"}


def test_the_digest_ignores_measured_times_unless_they_may_decide() -> None:
    fast, slow = packet(500), packet(500)
    slow.metrics.step_latency_ms = 99.0
    run = context()
    assert digest(read(fast, run), with_measured=False) == digest(read(slow, run), with_measured=False)
    assert digest(read(fast, run), with_measured=True) != digest(read(slow, run), with_measured=True)


@pytest.mark.parametrize("feature", [feature for feature in METRICS_FEATURES if not feature.measured])
def test_the_digest_depends_on_every_deterministic_input(feature: object) -> None:
    name = feature.field  # type: ignore[attr-defined]
    plain, changed, absent = packet(500), packet(500), packet(500)
    setattr(changed.metrics, name, 1 + getattr(changed.metrics, name))
    absent.metrics.ClearField(name)
    run = context()
    digests = {digest(read(given, run), with_measured=False) for given in (plain, changed)}
    assert len(digests) == 2
    if plain.metrics.HasField(name):
        assert digest(read(absent, run), with_measured=False) not in digests


TIMES = [feature.field for feature in METRICS_FEATURES if feature.measured]


def as_the_trainer_sends_it(step: int) -> SystemStatePacket:
    """With every input that the trainer fills; before the first boundary it has measured no time."""
    given = packet(step)
    for name in TIMES if step <= EVERY_STEPS else ():
        given.metrics.ClearField(name)
    return given


def test_kasmina_is_not_asked_with_every_packet() -> None:
    given = as_the_trainer_sends_it(6 * EVERY_STEPS)
    given.metrics.ClearField("kasmina_latency_ms")
    assert coverage(read(given, context())).average == 1.0
    given.step += EVERY_STEPS
    assert coverage(read(given, context())).average < 1.0


def test_in_a_healthy_run_coverage_is_one_from_the_first_packet_on() -> None:
    for step in (EVERY_STEPS, 2 * EVERY_STEPS, 500):
        assert coverage(read(as_the_trainer_sends_it(step), context())).average == 1.0


def test_a_resumed_process_has_measured_nothing_yet_either() -> None:
    resumed = spec(resume=RunStateBlob(state_type="t", state=b"", digest="0" * 64, step=500))
    first = as_the_trainer_sends_it(EVERY_STEPS)
    first.step = 500 + EVERY_STEPS
    assert coverage(read(first, context(resumed))).average == 1.0
    first.step += EVERY_STEPS
    assert coverage(read(first, context(resumed))).average < 1.0


@pytest.mark.parametrize("name", TIMES)
def test_a_time_that_the_trainer_no_longer_sends_is_missing(name: str) -> None:
    given = as_the_trainer_sends_it(500)
    given.metrics.ClearField(name)
    assert coverage(read(given, context())).average < 1.0


def test_a_slot_without_layers_has_no_gradient_to_miss() -> None:
    host = manifest()
    host.slots.add().CopyFrom(host.slots[0])
    host.slots[-1].slot_id, host.slots[-1].kind = "residual:act1", SlotKind.SLOT_KIND_RESIDUAL_LINEAR
    run, given = context(spec(manifest=host)), packet(500)
    given.slots.add(slot_id="residual:act1", width=6, in_features=6, out_features=6)
    assert coverage(read(given, run)).average == 1.0
    given.slots[0].ClearField("gradient_norm")
    assert coverage(read(given, run)).average < 1.0


def test_coverage_says_whether_measured_time_was_among_the_inputs_that_could_decide() -> None:
    seen = read(packet(500), context())
    assert coverage(seen).provenance == "packet:v1"
    assert coverage(seen, with_measured=True).provenance == "packet:v1+time"
