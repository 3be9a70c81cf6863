"""summary.json: what a finished run was, did, cost and reached."""

from __future__ import annotations

import json
import platform
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.core.enums import short_name
from esper.core.storage.files import write_atomically
from esper.kasmina.executor import SeedExecutor
from esper.leyline import SeedStage, SeedState
from esper.tolaria.record.ending.contradictions import contradictions
from esper.tolaria.record.ending.wanted_depth import wanted_depth
from esper.tolaria.record.figures.best import Best
from esper.tolaria.record.figures.graph_counts import GraphCounts
from esper.tolaria.record.mode import L4
from esper.tolaria.record.progress import Progress
from esper.tolaria.record.stack_judgement import judgement
from esper.tolaria.task.data.facts import largest_share
from esper.tolaria.task.data.source import Split, Splits
from esper.tolaria.task.feeds.feed import BatchSet, BatchSets
from esper.tolaria.task.objective.task import Evaluation, evaluated
from esper.tolaria.task.prepare import Prepared

FATES = {
    SeedStage.SEED_STAGE_FOSSILIZED: "kept",
    SeedStage.SEED_STAGE_CULLED: "culled",
    SeedStage.SEED_STAGE_EMBARGOED: "culled",
    SeedStage.SEED_STAGE_RESETTING: "culled",
    SeedStage.SEED_STAGE_DORMANT: "culled",
}
NOT_DETERMINISTIC = "without --deterministic, algorithms need not compute the same twice"
UNFINISHED = "unfinished"
UNJUDGED = "stays unjudged"


@dataclass(slots=True)
class Timings:
    """Measured times of this process, in milliseconds."""

    step_ms: array[float] = field(default_factory=lambda: array("d"))
    input_wait_ms: array[float] = field(default_factory=lambda: array("d"))
    h2d_copy_ms: array[float] = field(default_factory=lambda: array("d"))
    """Of batches that were copied ahead."""
    boundary_ms: array[float] = field(default_factory=lambda: array("d"))
    surgery_ms: float | None = None

    def quantiles(self) -> dict[str, Any]:
        """Times of steps, their inputs and boundaries (a mean over steps, a percentile of these), surgery's share."""
        steps = max(1, len(self.step_ms))
        return {
            "step_ms": _p50_p95(self.step_ms),
            "input_wait_ms": _p50_p95(self.input_wait_ms),
            "h2d_copy_ms": _p50_p95(self.h2d_copy_ms) if self.h2d_copy_ms else None,
            "control_overhead_ms": {
                "per_step": sum(self.boundary_ms) / steps,
                "p99_at_boundaries": quantile(self.boundary_ms, 0.99),
            },
            "surgery_share": None if self.surgery_ms is None else self.surgery_ms / max(1e-9, sum(self.step_ms)),
        }


def _p50_p95(values: Sequence[float]) -> dict[str, float]:
    return {"p50": quantile(values, 0.5), "p95": quantile(values, 0.95)}


