"""The live page in headless Chromium: what a person sees, with mouse and keyboard, wide and narrow, light and dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from esper.core.security.keys import Keyring, new_secret
from esper.rpc.endpoint import Endpoint
from esper.ui.plane import PlaneWatch
from esper.ui.server import PageServer
from esper.ui.shelf import Shelf
from tests.browser.growing import MARKUP, REFUSED, WAITS, lines, news, now, so_far

HERE = Path(__file__).resolve().parent
UI = HERE.parents[1] / "tools" / "ui"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page can't be looked at"),
    pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed: nothing can drive the browser"),
]


def watch(run_dir: Path) -> PlaneWatch:
    return PlaneWatch(run_dir, lambda: Keyring.from_secret(new_secret()))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under way: this process holds its lock."""
    path = tmp_path_factory.mktemp("runs") / "walk"
    path.mkdir()
    (path / "events.jsonl").write_bytes(lines(so_far(), now(60)))
    (path / "run.lock").write_text(f"pid {os.getpid()} on {socket.gethostname()}")
    return path


@pytest.fixture(scope="module")
def seen(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser told of the page; it is looked at once for all tests."""
    if not (UI / "node_modules" / "playwright-core").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=UI, check=True, timeout=240)
    shots = tmp_path_factory.mktemp("shots")
    more = shots / "more.jsonl"
    more.write_bytes(lines(news(), now(80)))
    with PageServer(Endpoint.parse("127.0.0.1:0"), Shelf([run_dir], watch), jaeger="http://127.0.0.1:16686") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        command = ["node", str(HERE / "look.mjs"), server.url, str(run_dir / "events.jsonl"), str(more), str(shots)]
        done = subprocess.run([*command, str(CHROMIUM)], capture_output=True, text=True, timeout=240)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_why_the_last_seed_was_refused_and_why_none_grows_now_stand_on_the_first_screen(seen: dict[str, Any]) -> None:
    assert f"Nothing grows now: still improving: {WAITS}." in seen["text"]
    assert f"s0, at step 250: {REFUSED}." in seen["text"]
    assert all(bottom is not None and bottom < 800 for bottom in seen["first_screen"])
    assert all(bottom is not None and bottom < 844 for bottom in seen["first_screen_narrow"])


def test_nothing_is_refused_by_the_policy_and_nothing_foreign_runs(seen: dict[str, Any]) -> None:
    offline = ("net::ERR_INTERNET_DISCONNECTED", "ERR_NETWORK_CHANGED")
    assert [each for each in seen["complaints"] if not any(word in each for word in offline)] == []
    assert MARKUP in seen["text"]
    assert seen["title"] == f"walk {MARKUP}: training"


def test_a_run_that_lives_says_when_it_was_heard_last(seen: dict[str, Any]) -> None:
    assert re.fullmatch(r"last event \d+ s ago(, longer than its pauses \(\d+ s\))?", seen["status"])
    assert "no event lost" in seen["text"]


def test_a_server_that_is_gone_is_told_with_the_age_of_what_is_shown(seen: dict[str, Any]) -> None:
    assert "No answer from this page's server" in seen["offline"]
    assert "what you see is that old" in seen["offline"]


def test_the_zoom_outlives_news_and_another_axis_and_the_keyboard_is_enough(seen: dict[str, Any]) -> None:
    assert seen["zoomed"].startswith("steps ")
    assert seen["zoomed"] == seen["zoomed_in_time"] == seen["zoomed_after_news"]
    assert seen["unzoomed"].startswith("drag to zoom")
    assert seen["focus"] != "none"


def test_a_drag_zooms(seen: dict[str, Any]) -> None:
    assert seen["dragged"] == "zoomed"


def test_the_number_of_charts_is_fixed(seen: dict[str, Any]) -> None:
    assert seen["charts"] == seen["charts_after_news"] == [1, 1, 1]


def test_it_fits_wide_and_narrow_screens(seen: dict[str, Any]) -> None:
    assert (seen["overflow_wide"], seen["overflow_narrow"]) == (0, 0)


def test_every_text_is_dark_or_light_enough_to_read(seen: dict[str, Any]) -> None:
    assert seen["pale_light"] == []
    assert seen["pale_dark"] == []
    assert seen["background_dark"] != "rgb(246, 247, 249)"


def test_each_part_that_is_promised_is_there(seen: dict[str, Any]) -> None:
    for words in (
        *("6 → 14", "s1 kept", "open again, s0 was culled", "its weights are shared"),
        *("2.71", "margin", "host", "twin", "judging", "failed"),
        *("tamiyo", "accepted", "Jaeger", "normal", "on average", "tolaria.tamiyo_timeout"),
    ):
        assert words in seen["text"], words
