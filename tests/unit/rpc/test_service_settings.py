"""The settings files and launchers of services/ are those of the real services."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.kasmina.server import KasminaConfig
from esper.rpc.settings import read_settings
from esper.tamiyo.config import TamiyoConfig
from esper.weatherlight.config import WeatherlightConfig

SERVICES = Path(__file__).resolve().parents[3] / "services"
CONFIGS = {"kasmina": KasminaConfig, "tamiyo": TamiyoConfig, "weatherlight": WeatherlightConfig}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_settings_file_is_understood(name: str) -> None:
    process, _ = read_settings(name, CONFIGS[name], ["--config", str(SERVICES / "config" / f"{name}.toml")], {})
    assert process.server.listen.startswith("127.0.0.1:77")


def test_services_report_to_the_weatherlight_of_the_same_files() -> None:
    process = {
        name: read_settings(name, config, ["--config", str(SERVICES / "config" / f"{name}.toml")], {})[0]
        for name, config in CONFIGS.items()
    }
    for name in ("tamiyo", "kasmina"):
        assert process[name].weatherlight_endpoint == process["weatherlight"].server.listen
    scraped = (SERVICES / "prometheus" / "prometheus.yml").read_text()
    for settings in process.values():
        assert f'"{settings.metrics_listen}"' in scraped


@pytest.mark.parametrize("name", CONFIGS)
def test_a_launcher_starts_its_service(name: str) -> None:
    source = (SERVICES / f"{name}.py").read_text()
    compile(source, f"{name}.py", "exec")
    assert f"from esper.{name}.server import main" in source
