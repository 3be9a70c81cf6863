"""A run as its page shows it: one value of plain numbers and texts, made from the events and the summary alone.

The live page, the report and `esper ui --json` hold the same; docs/page.md says what each entry means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from esper.core.plain import plain
from esper.tolaria.record.course.reading import INCIDENTS, Record, of_kind, seconds_of
from esper.tolaria.record.page.costs import costs
from esper.tolaria.record.page.curves import SMOOTHING, TRUNK_POINTS, Curves, Fork, curves
from esper.tolaria.record.page.decisions import evaluations, growth_now, last_refused, looks, reasons
from esper.tolaria.record.page.layers import network
from esper.tolaria.record.page.lives import blueprints_of, seed_lives, seeds
from esper.tolaria.record.page.pace import step_times
from esper.tolaria.record.terminal.depth_words import became, missed

LAST_ROWS = 200
"""Most rows of each list, the newest."""
STARTS = ("run", "resumed")
FACTS = ("run_id", "seed", "data", "model", "optimizer", "device", "task", "splits", "command", "total_steps")
FIGURES = ("smoothed_loss", "accuracy", "learning_rate", "training_macs")
EPOCH_FIGURES = ("epoch", "val_loss", "val_accuracy", "val_metrics")
OUTCOME = (
    *("finished", "stop_reason", "test_accuracy", "test_loss", "test_metrics", "host_parameters", "final_parameters"),
    *("final_widths", "reproducible", "reproducible_cause", "machine", "weights_digest", "step_ms", "ended_early"),
    *("growth", "commands", "comparison", "epochs"),
)


def view(events: Sequence[Record], summary: Mapping[str, Any] | None = None, *, is_held: bool = False) -> Any:
    """The run as it stands; every number is finite, what was none is null, and no text holds what could act.

    events: as `reading.standing` gives them. is_held: whether a process trains the run now.
    """
    facts = _facts(events, summary)
    state = _state(events, summary, is_held=is_held)
    lives, judged = seed_lives(events), looks(events)
    grown = seeds(events, blueprints_of(events))
    return clean(
        {
            "run": facts,
            "state": state,
            "progress": _progress(events, summary),
            "loss": _losses(events, lives, float(facts.get("smoothing") or SMOOTHING)),
            "network": network(events),
            "growth": growth_now(events, grown, state["ended"]),
            "reasons": reasons(events)[-LAST_ROWS:],
            "looks": judged[-LAST_ROWS:],
            "evaluations": evaluations(events)[-LAST_ROWS:],
            "last_refused": last_refused(events, judged),
            "seeds": grown,
            "cost": costs(events, lives),
            "step_time": step_times(events),
            "commands": [_command(event) for event in of_kind(events, "command")][-LAST_ROWS:],
            "gates": [_gate(event) for event in of_kind(events, "gate") if event["verdict"] != "WAIT"][-LAST_ROWS:],
            "mode": _mode(events),
            "incidents": [_incident(event) for event in events if event["kind"] in INCIDENTS][-LAST_ROWS:],
            "outcome": None if summary is None else _outcome(summary),
        }
    )


def clean(value: Any) -> Any:
    """Plain JSON: what is no finite number is null, and texts hold no control characters."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {plain(str(name)): clean(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [clean(each) for each in value]
    return value


