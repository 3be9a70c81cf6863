"""The table of errors and statuses is complete, and reads the same in both directions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from esper.core import errors
from esper.leyline import PublishRequest, PublishResponse, RejectionReason
from esper.rpc.clients.aio import BusClient, aio_channel
from esper.rpc.server.call import Call
from esper.rpc.status import DETAILS_KEY, TABLE, code_of, from_rpc_error, to_status
from tests.unit.rpc.conftest import Serve
from tests.unit.rpc.scripted import ScriptedBus, a_request

STALE = RejectionReason.REJECTION_REASON_STALE_COMMAND
ARGUMENTS: dict[type[errors.EsperError], tuple[object, ...]] = {
    errors.ConfigError: ("key", "value", "remedy"),
    errors.ContractError: ("Message", ["a is required", "b is 3"]),
    errors.UnparsableMessage: ("Message", ["no bytes of it"]),
    errors.InvalidAnswer: ("Answer", ["a is required"]),
    errors.DependencyViolationError: ("urza", "blueprint", "x", "name another"),
    errors.LeftProcess: ("5", "seed.py:3, in forward"),
    errors.UntrustedBlueprint: ("lab.gated", "its signature is another's", "add it again"),
    errors.KernelsNotBuilt: ("kernels", "extension", "_C", "build it"),
    errors.ServiceUnavailable: ("rpc", "service", "kasmina", "start it"),
    errors.BackPressure: ("too much", 1.5),
    errors.StepFailed: (7, "no good"),
    errors.NonFiniteLoss: (8, "nan"),
    errors.LossDiverged: (9, "rises"),
    errors.RollbackLate: ("disk", 12000.0, 12001.5),
    errors.RankLost: ("ranks 1 and 3 are gone", (1, 3)),
    errors.AsyncTimeoutError: ("Advance", 2.5),
}


def tree(cls: type[errors.EsperError] = errors.EsperError) -> Iterator[type[errors.EsperError]]:
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


def make(cls: type[errors.EsperError]) -> errors.EsperError:
    if issubclass(cls, errors.CommandRejected):
        return cls(STALE, "the detail", "c1")
    return cls(*ARGUMENTS.get(cls, ("the message",)))


class FakeRpcError(grpc.RpcError):
    """What grpc raises at a client."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, object], ...] = ()) -> None:
        super().__init__()
        self._parts = (code, details, metadata)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, object], ...]:
        return self._parts[2]


def through_the_wire(error: errors.EsperError) -> errors.EsperError:
    status = to_status(error)
    metadata = ((DETAILS_KEY, status.SerializeToString()),)
    return from_rpc_error(FakeRpcError(code_of(error), status.message, metadata), "svc", 1.0)


def test_every_error_of_the_tree_is_mapped() -> None:
    assert set(tree()) == set(TABLE)


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
def test_a_client_raises_what_the_servicer_raised(cls: type[errors.EsperError]) -> None:
    sent = make(cls)
    received = through_the_wire(sent)
    assert type(received) is cls
    assert str(received) == str(sent)
    for name in TABLE[cls].fields:
        assert getattr(received, name) == getattr(sent, name), name


def details(kind: str, error: str, **fields: str) -> bytes:
    """What a peer of another making could put beside its status."""
    packed = AnyMessage()
    packed.Pack(ErrorInfo(domain="esper", reason=kind, metadata={"error": error, **fields}))
    return Status(details=[packed]).SerializeToString()


@pytest.mark.parametrize(
    "packed",
    [
        details("BackPressure", "BackPressure"),
        details("BackPressure", "BackPressure", retry_after_s="soon"),
        details("NO_SUCH_REASON", "NonceReplayed", reason="NO_SUCH_REASON"),
        details("StepFailed", "StepFailed", step=""),
        b"\xff\xff not a status",
    ],
    ids=["field missing", "no number", "unknown reason", "empty number", "no status"],
)
def test_details_that_cannot_be_read_leave_the_status_to_speak(packed: bytes) -> None:
    error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "away", ((DETAILS_KEY, packed),))
    received = from_rpc_error(error, "svc", 1.0)
    assert type(received) is errors.ServiceUnavailable
    assert "away" in str(received)


def test_the_status_names_domain_reason_and_class() -> None:
    status = to_status(errors.StaleCommand(STALE, "old", "c1"))
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("esper", "REJECTION_REASON_STALE_COMMAND")
    assert dict(info.metadata) == {
        "error": "StaleCommand",
        "reason": "REJECTION_REASON_STALE_COMMAND",
        "detail": "old",
        "command_id": "c1",
    }


