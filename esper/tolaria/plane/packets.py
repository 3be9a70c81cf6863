"""The packet that the trainer sends at a boundary: deterministic signals first, measured times beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.core.messages.validation import MAX_INTEGER
from esper.core.tracing import current_trace
from esper.core.training_metrics import pack
from esper.kasmina.executor import Collected, SeedExecutor
from esper.leyline import StepSample, SystemStatePacket, TrainingMetrics
from esper.tolaria.plane.hardware import HardwareMeter
from esper.tolaria.record.history import History
from esper.tolaria.record.mode import RunMode
from esper.tolaria.record.observer import StepDone
from esper.tolaria.record.signals import Signals, Smoothed


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The network as it is at a boundary."""

    momentum: float | None
    learning_rate: float
    parameters: int
    forward_macs: int
    training_macs: int


@dataclass(slots=True)
class Measured:
    """Times since the last packet, in milliseconds; they decide nothing unless latency rules are on."""

    step_ms: float | None = None
    samples_per_s: float | None = None
    hook_ms: float | None = None
    apply_ms: float | None = None
    finalize_ms: float | None = None
    input_wait_ms: float | None = None
    h2d_copy_ms: float | None = None
    tamiyo_ms: float | None = None
    kasmina_ms: float | None = None

    def note(
        self,
        *,
        hook_ms: float,
        apply_ms: float,
        finalize_ms: float,
        recent_ms: Sequence[float],
        input_waits_ms: Sequence[float],
        copies_ms: Sequence[float],
        samples: int,
    ) -> None:
        """Take one more boundary, and the times of the steps before it."""
        self.hook_ms, self.apply_ms, self.finalize_ms = hook_ms, apply_ms, finalize_ms
        if recent_ms:
            self.step_ms = sum(recent_ms) / len(recent_ms)
            self.samples_per_s = 1e3 * samples / max(self.step_ms, 1e-9)
        if input_waits_ms:
            self.input_wait_ms = sum(input_waits_ms) / len(input_waits_ms)
        if copies_ms:
            self.h2d_copy_ms = sum(copies_ms) / len(copies_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where the run is."""

    generation: int
    packet_index: int
    step: int
    epoch: int
    is_epoch_end: bool


class PacketBuilder:
    """Builds the packets of one run."""

    def __init__(self, run_id: str, hardware: HardwareMeter) -> None:
        self._run_id = run_id
        self._hardware = hardware
        self._violations = 0

    def build(
        self,
        at: Position,
        steps: Sequence[StepDone],
        metrics: TrainingMetrics,
        collected: Collected,
        history: History,
        mode: RunMode,
    ) -> SystemStatePacket:
        """The packet of a boundary; `steps` are those since the last one."""
        self._violations += sum(observation.isolation_violations for observation in collected.observations)
        return SystemStatePacket(
            training_run_id=self._run_id,
            generation=at.generation,
            packet_index=at.packet_index,
            step=at.step,
            epoch=at.epoch,
            metrics=metrics,
            recent_steps=[sample(done) for done in steps],
            slots=collected.slots,
            seeds=history.seeds.values(),
            growth=history.growth,
            hardware=self._hardware.read(),
            mode=mode.value,
            isolation_violations=self._violations,
            trace=current_trace(),
            is_epoch_end=at.is_epoch_end,
        )

    def state_dict(self) -> int:
        """Gradient leaks so far."""
        return self._violations

    def load_state_dict(self, violations: int) -> None:
        """Go on from a saved count."""
        self._violations = violations


def training_metrics(
    steps: Sequence[StepDone], signals: Signals, network: Network, measured: Measured
) -> TrainingMetrics:
    """Every value that the policy's features read."""
    smoothed_norm = _mean(signals.gradient_norm)
    return pack(
        {
            "loss": sum(done.loss for done in steps) / len(steps) if steps else signals.loss.mean,
            "smoothed_loss": signals.loss.mean,
            "smoothed_loss_standard_error": signals.loss.standard_error,
            "gradient_norm": smoothed_norm,
            "gradient_norm_variance": None if smoothed_norm is None else signals.gradient_norm.variance,
            "gradient_conflict_rate": _mean(signals.conflict_rate),
            "learning_rate": network.learning_rate,
            "momentum": network.momentum,
            "training_accuracy": _mean(signals.accuracy),
            "parameters": network.parameters,
            "forward_macs": network.forward_macs,
            "training_macs": network.training_macs,
            "samples_per_s": measured.samples_per_s,
            "step_latency_ms": measured.step_ms,
            "hook_latency_ms": measured.hook_ms,
            "apply_latency_ms": measured.apply_ms,
            "finalize_latency_ms": measured.finalize_ms,
            "input_wait_ms": measured.input_wait_ms,
            "tamiyo_latency_ms": measured.tamiyo_ms,
            "kasmina_latency_ms": measured.kasmina_ms,
        },
    )


def sample(done: StepDone) -> StepSample:
    """One step in small."""
    return StepSample(step=done.step, loss=done.loss)


def _mean(signal: Smoothed) -> float | None:
    return signal.mean if signal.count else None


def network_of(executor: SeedExecutor, training_macs: int) -> Network:
    """The network that an executor holds now."""
    group = executor.arm.optimizer.param_groups[0]
    momentum = group["betas"][0] if "betas" in group else group.get("momentum")
    return Network(
        momentum=None if momentum is None else float(momentum),
        learning_rate=float(group["lr"]),
        parameters=executor.parameters,
        forward_macs=executor.macs.forward,
        training_macs=min(training_macs, MAX_INTEGER),  # all that a message may count to; the run's own book goes on
    )
