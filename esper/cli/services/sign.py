"""`esper sign`: turn a message in JSON into the signed request that grpcurl or buf curl sends."""

from __future__ import annotations

import argparse

from google.protobuf import json_format

import esper.leyline as leyline
from esper.cli.key_source import add_key_flag, keyring_of
from esper.cli.services.request import HOW, parse, texts
from esper.cli.usage import UsageError, Verbs, add_verb
from esper.core.clock import SYSTEM_CLOCK
from esper.core.messages.validation import require_valid
from esper.core.security.signing import MAX_FRESHNESS_NS, Signer

SIGNABLE = (
    "AdaptationCommand",
    "DrainOrder",
    "EmergencyAcknowledgement",
    "EmergencySignal",
    "KasminaRunSpec",
    "PolicyUpdate",
    "RegistryReset",
    "RollbackDeadlineSignal",
    "RunClosure",
    "TamiyoRunSpec",
    "TeacherRegistration",
    "TeacherReset",
)
ACTIONS = {
    field.message_type.name: field.name
    for field in leyline.AdaptationCommand.DESCRIPTOR.oneofs_by_name["action"].fields
    if field.message_type is not None
}
"""Fields of a command by the kind of order."""
SERVICES = ("kasmina", "tamiyo", "weatherlight")
MAX_FRESHNESS_S = MAX_FRESHNESS_NS / 1e9


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "sign", run, "sign a message and print the request as JSON, for grpcurl or buf curl")
    add_key_flag(parser)
    parser.add_argument("--type", required=True, type=_type, metavar="TYPE", help=f"one of {', '.join(SIGNABLE)}")
    parser.add_argument("--audience", required=True, help="SERVICE/RUN, e.g. kasmina/run-1")
    parser.add_argument("--freshness", type=float, default=60.0, metavar="SECONDS", help="how long it may be used (60)")
    parser.add_argument("request", nargs="?", default="-", help=f"the message as {HOW} (default: -)")


def run(arguments: argparse.Namespace) -> int:
    _require_audience(arguments.audience)
    if not 0 < arguments.freshness <= MAX_FRESHNESS_S:
        raise UsageError(f"--freshness {arguments.freshness:g}: services accept up to {MAX_FRESHNESS_S:g} seconds")
    message = parse(arguments.type, *texts(arguments.request))
    require_valid(message)
    signer = Signer(keyring_of(arguments.key), SYSTEM_CLOCK)
    envelope = signer.sign(message, audience=arguments.audience, freshness_s=arguments.freshness)
    # Every request that takes a signed message has it in a field of this name.
    print(json_format.MessageToJson(leyline.ApplyCommandRequest(command=envelope), indent=2))
    return 0


def _type(name: str) -> str:
    """A message that is signed by itself; an order is not, a command carries it."""
    if name in SIGNABLE:
        return name
    if (action := ACTIONS.get(name)) is not None:
        remedy = (
            f'an AdaptationCommand carries it: give --type AdaptationCommand, and {{"{action}": {{...}}}} in its JSON'
        )
        raise argparse.ArgumentTypeError(f"{name} isn't signed by itself; {remedy}")
    raise argparse.ArgumentTypeError(f"{name!r} isn't a message that is signed; use one of {', '.join(SIGNABLE)}")


def _require_audience(audience: str) -> None:
    service, slash, run_id = audience.partition("/")
    if service not in SERVICES or not slash or not run_id:
        raise UsageError(f"--audience {audience!r}: use SERVICE/RUN with a service of {', '.join(SERVICES)}")
