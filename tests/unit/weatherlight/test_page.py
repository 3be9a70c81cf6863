"""The page beside Weatherlight: served where it is asked for, on loopback alone, and ended with the service."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.weatherlight.page import URL_FILE, PageConfig, serve

WAIT_S = 60.0


def test_no_page_is_served_that_nobody_asked_for() -> None:
    assert PageConfig().listen is None


@pytest.mark.parametrize("listen", ["0.0.0.0:7703", "unix:/page.sock", "7703"])
def test_other_machines_are_never_served(listen: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"page\.listen"):
        PageConfig(listen=listen, runs=tmp_path)


def test_runs_that_are_not_there_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"page\.runs"):
        PageConfig(listen="127.0.0.1:0", runs=tmp_path / "nothing")


async def test_the_page_is_served_and_ends_with_the_service(tmp_path: Path) -> None:
    end = serve(PageConfig(listen="127.0.0.1:0", runs=tmp_path), tmp_path)
    try:
        async with asyncio.timeout(WAIT_S):
            while not (tmp_path / URL_FILE).exists():
                await asyncio.sleep(0.05)
        url = (tmp_path / URL_FILE).read_text().strip()
        assert await asyncio.to_thread(_status, url) == 200
    finally:
        await end()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(_status, url)
    assert not (tmp_path / URL_FILE).exists()


def _status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(answer.status)
