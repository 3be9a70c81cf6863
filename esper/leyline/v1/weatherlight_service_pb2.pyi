import datetime

from esper.leyline.v1 import emergency_pb2 as _emergency_pb2
from esper.leyline.v1 import security_pb2 as _security_pb2
from esper.leyline.v1 import telemetry_pb2 as _telemetry_pb2
from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RegisterServiceRequest(_message.Message):
    __slots__ = ("service", "instance", "endpoint", "version", "training_run_id")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    endpoint: str
    version: str
    training_run_id: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ..., endpoint: _Optional[str] = ..., version: _Optional[str] = ..., training_run_id: _Optional[str] = ...) -> None: ...

class RegisterServiceResponse(_message.Message):
    __slots__ = ("heartbeat_interval", "mode")
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    heartbeat_interval: _duration_pb2.Duration
    mode: _emergency_pb2.ModeUpdate
    def __init__(self, heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("service", "instance", "health", "summary", "is_leaving", "training_run_id")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    health: _types_pb2.HealthStatus
    summary: str
    is_leaving: bool
    training_run_id: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ..., health: _Optional[_Union[_types_pb2.HealthStatus, str]] = ..., summary: _Optional[str] = ..., is_leaving: bool = ..., training_run_id: _Optional[str] = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("mode", "is_unknown")
    MODE_FIELD_NUMBER: _ClassVar[int]
    IS_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    is_unknown: bool
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ..., is_unknown: bool = ...) -> None: ...

class PublishTelemetryRequest(_message.Message):
    __slots__ = ("packets", "dropped")
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    packets: _containers.RepeatedCompositeFieldContainer[_telemetry_pb2.TelemetryPacket]
    dropped: int
    def __init__(self, packets: _Optional[_Iterable[_Union[_telemetry_pb2.TelemetryPacket, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class PublishTelemetryResponse(_message.Message):
    __slots__ = ("accepted", "refused", "duplicates", "back_pressure")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    BACK_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    refused: int
    duplicates: int
    back_pressure: _duration_pb2.Duration
    def __init__(self, accepted: _Optional[int] = ..., refused: _Optional[int] = ..., duplicates: _Optional[int] = ..., back_pressure: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("min_priority", "sources", "after_sequence")
    MIN_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    min_priority: _types_pb2.MessagePriority
    sources: _containers.RepeatedScalarFieldContainer[str]
    after_sequence: int
    def __init__(self, min_priority: _Optional[_Union[_types_pb2.MessagePriority, str]] = ..., sources: _Optional[_Iterable[str]] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("packet", "sequence")
    PACKET_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    packet: _telemetry_pb2.TelemetryPacket
    sequence: int
    def __init__(self, packet: _Optional[_Union[_telemetry_pb2.TelemetryPacket, _Mapping]] = ..., sequence: _Optional[int] = ...) -> None: ...

class WatchModeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchModeResponse(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ...) -> None: ...

class WeatherlightServiceGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("service", "instance", "endpoint", "health", "last_seen", "is_lost", "summary", "training_run_id")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    IS_LOST_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    endpoint: str
    health: _types_pb2.HealthStatus
    last_seen: _timestamp_pb2.Timestamp
    is_lost: bool
    summary: str
    training_run_id: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ..., endpoint: _Optional[str] = ..., health: _Optional[_Union[_types_pb2.HealthStatus, str]] = ..., last_seen: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., is_lost: bool = ..., summary: _Optional[str] = ..., training_run_id: _Optional[str] = ...) -> None: ...

class WeatherlightServiceGetStatusResponse(_message.Message):
    __slots__ = ("mode", "services", "packets", "critical", "dropped", "log_sequence", "started_at")
    MODE_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    services: _containers.RepeatedCompositeFieldContainer[ServiceStatus]
    packets: int
    critical: int
    dropped: int
    log_sequence: int
    started_at: _timestamp_pb2.Timestamp
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ..., services: _Optional[_Iterable[_Union[ServiceStatus, _Mapping]]] = ..., packets: _Optional[int] = ..., critical: _Optional[int] = ..., dropped: _Optional[int] = ..., log_sequence: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RaiseEmergencyRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class RaiseEmergencyResponse(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ...) -> None: ...

class SignalRollbackDeadlineRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class SignalRollbackDeadlineResponse(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ...) -> None: ...

class AcknowledgeEmergencyRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class AcknowledgeEmergencyResponse(_message.Message):
    __slots__ = ("mode",)
    MODE_FIELD_NUMBER: _ClassVar[int]
    mode: _emergency_pb2.ModeUpdate
    def __init__(self, mode: _Optional[_Union[_emergency_pb2.ModeUpdate, _Mapping]] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: _security_pb2.SignedCommand
    def __init__(self, command: _Optional[_Union[_security_pb2.SignedCommand, _Mapping]] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
