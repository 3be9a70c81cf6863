"""Compatibility vectors: messages of every kind as JSON, their bytes, and a signature over them, for any client.

`python -m tests.contract.compatibility` writes them anew, after the golden bytes have changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from esper import leyline as pb
from esper.core.security.keys import derive_key
from esper.core.security.signing import signature_of
from tests.contract.golden import samples

FILE = Path(__file__).with_name("compatibility_vectors.json")
MASTER_SECRET = "esper-test-secret-do-not-use"
AUDIENCE = "kasmina/run-0001"
SECURITY = {
    "algorithm": "hmac-sha256",
    "key_id": "k1",
    "nonce": "00112233445566778899aabbccddeeff",
    "issued_at": {"seconds": 1760000000, "nanos": 123456789},
    "freshness_window": {"seconds": 60, "nanos": 0},
}
ABOUT = (
    "Build each message from its JSON (protobuf's own mapping, fields named as in the .proto): its bytes are"
    " payload_hex. Put these bytes into a SignedCommand with the security above, the audience and the message's type:"
    " its signature is the one given. Bytes: fields by number, packed, without what has its default and no presence."
)


def edges() -> dict[str, Message]:
    """What loaders are apt to change: zeros that are set, wide numbers, nanoseconds, what is no number, any text."""
    seed = pb.SeedOperation(
        seed_id="s1",
        operation=pb.SeedOperationKind.SEED_OPERATION_KIND_GERMINATE,
        initialization_seed=2**64 - 1,
        blend=pb.BlendConfig(alpha_vec=[0.1, 1.0, 0.0], alpha_start=0.0, alpha_target=0.1),
    )
    last = pb.CommandSecurity(signature="", key_id="rot-2026.b")
    last.issued_at.FromJsonString("9999-12-31T23:59:59.999999999Z")
    last.freshness_window.FromJsonString("0.500000001s")
    first = pb.CommandSecurity()
    first.issued_at.SetInParent()
    first.freshness_window.FromJsonString("-1.5s")
    return {
        "empty": pb.AdaptationCommand(),
        "zeros that are set": pb.AdaptationCommand(
            command_id="c", generation=0, step=0, deadline_steps=0, pause=pb.PauseOrder()
        ),
        "a wide number": pb.AdaptationCommand(generation=2**53 + 1, step=2**63 - 1, seed=seed),
        "text beyond one plane": pb.AdaptationCommand(
            issued_by='"\u0000häufig ∆ 𝄞\n', pause=pb.PauseOrder(rationale="\u2028")
        ),
        "the last nanosecond": last,
        "the epoch, and less than nothing": first,
        "bytes of every value": pb.SignedCommand(payload=bytes(range(256)), audience="kasmina/rün-α"),
        "not a number": pb.PairedScore(mean=float("nan"), variance=float("inf")),
        "minus infinity": pb.PairedScore(mean=float("-inf"), variance=-0.0),
        "smallest and largest": pb.PairedScore(mean=5e-324, variance=1.7976931348623157e308),
    }


def vectors() -> Iterator[dict[str, Any]]:
    for name, message in {**samples(), **edges()}.items():
        yield vector(name, message)


def vector(name: str, message: Message) -> dict[str, Any]:
    payload = message.SerializeToString(deterministic=True)
    return {
        "name": name,
        "type": message.DESCRIPTOR.full_name,
        "message": json_format.MessageToDict(message, preserving_proto_field_name=True),
        "payload_hex": payload.hex(),
        "signature": signature(payload, message.DESCRIPTOR.full_name),
    }


def signature(payload: bytes, payload_type: str) -> str:
    envelope = pb.SignedCommand(
        payload=payload, payload_type=payload_type, audience=AUDIENCE, security=pb.CommandSecurity(**SECURITY)
    )
    return signature_of(derive_key(MASTER_SECRET.encode(), SECURITY["key_id"]), envelope)


def document() -> str:
    """One vector a line, so that a change of one message is a change of one line."""
    head = {"about": ABOUT, "master_secret": MASTER_SECRET, "audience": AUDIENCE, "security": SECURITY}
    lines = ",\n".join(json.dumps(each, ensure_ascii=True) for each in vectors())
    return f'{json.dumps(head, indent=1)[:-2]},\n "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.contract.compatibility", description=__doc__).parse_args()
    FILE.write_text(document(), encoding="ascii")
