import datetime

from esper.leyline.v1 import bus_pb2 as _bus_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishRequest(_message.Message):
    __slots__ = ("envelopes",)
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    envelopes: _containers.RepeatedCompositeFieldContainer[_bus_pb2.BusEnvelope]
    def __init__(self, envelopes: _Optional[_Iterable[_Union[_bus_pb2.BusEnvelope, _Mapping]]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("sequences",)
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequences: _Optional[_Iterable[int]] = ...) -> None: ...

class ConsumeRequest(_message.Message):
    __slots__ = ("group", "consumer", "lanes", "max_in_flight", "acknowledged_event_ids", "rejected_event_ids", "after_sequence")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    group: str
    consumer: str
    lanes: _containers.RepeatedScalarFieldContainer[_bus_pb2.BusLane]
    max_in_flight: int
    acknowledged_event_ids: _containers.RepeatedScalarFieldContainer[str]
    rejected_event_ids: _containers.RepeatedScalarFieldContainer[str]
    after_sequence: int
    def __init__(self, group: _Optional[str] = ..., consumer: _Optional[str] = ..., lanes: _Optional[_Iterable[_Union[_bus_pb2.BusLane, str]]] = ..., max_in_flight: _Optional[int] = ..., acknowledged_event_ids: _Optional[_Iterable[str]] = ..., rejected_event_ids: _Optional[_Iterable[str]] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("envelope", "refused_by", "put_aside_at")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_FIELD_NUMBER: _ClassVar[int]
    PUT_ASIDE_AT_FIELD_NUMBER: _ClassVar[int]
    envelope: _bus_pb2.BusEnvelope
    refused_by: str
    put_aside_at: _timestamp_pb2.Timestamp
    def __init__(self, envelope: _Optional[_Union[_bus_pb2.BusEnvelope, _Mapping]] = ..., refused_by: _Optional[str] = ..., put_aside_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
