"""Signs an AdaptationCommand and sends it to Kasmina; prints the outcome as JSON.

    ESPER_LEYLINE_SECRET=... python apply_command.py --endpoint HOST:PORT [--key-id k1] command.json

Exit codes: 0 accepted, 1 refused, 64 wrong usage, 75 Kasmina can't be reached.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import grpc
from esper.leyline.v1 import command_pb2, kasmina_service_pb2, kasmina_service_pb2_grpc, security_pb2
from google.protobuf import json_format
from signing import new_security, signature_of

TIMEOUT_S = 10
OK, REFUSED, USAGE, UNREACHABLE = 0, 1, 64, 75


def signed(command: command_pb2.AdaptationCommand, secret: str, key_id: str) -> security_pb2.SignedCommand:
    """Serialised once: these bytes are signed, and these are sent."""
    payload, name = command.SerializeToString(), command.DESCRIPTOR.full_name
    audience, security = f"kasmina/{command.training_run_id}", new_security(key_id)
    security["signature"] = signature_of(secret, payload, name, audience, security)
    return security_pb2.SignedCommand(payload=payload, payload_type=name, audience=audience, security=security)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--key-id", default="k1")
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    secret = os.environ.get("ESPER_LEYLINE_SECRET", "").strip()  # a file's last newline is no part of it
    if not secret:
        print("apply_command: set ESPER_LEYLINE_SECRET to the run's secret", file=sys.stderr)
        return USAGE
    try:
        command = json_format.Parse(given.file.read_text(encoding="utf-8"), command_pb2.AdaptationCommand())
    except json_format.ParseError as error:  # an unknown field or an enum's unknown name is one
        print(f"apply_command: {error}", file=sys.stderr)
        return USAGE
    request = kasmina_service_pb2.ApplyCommandRequest(command=signed(command, secret, given.key_id))
    with grpc.insecure_channel(given.endpoint) as channel:
        kasmina = kasmina_service_pb2_grpc.KasminaServiceStub(channel)
        try:
            outcome = kasmina.ApplyCommand(request, timeout=TIMEOUT_S).outcome
        except grpc.RpcError as error:
            print(f"apply_command: {error.code().name}: {error.details()}", file=sys.stderr)
            return UNREACHABLE if error.code() == grpc.StatusCode.UNAVAILABLE else REFUSED
    print(json_format.MessageToJson(outcome, indent=None))
    return OK if outcome.accepted else REFUSED


if __name__ == "__main__":
    sys.exit(main())
