"""`esper call`: one RPC of a service, its request and its answers as JSON.

What a signed request carries is written as it is, and signed here; where a run is named, its own line to the services
is used, with its key and its tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.message import Message

from esper.cli.key_source import FROM_ENVIRONMENT, add_key_flag, keyring_for, keyring_of
from esper.cli.run_peer import peer_of, told_of
from esper.cli.services.request import HOW, parse, texts
from esper.cli.usage import UsageError, Verbs, add_verb, run_directory
from esper.core.clock import SYSTEM_CLOCK
from esper.core.enums import short_name
from esper.core.errors import EsperError
from esper.core.messages.validation import require_valid
from esper.core.nearest import nearest
from esper.core.plain import plain
from esper.core.security.keys import Keyring
from esper.core.security.run_line import read_line
from esper.core.security.signing import Signer
from esper.leyline import ApplyCommandResponse, ApplyPolicyUpdateResponse, PolicyUpdateRejection, RejectionReason

if TYPE_CHECKING:
    from esper.rpc.contract import Method

# What the requests carry that consist of one signed message.
PAYLOADS = {
    "kasmina.OpenRun": "KasminaRunSpec",
    "kasmina.CloseRun": "RunClosure",
    "kasmina.ApplyCommand": "AdaptationCommand",
    "kasmina.RegisterTeacher": "TeacherRegistration",
    "kasmina.ResetTeacher": "TeacherReset",
    "kasmina.ResetRegistry": "RegistryReset",
    "tamiyo.OpenRun": "TamiyoRunSpec",
    "tamiyo.CloseRun": "RunClosure",
    "tamiyo.ApplyPolicyUpdate": "PolicyUpdate",
    "weatherlight.RaiseEmergency": "EmergencySignal",
    "weatherlight.SignalRollbackDeadline": "RollbackDeadlineSignal",
    "weatherlight.AcknowledgeEmergency": "EmergencyAcknowledgement",
    "weatherlight.Drain": "DrainOrder",
}
# The bus is served by Weatherlight.
HOSTS = {"kasmina": "kasmina", "tamiyo": "tamiyo", "weatherlight": "weatherlight", "bus": "weatherlight"}
WHOLE_PLANE = "-"
# What needs no key, so that nobody has to give one for it.
OPEN = frozenset({"kasmina.GetStatus", "tamiyo.GetStatus"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the call goes, and as whom."""

    endpoint: str
    keyring: Keyring | None
    """None where the method is open to all."""
    run_id: str
    token: str | None = None


def register(verbs: Verbs) -> None:
    parser = add_verb(verbs, "call", run, "call one RPC of a service, with its request and its answers as JSON")
    parser.add_argument("method", metavar="SERVICE.METHOD", help="e.g. kasmina.ListSeeds, tamiyo.GetStatus")
    parser.add_argument(
        "request",
        nargs="?",
        default="{}",
        help=f"the request, or what it carries where it is signed, as {HOW}; a line for each message of a stream "
        "(default: {})",
    )
    parser.add_argument(
        "--run-dir", type=run_directory, metavar="RUN_DIR", help="use the line of a run that is under way"
    )
    parser.add_argument("--at", metavar="ENDPOINT", help="the service's HOST:PORT or unix:PATH")
    parser.add_argument("--run-id", help=f"whom a signed request is for (default: {WHOLE_PLANE}, all)")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the service's TLS authority, needed beyond loopback")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS", help="how long it may take (20)")
    add_key_flag(parser, default="RUN_DIR/secret where there is one, else env")


