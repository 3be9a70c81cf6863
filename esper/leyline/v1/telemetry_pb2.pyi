import datetime

from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TelemetryPacket(_message.Message):
    __slots__ = ("packet_id", "source", "training_run_id", "time", "priority", "metrics", "events", "trace", "step")
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    packet_id: str
    source: str
    training_run_id: str
    time: _timestamp_pb2.Timestamp
    priority: _types_pb2.MessagePriority
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    trace: _types_pb2.TraceContext
    step: int
    def __init__(self, packet_id: _Optional[str] = ..., source: _Optional[str] = ..., training_run_id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., priority: _Optional[_Union[_types_pb2.MessagePriority, str]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., trace: _Optional[_Union[_types_pb2.TraceContext, _Mapping]] = ..., step: _Optional[int] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value", "unit", "attributes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    unit: str
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., unit: _Optional[str] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("name", "level", "attributes", "time", "message")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    level: _types_pb2.TelemetryLevel
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    time: _timestamp_pb2.Timestamp
    message: str
    def __init__(self, name: _Optional[str] = ..., level: _Optional[_Union[_types_pb2.TelemetryLevel, str]] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., message: _Optional[str] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("key", "text", "real", "integer", "flag")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    key: str
    text: str
    real: float
    integer: int
    flag: bool
    def __init__(self, key: _Optional[str] = ..., text: _Optional[str] = ..., real: _Optional[float] = ..., integer: _Optional[int] = ..., flag: bool = ...) -> None: ...
