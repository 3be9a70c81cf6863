"""The drills of alarms: a row each."""

from __future__ import annotations

from esper.tolaria.plane.services import START_ORDER
from tools.harness.drills import runs, services
from tools.harness.drills.alarms import Drill

WEATHERLIGHT = ("weatherlight",)

# fmt: off
DRILLS: tuple[Drill, ...] = (
    Drill(name="latency", fault="every training step takes 0.4 s more",
          alerts=("training_latency_high",), course=runs.latency, services=START_ORDER),
    Drill(name="isolation", fault="seeds don't cut themselves off their host",
          alerts=("kasmina_isolation_violation",), course=runs.isolation, services=START_ORDER),
    Drill(name="queue-depth", fault="a consumer takes nothing while 5,000 are published",
          alerts=("oona_queue_depth",), course=services.queue_depth, services=WEATHERLIGHT),
    Drill(name="emergency", fault="an L4 is raised, then acknowledged",
          alerts=("emergency_open",), course=services.emergency, services=WEATHERLIGHT),
    Drill(name="refused-command", fault="a forged command, once",
          alerts=("commands_rejected",), course=services.refused_command, services=START_ORDER),
    Drill(name="tamiyo-timeout", fault="Tamiyo's process is stopped",
          alerts=("breaker_open",), course=runs.tamiyo_timeout, services=START_ORDER),
    Drill(name="low-coverage", fault="packets come without what may be missing",
          alerts=("tamiyo_coverage_low",), course=runs.low_coverage, services=START_ORDER),
    Drill(name="rollback", fault="NaN, and no older state comes in time",
          alerts=("rollback_deadline_missed", "emergency_open"), course=runs.rollback, services=START_ORDER),
)
# fmt: on
BY_NAME = {drill.name: drill for drill in DRILLS}
