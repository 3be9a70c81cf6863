"""Events of a small run under way: s1 was kept, s0 was culled, and later s2 is on trial. Ids hold markup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

MARKUP = "<img src=x onerror=alert(1)>"
REFUSED = "look 2: z = 1.20 against 2.71, undecided, and no further window is left"
WAITS = "the loss falls by 68.29% in 100 steps, flat below 60.00%"
SLOTS = {"s0": "span_linear:fc2-fc3", "s1": f"span_linear:fc1-{MARKUP}", "s2": f"span_linear:fc1-{MARKUP}"}
Event = dict[str, Any]


def lines(events: Iterator[Event], began: datetime) -> bytes:
    """As the trainer writes them, ten steps a second."""
    stamped = (
        {"time": (began + timedelta(seconds=event.get("step", 0) / 10)).isoformat(timespec="milliseconds"), **event}
        for event in events
    )
    return b"".join(json.dumps(event).encode() + b"\n" for event in stamped)


def so_far() -> Iterator[Event]:
    """Until step 600: nothing grows, because the loss still falls."""
    facts = {"model": "mlp", "data": "digits", "optimizer": "Adam", "device": "cpu", "smoothing": 0.05}
    yield {
        "kind": "run",
        "run_id": f"walk {MARKUP}",
        "seed": 1,
        "step": 0,
        "total_steps": 2000,
        "parameters": 502,
        **facts,
    }
    yield network(0, 6)
    yield from boundaries(0, 100, [])
    yield from life("s0", 100, 250, culled=True)
    yield from life("s1", 300, 500, culled=False)
    yield network(500, 14)
    yield from boundaries(500, 600, [seed("s0", "DORMANT"), seed("s1", "FOSSILIZED")])
    yield {"kind": "growth", "step": 600, "reason": "STILL_IMPROVING", "detail": WAITS, "since_step": 600}
    yield {"kind": "timeout", "step": 600, "name": "tolaria.tamiyo_timeout", "detail": f"late {MARKUP}"}


def news() -> Iterator[Event]:
    """After that: another seed is grafted."""
    yield {"kind": "growth", "step": 610, "reason": "SEED_ALIVE", "detail": "seed s2 is BLENDING", "since_step": 610}
    yield move(610, "s2", "GERMINATED", "germinated as span.linear")
    yield move(620, "s2", "BLENDING", "built and sound")
    for step in range(630, 800, 10):
        yield boundary(step, [seed("s0", "DORMANT"), seed("s1", "FOSSILIZED"), seed("s2", "BLENDING")])
        yield twin(step, "s2")


def life(seed_id: str, start: int, end: int, *, culled: bool) -> Iterator[Event]:
    yield move(start, seed_id, "GERMINATED", "germinated as span.linear")
    yield command(start, f"c-{seed_id}", "germinate")
    yield move(start, seed_id, "BLENDING", "built and sound")
    for step in range(start + 10, end + 1, 10):
        yield boundary(step, [seed(seed_id, "BLENDING")])
        yield twin(step, seed_id)
    yield look(end - 50, seed_id, 1, 1.78, "EXTEND", "look 1: undecided")
    if culled:
        yield look(end, seed_id, 2, 1.2, "FAIL", REFUSED)
        yield move(end, seed_id, "CULLED", f"culled: {REFUSED}")
    else:
        yield look(end, seed_id, 2, 3.36, "PASS", "look 2: better than its twin")
        yield move(end, seed_id, "FOSSILIZED", "kept: it passed the judgement")


def boundaries(start: int, end: int, seeds: list[Event]) -> Iterator[Event]:
    for step in range(start + 10, end + 1, 10):
        yield boundary(step, seeds)


def boundary(step: int, seeds: list[Event]) -> Event:
    loss = 2.0 * 0.995**step + 0.05
    timings = {"step_ms": 0.5, "packet_ms": 0.05, "directives_ms": 0.01, "wait_ms": 0.1}
    macs = {"main": 1000 * step, "twin": 300 * step, "side": 50 * step, "undone": 0}
    told = {"loss": loss, "smoothed_loss": loss, "accuracy": 0.9, "mode": "normal", "training_macs": sum(macs.values())}
    return {"kind": "boundary", "step": step, **told, "macs": macs, "seeds": seeds, "timings": timings}


def twin(step: int, seed_id: str) -> Event:
    losses = [2.1 * 0.995**at + 0.06 for at in range(step - 9, step + 1)]
    return {"kind": "twin", "step": step, "from_step": step - 9, "seed_id": seed_id, "losses": losses}


def seed(seed_id: str, stage: str) -> Event:
    return {"seed_id": seed_id, "slot_id": SLOTS[seed_id], "stage": stage, "alpha": 1.0}


def move(step: int, seed_id: str, stage: str, reason: str) -> Event:
    return {"kind": "transition", "step": step, "seed_id": seed_id, "to_stage": stage, "reason": reason}


def command(step: int, command_id: str, action: str) -> Event:
    told = {"command_id": command_id + MARKUP, "accepted": True, "issued_by": "tamiyo", "trace_id": "0" * 31 + "1"}
    return {"kind": "command", "step": step, "action": action, **told}


def look(step: int, seed_id: str, number: int, z: float, verdict: str, detail: str) -> Event:
    test = {
        "gain": 0.01 + 0.005 * z,
        "margin": 0.01,
        "standard_error": 0.005,
        "z": z,
        "z_threshold": 2.71,
        "samples": 356,
    }
    told = {"gate": "G4_SYSTEM_IMPACT", "seed_id": seed_id, "verdict": verdict, "look": number, "detail": detail}
    return {"kind": "gate", "step": step, **told, **test}


def network(step: int, width: int) -> Event:
    layers = [
        {"path": path, "kind": "Linear", "width": given, "parameters": 100 * given}
        for path, given in (("fc1", width), ("fc2", 6), ("fc3", 10))
    ]
    slots = [{"slot_id": slot, "kind": "SPAN_LINEAR", "width": width} for slot in sorted(set(SLOTS.values()))]
    told = {"parameters": 502 if width == 6 else 1070, "layers": layers, "slots": slots}
    return {"kind": "network", "step": step, **told, "refused": ["conv1: its weights are shared"]}


def now(back_s: float) -> datetime:
    """When a run began that has been under way for so long."""
    return datetime.now(UTC) - timedelta(seconds=back_s)
