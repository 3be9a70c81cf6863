"""The page's server, asked over a real socket: who is let in, what there is, and that nothing else can be had."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from esper.core.errors import ConfigError, DependencyViolationError
from esper.core.security.keys import Keyring, new_secret
from esper.rpc.endpoint import Endpoint
from esper.ui.access import Access, local
from esper.ui.plane import NOT_UNDER_WAY, PlaneWatch
from esper.ui.server import PageServer
from esper.ui.shelf import Shelf
from tests.unit.ui.test_following import START, boundary

HOSTILE = 'x"><script>alert(1)</script>'


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("first", "second", HOSTILE.replace("/", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_bytes(START + boundary(10))
    (tmp_path / "secret").write_text("nobody's business")
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a busy machine took for a view, the next one is made at once."""
    monkeypatch.setattr("esper.ui.following.REST", 0.0)


def watch(run_dir: Path) -> PlaneWatch:
    return PlaneWatch(run_dir, lambda: Keyring.from_secret(new_secret()))


@pytest.fixture
def server(runs: Path) -> Iterator[PageServer]:
    with PageServer(Endpoint.parse("127.0.0.1:0"), Shelf([runs], watch), jaeger="http://127.0.0.1:16686") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Asking:
    """One request at a time."""

    def __init__(self, server: PageServer) -> None:
        self.server = server

    def __call__(
        self, path: str, *, token: str | None = "", host: str = "", method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.server.access.port, timeout=10)
        headers = {"Host": host or f"127.0.0.1:{self.server.access.port}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.server.access.token}"
        link.request(method, path, headers=headers)
        answer = link.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        link.close()
        return found

    def json(self, path: str) -> Any:
        status, _, body = self(path)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture
def ask(server: PageServer) -> Asking:
    return Asking(server)


def test_the_address_that_is_printed_opens_the_page(server: PageServer, ask: Asking) -> None:
    path = server.url.partition(str(server.access.port))[2]
    status, headers, body = ask(path, token=None)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b"/page.js" in body


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/view?run=first", "/api/plane?run=first", "/?token=", "/x"])
@pytest.mark.parametrize("token", [None, "wrong", "ümläut"])
def test_without_the_token_nothing_of_a_run_is_told(ask: Asking, path: str, token: str | None) -> None:
    status, _, body = ask(path, token=None if token is None else token.encode().decode("latin-1"))
    assert status == 403
    assert b"token" in body
    assert b"first" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", "0.0.0.0:{port}"])
def test_a_foreign_host_name_is_refused_even_with_the_token(server: PageServer, ask: Asking, host: str) -> None:
    status, _, _ = ask("/api/runs", host=host.format(port=server.access.port))
    assert status == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_its_own_names_are_let_in(server: PageServer, ask: Asking, name: str) -> None:
    assert ask("/api/runs", host=f"{name}:{server.access.port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret", "/page.js/../../secret", "/static/page.js", "/etc/passwd", "/%2e%2e/secret", "//page.js/x"),
        *("/page.html", "/api", "/api/view/first", "/api/runs/", "/first/events.jsonl"),
    ],
)
def test_nothing_but_the_files_and_answers_can_be_had(ask: Asking, path: str) -> None:
    assert ask(path)[0] == 404


@pytest.mark.parametrize("name", ["../first", "first/../second", "", "third", "/etc", "%2e%2e", "."])
def test_a_run_is_asked_for_by_its_name_alone(ask: Asking, name: str) -> None:
    status, _, body = ask(f"/api/view?run={name}")
    assert status == 404
    assert "known are" in json.loads(body)["error"]


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/api/runs", "/nothing"])
def test_every_answer_keeps_the_browser_in_bounds(ask: Asking, path: str) -> None:
    _, headers, _ = ask(path)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(ask: Asking, method: str) -> None:
    assert ask("/api/runs", method=method)[0] == 501


