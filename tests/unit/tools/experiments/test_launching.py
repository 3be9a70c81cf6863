"""Runs of an experiment: forked, with their own exit code and log, and with services that outlast none of them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import FOLDER, load

launching = load("launching")


@pytest.mark.slow
def test_a_run_tells_its_exit_code_and_its_log_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    server, log = launching.context(), tmp_path / "run.log"
    assert launching.launch(server, None, ["--no-such-flag"], log) == 64
    assert "--no-such-flag" in log.read_text()
    assert launching.launch(server, None, ["--print-config"], log) == 0
    assert "--no-such-flag" not in log.read_text()


def test_each_device_takes_as_many_runs_at_a_time_as_it_was_given() -> None:
    places = launching.Places("cuda:0,cuda:1", 2)
    with ExitStack() as taken:
        found = [taken.enter_context(places.taken()) for _ in range(places.count)]
    assert sorted(found) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    with places.taken() as again:
        assert again in found


def test_a_run_that_a_cautious_plane_refuses_is_launched_anew_and_any_other_failure_stands() -> None:
    codes = [os.EX_UNAVAILABLE, os.EX_TEMPFAIL, 0, 1]
    assert launching.patiently(lambda: codes.pop(0), retry_s=0.0) == 0
    assert launching.patiently(lambda: codes.pop(0), retry_s=0.0) == 1
    assert not codes


def test_patience_with_a_plane_that_stays_cautious_ends() -> None:
    tried: list[int] = []

    def refused() -> int:
        tried.append(os.EX_UNAVAILABLE)
        return tried[-1]

    assert launching.patiently(refused, patience_s=0.0) == os.EX_UNAVAILABLE
    assert len(tried) == 1


@pytest.mark.slow
def test_the_shared_services_serve_and_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    with launching.shared_services() as flags:
        places = dict(zip(flags[::2], flags[1::2], strict=True))
        assert set(places) == {"--weatherlight", "--tamiyo", "--kasmina"}
        sockets = [Path(place.removeprefix("unix:")) for place in places.values()]
        assert all(socket.is_socket() for socket in sockets)
    assert not any(socket.exists() for socket in sockets)
