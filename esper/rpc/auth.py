"""Who calls: metadata that a client sends, and the check of a service's token."""

from __future__ import annotations

from esper.core.errors import AccessDenied
from esper.core.security.keys import Keyring
from esper.core.security.tokens import is_service_token, service_token
from esper.rpc.server.call import SERVICE, SERVICE_TOKEN, Call

KNOWN_SERVICES = ("tolaria", "tamiyo", "kasmina", "weatherlight", "oona", "nissa", "urza", "simic", "operator")


def service_metadata(keyring: Keyring, service: str) -> dict[str, str]:
    """Metadata of calls that a service makes in its own name."""
    return {SERVICE: service, SERVICE_TOKEN: service_token(keyring, service)}


def require_service(call: Call, keyring: Keyring) -> str:
    """Name of the calling service, proven by its token."""
    if call.service is None or call.service_token is None:
        raise AccessDenied(f"{call.method}: metadata {SERVICE} and {SERVICE_TOKEN} are required, one is missing")
    if call.service not in KNOWN_SERVICES or not is_service_token(keyring, call.service, call.service_token):
        remedy = "give it the secret or keyring of this plane"
        raise AccessDenied(f"{call.method}: the token does not belong to service {call.service!r}; {remedy}")
    return call.service
