import datetime

from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmergencySignal(_message.Message):
    __slots__ = ("emergency_id", "level", "cause", "detail", "origin", "training_run_id", "generation", "raised_at")
    EMERGENCY_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RAISED_AT_FIELD_NUMBER: _ClassVar[int]
    emergency_id: str
    level: _types_pb2.EmergencyLevel
    cause: str
    detail: str
    origin: str
    training_run_id: str
    generation: int
    raised_at: _timestamp_pb2.Timestamp
    def __init__(self, emergency_id: _Optional[str] = ..., level: _Optional[_Union[_types_pb2.EmergencyLevel, str]] = ..., cause: _Optional[str] = ..., detail: _Optional[str] = ..., origin: _Optional[str] = ..., training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., raised_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EmergencyAcknowledgement(_message.Message):
    __slots__ = ("emergency_id", "acknowledged_by", "resolved", "note")
    EMERGENCY_ID_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BY_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    emergency_id: str
    acknowledged_by: str
    resolved: bool
    note: str
    def __init__(self, emergency_id: _Optional[str] = ..., acknowledged_by: _Optional[str] = ..., resolved: bool = ..., note: _Optional[str] = ...) -> None: ...

class RollbackDeadlineSignal(_message.Message):
    __slots__ = ("training_run_id", "generation", "step", "deadline_ms", "elapsed_ms")
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    training_run_id: str
    generation: int
    step: int
    deadline_ms: float
    elapsed_ms: float
    def __init__(self, training_run_id: _Optional[str] = ..., generation: _Optional[int] = ..., step: _Optional[int] = ..., deadline_ms: _Optional[float] = ..., elapsed_ms: _Optional[float] = ...) -> None: ...

class DrainOrder(_message.Message):
    __slots__ = ("rationale", "grace_s")
    RATIONALE_FIELD_NUMBER: _ClassVar[int]
    GRACE_S_FIELD_NUMBER: _ClassVar[int]
    rationale: str
    grace_s: float
    def __init__(self, rationale: _Optional[str] = ..., grace_s: _Optional[float] = ...) -> None: ...

class ModeUpdate(_message.Message):
    __slots__ = ("mode", "cause", "since", "open_emergencies", "only_run")
    MODE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    OPEN_EMERGENCIES_FIELD_NUMBER: _ClassVar[int]
    ONLY_RUN_FIELD_NUMBER: _ClassVar[int]
    mode: _types_pb2.SystemMode
    cause: str
    since: _timestamp_pb2.Timestamp
    open_emergencies: _containers.RepeatedCompositeFieldContainer[EmergencySignal]
    only_run: str
    def __init__(self, mode: _Optional[_Union[_types_pb2.SystemMode, str]] = ..., cause: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., open_emergencies: _Optional[_Iterable[_Union[EmergencySignal, _Mapping]]] = ..., only_run: _Optional[str] = ...) -> None: ...
