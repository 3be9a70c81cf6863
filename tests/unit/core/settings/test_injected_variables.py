"""What an orchestrator injects is no setting; what looks like a setting still is one."""

from __future__ import annotations

import pytest

from esper.core.errors import ConfigError
from esper.core.settings.config import load
from esper.core.settings.injected_variables import is_injected
from esper.tolaria.config import TrainConfig

INJECTED = {
    "TOLARIA_SERVICE_HOST": "10.0.0.11",
    "TOLARIA_SERVICE_PORT": "7700",
    "TOLARIA_SERVICE_PORT_GRPC": "7700",
    "TOLARIA_PORT": "tcp://10.0.0.11:7700",
    "TOLARIA_PORT_7700_TCP": "tcp://10.0.0.11:7700",
    "TOLARIA_PORT_7700_TCP_PROTO": "tcp",
    "TOLARIA_PORT_7700_TCP_PORT": "7700",
    "TOLARIA_PORT_7700_TCP_ADDR": "10.0.0.11",
    "TOLARIA_METRICS_PORT": "tcp://10.0.0.11:9090",
}


def test_what_an_orchestrator_injects_for_a_service_named_like_our_prefix_is_passed_over() -> None:
    loaded = load(TrainConfig, file=None, environ=INJECTED, prefix="TOLARIA_", flags={})
    assert set(loaded.origins.values()) == {"default"}
    assert all(is_injected(name.replace("TOLARIA", "ESPER_KASMINA"), value) for name, value in INJECTED.items())


@pytest.mark.parametrize(
    ("name", "value"), [("TOLARIA_PORT", "7700"), ("TOLARIA_SERVICE_PORT", "x"), ("TOLARIA_X", "1")]
)
def test_what_no_orchestrator_would_say_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match="names no known setting"):
        load(TrainConfig, file=None, environ={name: value}, prefix="TOLARIA_", flags={})
