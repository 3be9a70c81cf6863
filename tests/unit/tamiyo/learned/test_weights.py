from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from esper.leyline import PolicyUpdateRejection
from esper.tamiyo.learned.linear import HEADS
from esper.tamiyo.learned.weights import FEATURE_NAMES, WeightsRefused, digest_of, read_weights, write_weights
from tests.unit.tamiyo.learned.weighing import content, model

CONTENT = content(constant=0.25, widening=1.0)


def reason(refused: pytest.ExceptionInfo[WeightsRefused]) -> str:
    return PolicyUpdateRejection.Name(refused.value.reason).removeprefix("POLICY_UPDATE_REJECTION_")


def test_what_was_written_is_read_back() -> None:
    weights = read_weights(CONTENT)
    assert (weights.policy_id, weights.version, weights.digest) == ("bandit", "1.1.0", digest_of(CONTENT))
    row = np.zeros((1, len(FEATURE_NAMES)))
    assert weights.model.predict(row).means["reward"].tolist() == [0.25]


def test_absent_features_count_as_the_mean_and_far_ones_no_further_than_three_deviations() -> None:
    found = read_weights(content(widening=1.0)).model
    rows = np.zeros((3, len(FEATURE_NAMES)))
    rows[1, FEATURE_NAMES.index("widening")] = np.nan
    rows[2, FEATURE_NAMES.index("widening")] = 1e9
    assert found.predict(rows).means["reward"].tolist() == [0.0, 0.0, 3.0]


def metadata() -> dict[str, str]:
    length = int.from_bytes(CONTENT[:8], "little")
    found: dict[str, str] = json.loads(CONTENT[8 : 8 + length])["__metadata__"]
    return found


def retold(**changes: object) -> bytes:
    told = {**json.loads(metadata()["policy"]), **changes}
    return save(load(CONTENT), metadata={"policy": json.dumps(told)})


def reshaped(name: str, change: Callable[[Any], Any]) -> bytes:
    tensors = load(CONTENT)
    return save({**tensors, name: np.ascontiguousarray(change(tensors[name]))}, metadata=metadata())


@pytest.mark.parametrize(
    ("given_bytes", "expected"),
    [
        (retold(feature_version="growth:v0"), "FEATURE_VERSION"),
        (retold(policy_id="gnn"), "INVALID_WEIGHTS"),
        (retold(features=["progress"]), "INVALID_WEIGHTS"),
        (retold(price="cheap"), "INVALID_WEIGHTS"),
        (reshaped("center", lambda t: t[:-1]), "INVALID_WEIGHTS"),
        (reshaped("noise", lambda t: t * np.nan), "INVALID_WEIGHTS"),
        (reshaped("scale", lambda t: t * 0), "INVALID_WEIGHTS"),
        (reshaped("coefficients", lambda t: t.astype(np.float32)), "INVALID_WEIGHTS"),
        (reshaped("pairs", lambda t: np.full((1, 2), 99, dtype=np.int64)), "INVALID_WEIGHTS"),
        (save({"a": np.zeros(1)}), "INVALID_WEIGHTS"),
        (save({"a": np.zeros(1)}, metadata={"policy": "[]"}), "INVALID_WEIGHTS"),
        (b"", "INVALID_WEIGHTS"),
        (b"\xff" * 64, "INVALID_WEIGHTS"),
        (CONTENT[:-9], "INVALID_WEIGHTS"),
    ],
)
def test_what_is_no_policy_of_this_service_is_refused_by_its_reason(given_bytes: bytes, expected: str) -> None:
    with pytest.raises(WeightsRefused) as refused:
        read_weights(given_bytes)
    assert reason(refused) == expected
    assert str(refused.value)


@given(place=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_makes_another_policy(place: int, bit: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[place] ^= 1 << bit
    try:
        found = read_weights(bytes(damaged))
    except WeightsRefused:
        return
    assert found.digest != digest_of(CONTENT)


def test_a_head_too_few_is_refused() -> None:
    short = replace(model(), noise=np.ones(len(HEADS) - 1))
    with pytest.raises(WeightsRefused, match="noise has shape"):
        read_weights(write_weights(short, version="1.1.0", caution=0.0, price=0.1, expected_reward=0.0))
