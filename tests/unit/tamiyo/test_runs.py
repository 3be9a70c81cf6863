from __future__ import annotations

import asyncio

import pytest

from esper.core.decisions.decision_ledger import Decided
from esper.core.errors import AccessDenied, ContractError, LifecycleConflict, NonceReplayed
from esper.leyline import CommandSecurity, Decision, RunStateBlob, TamiyoRunSpec, TamiyoRunState
from esper.tamiyo.runs import Run, blob_of, state_from
from esper.tamiyo.service.parts import Parts
from tests.unit.held_commits import abandoned
from tests.unit.tamiyo.builders import ALWAYS, RUN, first_state, spec
from tests.unit.tamiyo.conftest import Home


def security(home: Home, run_spec: TamiyoRunSpec | None = None) -> CommandSecurity:
    return home.signer.sign(run_spec or spec(), audience=f"tamiyo/{RUN}").security


def decided_until(index: int) -> TamiyoRunState:
    state = first_state()
    state.packet_index, state.step, state.commands_issued = index, 10 * index, 3
    return state


def entry(run: Run) -> Decided:
    nothing = {"before": b"", "given": b"", "decision": b"", "after": b""}
    return Decided(run_id=run.run_id, generation=run.generation, step=0, kind="packet", version=1, **nothing)


async def test_a_token_opens_its_run_and_nothing_else_does(home: Home, parts: Parts) -> None:
    run, token = await parts.runs.open(spec(), security(home))
    assert len(token) == 43
    assert parts.runs.by_token(token) is run
    for wrong in (None, "", token[:-1], token + "x"):
        with pytest.raises(AccessDenied):
            parts.runs.by_token(wrong)


async def test_who_was_replaced_by_another_trainer_hears_that_it_may_have_been(home: Home, parts: Parts) -> None:
    run, token = await parts.runs.open(spec(), security(home))
    await parts.runs.save(run, decided_until(7), Decision(packet_index=7), entry(run))
    await parts.runs.open(spec(generation=2), security(home))
    with pytest.raises(LifecycleConflict, match="another trainer went on with it"):
        await parts.runs.save(run, decided_until(8), Decision(packet_index=8), entry(run))
    with pytest.raises(AccessDenied, match="another trainer went on with it"):
        parts.runs.by_token(token)


async def test_an_open_run_survives_a_restart_with_its_token_state_and_last_decision(home: Home) -> None:
    first = home.parts()
    run, token = await first.runs.open(spec(), security(home))
    await first.runs.save(run, decided_until(7), Decision(packet_index=7), entry(run))
    await first.close()
    second = home.parts()
    again = second.runs.by_token(token)
    assert again.state == decided_until(7)
    assert again.decision.packet_index == 7
    assert again.context == run.context
    await second.close()


async def test_a_closed_run_is_gone_also_after_a_restart(home: Home) -> None:
    first = home.parts()
    run, token = await first.runs.open(spec(), security(home))
    await first.runs.close_run(run, security(home))
    await first.close()
    second = home.parts()
    with pytest.raises(AccessDenied):
        second.runs.by_token(token)
    assert len(second.runs) == 0
    await second.close()


async def test_what_is_held_follows_the_disk_though_the_caller_gave_up_meanwhile(
    home: Home, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await abandoned(monkeypatch, parts.runs.open(spec(), security(home)))
    while (run := parts.runs.get(RUN)) is None:
        await asyncio.sleep(0.005)
    state = decided_until(7)
    await abandoned(monkeypatch, parts.runs.change(run, state, security(home)))
    while run.state != state:
        await asyncio.sleep(0.005)
    await abandoned(monkeypatch, parts.runs.close_run(run, security(home)))
    while parts.runs.get(RUN) is not None:
        await asyncio.sleep(0.005)


async def test_a_lost_answer_can_be_asked_for_again_before_the_first_packet(home: Home, parts: Parts) -> None:
    _, lost = await parts.runs.open(spec(), security(home))
    run, token = await parts.runs.open(spec(), security(home))
    assert parts.runs.by_token(token) is run
    with pytest.raises(AccessDenied):
        parts.runs.by_token(lost)


async def test_a_run_with_decisions_is_not_opened_over_them(home: Home, parts: Parts) -> None:
    run, _ = await parts.runs.open(spec(), security(home))
    await parts.runs.save(run, decided_until(1), Decision(), entry(run))
    with pytest.raises(LifecycleConflict, match="generation 1"):
        await parts.runs.open(spec(), security(home))
    later, _ = await parts.runs.open(spec(generation=2), security(home))
    assert not later.state.HasField("packet_index")
    with pytest.raises(LifecycleConflict, match=r"too late; .*--run-id"):
        await parts.runs.open(spec(generation=1), security(home))


async def test_work_for_a_generation_that_was_left_does_not_reach_its_successor(home: Home) -> None:
    first = home.parts()
    old, _ = await first.runs.open(spec(), security(home))
    new, _ = await first.runs.open(spec(generation=2), security(home))
    with pytest.raises(LifecycleConflict, match="generation 1"):
        await first.runs.save(old, decided_until(9), Decision(), entry(old))
    await first.runs.close_run(new, security(home))
    with pytest.raises(LifecycleConflict, match="closed"):
        await first.runs.save(new, decided_until(9), Decision(), entry(new))
    await first.close()


async def test_a_nonce_opens_one_run(home: Home, parts: Parts) -> None:
    once = security(home)
    await parts.runs.open(spec(), once)
    with pytest.raises(NonceReplayed):
        await parts.runs.open(spec(generation=2), once)
    assert len(parts.runs) == 1


async def test_a_replay_is_refused_after_a_restart_too(home: Home) -> None:
    first = home.parts()
    once = security(home)
    await first.runs.open(spec(), once)
    await first.close()
    second = home.parts()
    with pytest.raises(NonceReplayed):
        await second.runs.open(spec(generation=2), once)
    await second.close()


async def test_a_resumed_run_goes_on_from_its_checkpoint(home: Home, parts: Parts) -> None:
    resumed = spec(generation=2, resume=blob_of(decided_until(40)))
    run, _ = await parts.runs.open(resumed, security(home))
    assert run.state == decided_until(40)


def damaged(**changes: object) -> RunStateBlob:
    blob = blob_of(decided_until(40))
    for name, value in changes.items():
        setattr(blob, name, value)
    return blob


@pytest.mark.parametrize(
    ("blob", "complaint"),
    [
        (damaged(digest="0" * 64), "digest"),
        (damaged(state=b"\x00"), "digest"),
        (damaged(state_type="esper.leyline.v1.KasminaRunState"), "state_type"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(blob: RunStateBlob, complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        state_from(blob, RUN)


def test_a_checkpoint_of_another_run_is_refused() -> None:
    with pytest.raises(ContractError, match="other"):
        state_from(blob_of(decided_until(40)), "other")


async def test_a_run_whose_settings_are_out_of_range_is_not_opened(home: Home, parts: Parts) -> None:
    bad = spec(ALWAYS)
    bad.trigger.slope_threshold = -1.0
    with pytest.raises(ContractError, match="slope_threshold"):
        await parts.runs.open(bad, security(home))
    assert len(parts.runs) == 0
