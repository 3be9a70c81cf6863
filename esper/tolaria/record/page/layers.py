"""The network strip: layers with their widths before and now, equal blocks as one row, and what became of each slot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from esper.tolaria.record.course.reading import Record, of_kind

IN_LIST = re.compile(r"(?P<list>.*?)\.?(?<![^.])(?P<place>\d+)(?:\.(?P<rest>.*))?")
STAYS_CLOSED = re.compile(r"slot (?P<slot_id>\S+) stays closed: (?P<reason>.*)", re.DOTALL)
GONE = ("DORMANT", "RESETTING", "EMBARGOED", "CULLED")


def network(events: Sequence[Record]) -> dict[str, Any] | None:
    """Rows of layers, lists of blocks with their depths, slots and refusals; None for runs of earlier versions."""
    told = of_kind(events, "network")
    if not told:
        return None
    first, now = told[0], told[-1]
    before = {layer["path"]: layer["width"] for layer in first["layers"]}
    layers = [{**layer, "before": before.get(layer["path"])} for layer in now["layers"]]
    return {
        "parameters": {"before": first["parameters"], "now": now["parameters"]},
        "rows": list(_rows(layers)),
        "lists": _lists(before, [layer["path"] for layer in now["layers"]]),
        "slots": _slots(events, now["slots"]),
        "refused": [*_refusals(now["refused"]), *_closed(events)],
    }


def _rows(layers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each layer outside lists is a row; in a list, blocks that follow each other and are equal are one."""
    for path, group in groupby(layers, key=lambda layer: _place(layer["path"])[0]):
        inside = list(group)
        if path is None:
            yield from (_row(layer["path"], [layer], 1) for layer in inside)
            continue
        blocks = [(place, list(each)) for place, each in groupby(inside, key=lambda layer: _place(layer["path"])[1])]
        for _, equal in groupby(blocks, key=lambda block: _signature(block[1])):
            run = list(equal)
            first, last = run[0][0], run[-1][0]
            name = f"{path}.{first}" if first == last else f"{path}.{first} to {last}"
            yield _row(name, run[0][1], len(run))


def _row(path: str, layers: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    return {
        "path": path,
        "count": count,
        "parameters": count * sum(layer["parameters"] for layer in layers),
        "layers": [
            {
                "path": _place(layer["path"])[2] or layer["path"],
                "kind": layer["kind"],
                "before": layer["before"],
                "now": layer["width"],
            }
            for layer in layers
        ],
    }


def _place(path: str) -> tuple[str | None, int, str]:
    """The list that a layer is in, its block's place there, and its path inside that block."""
    found = IN_LIST.fullmatch(path)
    return (None, 0, "") if found is None else (found["list"], int(found["place"]), found["rest"] or "")


def _signature(layers: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple((_place(layer["path"])[2], layer["kind"], layer["before"], layer["width"]) for layer in layers)


def _lists(before: Iterable[str], now: Iterable[str]) -> list[dict[str, Any]]:
    """Depths of the lists whose number of blocks changed."""
    depths = [_depths(before), _depths(now)]
    return [
        {"path": path, "before": depths[0].get(path, 0), "now": depth}
        for path, depth in depths[1].items()
        if depth != depths[0].get(path, 0)
    ]


def _depths(paths: Iterable[str]) -> dict[str, int]:
    places: dict[str, set[int]] = {}
    for path in paths:
        name, place, _ = _place(path)
        if name is not None:
            places.setdefault(name, set()).add(place)
    return {name: len(found) for name, found in places.items()}


def _slots(events: Sequence[Record], slots: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each slot with the newest seed that was in it, and what that seed is now."""
    boundaries = of_kind(events, "boundary")
    seeds = {seed["slot_id"]: seed for seed in (boundaries[-1]["seeds"] if boundaries else ())}
    fates = {
        move["seed_id"]: move["to_stage"]
        for move in of_kind(events, "transition")
        if move["to_stage"] in ("FOSSILIZED", "CULLED")
    }
    return [{**slot, **_state(seeds.get(slot["slot_id"]), fates)} for slot in slots]


def _state(seed: Record | None, fates: Mapping[str, str]) -> dict[str, Any]:
    """`state` is open, kept, or the seed's stage."""
    if seed is None:
        return {"state": "open", "seed_id": None}
    stage = str(seed["stage"])
    if stage == "FOSSILIZED":
        return {"state": "kept", "seed_id": seed["seed_id"]}
    if stage in GONE and fates.get(seed["seed_id"]) == "CULLED":
        state = "open again" if stage == "DORMANT" else "closed for a while"
        return {"state": f"{state}, {seed['seed_id']} was culled", "seed_id": seed["seed_id"]}
    return {"state": stage.lower() + (", paused" if seed.get("is_paused") else ""), "seed_id": seed["seed_id"]}


def _refusals(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    for line in lines:
        place, colon, reason = line.partition(": ")
        yield {"slot": place, "reason": reason} if colon else {"slot": "", "reason": line}


def _closed(events: Sequence[Record]) -> Iterator[dict[str, str]]:
    """Slots that Kasmina didn't open, each once."""
    told = [event["detail"] for event in events if event.get("name") == "tolaria.slot_refused"]
    for line in dict.fromkeys(told):
        found = STAYS_CLOSED.fullmatch(line)
        yield {"slot": found["slot_id"], "reason": found["reason"]} if found else {"slot": "", "reason": line}
