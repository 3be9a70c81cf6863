"""Signed sheets: a blueprint with its safety data sheet, in an envelope that one of the user's keys has signed.

What is signed is the blueprint's own bytes, so that its digest, and with it everything that follows from it, is what
the signer saw. A sheet has no age; it is believed as long as its key is.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from esper.core.clock import Clock
from esper.core.errors import CommandRejected, UntrustedBlueprint
from esper.core.security.keys import Keyring
from esper.core.security.signing import Signer, Verifier, open_payload
from esper.leyline import Blueprint, SignedCommand
from esper.urza.catalog import digest_of

AUDIENCE = "urza"
_AGAIN = "look at it, and `esper urza add` it again if it is what you want"


def signed_sheet(signer: Signer, blueprint: Blueprint) -> bytes:
    """The sheet as it is kept."""
    return signer.sign(blueprint, audience=AUDIENCE).SerializeToString(deterministic=True)


def believed(raw: bytes, blueprint_id: str, keyring: Keyring, clock: Clock) -> Blueprint:
    """The blueprint that a sheet is about. Raises UntrustedBlueprint unless an accepted key signed just this."""
    try:
        envelope = SignedCommand.FromString(raw)
    except DecodeError as error:
        raise UntrustedBlueprint(blueprint_id, "its sheet is damaged", _AGAIN) from error
    now_ns, security = clock.now_ns(), envelope.security
    if keyring.key(security.key_id, now_ns) is None:
        known = ", ".join(keyring.accepted_ids(now_ns)) or "none"
        why = f"it is signed with key {security.key_id!r}, which is unknown or no longer accepted (there is {known})"
        raise UntrustedBlueprint(blueprint_id, why, f"give the keyring that has it, or {_AGAIN}")
    if not Verifier(keyring, clock).is_authentic(envelope, now_ns):
        why = f"its signature is not that of key {security.key_id!r}: the sheet was changed, or the secret is another"
        raise UntrustedBlueprint(blueprint_id, why, _AGAIN)
    if (envelope.audience, envelope.payload_type) != (AUDIENCE, Blueprint.DESCRIPTOR.full_name):
        raise UntrustedBlueprint(blueprint_id, f"what is signed is a {envelope.payload_type} for others", _AGAIN)
    try:
        blueprint = open_payload(envelope, Blueprint)
    except CommandRejected as error:
        raise UntrustedBlueprint(blueprint_id, f"its sheet can't be used: {error.detail}", _AGAIN) from error
    if blueprint.blueprint_id != blueprint_id or digest_of(blueprint) != blueprint.digest:
        raise UntrustedBlueprint(blueprint_id, f"its sheet is that of {blueprint.blueprint_id!r}, or torn", _AGAIN)
    return blueprint