def run(arguments: argparse.Namespace) -> int:
    from esper.rpc.auth import service_metadata  # grpc, which the other verbs start without
    from esper.rpc.clients import Tls, channel
    from esper.rpc.clients.sync import BusClient, KasminaClient, TamiyoClient, WeatherlightClient

    if not 0 < arguments.timeout < math.inf:
        raise UsageError(f"--timeout {arguments.timeout:g}: more than 0 seconds are needed, and an end")
    service, method = _method(arguments.method)
    place = _place(arguments, service)
    read = _requests(arguments, service, method, place)
    requests = _Requests(read if method.requests_stream else iter(list(read)))
    clients = {"kasmina": KasminaClient, "tamiyo": TamiyoClient, "weatherlight": WeatherlightClient, "bus": BusClient}
    tls = None if arguments.ca is None else Tls(ca=arguments.ca)
    with told_of(arguments.run_dir), channel(place.endpoint, tls) as link, requests.own_error():
        metadata = {} if place.keyring is None else service_metadata(place.keyring, "operator")
        client = clients[service](link, token=place.token, metadata=metadata)
        call = getattr(client, method.attribute)
        given = requests if method.requests_stream else _only(arguments.method, requests)
        answer = call(given, timeout_s=arguments.timeout)
        refused = 0
        for each in answer if method.responses_stream else (answer,):
            _show(each, is_one_of_many=method.responses_stream)
            refused |= _told_refused(each)
    return refused


def _told_refused(answer: Message) -> int:
    """1 where an order was answered by a refusal, which a script must not take for done."""
    if isinstance(answer, ApplyCommandResponse) and not answer.outcome.accepted:
        why, detail = short_name(RejectionReason, answer.outcome.rejection), answer.outcome.detail
    elif isinstance(answer, ApplyPolicyUpdateResponse) and not answer.accepted:
        why = short_name(PolicyUpdateRejection, answer.rejection)
        detail = f"{answer.detail}; version {answer.policy_version} stays in force"
    else:
        return 0
    print(plain(f"refused, {why}: {detail}"), file=sys.stderr)
    return 1


class _Requests(Iterator[Message]):
    """Requests as they are read. grpc says of a stream only that there was no next one: here is why."""

    def __init__(self, requests: Iterator[Message]) -> None:
        self._requests = requests
        self._error: EsperError | None = None

    def __next__(self) -> Message:
        try:
            return next(self._requests)
        except EsperError as error:
            self._error = error
            raise

    @contextmanager
    def own_error(self) -> Iterator[None]:
        """Raise what is wrong with a request in place of what the call made of it."""
        try:
            yield
        except EsperError:
            if self._error is not None:
                raise self._error from None
            raise


def _method(name: str) -> tuple[str, Method]:
    from esper.rpc.contract import SERVICES, methods

    known = {
        f"{full.removesuffix('Service').lower()}.{method.name}": method
        for full in SERVICES
        for method in methods(full).values()
    }
    if name not in known:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
        raise UsageError(f"unknown method {name!r}; {hint}")
    return name.partition(".")[0], known[name]


def _place(arguments: argparse.Namespace, service: str) -> Place:
    if (arguments.run_dir is None) == (arguments.at is None):
        raise UsageError("name --run-dir RUN_DIR or --at ENDPOINT, one of them")
    if arguments.run_dir is None:
        run_id = arguments.run_id or WHOLE_PLANE
        needs_none = arguments.method in OPEN and arguments.key == FROM_ENVIRONMENT
        keyring = None if needs_none else keyring_of(arguments.key)
        return Place(endpoint=arguments.at, keyring=keyring, run_id=run_id)
    peer = peer_of(arguments.run_dir, HOSTS[service])
    keyring = keyring_for(arguments.key, arguments.run_dir)
    run_id = arguments.run_id or read_line(arguments.run_dir).run_id
    return Place(endpoint=peer.endpoint, keyring=keyring, run_id=run_id, token=peer.token)


def _requests(arguments: argparse.Namespace, service: str, method: Method, place: Place) -> Iterator[Message]:
    """The requests, each proven valid before it is sent."""
    payload = PAYLOADS.get(arguments.method)
    for text in texts(arguments.request, is_stream=method.requests_stream):
        message = parse(payload or method.request.DESCRIPTOR.name, text)
        if payload is not None and place.keyring is not None:
            require_valid(message)
            audience = f"{HOSTS[service]}/{place.run_id}"
            message = method.request(command=Signer(place.keyring, SYSTEM_CLOCK).sign(message, audience=audience))
        require_valid(message)
        yield message


def _only(name: str, requests: Iterable[Message]) -> Message:
    (request,) = requests
    return request


def _show(message: Message, *, is_one_of_many: bool) -> None:
    text = json_format.MessageToJson(message, indent=None if is_one_of_many else 2)
    print(plain(text) if is_one_of_many else text, flush=True)
