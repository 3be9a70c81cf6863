"""Drills of a run that trains: slow steps, a seed that leaks, a hanging Tamiyo, missing inputs, a late rollback."""

from __future__ import annotations

from collections.abc import Iterator

from esper.core.errors import ServiceUnavailable
from tools.harness.drills.plane import DrilledPlane, growing
from tools.harness.drills.services import acknowledge_all
from tools.harness.faults.processes import frozen
from tools.harness.faults.training import blinded, breaking_down, leaking_seeds, slow_restores, slow_steps

STEP_S = 0.4
"""Longer than training_latency_high allows, shorter than its critical sister."""
DEADLINE_S = 0.75
FEW_STEPS = 2
"""Between packets, so that slow steps show soon."""
ROLLBACK_DEADLINE_S = 0.005
BREAKS_AT = 400


def latency(plane: DrilledPlane) -> Iterator[None]:
    """Every step takes long, then none does."""
    with growing(plane, evaluate_every_steps=FEW_STEPS):
        yield
        with slow_steps(STEP_S):
            yield
        yield


def isolation(plane: DrilledPlane) -> Iterator[None]:
    """Seeds don't cut themselves off their host where they must, then they do."""
    with growing(plane, isolate=True, growth_warmup_steps=50, window_fraction=0.001, embargo_fraction=0.001):
        yield
        with leaking_seeds():
            yield
        yield


def tamiyo_timeout(plane: DrilledPlane) -> Iterator[None]:
    """Tamiyo's process is stopped, then goes on."""
    pid = plane.services.pid("tamiyo")
    if pid is None:
        raise ServiceUnavailable("harness", "drill", "tamiyo", "it was not started here")
    with growing(plane, deadline_s=DEADLINE_S):
        yield
        with frozen(pid):
            yield
        yield


def low_coverage(plane: DrilledPlane) -> Iterator[None]:
    """Packets come without most of what a trainer measures, then with it again."""
    with growing(plane) as run:
        run.go_on(20, 60.0)
        yield
        with blinded():
            yield
        yield


def rollback(plane: DrilledPlane) -> Iterator[None]:
    """A weight becomes NaN and no older state is restored in time: the run ends. Its emergency is acknowledged."""
    deadlines = {"rollback_fast_deadline_s": ROLLBACK_DEADLINE_S, "rollback_full_deadline_s": ROLLBACK_DEADLINE_S}
    with growing(
        plane, on_nonfinite="rollback", snapshot_every_steps=20, checkpoint_every_epochs=5, **deadlines
    ) as run:
        run.go_on(10, 60.0)
        yield
        with breaking_down(run.step + BREAKS_AT), slow_restores(3 * ROLLBACK_DEADLINE_S):
            run.ended.wait(60.0)
        yield
        acknowledge_all(plane)
        yield
