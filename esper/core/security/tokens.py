"""Bearer tokens: one for each run, made by chance, and one for each service, made from the keyring.

Services store the digest of a run's token, never the token. Comparisons take constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from esper.core.clock import SYSTEM_CLOCK, Clock
from esper.core.security.keys import Keyring

_SERVICE_LABEL = b"ESPER-SERVICE-V1\n"
NO_RUN = (
    "the run token is missing or opens no run here: the run was never opened, was closed, or another trainer went on "
    "with it (--resume in a copy of its directory?); OpenRun gives a new one"
)
"""Why a token is refused, whatever is wrong with it."""


def new_run_token() -> str:
    """43 characters that hold 256 random bits."""
    return secrets.token_urlsafe(32)


def token_digest(token: str) -> str:
    """What a service stores of a run token: SHA-256, lower-case hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_run_token(token: str | None, digest: str) -> bool:
    """Whether `token` is the one whose digest was stored."""
    return token is not None and hmac.compare_digest(token_digest(token), digest)


def service_token(keyring: Keyring, service: str, clock: Clock = SYSTEM_CLOCK) -> str:
    """The token of `service` under the active key: "<key id>:<hex>"."""
    own = keyring.signing_key(clock.now_ns())
    return f"{own.key_id}:{_service_mac(own.key, service)}"


def is_service_token(keyring: Keyring, service: str, token: str, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Whether `token` was made for `service` by a key that is still accepted."""
    key_id, _, mac = token.partition(":")
    key = keyring.key(key_id, clock.now_ns())
    matches = hmac.compare_digest(_service_mac(key or b"unknown key", service).encode(), mac.encode())
    return matches and key is not None


def _service_mac(key: bytes, service: str) -> str:
    return hmac.digest(key, _SERVICE_LABEL + service.encode(), hashlib.sha256).hex()
