"""Held-out episodes side by side: final loss, what was refused, what was missed, against the run that never grew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from esper.tamiyo.learned.reward import PRICE

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """By arm: means over the episodes that every arm has, and paired differences with the heuristic."""
    arms: dict[str, dict[str, Row]] = {}
    for row in rows:
        arms.setdefault(row["arm"], {})[row["episode"]] = row
    shared = sorted(set.intersection(*(set(found) for found in arms.values())))
    best = {e: min(found[e]["test_loss"] for found in arms.values()) for e in shared}
    figures = {arm: [_figures(found[e], arms["never"][e], best[e]) for e in shared] for arm, found in arms.items()}
    lines = {arm: _line(found, figures["heuristic"]) for arm, found in figures.items()}
    return {"episodes": len(shared), "arms": lines, "text": _text(lines, len(shared))}


def _figures(row: Row, never: Row, best: float) -> dict[str, float]:
    refused_share = row["refused"] / row["germinated"] if row["germinated"] else 0.0
    judgement = row["judgement_macs"] / never["training_macs"]
    log_fall = math.log(never["test_loss"] / row["test_loss"])
    return {
        "test_loss": row["test_loss"],
        "accuracy": 100 * row["test_accuracy"],
        "germinated": row["germinated"],
        "kept": row["kept"],
        "refused": row["refused"],
        "refused_cost": judgement * refused_share,
        "missed": math.log(row["test_loss"] / best),
        "cost": row["training_macs"] / never["training_macs"],
        "worth": log_fall - PRICE * (row["training_macs"] / never["training_macs"] - 1.0),
    }


def _line(found: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]]) -> dict[str, float]:
    line = {name: fmean(each[name] for each in found) for name in found[0]}
    for name in ("worth", "test_loss", "missed", "refused_cost"):
        paired = [a[name] - b[name] for a, b in zip(found, baseline, strict=True)]
        line[f"{name}_minus_heuristic"] = fmean(paired)
        line[f"{name}_error"] = stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
    return line


def _text(lines: dict[str, dict[str, float]], episodes: int) -> str:
    head = "arm        test loss  accuracy  grown  kept  refused cost  missed   MACs   worth  worth - heuristic"
    rows = [head]
    for arm, f in lines.items():
        rows.append(
            f"{arm:10} {f['test_loss']:9.4f}  {f['accuracy']:7.2f}  {f['germinated']:5.2f}  {f['kept']:4.2f}  "
            f"{f['refused_cost']:12.3f}  {f['missed']:6.3f}  {f['cost']:5.2f}  {f['worth']:+.3f}  "
            f"{f['worth_minus_heuristic']:+.3f} ± {f['worth_error']:.3f}"
        )
    told = f"{episodes} episodes; means, ± standard error; costs in runs that never grow"
    return "\n".join([*rows, told])
