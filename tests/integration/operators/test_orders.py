"""An operator's orders, end to end: each is signed, recorded, carried out at a boundary of a real run, and told.

The run is held at the boundaries at which the orders are given, so that they come at the same steps every time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main as esper
from esper.core.clock import SYSTEM_CLOCK
from esper.core.security.keys import Keyring
from esper.core.security.run_line import read_line
from esper.core.security.signing import Signer
from esper.leyline import (
    AdaptationCommand,
    ApplyCommandRequest,
    SeedOperation,
    SeedOperationKind,
    SeedStage,
    SeedState,
)
from esper.rpc.clients import KasminaClient, channel
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.course.reading import Record, read_events
from esper.tolaria.record.observer import Boundary, Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions

PAUSED_BOUNDARIES = 8
BLENDING = SeedStage.SEED_STAGE_BLENDING
PROBATIONARY = SeedStage.SEED_STAGE_PROBATIONARY
FOSSILIZED = SeedStage.SEED_STAGE_FOSSILIZED


@dataclass(frozen=True, slots=True)
class Order:
    """What is done when the seed stands as `when` says, so many boundaries after the last order."""

    when: Callable[[SeedState], bool]
    give: Callable[[Path], int]
    after: int = 0


def by_esper(*words: str) -> Callable[[Path], int]:
    verb, *rest = words
    return lambda run_dir: esper(["seed", verb, str(run_dir), *rest])


def keep(run_dir: Path) -> int:
    """The override that makes a seed permanent whatever its judge would have said."""
    operation = SeedOperation(
        seed_id="s1", operation=SeedOperationKind.SEED_OPERATION_KIND_ADVANCE_TO, target_stage=FOSSILIZED
    )
    command = AdaptationCommand(
        command_id=secrets.token_hex(4),
        training_run_id=run_dir.name,
        generation=1,
        step=0,
        issued_by="operator:test",
        seed=operation,
    )
    keyring = Keyring.from_secret((run_dir / "secret").read_text().strip())
    envelope = Signer(keyring, SYSTEM_CLOCK).sign(command, audience=f"kasmina/{run_dir.name}")
    with channel(read_line(run_dir).peers["kasmina"].endpoint) as link:
        outcome = KasminaClient(link).apply_command(ApplyCommandRequest(command=envelope), timeout_s=10.0).outcome
    return int(not outcome.accepted)


ORDERS = (
    Order(lambda seed: seed.stage == BLENDING, by_esper("pause", "s1", "--why", "a look")),
    Order(lambda seed: seed.is_paused, by_esper("resume", "s1", "--why", "go on"), after=PAUSED_BOUNDARIES),
    Order(
        lambda seed: seed.stage == BLENDING and not seed.is_paused,
        by_esper(
            "blend", "s1", "--mode", "channel", "--channels", "0.1,0,0.1,0.1,0.1", "--steps", "9", "--alpha", "0.5"
        ),
    ),
    Order(lambda seed: seed.stage == PROBATIONARY, keep),
    Order(lambda seed: seed.stage == FOSSILIZED, by_esper("prune", "s1", "--why", "a drill"), after=3),
)


class Operator(Observer):
    """Gives one order after the other; keeps what the seed was seen as."""

    def __init__(self, run_dir: Path) -> None:
        self.codes: list[int] = []
        self.seen: list[SeedState] = []
        self._run_dir = run_dir
        self._waited = 0

    def on_boundary(self, boundary: Boundary) -> None:
        states = (boundary.result.seeds if boundary.result is not None else None) or ()
        seed = next((state for state in states if state.seed_id == "s1"), None)
        if seed is None:
            return
        self.seen.append(seed)
        self._waited += 1
        if len(self.codes) < len(ORDERS):
            order = ORDERS[len(self.codes)]
            if order.when(seed) and self._waited > order.after:
                self.codes.append(order.give(self._run_dir))
                self._waited = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordered:
    summary: dict[str, Any]
    events: list[Record]
    operator: Operator
    told: bytes


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Ordered:
    run_dir = tmp_path_factory.mktemp("ordered") / "run"
    config = TrainConfig(
        run_dir=run_dir,
        samples=600,
        hidden=(5, 5),
        min_samples=50,
        epochs=50,
        evaluate_every_steps=3,
        grow="always",
        max_seeds=1,
        tau=1.0,
        stability_limit=100.0,
        blend="convex",
        blend_alpha=0.5,
        blend_schedule="cosine",
    )
    operator = Operator(run_dir)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
            patch.delenv(variable, raising=False)
        summary = grow(config, RunOptions(overwrite=True, tensorboard=False), [operator], Interruption())
    told = (run_dir / "services" / "oona.db").read_bytes()
    return Ordered(summary=summary, events=list(read_events(run_dir)), operator=operator, told=told)


def steps_of(ordered: Ordered, *kinds: str) -> list[int]:
    found = [event for event in ordered.events if event["kind"] == "directive" and event["directive"] in kinds]
    assert all(event["succeeded"] for event in found)
    return [event["step"] for event in found]


def test_every_order_is_accepted_and_stands_in_the_record_with_who_gave_it(ordered: Ordered) -> None:
    assert ordered.operator.codes == [0] * len(ORDERS)
    issuers = [event["issued_by"] for event in ordered.events if event["kind"] == "command"]
    assert sum(issuer.startswith("operator:") for issuer in issuers) == len(ORDERS)
    assert "gave command" in ordered.summary["reproducible_cause"]


def test_a_paused_seed_stands_still_and_goes_on_later_by_as_much(ordered: Ordered) -> None:
    muted, unmuted = steps_of(ordered, "MUTE", "UNMUTE")
    assert unmuted - muted >= 3 * PAUSED_BOUNDARIES
    paused = [seed for seed in ordered.operator.seen if seed.is_paused]
    assert {seed.stage for seed in paused} == {BLENDING}
    assert paused[-1].alpha == 0.0


def test_a_blend_changes_and_its_weights_are_told(ordered: Ordered) -> None:
    assert len(steps_of(ordered, "SET_BLEND")) == 1
    for name in (
        b"blend_config",
        b"kasmina.blend.alpha_p95",
        b"kasmina.blend.sparsity",
        b"seed_paused",
        b"seed_resumed",
    ):
        assert name in ordered.told


def test_a_kept_seed_that_is_pruned_fades_and_leaves_nothing(ordered: Ordered) -> None:
    stages = [SeedStage.Name(seed.stage).removeprefix("SEED_STAGE_") for seed in ordered.operator.seen]
    assert list(dict.fromkeys(stages)) == [
        *("GERMINATED", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"),
        *("CULLED", "EMBARGOED", "DORMANT"),
    ]
    assert len(steps_of(ordered, "FADE")) == 1
    resets = [e for e in ordered.events if e["kind"] == "gate" and e["gate"] == "G5_RESET"]
    assert [gate["verdict"] for gate in resets] == ["PASS"]
    assert ordered.summary["final_parameters"] == ordered.summary["host_parameters"]
