"""The signature, with the standard library alone. `security` has the names of CommandSecurity's fields."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import time
from typing import Any


def signature_of(secret: str, payload: bytes, payload_type: str, audience: str, security: dict[str, Any]) -> str:
    key = hmac.digest(secret.encode(), b"ESPER-KEY-V1\n" + security["key_id"].encode(), hashlib.sha256)
    texts = (security["algorithm"], security["key_id"], audience, payload_type, security["nonce"])
    covered = b"ESPER-CMD-V1\n" + b"".join(_with_length(text.encode()) for text in texts)
    covered += _time(security["issued_at"]) + _time(security["freshness_window"]) + _with_length(payload)
    return hmac.digest(key, covered, hashlib.sha256).hex()


def new_security(key_id: str = "k1", freshness_s: int = 60) -> dict[str, Any]:
    """All but the signature; the nonce is good for one request."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return {
        "algorithm": "hmac-sha256",
        "key_id": key_id,
        "nonce": secrets.token_hex(16),
        "issued_at": {"seconds": seconds, "nanos": nanos},
        "freshness_window": {"seconds": freshness_s, "nanos": 0},
    }


def _with_length(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _time(moment: dict[str, int]) -> bytes:
    return struct.pack(">qi", moment["seconds"], moment["nanos"])
