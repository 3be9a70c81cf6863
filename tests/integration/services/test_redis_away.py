"""Redis dies under a plane and comes back: the plane says so, lets nothing grow, and goes on by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.core.errors import ConfigError, PlaneNotNormal
from esper.leyline import ModeUpdate, SystemMode, WatchModeRequest, WeatherlightServiceGetStatusRequest
from esper.tolaria.config import TrainConfig
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions
from tests.integration.services.service_process import SECRET, TIMEOUT_S, ServiceProcess, weatherlight_client
from tools.harness.faults.redis_server import RedisServer

NORMAL, DEGRADED = SystemMode.SYSTEM_MODE_NORMAL, SystemMode.SYSTEM_MODE_DEGRADED
SETTINGS = '[weatherlight]\nredis_url = "{url}"\n[weatherlight.mode]\ndwell_s = 0.1\nclear_s = 0.1\n'
PATIENCE_S = 60.0


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    try:
        server = RedisServer()
    except ConfigError as error:
        pytest.skip(str(error))
    server.start()
    yield server
    server.close()


@pytest.fixture
def weatherlight(redis: RedisServer, tmp_path: Path) -> Iterator[ServiceProcess]:
    settings = tmp_path / "weatherlight.toml"
    settings.write_text(SETTINGS.format(url=redis.url))
    with ServiceProcess("weatherlight", tmp_path / "w", "--config", str(settings)) as service:
        yield service


def wait_for_mode(service: ServiceProcess, mode: SystemMode) -> ModeUpdate:
    for response in weatherlight_client(service.channel).watch_mode(WatchModeRequest(), timeout_s=PATIENCE_S):
        if response.mode.mode == mode:
            return response.mode
    raise AssertionError(f"the plane never was {SystemMode.Name(mode)}")


def test_the_plane_is_degraded_while_redis_is_away_and_normal_once_it_is_back(
    redis: RedisServer, weatherlight: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = weatherlight_client(weatherlight.channel)
    redis.kill()
    cause = wait_for_mode(weatherlight, DEGRADED).cause
    assert "weatherlight is unwell" in cause
    assert "see that Redis runs" in cause
    status = client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S)
    assert status.mode.cause == cause
    assert not status.HasField("log_sequence")
    settings = TrainConfig(run_dir=tmp_path / "run", samples=600, min_samples=50, weatherlight=weatherlight.endpoint)
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", SECRET)
    with pytest.raises(PlaneNotNormal, match=r"DEGRADED: weatherlight is unwell.*see that Redis runs; no growing run"):
        grow(settings, RunOptions(tensorboard=False), [], Interruption())
    redis.start()
    wait_for_mode(weatherlight, NORMAL)
    # What waited is published by a duty of its own, before or after the mode changes.
    due_s = time.monotonic() + PATIENCE_S
    while not client.get_status(WeatherlightServiceGetStatusRequest(), timeout_s=TIMEOUT_S).log_sequence:
        assert time.monotonic() < due_s
        time.sleep(0.05)


def test_who_is_stopped_while_redis_is_away_ends_in_order(redis: RedisServer, weatherlight: ServiceProcess) -> None:
    redis.kill()
    wait_for_mode(weatherlight, DEGRADED)
    assert weatherlight.stop() == 0
    assert "what was measured last is not on the bus" in weatherlight.log
    assert "Traceback" not in weatherlight.log


def test_a_plane_starts_without_redis_and_is_whole_once_it_comes(redis: RedisServer, tmp_path: Path) -> None:
    redis.kill()
    settings = tmp_path / "weatherlight.toml"
    settings.write_text(SETTINGS.format(url=redis.url))
    with ServiceProcess("weatherlight", tmp_path / "w", "--config", str(settings)) as weatherlight:
        wait_for_mode(weatherlight, DEGRADED)
        redis.start()
        wait_for_mode(weatherlight, NORMAL)
