"""The machine as packets tell of it: from the kernel's and the driver's figures, once a second at most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.core.clock import SYSTEM_CLOCK, ManualClock
from esper.core.messages.validation import violations
from esper.kasmina.executor.memory.free import Free
from esper.tolaria.plane.hardware import EVERY_NS, HardwareMeter

CPU = torch.device("cpu")


@pytest.fixture
def scheduler(tmp_path: Path) -> Path:
    path = tmp_path / "schedstat"
    path.write_text("1000 0 5\n")
    return path


def test_memory_in_use_is_what_is_not_free_of_the_limit_that_holds(scheduler: Path) -> None:
    meter = HardwareMeter(CPU, 2, ManualClock(), free=lambda device: Free(25, "a test", 100), scheduler=scheduler)
    seen = meter.read()
    assert (seen.memory_total_bytes, seen.memory_used_bytes) == (100, 75)
    assert violations(seen) == []


def test_the_wait_is_the_share_of_the_time_since_the_last_look(scheduler: Path) -> None:
    clock = ManualClock()
    meter = HardwareMeter(CPU, 2, clock, free=lambda device: Free(None, "a test"), scheduler=scheduler)
    scheduler.write_text("1300 100 9\n")
    assert meter.read().processor_wait == pytest.approx(0.25)
    scheduler.write_text("1400 400 9\n")
    assert meter.read().processor_wait == pytest.approx(0.25), "it was looked at a moment ago"
    clock.advance(EVERY_NS / 1e9)
    assert meter.read().processor_wait == pytest.approx(0.75)


def test_what_nobody_says_is_absent(tmp_path: Path) -> None:
    meter = HardwareMeter(
        CPU, 2, ManualClock(), free=lambda device: Free(None, "a test"), scheduler=tmp_path / "schedstat"
    )
    seen = meter.read()
    assert [field.name for field, _ in seen.ListFields()] == ["device_type", "cpu_cores"]


def test_this_machine_says_all_of_it() -> None:
    seen = HardwareMeter(CPU, 1, SYSTEM_CLOCK).read()
    assert 0 < seen.memory_used_bytes < seen.memory_total_bytes
    assert 0 <= seen.processor_wait <= 1
