"""What the trainer asks of a control plane when a generation opens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.leyline import HostManifest
from esper.tolaria.record.packet_result import RunStates

if TYPE_CHECKING:
    from esper.tolaria.plane.control import Control


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """What the control plane is told of a teacher."""

    name: str
    digest: str
    """SHA-256 over its weights and buffers, lower-case hex."""
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What opens a run at the control plane, or goes on with one under a new generation."""

    generation: int
    step: int
    total_steps: int
    manifest: Callable[[], HostManifest]
    """The host as it was before any growth. Raises ConfigError where it has no usable slot."""
    states: RunStates | None
    """State of both services at the checkpoint from which the run goes on; None for a new run."""
    gives_up_course: bool = False
    """Whether the run goes on otherwise than it did after that checkpoint; a mere resume takes the same course."""
    judge_samples: int | None = None
    """Samples of the judging set."""
    teacher: TeacherFacts | None = None
    """The network that seeds of a new run may learn from."""


OpenControl = Callable[[Opening], "Control"]
