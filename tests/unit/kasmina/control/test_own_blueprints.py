"""A run's own blueprints: known to that run alone, built only from what was verified, costed as they say."""

import asyncio
from pathlib import Path

import pytest

from esper.core.errors import ContractError, DependencyViolationError
from esper.kasmina.control.prefetch.prefetcher import TIMEOUT_S
from esper.kasmina.server import KasminaConfig
from esper.leyline import (
    ApplyCommandRequest,
    Blueprint,
    KasminaServiceCloseRunRequest,
    RegistryReset,
    ResetRegistryRequest,
    RunClosure,
    SlotKind,
    TaskType,
)
from esper.urza.artifacts import ArtifactStore
from esper.urza.catalog import Catalog, misfit
from esper.urza.cost import cost
from tests.unit.kasmina.control.making import RESIDUAL_SLOT, RUN, germinate, on_seed, refusal_of, request, slot, spec
from tests.unit.kasmina.control.service import Service, own_library
from tests.unit.urza.own.making import described


@pytest.fixture
def own(tmp_path: Path) -> tuple[Blueprint, KasminaConfig]:
    return own_library(tmp_path / "artifacts")


@pytest.fixture
def service(tmp_path: Path, own: tuple[Blueprint, KasminaConfig]) -> Service:
    made = Service(tmp_path / "state", own[1])
    yield made
    made.close()


def germinate_own(seed_id: str = "s1"):
    return germinate(seed_id, operation={"blueprint_id": "lab.gated", "slot_id": RESIDUAL_SLOT})


def test_it_is_germinated_with_the_digest_that_the_executor_must_find(
    service: Service, own: tuple[Blueprint, KasminaConfig]
) -> None:
    service.open(spec(own_blueprints=[own[0]], named_blueprint_ids=["lab.gated"]))
    outcome = service.apply(germinate_own())
    assert outcome.accepted, outcome.detail
    build = next(directive for directive in outcome.directives if directive.blueprint_id)
    assert build.artifact_digest == own[0].artifact.digest
    assert {value.name: value.value for value in build.parameters} == {"width": 8.0}


def test_another_run_does_not_know_it(service: Service) -> None:
    service.open(spec())
    assert refusal_of(service.apply(germinate_own())) == "UNKNOWN_BLUEPRINT"
    with pytest.raises(DependencyViolationError, match=r"lab\.gated"):
        service.open(spec(generation=1, named_blueprint_ids=["lab.gated"]))


def test_a_changed_file_refuses_the_germination_and_says_which(
    service: Service, own: tuple[Blueprint, KasminaConfig], tmp_path: Path
) -> None:
    service.open(spec(own_blueprints=[own[0]]))
    source = described(tmp_path / "again").source
    digest = ArtifactStore(tmp_path / "artifacts").put(source)
    (tmp_path / "artifacts" / digest).write_bytes(source + b"\n")
    outcome = service.apply(germinate_own())
    assert refusal_of(outcome) == "UNKNOWN_BLUEPRINT"
    assert f"{digest} has SHA-256" in outcome.detail
    assert "prefetch_error" in service.recorder.events


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"blueprint_id": "span.linear"}, "is built in"),
        ({"digest": "0" * 64}, "not what its digest says"),
        ({"description": "another"}, "not what its digest says"),
    ],
)
def test_a_run_is_not_opened_with_one_that_was_tampered_with(
    service: Service, own: tuple[Blueprint, KasminaConfig], change: dict[str, str], problem: str
) -> None:
    for name, value in change.items():
        setattr(own[0], name, value)
    with pytest.raises(ContractError, match=problem):
        service.open(spec(own_blueprints=[own[0]]))


def test_a_budget_counts_what_its_sheet_says(own: tuple[Blueprint, KasminaConfig]) -> None:
    place = slot(RESIDUAL_SLOT, SlotKind.SLOT_KIND_RESIDUAL_LINEAR, in_features=6)
    price = cost(own[0], place, None, {"width": 8.0}, TaskType.TASK_TYPE_CLASSIFICATION)
    features, positions = place.out_features, place.write_positions
    assert price.parameters == 3 * features * 8 + 2 * features
    assert price.forward_macs == 3 * positions * features * 8


def test_a_language_model_takes_it_only_if_it_says_that_it_does_not_look_ahead(
    own: tuple[Blueprint, KasminaConfig],
) -> None:
    place = slot(RESIDUAL_SLOT, SlotKind.SLOT_KIND_RESIDUAL_LINEAR, in_features=6)
    assert misfit(own[0], place, TaskType.TASK_TYPE_LANGUAGE_MODEL) is None
    own[0].is_causal = False
    assert "later tokens" in (misfit(own[0], place, TaskType.TASK_TYPE_LANGUAGE_MODEL) or "")


class Silent:
    """A line on which no answer ever comes."""

    async def ask(self, request: object, on_answer: object) -> None:
        """Heard by nobody."""

    async def close(self) -> None:
        """Nothing is open."""


def silenced(service: Service) -> Silent:
    line = Silent()
    service.servicer._prefetcher._line = line
    return line


@pytest.mark.parametrize("end", ["cull", "close", "reset"])
def test_a_germination_that_waits_ends_with_its_seed_or_its_run(
    service: Service, own: tuple[Blueprint, KasminaConfig], end: str
) -> None:
    service.open(spec(own_blueprints=[own[0]]))
    silenced(service)
    prefetcher = service.servicer._prefetcher

    async def course() -> object:
        germination = ApplyCommandRequest(command=service.sign(germinate_own()))
        waiting = asyncio.create_task(service.servicer.apply_command(germination, service.call))
        while not prefetcher.inflight:
            await asyncio.sleep(0)
        if end == "cull":
            cull = ApplyCommandRequest(command=service.sign(on_seed("CULL", step=100)))
            await service.servicer.apply_command(cull, service.call)
        elif end == "close":
            closure = RunClosure(training_run_id=RUN, generation=0, step=100, reason="stopped")
            await service.servicer.close_run(KasminaServiceCloseRunRequest(command=service.sign(closure)), service.call)
        else:
            reset = RegistryReset(training_run_id=RUN, rationale="start over")
            await service.servicer.reset_registry(ResetRegistryRequest(command=service.sign(reset)), service.call)
        assert prefetcher.inflight == 0
        try:
            return (await waiting).outcome
        except Exception as error:  # noqa: BLE001 - a closed run refuses the command itself
            return error

    outcome = service.run(course())
    assert not getattr(outcome, "accepted", False)
    assert "prefetch_canceled" in service.recorder.events


def test_a_silence_of_urza_is_told_to_the_policy_with_the_next_answer(
    service: Service, own: tuple[Blueprint, KasminaConfig]
) -> None:
    service.open(spec(own_blueprints=[own[0]]))
    assert service.advance(request(100)).growth.artifact_timeouts == 0
    silenced(service)
    command = ApplyCommandRequest(command=service.sign(germinate_own()))
    waiting = service.begin(service.servicer.apply_command(command, service.call))
    while not service.servicer._prefetcher.inflight:
        service.run(asyncio.sleep(0))
    service.skip(TIMEOUT_S)
    outcome = service.run(asyncio.wait_for(waiting, 20)).outcome
    assert refusal_of(outcome) == "UNKNOWN_BLUEPRINT"
    assert "no answer of Urza" in outcome.detail
    assert service.advance(request(110)).growth.artifact_timeouts == 1


def test_a_catalogue_with_no_own_blueprints_is_the_same_one() -> None:
    catalog = Catalog.builtin()
    assert catalog.with_own([]) is catalog