@pytest.mark.parametrize("reason", RejectionReason.values()[1:], ids=lambda value: RejectionReason.Name(value)[17:])
def test_every_rejection_reason_has_a_status_and_survives(reason: int) -> None:
    error = errors.CommandRejected(reason, "why")
    assert through_the_wire(error).reason == reason
    assert code_of(error) is not grpc.StatusCode.OK


def test_security_reasons_are_unauthenticated() -> None:
    security = ("MISSING_SIGNATURE", "INVALID_SIGNATURE", "NONCE_REPLAYED", "MISSING_TIMESTAMP", "ISSUED_IN_FUTURE")
    security += ("STALE_COMMAND", "WRONG_AUDIENCE", "WRONG_PAYLOAD_TYPE", "VERIFIER_UNAVAILABLE")
    for name in security:
        error = errors.CommandRejected(RejectionReason.Value(f"REJECTION_REASON_{name}"), "why")
        assert code_of(error) is grpc.StatusCode.UNAUTHENTICATED, name


def wide(cls: type[errors.EsperError], text: str) -> errors.EsperError:
    """An error of the class whose every text is `text`."""
    if issubclass(cls, errors.CommandRejected):
        return cls(STALE, text, text)
    given = ARGUMENTS.get(cls, ("",))
    return cls(*(text if isinstance(each, str) else [text] if isinstance(each, list) else each for each in given))


@pytest.mark.parametrize("cls", list(tree()), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("character", ["a", "%", "\n", "ü", "漢", "𝔘", "\udc80"], ids=ascii)
def test_a_status_fits_into_trailing_metadata_whatever_the_error_holds(
    cls: type[errors.EsperError], character: str
) -> None:
    status = to_status(wide(cls, character * 70_000))
    details = base64.b64encode(status.SerializeToString())
    message = quote(status.message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}")
    assert len(details) + len(message) < 7 * 1024  # of 8 KiB; the rest is for other headers
    assert len(status.message) > 80


async def test_a_client_gets_the_code_of_an_error_full_of_wide_characters(serve: Serve) -> None:
    async def fail(request: PublishRequest, call: Call) -> PublishResponse:
        raise errors.StaleCommand(STALE, "𝔘" * 70_000, "漢" * 70_000)

    server = await serve(ScriptedBus(fail))
    async with aio_channel(server.endpoint) as link:
        with pytest.raises(errors.StaleCommand, match="𝔘𝔘𝔘"):
            await BusClient(link).publish(a_request(), timeout_s=5)


def test_many_violations_are_cut_to_what_fits() -> None:
    error = errors.ContractError("M", [f"field{i} is required" for i in range(10_000)])
    received = through_the_wire(error)
    assert isinstance(received, errors.ContractError)
    assert received.violations[:2] == ("field0 is required", "field1 is required")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnavailable),
        (grpc.StatusCode.CANCELLED, errors.ServiceUnavailable),
        (grpc.StatusCode.INTERNAL, errors.ServiceUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.AsyncTimeoutError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.BackPressure),
        (grpc.StatusCode.UNAUTHENTICATED, errors.AccessDenied),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.ContractError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.DependencyViolationError),
    ],
)
def test_a_status_without_our_details_still_means_something(
    code: grpc.StatusCode, expected: type[errors.EsperError]
) -> None:
    error = from_rpc_error(FakeRpcError(code, "said grpc"), "svc at unix:/x", 3.0)
    assert type(error) is expected
    assert "svc at unix:/x" in str(error)


def test_details_of_another_domain_are_not_ours() -> None:
    status = to_status(errors.LifecycleConflict("no"))
    info = ErrorInfo(domain="example.org", reason="X")
    status.details[0].Pack(info)
    error = FakeRpcError(grpc.StatusCode.UNAVAILABLE, "gone", ((DETAILS_KEY, status.SerializeToString()),))
    assert type(from_rpc_error(error)) is errors.ServiceUnavailable


def test_a_refusal_names_its_reason_to_people_and_travels_on_unchanged() -> None:
    refused = errors.StaleCommand(STALE, "issued too long ago", "c1")
    assert to_status(refused).message == "STALE_COMMAND: issued too long ago"
    assert to_status(through_the_wire(refused)) == to_status(refused)
