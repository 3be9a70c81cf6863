from __future__ import annotations

import pytest

from esper.core.errors import (
    CommandRejected,
    FutureCommand,
    InvalidSignature,
    LifecycleConflict,
    NonceReplayed,
    StaleCommand,
)
from esper.leyline import RejectionReason, RunClosure, SignedCommand, TamiyoRunSpec
from esper.tamiyo.service.parts import Parts
from tests.unit.tamiyo.builders import RUN, spec
from tests.unit.tamiyo.conftest import Home


def signed(home: Home, audience: str = f"tamiyo/{RUN}", run_spec: TamiyoRunSpec | None = None) -> SignedCommand:
    return home.signer.sign(run_spec or spec(), audience=audience)


async def admitted(parts: Parts, envelope: SignedCommand) -> tuple[TamiyoRunSpec, str]:
    async with parts.admission.admitted(envelope, TamiyoRunSpec) as found:
        return found


async def test_an_authentic_request_is_let_in_with_its_run(home: Home, parts: Parts) -> None:
    assert await admitted(parts, signed(home)) == (spec(), RUN)


@pytest.mark.parametrize("audience", [f"kasmina/{RUN}", RUN, "tamiyo/another-run", ""])
async def test_a_request_for_someone_else_is_refused(home: Home, parts: Parts, audience: str) -> None:
    with pytest.raises(InvalidSignature) as caught:
        await admitted(parts, signed(home, audience))
    assert caught.value.reason == RejectionReason.REJECTION_REASON_WRONG_AUDIENCE


async def test_a_request_of_another_type_a_forged_an_old_and_a_future_one_are_refused(home: Home, parts: Parts) -> None:
    closure = RunClosure(training_run_id=RUN, generation=1, step=1, reason="x")
    with pytest.raises(InvalidSignature):
        await admitted(parts, home.signer.sign(closure, audience=f"tamiyo/{RUN}"))
    forged = signed(home)
    forged.payload = spec(seed=2).SerializeToString()
    with pytest.raises(InvalidSignature):
        await admitted(parts, forged)
    old = signed(home)
    home.clock.advance(61)
    with pytest.raises(StaleCommand):
        await admitted(parts, old)
    future = signed(home)
    home.clock.set(home.clock.now_ns() - 10 * 10**9)
    with pytest.raises(FutureCommand):
        await admitted(parts, future)


async def test_an_authentic_request_that_is_malformed_is_refused_once_and_then_as_a_replay(
    home: Home, parts: Parts
) -> None:
    incomplete = spec()
    incomplete.ClearField("life")
    envelope = signed(home, run_spec=incomplete)
    with pytest.raises(CommandRejected, match="life"):
        await admitted(parts, envelope)
    with pytest.raises(NonceReplayed):
        await admitted(parts, envelope)


async def test_a_refusal_further_in_spends_the_nonce_too(home: Home, parts: Parts) -> None:
    envelope = signed(home)
    with pytest.raises(LifecycleConflict):
        async with parts.admission.admitted(envelope, TamiyoRunSpec):
            raise LifecycleConflict("not now")
    with pytest.raises(NonceReplayed):
        await parts.runs.spend(envelope.security)
