"""The race of rules as Markdown: the rules over everything, then length by length, then the picks in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comparing import Line, chance, half_of, markdown

MEASURES = {"steps": "at equal steps", "cost": "at equal cost"}
COSTS = ("mean MACs", "share of the frontier's cost", "kept of judged")


def table(told: Mapping[str, Any]) -> str:
    """What race.py found."""
    parts = [_over_all(told["rules"]), _by_length(told["by_length"], told["rules"][0]["rule"]), "\n".join(words(told))]
    return "\n\n".join(parts)


def _over_all(lines: Sequence[Line]) -> str:
    measured = [words for name in MEASURES.values() for words in (f"less the best {name}, 95 %", "upper bound", "p")]
    head = ["rule", "runs", "mean test loss", *measured, *COSTS]
    told = [
        [line["rule"], *_runs(line), *_told(line.get("steps")), *_told(line.get("cost")), *_cost(line)]
        for line in lines
    ]
    return markdown(head, told)


def _by_length(lines: Sequence[Line], first: str) -> str:
    measured = [words for name in MEASURES.values() for words in (f"less {first} {name}, 95 %", "p")]
    head = ["corpus", "steps", "rule", "runs", "mean test loss", *measured, *COSTS]
    told = []
    for line in lines:
        differences = [_told(line[measure]) for measure in MEASURES]
        cells = [cell for difference, _, p in differences for cell in (difference, p)]
        told.append([line["plan"], line["budget"] or "-", line["rule"], *_runs(line), *cells, *_cost(line)])
    return markdown(head, told)


def words(told: Mapping[str, Any]) -> Iterator[str]:
    """The picks, and how far they can be trusted."""
    for measure, name in MEASURES.items():
        pick, winner = told[f"picked_{measure}"], told[f"best_{measure}"]
        if winner is None:
            yield f"* **{name.capitalize()}**: nothing can be told, for want of a frontier of two budgets."
            continue
        allowed = f"the simplest within {told['within']:g} nats"
        yield f"* **{name.capitalize()}**: the best is {winner}; {allowed} is **{pick}**."
        if (control := told.get(f"control_{measure}", {"pairs": 0}))["pairs"]:
            difference, bound, p = _told(control)
            yield f"  Random times less {pick}: {difference} nats (upper bound {bound}, p {p})."
    missing = told["wanted"] - told["cells"]
    more = f"; {missing} are missing." if missing else "."
    yield f"* {told['cells']} of {told['wanted']} seeds and lengths were run by all rules{more}"
    if told["outside_frontier"]:
        yield f"* For {told['outside_frontier']} runs the frontier was drawn on beyond its ends."


def _runs(line: Line) -> list[str]:
    """How many, and their mean loss."""
    return [str(line["runs"]), "-" if line["loss"] is None else f"{line['loss']:.4f}"]


def _told(line: Line | None) -> list[str]:
    """Difference, upper bound and p."""
    if not line or not line["pairs"]:
        return ["-", "-", "-"]
    if line["difference"] == 0.0 and line["p"] is None:
        return ["0", "0", "-"]
    bound = "-" if line["upper"] is None else f"{line['upper']:+.4f}"
    return [f"{line['difference']:+.4f}{half_of(line['difference_95'], 4)}", bound, chance(line["p"])]


def _cost(line: Line) -> list[str]:
    macs = "-" if line["training_macs"] is None else f"{line['training_macs']:.3e}"
    share = "-"
    if "share_of_frontier" in line:
        share = f"{line['share_of_frontier']:.2f}{half_of(line['share_of_frontier_95'], 2)}"
        if line["share_of_frontier_runs"] < line["runs"]:
            share += f" ({line['share_of_frontier_runs']} runs)"
    return [macs, share, f"{line['kept']} of {line['judged']}"]
