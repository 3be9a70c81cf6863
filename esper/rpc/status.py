"""Errors of the tree <-> grpc status, in one table read in both directions.

A status carries google.rpc.ErrorInfo: domain "esper", reason = the RejectionReason's name or the error's class, and the
error's own fields, so that a client raises what the servicer raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from esper.core import errors
from esper.core.enums import short_name
from esper.leyline import RejectionReason

DOMAIN = "esper"
DETAILS_KEY = "grpc-status-details-bin"
# Clients take 8 KiB of trailing metadata in all, as it is encoded: the message percent by percent, and again in the
# details, which go as base64 with the fields.
MAX_MESSAGE_BYTES = 1024
MAX_FIELDS_BYTES = 3072
MAX_FIELD_BYTES = 1024
Code = grpc.StatusCode


@dataclass(frozen=True, slots=True)
class Row:
    """How one error class travels: its status, and the attributes that go along."""

    status: grpc.StatusCode
    fields: tuple[str, ...] = ()


_DEPENDENCY = ("subsystem", "kind", "identifier", "remedy")
_COMMAND = ("reason", "detail", "command_id")

TABLE: dict[type[errors.EsperError], Row] = {
    errors.ConfigError: Row(Code.FAILED_PRECONDITION, ("key", "value", "remedy")),
    errors.ContractError: Row(Code.INVALID_ARGUMENT, ("message_type", "violations")),
    errors.UnparsableMessage: Row(Code.INVALID_ARGUMENT, ("message_type", "violations")),
    errors.InvalidAnswer: Row(Code.INTERNAL, ("message_type", "violations")),
    errors.DependencyViolationError: Row(Code.FAILED_PRECONDITION, _DEPENDENCY),
    errors.KernelsNotBuilt: Row(Code.FAILED_PRECONDITION, _DEPENDENCY),
    errors.ServiceUnavailable: Row(Code.UNAVAILABLE, _DEPENDENCY),
    errors.UntrustedBlueprint: Row(Code.PERMISSION_DENIED, ("blueprint_id", "why", "remedy")),
    errors.AccessDenied: Row(Code.UNAUTHENTICATED),
    errors.BackPressure: Row(Code.RESOURCE_EXHAUSTED, ("retry_after_s",)),
    errors.CommandRejected: Row(Code.FAILED_PRECONDITION, _COMMAND),
    errors.MissingSignature: Row(Code.UNAUTHENTICATED, _COMMAND),
    errors.InvalidSignature: Row(Code.UNAUTHENTICATED, _COMMAND),
    errors.NonceReplayed: Row(Code.UNAUTHENTICATED, _COMMAND),
    errors.StaleCommand: Row(Code.UNAUTHENTICATED, _COMMAND),
    errors.FutureCommand: Row(Code.UNAUTHENTICATED, _COMMAND),
    errors.CommandIdReused: Row(Code.ALREADY_EXISTS, _COMMAND),
    errors.LifecycleConflict: Row(Code.ABORTED),
    errors.GraftFailed: Row(Code.ABORTED),
    errors.StepFailed: Row(Code.ABORTED, ("step",)),
    errors.NonFiniteLoss: Row(Code.ABORTED, ("step",)),
    errors.LossDiverged: Row(Code.ABORTED, ("step",)),
    errors.RollbackFailed: Row(Code.FAILED_PRECONDITION),
    errors.RollbackLate: Row(Code.DEADLINE_EXCEEDED, ("tier", "deadline_ms", "elapsed_ms")),
    errors.PlaneNotNormal: Row(Code.FAILED_PRECONDITION),
    errors.RunContradicted: Row(Code.DATA_LOSS),
    errors.RankLost: Row(Code.UNAVAILABLE, ("ranks",)),
    errors.RanksDiffer: Row(Code.FAILED_PRECONDITION),
    errors.LeftProcess: Row(Code.INTERNAL),
    errors.AsyncTimeoutError: Row(Code.DEADLINE_EXCEEDED, ("what", "timeout_s")),
    errors.StorageError: Row(Code.INTERNAL),
    errors.CorruptRecord: Row(Code.DATA_LOSS),
    errors.UnwritableStorage: Row(Code.INTERNAL),
    errors.ForbiddenStorage: Row(Code.INTERNAL),
}

# A plain CommandRejected has its status from its reason; a reason that is not here has the class's.
REASONS: dict[int, grpc.StatusCode] = {
    RejectionReason.REJECTION_REASON_MISSING_SIGNATURE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_INVALID_SIGNATURE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_NONCE_REPLAYED: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_MISSING_TIMESTAMP: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_ISSUED_IN_FUTURE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_STALE_COMMAND: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_WRONG_AUDIENCE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_WRONG_PAYLOAD_TYPE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_VERIFIER_UNAVAILABLE: Code.UNAUTHENTICATED,
    RejectionReason.REJECTION_REASON_MALFORMED_PAYLOAD: Code.INVALID_ARGUMENT,
    RejectionReason.REJECTION_REASON_UNKNOWN_FIELD: Code.INVALID_ARGUMENT,
    RejectionReason.REJECTION_REASON_MISSING_COMMAND_ID: Code.INVALID_ARGUMENT,
    RejectionReason.REJECTION_REASON_TOO_LARGE: Code.INVALID_ARGUMENT,
    RejectionReason.REJECTION_REASON_COMMAND_ID_REUSED: Code.ALREADY_EXISTS,
    RejectionReason.REJECTION_REASON_WRONG_GENERATION: Code.ABORTED,
    RejectionReason.REJECTION_REASON_LIFECYCLE_CONFLICT: Code.ABORTED,
}

_DECODE: dict[str, Callable[[str], object]] = {
    "violations": lambda text: tuple(text.split("\n")),
    "ranks": lambda text: tuple(map(int, text.split(",") if text else ())),
    "retry_after_s": float,
    "timeout_s": float,
    "deadline_ms": float,
    "elapsed_ms": float,
    "step": int,
    "reason": RejectionReason.Value,
}


def code_of(error: errors.EsperError) -> grpc.StatusCode:
    """The status that an error is answered with."""
    row = TABLE[type(error)]
    if isinstance(error, errors.CommandRejected):
        return REASONS.get(error.reason, row.status)
    return row.status


def to_status(error: errors.EsperError) -> Status:
    """The error as google.rpc.Status: code, message and ErrorInfo."""
    names = TABLE[type(error)].fields
    limit_bytes = min(MAX_FIELD_BYTES, MAX_FIELDS_BYTES // max(1, len(names)))
    fields = {name: _cut(_encode(name, getattr(error, name)), limit_bytes, _utf8_bytes) for name in names}
    reason = fields.get("reason", type(error).__name__)
    info = ErrorInfo(domain=DOMAIN, reason=reason, metadata={"error": type(error).__name__, **fields})
    packed = AnyMessage()
    packed.Pack(info)
    message = _cut(_message(error), MAX_MESSAGE_BYTES, _percent_bytes)
    return Status(code=code_of(error).value[0], message=message, details=[packed])


def _message(error: errors.EsperError) -> str:
    """What a person reads, whose tool may show ErrorInfo as bytes: a refusal's reason stands in front."""
    if isinstance(error, errors.CommandRejected):
        return f"{short_name(RejectionReason, error.reason)}: {error}"
    return str(error)