def _facts(events: Sequence[Record], summary: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the run was started with; the newest start says how long it is to be, the first how large it was."""
    starts = [event for event in events if event["kind"] in STARTS and "run_id" in event]
    told = {**(summary or {}), **(starts[-1] if starts else {})}
    facts = {name: told.get(name) for name in FACTS}
    return {
        **facts,
        "smoothing": told.get("smoothing"),
        "generations": len(starts),
        "started_at": starts[0].get("time") if starts else None,
        "parameters_at_first": starts[0].get("parameters") if starts else None,
    }


def _state(events: Sequence[Record], summary: Mapping[str, Any] | None, *, is_held: bool) -> dict[str, Any]:
    """`word` is one of: not begun, starting, training, finished, stopped, failed, killed."""
    begun = max((place for place, event in enumerate(events) if event["kind"] in STARTS), default=None)
    since = events[begun:] if begun is not None else []
    words = {event["kind"]: event for event in since if event["kind"] in ("finished", "stopped")}
    failed = next((event for event in since if event.get("name") == "tolaria.run_failed"), None)
    word, detail, ended = "training", "", None
    if begun is None:
        word = "starting" if is_held else "not begun"
    elif failed is not None:
        word, detail, ended = "failed", failed["detail"], "failed"
    elif "finished" in words and ("stopped" in words or (summary is not None and not summary.get("finished", True))):
        detail = (summary or {}).get("stop_reason") or words.get("stopped", {}).get("detail", "")
        word, ended = "stopped", "was stopped"
    elif "finished" in words:
        word, ended = "finished", "has finished"
    elif not is_held:
        word, ended = "killed", "ended without its last word"
        detail = "no process holds its directory; --resume goes on from its newest checkpoint"
    told = [event["time"] for event in events if "time" in event]
    return {"word": word, "detail": detail, "ended": ended, "last_event": told[-1] if told else None}


def _progress(events: Sequence[Record], summary: Mapping[str, Any] | None) -> dict[str, Any]:
    boundaries, epochs = of_kind(events, "boundary"), of_kind(events, "epoch")
    now = boundaries[-1] if boundaries else {}
    networks = of_kind(events, "network")
    return {
        "step": now.get("step", 0),
        "parameters": networks[-1]["parameters"] if networks else (summary or {}).get("final_parameters"),
        **{name: now.get(name) for name in FIGURES},
        **{name: (epochs[-1] if epochs else {}).get(name) for name in EPOCH_FIGURES},
    }


def _losses(events: Sequence[Record], lives: Sequence[Mapping[str, Any]], smoothing: float) -> dict[str, Any]:
    """Curves over steps, and the run's clock: what had been spent, in work and in time, at which step."""
    found = curves(events, smoothing)
    return {
        "clock": _clock(events),
        "measured": found.measured,
        "trunk": found.trunk,
        "judged": _of_epochs(events, "val_loss"),
        "accuracy": _of_epochs(events, "val_accuracy"),
        "windows": lives,
        "forks": [_fork(fork) for fork in found.forks],
        "note": _note(found, smoothing),
    }


def _note(found: Curves, smoothing: float) -> str:
    return (
        f"Each point is the mean of at most {found.steps_a_point} steps; smoothed curves remember about "
        f"{1 / smoothing:.0f} steps."
    )


def _fork(fork: Fork) -> dict[str, Any]:
    names = ("seed_id", "start", "end", "fate", "grown", "twin", "measured_grown", "measured_twin")
    return {name: getattr(fork, name) for name in names}


def _clock(events: Sequence[Record]) -> dict[str, list[float]]:
    boundaries = of_kind(events, "boundary")
    share = max(1, math.ceil(len(boundaries) / TRUNK_POINTS))
    shown = boundaries[::share] + (boundaries[-1:] if boundaries and (len(boundaries) - 1) % share else [])
    began = next((at for event in events if (at := seconds_of(event)) is not None), 0.0)
    seconds = accumulate(((seconds_of(event) or began) - began for event in shown), max, initial=0.0)
    return {
        "step": [0, *(event["step"] for event in shown)],
        "macs": [0, *(event.get("training_macs", 0) for event in shown)],
        "seconds": list(seconds),
    }


def _of_epochs(events: Sequence[Record], name: str) -> list[tuple[int, float]]:
    """What was measured after each epoch, by step, thinned."""
    found = [(event["step"], event[name]) for event in of_kind(events, "epoch") if event.get(name) is not None]
    share = max(1, math.ceil(len(found) / TRUNK_POINTS))
    return found[::share] + (found[-1:] if found and (len(found) - 1) % share else [])


def _command(event: Record) -> dict[str, Any]:
    return {
        "step": event.get("step"),
        "command_id": event["command_id"],
        "signer": event.get("issued_by") or "",
        "action": event.get("action") or ", ".join(event.get("directives", ())),
        "accepted": event["accepted"],
        "rejection": event.get("rejection") or "",
        "why": event.get("detail") or event.get("rationale") or ", ".join(event.get("reasons", ())),
        "trace_id": event.get("trace_id"),
    }


def _gate(event: Record) -> dict[str, Any]:
    names = ("step", "seed_id", "gate", "verdict", "measured", "threshold", "detail")
    return {name: event.get(name) for name in names}


def _mode(events: Sequence[Record]) -> dict[str, Any]:
    """The run's mode, the plane's word where it isn't quiet, and the emergencies that were told."""
    boundaries = of_kind(events, "boundary")
    now = boundaries[-1] if boundaries else {}
    return {
        "mode": now.get("mode", "unknown"),
        "plane": now.get("plane"),
        "emergencies": [_incident(event) for event in of_kind(events, "emergency")][-LAST_ROWS:],
    }


def _incident(event: Record) -> dict[str, Any]:
    return {
        "time": event.get("time"),
        "step": event.get("step"),
        "kind": event["kind"],
        "name": event.get("name", ""),
        "detail": event.get("detail", ""),
    }


def _outcome(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: summary.get(name) for name in OUTCOME},
        "depths": became(summary),
        "missed_depth": missed(summary),
    }
