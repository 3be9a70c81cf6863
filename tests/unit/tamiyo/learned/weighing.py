"""Weights for tests: a model that says what a test wants of a candidate."""

from __future__ import annotations

from functools import partial

import numpy as np

from esper.leyline import PolicyUpdate, SystemStatePacket, TamiyoRunSpec, TamiyoRunState
from esper.tamiyo.growing.survey import survey
from esper.tamiyo.learned.linear import HEADS, LinearModel
from esper.tamiyo.learned.policy import LearnedPolicy
from esper.tamiyo.learned.weights import BANDIT, FEATURE_NAMES, digest_of, read_weights, write_weights
from esper.tamiyo.policy import View
from esper.tamiyo.signals import observe
from tests.unit.tamiyo.builders import CATALOG, context, first_state, look_up

FEATURES = len(FEATURE_NAMES)


def model(constant: float = 0.0, **slopes: float) -> LinearModel:
    """Rewards `constant` and so much more for each unit of a feature."""
    row = np.zeros(1 + FEATURES)
    row[0] = constant
    for name, slope in slopes.items():
        row[1 + FEATURE_NAMES.index(name)] = slope
    return LinearModel(
        center=np.zeros(FEATURES),
        scale=np.ones(FEATURES),
        pairs=np.zeros((0, 2), dtype=np.int64),
        coefficients=np.tile(row, (len(HEADS), 1)),
        covariance=np.eye(1 + FEATURES) * 1e-6,
        noise=np.ones(len(HEADS)),
    )


def content(version: str = "1.1.0", constant: float = 0.0, **slopes: float) -> bytes:
    return write_weights(model(constant, **slopes), version=version, caution=0.0, price=0.1, expected_reward=0.1)


def learned(constant: float = 0.0, **slopes: float) -> LearnedPolicy:
    return LearnedPolicy(read_weights(content(constant=constant, **slopes)))


def update(content: bytes, version: str = "1.1.0", update_id: str = "u1", **changes: object) -> PolicyUpdate:
    given: dict[str, object] = {
        "update_id": update_id,
        "policy_id": BANDIT,
        "version": version,
        "weights": content,
        "weights_digest": digest_of(content),
    }
    made = PolicyUpdate(**{**given, **changes})  # type: ignore[arg-type]
    made.issued_at.FromSeconds(1_760_000_000)
    return made


def view(packet: SystemStatePacket, run_spec: TamiyoRunSpec | None = None, state: TamiyoRunState | None = None) -> View:
    """A packet as a policy sees it; its loss is known over a whole window."""
    run, known = context(run_spec), state or first_state(run_spec)
    for back in range(30, 0, -1):
        if packet.step > 10 * back:
            known.window.add(step=packet.step - 10 * back, loss=packet.metrics.smoothed_loss)
    signals = observe(known, packet, run)
    return View(
        context=run,
        packet=packet,
        state=known,
        signals=signals,
        select=partial(look_up, known, packet, run),
        survey=partial(survey, known, packet, run, CATALOG),
    )