def _encode(name: str, value: Any) -> str:
    if name == "violations":
        return "\n".join(value)
    if name == "ranks":
        return ",".join(map(str, value))
    if name == "reason":
        return RejectionReason.Name(value)
    return str(value)


def _cut(text: str, limit_bytes: int, size_bytes: Callable[[str], int]) -> str:
    """The characters at the front that fit, once encoded; what no encoding can say becomes a question mark."""
    # No character takes less than a byte.
    sayable = text[:limit_bytes].encode(errors="replace").decode()
    ends = accumulate(size_bytes(character) for character in sayable)
    return sayable[: sum(end <= limit_bytes for end in ends)]


def _utf8_bytes(character: str) -> int:
    return len(character.encode())


def _percent_bytes(character: str) -> int:
    """Size in grpc-message."""
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())


# gRPC's words where no connection could be made; the system's cause stands at their end.
_NO_LINE = "failed to connect to all addresses"


def from_rpc_error(error: grpc.RpcError, service: str = "", timeout_s: float = 0.0) -> errors.EsperError:
    """What the other side raised, or what its silence means."""
    code, detail = error.code(), error.details() or ""
    rebuilt = _rebuilt(error, detail)
    if rebuilt is not None:
        return rebuilt
    if code is Code.DEADLINE_EXCEEDED:
        return errors.AsyncTimeoutError(service or "the call", timeout_s)
    make = _BARE.get(code, _unavailable)
    return make(service, f"{code.name}: {detail}")


def _rebuilt(error: grpc.RpcError, message: str) -> errors.EsperError | None:
    """What the other side raised; None where it doesn't say, or says it so that nobody can read it."""
    try:
        info = _error_info(error)
        return None if info is None else _rebuild(info, message)
    except (ValueError, DecodeError):
        return None


def _rebuild(info: ErrorInfo, message: str) -> errors.EsperError:
    classes = {cls.__name__: cls for cls in TABLE}
    cls = classes.get(info.metadata.get("error", ""), errors.EsperError)
    rebuilt = cls.__new__(cls)
    Exception.__init__(rebuilt, info.metadata.get("detail", message))
    for name in TABLE[cls].fields if cls in TABLE else ():
        setattr(rebuilt, name, _DECODE.get(name, str)(info.metadata[name]))
    return rebuilt


def _error_info(error: grpc.RpcError) -> ErrorInfo | None:
    pairs: Any = error.trailing_metadata() or ()
    packed = dict(pairs).get(DETAILS_KEY)
    if not isinstance(packed, bytes):
        return None
    for detail in Status.FromString(packed).details:
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _unavailable(service: str, detail: str) -> errors.EsperError:
    if _NO_LINE in detail:
        detail = f"nobody listens there ({detail.rpartition(': ')[2]})"
    return errors.ServiceUnavailable("rpc", "service", service, f"{detail}; see that it runs and listens there")


def _misused(service: str, detail: str) -> errors.EsperError:
    remedy = "another service listens there, or its version differs"
    return errors.DependencyViolationError("rpc", "call", service, f"{detail}; {remedy}")


# Statuses that grpc itself or a proxy gives, without our ErrorInfo.
_BARE: dict[grpc.StatusCode, Callable[[str, str], errors.EsperError]] = {
    Code.INVALID_ARGUMENT: lambda service, detail: errors.ContractError(service, [detail]),
    Code.UNAUTHENTICATED: lambda service, detail: errors.AccessDenied(f"{service}: {detail}"),
    Code.PERMISSION_DENIED: lambda service, detail: errors.AccessDenied(f"{service}: {detail}"),
    Code.RESOURCE_EXHAUSTED: lambda service, detail: errors.BackPressure(f"{service}: {detail}", 1.0),
    Code.UNIMPLEMENTED: _misused,
    Code.FAILED_PRECONDITION: _misused,
}
