"""Runs of an experiment: forked, with their own exit code and log, and with services that outlast none of them."""

from __future__ import annotations

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


@pytest.mark.slow
def test_the_shared_services_serve_and_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESPER_LEYLINE_SECRET", raising=False)
    with launching.shared_services() as flags:
        places = dict(zip(flags[::2], flags[1::2], strict=True))
        assert set(places) == {"--weatherlight", "--tamiyo", "--kasmina"}
        sockets = [Path(place.removeprefix("unix:")) for place in places.values()]
        assert all(socket.is_socket() for socket in sockets)
    assert not any(socket.exists() for socket in sockets)