def quantile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def build_summary(
    run: Prepared,
    progress: Progress,
    timings: Timings,
    stop_reason: str | None,
    *,
    validation: tuple[float, float | None] | None = None,
    why_early: str | None = None,
    graphs: GraphCounts | None = None,
) -> dict[str, Any]:
    """Evaluate the network and put everything together; `validation` is what was last told of the judging data."""
    arm, history = run.executor.arm, progress.history
    val, test = (evaluated(arm, run.task, split) for split in (run.splits.judge, run.splits.test))
    conflicts = progress.signals.conflict_rate
    growth = history.growth
    # An interrupted run has seeds in every stage; what it says of them need not be the last word.
    is_exact = run.config.is_deterministic
    figures = (validation, val.figures)
    found = (
        [] if stop_reason else contradictions(run.executor, history, run.host_parameters, figures, is_exact=is_exact)
    )
    causes = [*history.causes, *found]
    if not is_exact:
        causes.append(NOT_DETERMINISTIC)
    if run.config.latency_rules and run.config.grow != "never":
        causes.append("measured time may decide (latency_rules)")
    return {
        "run_id": run.run_id,
        "data": run.config.data,
        "data_digest": run.splits.digest(),
        "splits": run.splits.sizes,
        "task": run.task_line,
        "judging": judging(run.splits),
        "model": run.config.model,
        "init": run.started,
        "seed": run.config.seed,
        "ranks": run.ranks.count,
        "smoothing": run.config.smoothing,
        "epochs": progress.step // run.loader.steps_per_epoch,
        "steps": progress.step,
        "total_steps": run.total_steps,
        "finished": stop_reason is None,
        "stop_reason": stop_reason,
        "halted_by": halted_by(progress, stop_reason),
        "mode": progress.mode.name,
        "emergency_level": progress.mode.plane.level,
        "ended_early": why_early,
        "gradient_conflict_rate": conflicts.mean if conflicts.count else None,
        "val_loss": val.loss,
        "val_accuracy": val.accuracy,
        "val_metrics": dict(val.metrics),
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "test_metrics": dict(test.metrics),
        "test_largest_class": largest_share(run.splits) if isinstance(run.splits, Splits) else None,
        "ema": average_entry(run),
        "best": best_entry(run, progress.best),
        "host_parameters": run.host_parameters,
        "final_parameters": arm.parameter_count(),
        "final_widths": hidden_widths(arm.model, run),
        "depths": depths(run.executor),
        "depth_shortfall": None if stop_reason else wanted_depth(run, progress),
        "training_macs": progress.macs.total,
        "training_macs_by_use": progress.macs.state_dict(),
        "growth": {"germinated": growth.germinated, "judged": growth.judged, "kept": growth.kept},
        "growth_reason": None if progress.reason.now is None else progress.reason.now.as_fields(),
        "memory": memory_entry(run, progress),
        "seeds": [
            {
                **seed_entry(seed, history.unjudged),
                "unfolded_because": history.unfolded.get(seed.seed_id),
                "judgement": judgement(
                    history.looks.get(seed.seed_id, ()), run.executor.evaluation_macs.get(seed.seed_id, 0)
                ),
            }
            for seed in history.seeds.values()
        ],
        "commands": history.command_counts(),
        **timings.quantiles(),
        "graphs": None if graphs is None else graphs.as_entry(),
        "compile": None if (counts := run.executor.compilations) is None else asdict(counts),
        "timeouts": history.timeouts,
        "control_failures": history.failures,
        "rollbacks": history.rollbacks,
        "passed_over": list(history.passed_over),
        "contradictions": found,
        "policy": history.policy,
        "policy_digest": history.policy_digest,
        "reproducible": not causes,
        "reproducible_cause": "; ".join(causes) or None,
        "machine": machine(run.device),
        "generation": progress.generation,
        "device": str(run.device),
        "threads": run.config.threads,
        "weights_digest": arm.digest(),
    }


def halted_by(progress: Progress, stop_reason: str | None) -> dict[str, str] | None:
    """The emergency that halted the run: its id, level, cause and who raised it."""
    plane = progress.mode.plane
    if stop_reason is None or plane.level < L4:
        return None
    return plane.as_fields()


def evaluated_average(run: Prepared, split: Split | BatchSet) -> Evaluation | None:
    """What the averages of the weights reach; None where none are kept."""
    if run.config.ema is None:
        return None
    with run.executor.arm.averaged():
        return evaluated(run.executor.arm, run.task, split)


def average_entry(run: Prepared) -> dict[str, Any] | None:
    """The averaged network's figures; buffers, such as a BatchNorm's statistics, are those of the network itself."""
    val, test = (evaluated_average(run, split) for split in (run.splits.judge, run.splits.test))
    if val is None or test is None:
        return None
    with run.executor.arm.averaged():
        digest = run.executor.arm.digest()
    return {
        "decay": run.config.ema,
        "val_loss": val.loss,
        "val_accuracy": val.accuracy,
        "val_metrics": dict(val.metrics),
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "test_metrics": dict(test.metrics),
        "weights_digest": digest,
    }


