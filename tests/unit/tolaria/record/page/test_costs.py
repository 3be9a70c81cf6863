"""The cost bar adds up, and books a culled seed as failed."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from esper.tolaria.record.page.costs import costs

EACH = 10  # of a step of the host


def boundary(step: int, **macs: int) -> dict[str, Any]:
    return {"kind": "boundary", "step": step, "macs": {"main": 0, "twin": 0, "side": 0, "undone": 0, **macs}}


def life(fate: str, start: int = 10, end: int = 20) -> dict[str, Any]:
    return {"seed_id": "s1", "start": start, "end": end, "fate": fate}


RUN = [boundary(10, main=100), boundary(20, main=250, twin=100, side=7), boundary(30, main=350, twin=100, side=7)]


def test_of_a_kept_seed_the_twin_is_the_price_and_what_it_took_more_is_the_seeds() -> None:
    found = costs(RUN, [life("FOSSILIZED")])
    assert found is not None
    assert found["parts"] == {"host": 300, "seed": 50, "twin": 100, "judging": 7, "failed": 0}
    assert found["seeds"] == [{"seed_id": "s1", "fate": "FOSSILIZED", "macs": 150}]


def test_of_a_culled_seed_the_grown_arm_was_for_nothing_and_its_twin_was_the_network() -> None:
    found = costs(RUN, [life("CULLED")])
    assert found is not None
    assert found["parts"] == {"host": 300, "seed": 0, "twin": 0, "judging": 7, "failed": 150}


def test_without_a_twin_the_seeds_work_is_not_told_from_the_hosts() -> None:
    found = costs([boundary(10, main=100), boundary(20, main=250)], [life("")])
    assert found is not None
    assert found["parts"]["host"] == 250


@given(
    steps=st.lists(st.tuples(*[st.integers(0, 1000)] * 4), min_size=1, max_size=20),
    fates=st.lists(st.sampled_from(["FOSSILIZED", "CULLED", ""]), max_size=4),
)
def test_the_parts_always_add_up_to_the_total(steps: list[tuple[int, ...]], fates: list[str]) -> None:
    sums = [0, 0, 0, 0]
    events = []
    for place, more in enumerate(steps, 1):
        sums = [known + new for known, new in zip(sums, more, strict=True)]
        events.append(boundary(10 * place, **dict(zip(("main", "twin", "side", "undone"), sums, strict=True))))
    lives = [life(fate, start=20 * place, end=20 * place + 15) for place, fate in enumerate(fates)]
    found = costs(events, lives)
    assert found is not None
    assert sum(found["parts"].values()) == found["total"] == sum(sums)


def test_a_run_of_an_earlier_version_has_no_bar() -> None:
    assert costs([{"kind": "boundary", "step": 10}], []) is None
