"""Publication: weights as a signed PolicyUpdate on the policy lane, for Tamiyo to verify, try and swap in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from esper.core.clock import Clock, timestamp
from esper.core.errors import AsyncTimeoutError
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer
from esper.core.telemetry import AttributeValue, attribute_value
from esper.core.tracing import current_trace, tracer
from esper.leyline import BusEnvelope, BusLane, MessagePriority, PolicyUpdate, PublishRequest, SubscribeRequest
from esper.oona.envelope import seal
from esper.rpc.auth import service_metadata
from esper.rpc.clients import BusClient, Tls, WeatherlightClient, channel
from esper.tamiyo.learned.lane import AUDIENCE
from esper.tamiyo.learned.weights import read_weights
from esper.tamiyo.metrics import POLICY_SHADOWED, POLICY_UPDATE_REJECTED

SOURCE, READER = "simic", "tamiyo"
TIMEOUT_S = 10.0
FRESHNESS_S = 120.0
_VERDICTS = frozenset({POLICY_SHADOWED.name, POLICY_UPDATE_REJECTED.name})
_tracer = tracer("esper.simic")


def update_of(content: bytes, clock: Clock) -> PolicyUpdate:
    """The update that carries these weights. Raises WeightsRefused for bytes that are none."""
    weights = read_weights(content)
    return PolicyUpdate(
        update_id=f"policy-{weights.version}-{weights.digest[:16]}",
        policy_id=weights.policy_id,
        version=weights.version,
        issued_at=timestamp(clock.now_ns()),
        weights=content,
        weights_digest=weights.digest,
    )


def sealed(update: PolicyUpdate, keyring: Keyring, clock: Clock) -> BusEnvelope:
    """The update, signed for Tamiyo, in an envelope that is signed for the bus; each publication has its own id."""
    signed = Signer(keyring, clock).sign(update, audience=AUDIENCE, freshness_s=FRESHNESS_S)
    return seal(
        keyring,
        clock,
        signed,
        source=SOURCE,
        lane=BusLane.BUS_LANE_POLICY,
        priority=MessagePriority.MESSAGE_PRIORITY_NORMAL,
        trace=current_trace(),
    )


def publish(update: PolicyUpdate, endpoint: str, tls: Tls | None, keyring: Keyring, clock: Clock) -> int:
    """The update's position on the bus, which has it on its disk. Raises the error tree."""
    attributes: dict[str, str | bool] = {
        "esper.keep": True,
        "esper.policy.update": update.update_id,
        "esper.policy.version": update.version,
    }
    with (
        _tracer.start_as_current_span("simic.publish", attributes=attributes),
        channel(endpoint, tls) as link,
    ):
        client = BusClient(link, metadata=service_metadata(keyring, SOURCE))
        request = PublishRequest(envelopes=[sealed(update, keyring, clock)])
        return client.publish(request, timeout_s=TIMEOUT_S).sequences[0]


def verdict_on(
    update: PolicyUpdate, sequence: int, endpoint: str, tls: Tls | None, keyring: Keyring, *, wait_s: float
) -> Mapping[str, AttributeValue] | None:
    """What Tamiyo made of an update at that position: its event's attributes, with a `reason` where she refused it.

    None where nobody has answered within `wait_s`.
    """
    request = SubscribeRequest(sources=[READER], after_sequence=sequence)
    with channel(endpoint, tls) as link, suppress(AsyncTimeoutError):
        client = WeatherlightClient(link, metadata=service_metadata(keyring, SOURCE))
        for response in client.subscribe(request, timeout_s=wait_s):
            for event in response.packet.events:
                told = {attribute.key: attribute_value(attribute) for attribute in event.attributes}
                if event.name in _VERDICTS and told.get("update_id") == update.update_id:
                    return told
    return None
