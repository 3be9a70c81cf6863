"""`--compare`: the grown network beside its ungrown host and static networks, same data order, several repeats.

The sweep's widths (powers of two), or a transformer's depths (twice and four times the host's), are fixed beforehand,
so nothing is chosen by looking at a result.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.core.counted import counted
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.models.models import host_widths

SWEEP_WIDTHS = (8, 16, 32)
SWEEP_DEPTHS = (2, 4)
BLOCKS = "blocks"  # the transformer's list of them

Summary = Mapping[str, Any]


def arms(config: TrainConfig, final_widths: Sequence[int], final_depth: int | None = None) -> dict[str, TrainConfig]:
    """The static networks to train beside the grown one; other sizes only where the model takes `hidden` or `depth`."""
    never = replace(config, grow="never", target_depth=None)
    listed = {"host, never grown": never}
    if config.model == "transformer":
        return listed | _deeper(never, final_depth)
    if widths := host_widths(config):
        if tuple(final_widths) != widths and final_widths:
            listed["static, the grown one's final size"] = replace(never, hidden=tuple(final_widths))
        listed |= {f"static, {width} wide": replace(never, hidden=(width,) * len(widths)) for width in SWEEP_WIDTHS}
    return listed


def _deeper(never: TrainConfig, final_depth: int | None) -> dict[str, TrainConfig]:
    """Transformers of more blocks, if the host's are of one width; the grown one's own depth isn't listed twice."""
    widths = host_widths(never)
    if len(set(widths)) > 1:
        return {}
    listed = {} if final_depth is None else {"static, the grown one's final size": final_depth}
    listed |= {f"static, {times * len(widths)} blocks": times * len(widths) for times in SWEEP_DEPTHS}
    return {name: replace(never, hidden=widths[:1], depth=depth) for name, depth in listed.items()}


def compare(
    config: TrainConfig, repeats: int, grow: Callable[[TrainConfig], Summary], train: Callable[[TrainConfig], Summary]
) -> dict[str, Any]:
    """Train every arm `repeats` times from consecutive seeds; `grow` makes a grown run, `train` a static one."""
    collected: dict[str, list[Summary]] = {"grown": []}
    for seed in range(config.seed, config.seed + repeats):
        grown = grow(replace(config, seed=seed))
        collected["grown"].append(grown)
        depth = grown.get("depths", {}).get(BLOCKS, {}).get("to")
        for name, arm in arms(replace(config, seed=seed), grown.get("final_widths", ()), depth).items():
            collected.setdefault(name, []).append(train(arm))
    return {"repeats": repeats, "rows": [row(name, runs, collected["grown"]) for name, runs in collected.items()]}


def row(name: str, runs: Sequence[Summary], grown: Sequence[Summary]) -> dict[str, Any]:
    """One arm: means, standard deviation, and the paired difference of the grown network to it."""
    accuracies = [run["test_accuracy"] for run in runs]
    paired = {run["seed"]: run["test_accuracy"] for run in grown}
    differences = [paired[run["seed"]] - run["test_accuracy"] for run in runs if run["seed"] in paired]
    return {
        "name": name,
        "runs": len(runs),
        "first_test_accuracy": accuracies[0],
        "test_accuracy_mean": statistics.mean(accuracies),
        "test_accuracy_sd": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        "grown_minus_this_mean": statistics.mean(differences),
        "grown_minus_this_sd": statistics.stdev(differences) if len(differences) > 1 else 0.0,
        "parameters": statistics.mean(run["final_parameters"] for run in runs),
        "training_macs": statistics.mean(run["training_macs"] for run in runs),
    }


def table(comparison: Mapping[str, Any]) -> str:
    """The comparison as aligned text."""
    lines = [f"{'network':<36} {'test accuracy, %':>18} {'grown - this':>16} {'parameters':>11} {'training MMACs':>15}"]
    for entry in comparison["rows"]:
        accuracy = f"{100 * entry['test_accuracy_mean']:.2f} ± {100 * entry['test_accuracy_sd']:.2f}"
        difference = f"{100 * entry['grown_minus_this_mean']:+.2f} ± {100 * entry['grown_minus_this_sd']:.2f}"
        lines.append(
            f"{entry['name']:<36} {accuracy:>18} {'' if entry['name'] == 'grown' else difference:>16} "
            f"{entry['parameters']:>11,.0f} {entry['training_macs'] / 1e6:>15,.0f}"
        )
    return "\n".join(
        [*lines, f"{counted(comparison['repeats'], 'repeat')}; mean ± standard deviation; paired differences in points"]
    )
