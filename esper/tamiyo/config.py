"""Settings of the policy service: thresholds of the growth trigger, limits of the risk rules, report keeping.

A run's own TriggerSettings win over the thresholds here; nothing else can override them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields

from esper.core.errors import ConfigError
from esper.core.settings.config import require_positive
from esper.leyline import TaskType


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """When the loss of one kind of task counts as flat, and when as saturated."""

    slope: float = 0.6
    """Relative fall of the smoothed loss per 100 steps below which it is flat."""
    floor: float = 0.08
    """Smoothed loss at or below which nothing is left to gain on the training data."""
    is_floor_relative: bool = False
    """Whether the floor is a share of the run's first smoothed loss: for losses without a natural unit."""
    share: float = 0.99
    """Share of training samples already right, from which on nothing is left to gain; 1 leaves it to the loss."""

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskLimits:
    """Where the risk rules speak. Losses and gradients first: measured times decide only on request."""

    loss_rise_warning: float = 0.25
    """Rise of the smoothed loss since the last packet, as a share of it, that is noted."""
    loss_rise_spike: float = 0.5
    """Rise that makes a run conservative."""
    loss_noise: float = 0.2
    """Standard error of the smoothed loss, as a share of it, that is noted."""
    gradient_variation: float = 4.0
    """Variance of the gradient norm, as a share of its square, that is noted."""
    gradient_conflict: float = 0.5
    """Share of conflicting gradient pairs that is noted."""
    blueprint_risk_warning: float = 0.5
    """Risk score of a blueprint that is noted."""
    blueprint_risk_hold: float = 0.8
    """Risk score that holds a germination back, unless the run names the blueprint."""
    policy_risk_hold: float = 0.85
    """Expected severity, by the policy's own account, that holds a germination back."""
    policy_risk_conservative: float = 0.98
    """Expected severity that makes a run conservative."""
    coverage_hold: float = 0.5
    """Share of inputs present below which nothing is grown."""
    coverage_conservative: float = 0.3
    """Share of inputs present at or below which a run becomes conservative; what a packet must have is below it."""
    step_latency_ms: float = 120.0
    """Step time that is too long, milliseconds."""
    hook_latency_ms: float = 50.0
    """Boundary work that takes too long, milliseconds."""
    device_memory_share: float = 0.95
    """Share of the memory in use that is too much."""
    processor_wait: float = 0.5
    """Share of the time in which the training thread is ready and has no processor that is too much."""

    def __post_init__(self) -> None:
        _require_positive(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TamiyoConfig:
    """Settings of the service."""

    classification: Thresholds = field(default_factory=Thresholds)
    """Thresholds for classification, in nats."""
    language_model: Thresholds = field(default_factory=lambda: Thresholds(slope=0.04, floor=0.1, share=1.0))
    """Thresholds for language models, in nats per token."""
    regression: Thresholds = field(
        default_factory=lambda: Thresholds(slope=0.2, floor=0.01, is_floor_relative=True, share=1.0)
    )
    """Thresholds for regression: saturated where 99 % of the targets' variance is explained, whatever their unit."""
    risk: RiskLimits = field(default_factory=RiskLimits)
    """Limits of the risk rules."""
    conservative_dwell_steps: int = 50
    """Shortest stay in conservative mode, steps."""
    conservative_clean_packets: int = 5
    """Packets without a finding that it takes to leave conservative mode."""
    command_deadline_steps: int = 100
    """Steps after a decision within which its command must be executed; afterwards it may be decided again."""
    blend_steps_max: int = 50
    """Longest blend or warm-up, steps; shorter where a quarter of the judging window is shorter."""
    report_retention_hours: float = 720.0
    """How long closed field reports are kept, hours."""
    publish_retry_s: float = 1.0
    """First wait after a failed publication, seconds; doubled up to a minute."""
    inference_timeout_s: float = 5.0
    """Longest time to decide on a packet, its wait for a thread included, seconds; the run is conservative after it."""
    telemetry_every_packets: int = 10
    """Packets between telemetry without events."""
    explore: float = 0.0
    """Share of decisions that are drawn at random to learn from, 0..1; drawn by the run's seed, with known chances."""
    shadow_decisions: int = 20
    """Decisions that new weights make beside the live policy before they are in force; 0 tries nothing."""
    rollback_after: int = 8
    """Outcomes of learned decisions from which on weights can be rolled back."""

    def __post_init__(self) -> None:
        _require_positive(self, but=("explore", "shadow_decisions"))
        if not 0.0 <= self.explore <= 1.0:
            raise ConfigError("explore", self.explore, "a share of 0 to 1 is needed")
        if self.shadow_decisions < 0:
            raise ConfigError("shadow_decisions", self.shadow_decisions, "0 or more are needed")

    def thresholds(self, task: TaskType) -> Thresholds:
        """Thresholds of a kind of task."""
        table = {
            TaskType.TASK_TYPE_CLASSIFICATION: self.classification,
            TaskType.TASK_TYPE_LANGUAGE_MODEL: self.language_model,
            TaskType.TASK_TYPE_REGRESSION: self.regression,
        }
        return table[task]


def _require_positive(config: Thresholds | RiskLimits | TamiyoConfig, *, but: Collection[str] = ()) -> None:
    values = {item.name: getattr(config, item.name) for item in fields(config) if item.name not in but}
    is_number = {name: isinstance(value, int | float) and not isinstance(value, bool) for name, value in values.items()}
    require_positive(config, *(name for name in values if is_number[name]))
