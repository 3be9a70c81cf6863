"""Services speak systemd's protocol on a real socket, and the units are ones that systemd takes."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.integration.services.service_process import ServiceProcess

UNITS = Path(__file__).resolve().parents[3] / "services" / "systemd"
ANALYZE = shutil.which("systemd-analyze")


def test_a_service_is_ready_lives_and_stops_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        with ServiceProcess("weatherlight", tmp_path / "state") as service:
            heard = [systemd.recv(1024).decode() for _ in range(4)]
            assert service.stop() == 0
        systemd.setblocking(False)
        while "STOPPING=1" not in heard[-1]:
            heard.append(systemd.recv(1024).decode())
    assert heard[0] == f"READY=1\nSTATUS=serves at {service.endpoint}"
    assert set(heard[1:-1]) == {"WATCHDOG=1"}
    assert heard[-1] == "STOPPING=1\nSTATUS=drains"


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze isn't installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Its programs aren't installed here: others stand in their place."""
    units = []
    for unit in UNITS.iterdir():
        copy = tmp_path / unit.name
        copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
        units.append(str(copy))
    done = subprocess.run([ANALYZE, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_a_units_program_is_one_that_is_installed_and_it_notifies(unit: Path) -> None:
    text = unit.read_text()
    (program,) = re.findall(r"^ExecStart=/opt/esper/bin/(\S+)", text, flags=re.MULTILINE)
    scripts = (UNITS.parents[1] / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n[")[0]
    assert f"\n{program} = " in scripts
    assert "\nType=notify\n" in text
    assert re.search(r"^WatchdogSec=\d+$", text, flags=re.MULTILINE)