def best_entry(run: Prepared, best: Best) -> dict[str, Any] | None:
    """The best epoch by its validation loss; its network is tested where it was kept."""
    if not best.is_there:
        return None
    told = {"epoch": best.epoch, "step": best.step, "val_loss": best.loss, "val_accuracy": best.accuracy}
    if best.network is None:
        return told
    arm = run.executor.rebuilt(best.network)
    test = evaluated(arm, run.task, run.splits.test)
    return {
        **told,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "test_metrics": dict(test.metrics),
        "weights_digest": arm.digest(),
    }


def memory_entry(run: Prepared, progress: Progress) -> dict[str, Any]:
    """Peaks of the device without a twin and with one, and each twin's forecast beside what was measured."""
    peaks = run.executor.peaks
    peaks.end_phase(has_twin=run.executor.twin is not None)
    return {
        "peak_bytes_without_twin": peaks.without_twin,
        "peak_bytes_with_twin": peaks.with_twin,
        "unmeasured": peaks.unmeasured,
        "twins": [dict(twin) for twin in progress.history.twins],
    }


def judging(splits: Splits | BatchSets) -> dict[str, Any]:
    """By how many samples a verdict is reached, and which are the independent units of its error."""
    documents = splits.judge.document_count
    return {"unit": "sample" if documents is None else "document", "samples": len(splits.judge), "documents": documents}


def machine(device: torch.device) -> str:
    """What the weights' bits depend on beside settings and seed: the processor's maker and kind, and torch.

    Torch's libraries choose by the maker, too, how they add.
    """
    maker = said_of_processor("vendor_id")
    processor = " ".join(filter(None, (platform.machine(), maker, torch.backends.cpu.get_cpu_capability())))
    accelerator = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{processor}{accelerator}, torch {torch.__version__}"


def said_of_processor(name: str) -> str:
    """What the system says of the first processor under such a name; empty where it doesn't."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def seed_entry(seed: SeedState, unjudged: Collection[str] = ()) -> dict[str, Any]:
    """One seed of the summary; what was not measured is null."""

    def measured(name: str) -> float | None:
        return getattr(seed, name) if seed.HasField(name) else None

    return {
        "seed_id": seed.seed_id,
        "blueprint_id": seed.blueprint_id,
        "slot": seed.slot_id,
        "stage": name_of_stage(seed.stage),
        "alpha": seed.alpha,
        "gain": measured("gain"),
        "gain_se": measured("gain_standard_error"),
        "muted_gain": measured("muted_gain"),
        "muted_gain_se": measured("muted_gain_standard_error"),
        "is_folded": seed.is_folded,
        "fate": UNJUDGED if seed.seed_id in unjudged else FATES.get(seed.stage, UNFINISHED),
    }


def name_of_stage(stage: SeedStage) -> str:
    """A stage in one word."""
    return short_name(SeedStage, stage)


def hidden_widths(model: nn.Module, run: Prepared) -> list[int]:
    """Output widths of a named model's hidden layers, in the words of `hidden`; empty for other models."""
    prefix = {"mlp": "fc", "conv1d": "conv", "cnn": "conv"}.get(run.config.model)
    if prefix is None:
        return []
    layers = [module for name, module in model.named_children() if name.startswith(prefix)]
    widths = [int(layer.weight.shape[0]) for layer in layers if isinstance(layer.weight, nn.Parameter)]
    # The last fc layer of an mlp gives the outputs.
    return widths[:-1] if prefix == "fc" else widths


def depths(executor: SeedExecutor) -> dict[str, dict[str, int]]:
    """Equal blocks of each run that was repeated, at first and now, and others in its list; by that list's path."""
    return {
        path: {"from": depth.found, "to": depth.now, "others": depth.others}
        for path, depth in executor.depths().items()
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Make summary.json durable."""
    write_atomically(path, (json.dumps(summary, indent=2) + "\n").encode())
