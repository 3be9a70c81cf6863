"""The network strip: widths before and now, equal blocks as one row, slots and refusals."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.page.layers import network

Events = list[dict[str, Any]]


def layer(path: str, width: int) -> dict[str, Any]:
    return {"path": path, "kind": "Linear", "width": width, "parameters": 10}


def told(*layers: dict[str, Any], step: int = 0, slots: Any = (), refused: Any = ()) -> dict[str, Any]:
    fields = {"layers": list(layers), "slots": list(slots), "refused": list(refused), "parameters": 10 * len(layers)}
    return {"kind": "network", "step": step, **fields}


def blocks(count: int, width: int = 32, start: int = 0) -> list[dict[str, Any]]:
    return [layer(f"blocks.{place}.{name}", width) for place in range(start, count) for name in ("fc1", "fc2")]


def shown(*events: dict[str, Any]) -> dict[str, Any]:
    found = network(events)
    assert found is not None
    return found


def test_a_widened_layer_is_told_with_both_widths() -> None:
    found = shown(told(layer("fc1", 6), layer("fc2", 6)), told(layer("fc1", 14), layer("fc2", 6), step=9))
    assert [(row["path"], row["layers"][0]["before"], row["layers"][0]["now"]) for row in found["rows"]] == [
        ("fc1", 6, 14),
        ("fc2", 6, 6),
    ]
    assert found["parameters"] == {"before": 20, "now": 20}


def test_equal_blocks_are_one_row_and_new_ones_another() -> None:
    found = shown(told(layer("tokens", 8), *blocks(2)), told(layer("tokens", 8), *blocks(4), step=9))
    assert [(row["path"], row["count"]) for row in found["rows"]] == [
        ("tokens", 1),
        ("blocks.0 to 1", 2),
        ("blocks.2 to 3", 2),
    ]
    assert [each["before"] for each in found["rows"][2]["layers"]] == [None, None]
    assert found["lists"] == [{"path": "blocks", "before": 2, "now": 4}]


def test_a_block_that_was_widened_alone_stands_alone() -> None:
    now = [*blocks(1), layer("blocks.1.fc1", 40), layer("blocks.1.fc2", 32), *blocks(4, start=2)]
    found = shown(told(*blocks(4)), told(*now, step=9))
    assert [(row["path"], row["count"]) for row in found["rows"]] == [
        ("blocks.0", 1),
        ("blocks.1", 1),
        ("blocks.2 to 3", 2),
    ]


@given(st.lists(st.tuples(st.sampled_from(["a", "b.0", "b.1.c", "b.2.c", "3", "3.x", "d.10.e.0"]), st.integers(1, 3))))
def test_whatever_the_paths_every_layer_is_in_one_row(paths: list[tuple[str, int]]) -> None:
    layers = [layer(path, width) for path, width in dict(paths).items()]
    found = shown(told(*layers))
    assert sum(row["count"] * len(row["layers"]) for row in found["rows"]) == len(layers)
    assert sum(row["parameters"] for row in found["rows"]) == 10 * len(layers)


def test_a_slot_says_what_became_of_its_newest_seed_and_a_closed_one_why() -> None:
    slots = [{"slot_id": name, "kind": "SPAN_LINEAR", "width": 6} for name in ("a", "b", "c", "d")]
    seeds = [
        {"seed_id": "s1", "slot_id": "a", "stage": "FOSSILIZED"},
        {"seed_id": "s2", "slot_id": "b", "stage": "DORMANT"},
        {"seed_id": "s3", "slot_id": "c", "stage": "BLENDING", "is_paused": True},
    ]
    cull = {"kind": "transition", "step": 8, "seed_id": "s2", "to_stage": "CULLED", "reason": "r"}
    detail = "slot x:y stays closed: no blueprint fits: too narrow"
    closed = {"kind": "failure", "name": "tolaria.slot_refused", "detail": detail}
    found = shown(
        told(layer("fc1", 6), slots=slots, refused=["blocks: they share weights", "untraced"]),
        cull,
        {"kind": "boundary", "step": 9, "seeds": seeds},
        *[closed, closed],
    )
    assert [slot["state"] for slot in found["slots"]] == [
        *("kept", "open again, s2 was culled", "blending, paused", "open"),
    ]
    assert found["refused"] == [
        {"slot": "blocks", "reason": "they share weights"},
        {"slot": "", "reason": "untraced"},
        {"slot": "x:y", "reason": "no blueprint fits: too narrow"},
    ]


def test_a_run_of_an_earlier_version_has_no_strip() -> None:
    assert network([{"kind": "boundary", "step": 9, "seeds": []}]) is None
