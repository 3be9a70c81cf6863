import datetime

from esper.leyline.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrefetchStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PREFETCH_STATUS_UNSPECIFIED: _ClassVar[PrefetchStatus]
    PREFETCH_STATUS_SCHEDULED: _ClassVar[PrefetchStatus]
    PREFETCH_STATUS_READY: _ClassVar[PrefetchStatus]
    PREFETCH_STATUS_ERROR: _ClassVar[PrefetchStatus]
    PREFETCH_STATUS_TIMEOUT: _ClassVar[PrefetchStatus]
    PREFETCH_STATUS_CANCELED: _ClassVar[PrefetchStatus]
PREFETCH_STATUS_UNSPECIFIED: PrefetchStatus
PREFETCH_STATUS_SCHEDULED: PrefetchStatus
PREFETCH_STATUS_READY: PrefetchStatus
PREFETCH_STATUS_ERROR: PrefetchStatus
PREFETCH_STATUS_TIMEOUT: PrefetchStatus
PREFETCH_STATUS_CANCELED: PrefetchStatus

class Blueprint(_message.Message):
    __slots__ = ("blueprint_id", "name", "description", "version", "tier", "slot_kinds", "parameters", "safety", "artifact", "is_zero_output", "is_foldable", "is_control", "digest", "cost", "is_causal")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    SLOT_KINDS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    SAFETY_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    IS_ZERO_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    IS_FOLDABLE_FIELD_NUMBER: _ClassVar[int]
    IS_CONTROL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    IS_CAUSAL_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    name: str
    description: str
    version: int
    tier: _types_pb2.BlueprintTier
    slot_kinds: _containers.RepeatedScalarFieldContainer[_types_pb2.SlotKind]
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterBounds]
    safety: SafetySheet
    artifact: KernelArtifact
    is_zero_output: bool
    is_foldable: bool
    is_control: bool
    digest: str
    cost: BlueprintCost
    is_causal: bool
    def __init__(self, blueprint_id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., version: _Optional[int] = ..., tier: _Optional[_Union[_types_pb2.BlueprintTier, str]] = ..., slot_kinds: _Optional[_Iterable[_Union[_types_pb2.SlotKind, str]]] = ..., parameters: _Optional[_Iterable[_Union[ParameterBounds, _Mapping]]] = ..., safety: _Optional[_Union[SafetySheet, _Mapping]] = ..., artifact: _Optional[_Union[KernelArtifact, _Mapping]] = ..., is_zero_output: bool = ..., is_foldable: bool = ..., is_control: bool = ..., digest: _Optional[str] = ..., cost: _Optional[_Union[BlueprintCost, _Mapping]] = ..., is_causal: bool = ...) -> None: ...

class BlueprintCost(_message.Message):
    __slots__ = ("parameters", "forward_macs")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MACS_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[CostTerm]
    forward_macs: _containers.RepeatedCompositeFieldContainer[CostTerm]
    def __init__(self, parameters: _Optional[_Iterable[_Union[CostTerm, _Mapping]]] = ..., forward_macs: _Optional[_Iterable[_Union[CostTerm, _Mapping]]] = ...) -> None: ...

class CostTerm(_message.Message):
    __slots__ = ("coefficient", "factors")
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    coefficient: int
    factors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, coefficient: _Optional[int] = ..., factors: _Optional[_Iterable[str]] = ...) -> None: ...

class ParameterBounds(_message.Message):
    __slots__ = ("name", "min_value", "max_value", "default_value", "is_integer", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MIN_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    IS_INTEGER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    min_value: float
    max_value: float
    default_value: float
    is_integer: bool
    description: str
    def __init__(self, name: _Optional[str] = ..., min_value: _Optional[float] = ..., max_value: _Optional[float] = ..., default_value: _Optional[float] = ..., is_integer: bool = ..., description: _Optional[str] = ...) -> None: ...

class SafetySheet(_message.Message):
    __slots__ = ("risk_score", "hazard", "handling", "resources", "provenance", "recommendation")
    RISK_SCORE_FIELD_NUMBER: _ClassVar[int]
    HAZARD_FIELD_NUMBER: _ClassVar[int]
    HANDLING_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_FIELD_NUMBER: _ClassVar[int]
    risk_score: float
    hazard: _types_pb2.HazardBand
    handling: _types_pb2.HandlingClass
    resources: _types_pb2.ResourceProfile
    provenance: _types_pb2.Provenance
    recommendation: str
    def __init__(self, risk_score: _Optional[float] = ..., hazard: _Optional[_Union[_types_pb2.HazardBand, str]] = ..., handling: _Optional[_Union[_types_pb2.HandlingClass, str]] = ..., resources: _Optional[_Union[_types_pb2.ResourceProfile, str]] = ..., provenance: _Optional[_Union[_types_pb2.Provenance, str]] = ..., recommendation: _Optional[str] = ...) -> None: ...

class KernelArtifact(_message.Message):
    __slots__ = ("digest", "size_bytes", "content_type")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    content_type: str
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., content_type: _Optional[str] = ...) -> None: ...

class SeedRecipe(_message.Message):
    __slots__ = ("blueprint_id", "version", "factory", "source", "entry", "weights")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTORY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    version: int
    factory: str
    source: RecipeFile
    entry: str
    weights: RecipeFile
    def __init__(self, blueprint_id: _Optional[str] = ..., version: _Optional[int] = ..., factory: _Optional[str] = ..., source: _Optional[_Union[RecipeFile, _Mapping]] = ..., entry: _Optional[str] = ..., weights: _Optional[_Union[RecipeFile, _Mapping]] = ...) -> None: ...

class RecipeFile(_message.Message):
    __slots__ = ("name", "digest", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class KernelPrefetchRequest(_message.Message):
    __slots__ = ("request_id", "blueprint_id", "training_run_id", "digest", "issued_at")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    TRAINING_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    blueprint_id: str
    training_run_id: str
    digest: str
    issued_at: _timestamp_pb2.Timestamp
    def __init__(self, request_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., training_run_id: _Optional[str] = ..., digest: _Optional[str] = ..., issued_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class KernelArtifactReady(_message.Message):
    __slots__ = ("request_id", "blueprint_id", "artifact", "verify_ms", "content")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    VERIFY_MS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    blueprint_id: str
    artifact: KernelArtifact
    verify_ms: float
    content: bytes
    def __init__(self, request_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., artifact: _Optional[_Union[KernelArtifact, _Mapping]] = ..., verify_ms: _Optional[float] = ..., content: _Optional[bytes] = ...) -> None: ...

class KernelArtifactError(_message.Message):
    __slots__ = ("request_id", "blueprint_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    blueprint_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., blueprint_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PrefetchUpdate(_message.Message):
    __slots__ = ("blueprint_id", "status", "artifact", "error", "time")
    BLUEPRINT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    blueprint_id: str
    status: PrefetchStatus
    artifact: KernelArtifact
    error: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, blueprint_id: _Optional[str] = ..., status: _Optional[_Union[PrefetchStatus, str]] = ..., artifact: _Optional[_Union[KernelArtifact, _Mapping]] = ..., error: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
