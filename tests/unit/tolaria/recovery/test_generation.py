"""Openings of a run: numbered without repetition, each told where it goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from esper.tolaria.loop.boundaries import Obstacle
from esper.tolaria.loop.setback import Setback
from esper.tolaria.plane.null_control import NullControl
from esper.tolaria.plane.open_control import Opening
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.generation import open_generation
from tests.unit.tolaria.recovery.test_going_back import Moments

NONE: Obstacle = lambda setback: ""  # noqa: E731


class Openings(list[Opening]):
    """Opens a control plane that does nothing, and keeps what it was told."""

    def open_control(self, opening: Opening) -> NullControl:
        self.append(opening)
        return NullControl()


def test_a_new_run_opens_as_generation_one_at_its_start() -> None:
    openings, session = Openings(), Moments().session
    generation = open_generation(session, openings.open_control, None, None, obstacle_to=NONE)
    (opening,) = openings
    assert (opening.generation, opening.step, opening.states, opening.gives_up_course) == (1, 0, None, False)
    assert generation.boundaries.pipeline.next_packet == 0


def test_no_generation_is_given_twice_even_if_its_opening_came_to_nothing(tmp_path: Path) -> None:
    store, openings, moments = CheckpointStore(tmp_path, keep=2), Openings(), Moments()
    for _ in range(3):
        moments.session.progress.generation = 1
        open_generation(moments.session, openings.open_control, store, None, obstacle_to=NONE)
    assert [opening.generation for opening in openings] == [1, 2, 3]


def test_a_run_goes_on_with_its_states_and_what_was_in_flight() -> None:
    openings, moments = Openings(), Moments()
    moments.make(2)
    moments.save()
    snapshot = moments.going_back.go(Setback(why="why", is_slower=True, gives_up_course=True))
    opened = partial(open_generation, moments.session, openings.open_control, obstacle_to=NONE)
    generation = opened(None, snapshot, gives_up_course=True)
    (opening,) = openings
    assert (opening.generation, opening.step, opening.gives_up_course) == (2, 2, True)
    assert opening.states == snapshot.states
    assert (generation.boundaries.pipeline.next_packet, generation.boundaries.pipeline.in_flight) == (1, 1)
