"""Whether two arms fit: what they need at their peak, what is free, and what follows.

Live: both on the device. In bursts: one of them at a time, while the other waits in host memory. Refused: not even the
grown arm alone has room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.memory.footprint import (
    Held,
    Precision,
    StepBytes,
    calibrated,
    evaluation_bytes,
    held_by,
    step_bytes,
)
from esper.kasmina.executor.memory.free import Free
from esper.kasmina.executor.passes.task import Task

LIVE, BURSTS, REFUSED, AUTO = "live", "bursts", "refused", "auto"
# Rounding and holes of an allocator, beside what tensors hold.
SLACK = 0.05
JUDGING_REMEDY = "judging passes up to 512 samples at once: give shorter ones (--context), or repeat a part of the run"
REMEDY = "give a smaller --batch-size, a larger --accumulate, repeat a part of the run, or checkpoint activations"
GIB = 2**30
FreeMemory = Callable[[torch.device], Free]
Figures = dict[str, int | float | str | None]
BY_A_STEP = "the largest of the first steps of the network as it is, as its allocator counted them"
BY_NOTHING = "nothing: no step of this network was measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Peaks in bytes."""

    live: int
    """Of the device, with both arms on it."""
    bursts: int
    """Of the device, with one arm at a time."""
    waiting: int
    """Of host memory, for the arm that waits; both for the moment of a change."""
    alone: int
    """Of the device, for the grown arm without any twin."""
    now: int
    """Held now by what the forecast counts."""
    passed_samples: int
    """Samples that were passed to measure it, forward and backward."""
    judged_samples: int
    """Samples that were passed forward only."""
    is_of_judging: bool = False
    """Whether the grown arm needs the most while it is judged, not while it steps."""
    foreseen_step: int = 0
    """What a step of the network as it is adds at its peak to what stays, by the passes that foretell it."""
    measured_step: int | None = None
    """The same, measured in the run itself; None where it wasn't."""
    factor: float = 1.0
    """On activations, by the two."""
    block: int = 0
    """Activations of one more block, with the factor."""
    judged: int = 0
    """What an evaluation adds at its peak."""

    def figures(self) -> Figures:
        return {
            "predicted_live_bytes": self.live,
            "predicted_bursts_bytes": self.bursts,
            "predicted_alone_bytes": self.alone,
            "predicted_step_bytes": self.foreseen_step,
            "measured_step_bytes": self.measured_step,
            "calibrated_by": BY_NOTHING if self.measured_step is None else BY_A_STEP,
            "factor": round(self.factor, 3),
            "block_bytes": self.block,
            "judging_bytes": self.judged,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """How the twin lives, or that there is none, and why."""

    mode: str
    why: str
    predicted_bytes: int | None = None
    """The peak under this mode; of the grown arm alone where it is refused."""
    free_bytes: int | None = None
    """What both arms may take: what is free, and what the run's own arm holds already."""
    forecast: Forecast | None = None

    def figures(self) -> Figures:
        found: Figures = {"predicted_bytes": self.predicted_bytes, "free_bytes": self.free_bytes}
        return found | (self.forecast.figures() if self.forecast is not None else {})


def foresee(
    arm: TrainingArm,
    task: Task,
    *,
    added: Held,
    samples: int,
    key: int,
    blocks: tuple[nn.Module, ...] = (),
    gradient_rows: int = 0,
    accumulates: bool = False,
    precision: Precision,
    measured_step: int | None = None,
) -> Forecast:
    """Adds what the graft will to what the arm holds; `blocks` are those of a run that are repeated.

    For these the arm's step is foreseen by passes of a few samples, and set right by `measured_step`, what a step of
    the run has taken. A seed adds little: for it, a step is what was measured, or its gradients.
    """
    twin = held_by(arm)
    foreseen, judged = StepBytes(peak=twin.gradients, fixed=twin.gradients), (0, 0)
    if blocks:
        kept = twin.gradients if accumulates else 0
        foreseen = step_bytes(arm, task, samples, key=key, block=blocks[-1], precision=precision, kept=kept)
        judged = evaluation_bytes(arm, task, key=key, precision=precision)
    # The rows are counted apart.
    measured = None if measured_step is None else max(0, measured_step - gradient_rows * twin.gradients)
    step, factor = calibrated(foreseen, measured)
    found = combine(
        twin,
        twin + added,
        step=step,
        added_gradients=added.gradients,
        blocks=len(blocks),
        judged=judged,
        rows=gradient_rows,
        graphs=_graph_bytes(arm.device),
        accumulates=accumulates,
    )
    return replace(
        found,
        foreseen_step=foreseen.peak,
        measured_step=measured,
        factor=factor,
        block=step.block,
        judged=judged[0],
    )


def combine(
    twin: Held,
    grown: Held,
    *,
    step: StepBytes,
    added_gradients: int,
    blocks: int,
    judged: tuple[int, int],
    rows: int,
    graphs: int,
    accumulates: bool = False,
) -> Forecast:
    """The peaks: one arm steps, or is judged, while the other one holds what it holds."""
    # Gradients arrive as activations go, but for those that an earlier pass of the step has left.
    activations = blocks * step.block
    grown_step = step.peak + (activations + added_gradients if accumulates else max(activations, added_gradients))
    # Graphs that were captured hold activations of their own, for each arm; rows are microbatches' gradients.
    twin_kept = graphs + rows * twin.gradients
    grown_kept = twin_kept * grown.weights // max(1, twin.weights)
    kept = twin_kept + grown_kept
    live = max(
        grown.parked + twin.total + grown_step,
        grown.total + twin.parked + step.peak,
        grown.total + twin.total + judged[0],
    )
    alone = max(grown.parked + grown_step, grown.total + judged[0])
    bursts = max(alone, twin.parked + step.peak, 2 * twin.parked + twin.gradients)
    return Forecast(
        live=_with_slack(live + kept),
        bursts=_with_slack(bursts + kept),
        waiting=grown.total + twin.parked,
        alone=_with_slack(alone + grown_kept),
        now=twin.total + twin_kept,
        passed_samples=step.samples,
        judged_samples=judged[1],
        is_of_judging=grown.total + judged[0] > grown.parked + grown_step,
    )


def decide(wish: str, forecast: Forecast, free: Free, host: Free | None) -> Decision:
    """What the wish comes to; `host` is what host memory has, None where the device is the host."""
    if free.size_bytes is None:
        mode = BURSTS if wish == BURSTS else LIVE
        return _decision(mode, f"what is free is not known: {free.source}", forecast, None)
    room = free.size_bytes + forecast.now
    needs = {LIVE: forecast.live, BURSTS: forecast.bursts + (forecast.waiting if host is None else 0)}
    has_host = host is None or host.size_bytes is None or host.size_bytes >= forecast.waiting
    fits = {LIVE: forecast.live <= room, BURSTS: needs[BURSTS] <= room and has_host}
    told = f"{_gib(room)} to be had ({free.source})"
    modes = (LIVE, BURSTS) if wish == AUTO else (wish,)
    for mode in modes:
        if fits[mode]:
            asked = "" if wish == AUTO else f", as --twin {wish} asks"
            return _decision(mode, f"{_needs(mode, forecast)}, {told}{asked}", forecast, room)
    if forecast.alone > room:
        remedy = JUDGING_REMEDY if forecast.is_of_judging else REMEDY
        why = f"the grown network alone needs {_gib(forecast.alone)} at its peak, {told}; {remedy}"
        return _decision(REFUSED, why, forecast, room)
    return _decision(
        REFUSED, f"{_why_not(modes[-1], forecast, host, has_host=has_host)}, {told}; {_way_out(wish)}", forecast, room
    )


def unforeseen(wish: str, why: str) -> Decision:
    """Where nothing could be predicted, a twin is tried."""
    return Decision(mode=BURSTS if wish == BURSTS else LIVE, why=f"nothing could be predicted: {why}")


def switched(decision: Decision, mode: str, why: str) -> Decision:
    """The same twin under another mode."""
    predicted = None if decision.forecast is None else _peak(mode, decision.forecast)
    return replace(decision, mode=mode, why=why, predicted_bytes=predicted)


def _decision(mode: str, why: str, forecast: Forecast, room: int | None) -> Decision:
    return Decision(mode=mode, why=why, predicted_bytes=_peak(mode, forecast), free_bytes=room, forecast=forecast)


def _peak(mode: str, forecast: Forecast) -> int:
    peaks: Mapping[str, int] = {LIVE: forecast.live, BURSTS: forecast.bursts}
    return peaks.get(mode, forecast.alone)


def _needs(mode: str, forecast: Forecast) -> str:
    both = f"both arms need {_gib(forecast.live)} at their peak"
    return both if mode == LIVE else f"{both}, one at a time {_gib(forecast.bursts)}"


def _why_not(mode: str, forecast: Forecast, host: Free | None, *, has_host: bool) -> str:
    if mode == BURSTS and not has_host and host is not None:
        return (
            f"{_needs(BURSTS, forecast)}, and the arm that waits {_gib(forecast.waiting)} of host memory, which has "
            f"{_gib(host.size_bytes or 0)} ({host.source})"
        )
    return _needs(mode, forecast)


def _way_out(wish: str) -> str:
    return f"give --twin auto, or: {REMEDY.removeprefix('give ')}" if wish == LIVE else REMEDY


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.2f} MiB"


def _with_slack(size: int) -> int:
    return int(size * (1 + SLACK))


def _graph_bytes(device: torch.device) -> int:
    """What captured graphs keep in pools of their own."""
    if device.type != "cuda":
        return 0
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(segment["total_size"] for segment in segments if tuple(segment.get("segment_pool_id", (0, 0))) != (0, 0))
