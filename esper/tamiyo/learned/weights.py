"""Weights of a learned policy as bytes: safetensors with what they were learned from beside them.

`read_weights` believes nothing: size, names, types, shapes, finite values and the features' names and version are
checked before a number is used. The bytes' SHA-256 is the policy's identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from esper.core.errors import EsperError
from esper.leyline import PolicyUpdateRejection
from esper.tamiyo.learned.arrays import np
from esper.tamiyo.learned.graph import GraphModel
from esper.tamiyo.learned.graph import shapes as graph_shapes
from esper.tamiyo.learned.linear import HEADS, LinearModel, Model
from esper.tamiyo.learned.observation import CANDIDATE_FEATURES, RUN_FEATURES, VERSION

MAX_BYTES = 8 << 20
MAX_PAIRS = 4096
BANDIT, GRAPH = "bandit", "graph"
_HEADER_LENGTH = 8
_TOLD = "policy"
_MATRICES = ("center", "scale", "pairs", "coefficients", "covariance", "noise")
_COMMON = ("center", "scale", "calibration", "noise")
FEATURE_NAMES = (*RUN_FEATURES, *CANDIDATE_FEATURES)


class WeightsRefused(EsperError):
    """Bytes that are no weights for this service; `reason` is the contract's."""

    def __init__(self, reason: PolicyUpdateRejection, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A learned policy at rest."""

    policy_id: str
    version: str
    digest: str
    """SHA-256 of the bytes, lower-case hex."""
    model: Model
    caution: float
    """Standard errors that are taken off a prediction before it is held against waiting."""
    price: float
    """What a whole run's multiply-accumulates are worth, as a share of the twin's score: the unit of rewards."""
    expected_reward: float
    """Mean reward of a decision that validation promised."""


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_weights(
    model: LinearModel | GraphModel, *, version: str, caution: float, price: float, expected_reward: float
) -> bytes:
    """The bytes of a model."""
    told = {
        "policy_id": BANDIT if isinstance(model, LinearModel) else GRAPH,
        "version": version,
        "feature_version": VERSION,
        "features": FEATURE_NAMES,
        "heads": HEADS,
        "caution": caution,
        "price": price,
        "expected_reward": expected_reward,
    }
    if isinstance(model, LinearModel):
        found = {name: getattr(model, name) for name in _MATRICES}
    else:
        found = {**{name: getattr(model, name) for name in _COMMON}, **model.tensors}
    tensors = {name: np.ascontiguousarray(value) for name, value in found.items()}
    # One entry: safetensors writes several in any order, and the same model would have many digests.
    return save(tensors, metadata={_TOLD: json.dumps(told)})


def read_weights(content: bytes) -> Weights:
    """The policy in the bytes. Raises WeightsRefused with what arrived and what was expected."""
    metadata = _metadata(content)
    if metadata.get("feature_version") != VERSION:
        raise WeightsRefused(
            PolicyUpdateRejection.POLICY_UPDATE_REJECTION_FEATURE_VERSION,
            f"learned from features {metadata.get('feature_version')!r}, this service observes {VERSION!r}; train anew",
        )
    policy_id = str(metadata.get("policy_id"))
    _require(policy_id in _READERS, f"policy_id is {policy_id!r}, expected {' or '.join(_READERS)}")
    expected: dict[str, object] = {"features": list(FEATURE_NAMES), "heads": list(HEADS)}
    for key, value in expected.items():
        _require(metadata.get(key) == value, f"{key} is {metadata.get(key)!r}, expected {value!r}")
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _invalid(f"no safetensors: {error}") from error
    return Weights(
        policy_id=policy_id,
        version=str(metadata.get("version", "")),
        digest=digest_of(content),
        model=_READERS[policy_id](tensors),
        caution=_number(metadata, "caution"),
        price=_number(metadata, "price"),
        expected_reward=_number(metadata, "expected_reward"),
    )


def _metadata(content: bytes) -> Mapping[str, Any]:
    _require(len(content) <= MAX_BYTES, f"{len(content)} bytes, at most {MAX_BYTES} are taken")
    length = int.from_bytes(content[:_HEADER_LENGTH], "little")
    _require(_HEADER_LENGTH + length <= len(content), f"a header of {length} bytes in {len(content)}: cut or damaged")
    try:
        header = json.loads(content[_HEADER_LENGTH : _HEADER_LENGTH + length])
    except ValueError as error:
        raise _invalid(f"the header is no JSON: {error}") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    try:
        told = json.loads(metadata[_TOLD]) if isinstance(metadata, dict) else None
    except (KeyError, ValueError, TypeError) as error:
        raise _invalid(f"the header's __metadata__ says nothing of a policy: {error!r}") from error
    _require(isinstance(told, dict), "the header's __metadata__ says nothing of a policy")
    return dict(told or {})


def _linear(tensors: Mapping[str, Any]) -> LinearModel:
    _require_names(tensors, _MATRICES)
    features, heads, pairs = len(FEATURE_NAMES), len(HEADS), len(tensors["pairs"])
    _require(pairs <= MAX_PAIRS, f"{pairs} pairs, at most {MAX_PAIRS} are taken")
    terms = 1 + features + pairs
    shapes = {
        "center": (features,),
        "scale": (features,),
        "pairs": (pairs, 2),
        "coefficients": (heads, terms),
        "covariance": (terms, terms),
        "noise": (heads,),
    }
    _require_tensors(tensors, shapes)
    held = tensors["pairs"]
    _require(bool(((held >= 0) & (held < features)).all()), f"pairs name features beyond 0..{features - 1}")
    return LinearModel(**tensors)


def _graph(tensors: Mapping[str, Any]) -> GraphModel:
    own, features, heads = graph_shapes(), len(FEATURE_NAMES), len(HEADS)
    _require_names(tensors, (*_COMMON, *own))
    common = {"center": (features,), "scale": (features,), "calibration": (heads, 2), "noise": (heads,)}
    _require_tensors(tensors, {**common, **own})
    return GraphModel(**{name: tensors[name] for name in _COMMON}, tensors={name: tensors[name] for name in own})


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Model]] = {BANDIT: _linear, GRAPH: _graph}


def _require_names(tensors: Mapping[str, Any], expected: Sequence[str]) -> None:
    _require(set(tensors) == set(expected), f"tensors {sorted(tensors)}, expected {sorted(expected)}")


def _require_tensors(tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Shapes, types and finite values of all of them."""
    for name, shape in shapes.items():
        tensor, kind = tensors[name], np.int64 if name == "pairs" else np.float64
        _require(tensor.shape == shape, f"{name} has shape {tensor.shape}, expected {shape}")
        _require(tensor.dtype == kind, f"{name} is {tensor.dtype}, expected {np.dtype(kind)}")
        _require(bool(np.isfinite(tensor).all()), f"{name} has values that aren't finite")
    _require(bool((tensors["scale"] > 0).all()), "scale has values that aren't above 0")
    _require(bool((tensors["noise"] >= 0).all()), "noise has values below 0")


def _number(metadata: Mapping[str, Any], key: str) -> float:
    try:
        value = float(metadata.get(key, "nan"))
    except (TypeError, ValueError):
        value = float("nan")
    _require(bool(np.isfinite(value)), f"{key} is {metadata.get(key)!r}, a finite number is needed")
    return value


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise _invalid(detail)


def _invalid(detail: str) -> WeightsRefused:
    return WeightsRefused(PolicyUpdateRejection.POLICY_UPDATE_REJECTION_INVALID_WEIGHTS, detail)
