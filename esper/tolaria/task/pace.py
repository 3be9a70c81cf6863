"""How many steps lie between two packets where nobody says: a rule of the settings, so that a run repeats itself.

A packet costs the training thread up to a millisecond, the trainer's other threads most of another, and the services
about eight on a processor of their own (tools/bench/control_overhead.py tells); that is a share worth saving where
steps are short, and there alone. What growth is decided by is laid out in shares of the run: judging windows, slopes,
embargoes. So a run has packets enough if it has as many as one of 2,000 steps.
"""

from __future__ import annotations

from dataclasses import replace

from esper.kasmina.executor import SeedExecutor
from esper.leyline import SlotKind
from esper.tolaria.config import USUAL_PACKET_STEPS, TrainConfig

MOST_PACKET_STEPS = 50
"""An operator's order, an interruption and an emergency are heard with a packet, and must not wait for long."""
LEAST_PACKETS = 200
"""In a run, so that a judging window of a tenth has twenty and a slope over a twentieth ten, as they always had."""
SHORT_STEP_MACS = 25_000_000
"""About two milliseconds of one processor."""


def packet_steps(config: TrainConfig, total_steps: int, step_macs: int | None, *, has_blocks: bool) -> int:
    """Steps between packets, as given, else by the run's length and a step's multiply-accumulates (None: unknown).

    A network with equal blocks, which may grow in depth, keeps the usual number: a stack's recovery is given in steps,
    whatever the run's length.
    """
    if config.evaluate_every_steps is not None:
        return config.evaluate_every_steps
    if has_blocks or step_macs is None or step_macs > SHORT_STEP_MACS:
        return USUAL_PACKET_STEPS
    return min(max(USUAL_PACKET_STEPS, total_steps // LEAST_PACKETS), MOST_PACKET_STEPS)


def paced(config: TrainConfig, total_steps: int, executor: SeedExecutor, samples: int | None = None) -> TrainConfig:
    """The settings with the steps between packets decided, for batches of so many samples."""
    macs = None if executor.uncounted else executor.macs.training * (samples or config.batch_size)
    has_blocks = any(slot.kind == SlotKind.SLOT_KIND_STACK for slot in executor.slots)
    return replace(config, evaluate_every_steps=packet_steps(config, total_steps, macs, has_blocks=has_blocks))