def test_the_head_of_an_answer_can_be_had_alone(ask: Asking) -> None:
    status, headers, body = ask("/page.js", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 10_000


def test_runs_of_a_folder_are_listed_with_names_as_they_are(ask: Asking) -> None:
    assert set(ask.json("/api/runs")["runs"]) == {"first", "second", HOSTILE.replace("/", "")}


def test_a_view_is_sent_once_and_then_only_when_it_changed(ask: Asking, runs: Path, server: PageServer) -> None:
    first = ask.json("/api/view?run=first&since=")
    assert first["view"]["progress"]["step"] == 10
    again = ask.json(f"/api/view?run=first&since={first['version']}")
    assert again["view"] is None
    assert again["live"]["damaged_lines"] == 0
    with (runs / "first" / "events.jsonl").open("ab") as file:
        file.write(boundary(20))
    news = ask.json(f"/api/view?run=first&since={first['version']}")
    assert news["view"]["progress"]["step"] == 20


def test_a_run_whose_events_make_no_sense_is_an_answer_that_says_so(ask: Asking, runs: Path) -> None:
    (runs / "second" / "events.jsonl").write_bytes(b'{"kind": "boundary"}\n')
    assert ask.json("/api/view?run=second")["live"]["damaged_lines"] == 1, "what lacks its fields is damage"
    (runs / "second" / "events.jsonl").write_bytes(b'{"kind": "run", "step": 0}\n')
    with patch("esper.ui.following.view", side_effect=KeyError("loss")):
        status, _, body = ask("/api/view?run=second")
    assert status == 500
    assert "KeyError" in json.loads(body)["error"]
    assert ask("/api/view?run=first")[0] == 200


def test_the_plane_of_a_run_that_is_over_is_told_as_that(ask: Asking) -> None:
    assert ask.json("/api/plane?run=first")["error"] == NOT_UNDER_WAY


def test_a_port_that_is_taken_is_one_clear_error(server: PageServer) -> None:
    taken = Endpoint.parse(f"127.0.0.1:{server.access.port}")
    with pytest.raises(ConfigError, match="can't listen there"):
        PageServer(taken, server.shelf)


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "192.0.2.1:0", "unix:/x.sock", "localhost", ":80", "[::]:0"])
def test_other_machines_are_never_listened_to(listen: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        local(listen)


def test_two_servers_have_two_tokens_and_show_neither() -> None:
    first, second = Access(port=1), Access(port=1)
    assert first.token != second.token
    assert len(first.token) >= 32
    assert first.token not in repr(first)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "run").mkdir(parents=True)
        (tmp_path / folder / "run" / "events.jsonl").write_bytes(START)
    shelf = Shelf([tmp_path / "a", tmp_path / "b"], watch)
    assert list(shelf.names()) == ["run", "b/run"]
    assert shelf.following("b/run").run_dir == tmp_path / "b" / "run"


def test_what_is_no_directory_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give that of a run, or a folder of runs"):
        Shelf([tmp_path / "nothing"], watch)


def test_a_run_that_is_named_twice_is_one_and_of_many_of_one_name_none_is_left_out(tmp_path: Path) -> None:
    places = [tmp_path / top / "sweep" / "run" for top in ("a", "b", "c")]
    for place in places:
        place.mkdir(parents=True)
        (place / "events.jsonl").write_bytes(START)
    shelf = Shelf([*places, places[0]], watch)
    assert list(shelf.names()) == ["run", "sweep/run", "c/sweep/run"]
    assert list(shelf.names().values()) == places


def test_a_folder_that_vanishes_and_comes_back_is_no_error(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "events.jsonl").write_bytes(START)
    shelf = Shelf([folder], watch)
    folder.rename(elsewhere)
    assert list(shelf.names()) == ["runs"]
    with pytest.raises(DependencyViolationError, match="'one' is missing"):
        shelf.following("one")
    elsewhere.rename(folder)
    assert list(shelf.names()) == ["one"]


def test_what_is_no_address_is_answered(ask: Asking) -> None:
    status, _, body = ask("http://[x/")
    assert status == 400
    assert b"is no address" in body
