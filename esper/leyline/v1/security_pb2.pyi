import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SignedCommand(_message.Message):
    __slots__ = ("payload", "payload_type", "audience", "security")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    payload_type: str
    audience: str
    security: CommandSecurity
    def __init__(self, payload: _Optional[bytes] = ..., payload_type: _Optional[str] = ..., audience: _Optional[str] = ..., security: _Optional[_Union[CommandSecurity, _Mapping]] = ...) -> None: ...

class CommandSecurity(_message.Message):
    __slots__ = ("signature", "nonce", "issued_at", "freshness_window", "key_id", "algorithm")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_WINDOW_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    signature: str
    nonce: str
    issued_at: _timestamp_pb2.Timestamp
    freshness_window: _duration_pb2.Duration
    key_id: str
    algorithm: str
    def __init__(self, signature: _Optional[str] = ..., nonce: _Optional[str] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., freshness_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., key_id: _Optional[str] = ..., algorithm: _Optional[str] = ...) -> None: ...
