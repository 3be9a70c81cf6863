import datetime

from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BusLane(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUS_LANE_UNSPECIFIED: _ClassVar[BusLane]
    BUS_LANE_NORMAL: _ClassVar[BusLane]
    BUS_LANE_TELEMETRY: _ClassVar[BusLane]
    BUS_LANE_EMERGENCY: _ClassVar[BusLane]
    BUS_LANE_POLICY: _ClassVar[BusLane]
    BUS_LANE_KERNEL_REQUESTS: _ClassVar[BusLane]
    BUS_LANE_KERNEL_ANSWERS: _ClassVar[BusLane]
    BUS_LANE_DEAD_LETTERS: _ClassVar[BusLane]
BUS_LANE_UNSPECIFIED: BusLane
BUS_LANE_NORMAL: BusLane
BUS_LANE_TELEMETRY: BusLane
BUS_LANE_EMERGENCY: BusLane
BUS_LANE_POLICY: BusLane
BUS_LANE_KERNEL_REQUESTS: BusLane
BUS_LANE_KERNEL_ANSWERS: BusLane
BUS_LANE_DEAD_LETTERS: BusLane

class BusEnvelope(_message.Message):
    __slots__ = ("event_id", "payload_type", "payload", "source", "time", "priority", "lane", "sequence", "trace", "attempt", "signature", "key_id")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    payload_type: str
    payload: bytes
    source: str
    time: _timestamp_pb2.Timestamp
    priority: _types_pb2.MessagePriority
    lane: BusLane
    sequence: int
    trace: _types_pb2.TraceContext
    attempt: int
    signature: str
    key_id: str
    def __init__(self, event_id: _Optional[str] = ..., payload_type: _Optional[str] = ..., payload: _Optional[bytes] = ..., source: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., priority: _Optional[_Union[_types_pb2.MessagePriority, str]] = ..., lane: _Optional[_Union[BusLane, str]] = ..., sequence: _Optional[int] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ..., attempt: _Optional[int] = ..., signature: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...
