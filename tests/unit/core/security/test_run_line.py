"""A run's line to its services is for its user alone, and gone with the run."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from esper.core.errors import ConfigError
from esper.core.security.run_line import LINE, Peer, RunLine, forget_line, read_line, write_line

KEPT = RunLine(run_id="r", peers={"kasmina": Peer(endpoint="unix:/k", token="t"), "weatherlight": Peer(endpoint="h:1")})


def test_what_is_written_is_read_and_nobody_else_may(tmp_path: Path) -> None:
    write_line(tmp_path, KEPT)
    assert read_line(tmp_path) == KEPT
    assert stat.S_IMODE((tmp_path / LINE).stat().st_mode) == 0o600


def test_a_run_that_is_over_has_no_line(tmp_path: Path) -> None:
    write_line(tmp_path, KEPT)
    forget_line(tmp_path)
    forget_line(tmp_path)
    with pytest.raises(ConfigError, match="has no run under way"):
        read_line(tmp_path)


def test_a_file_in_place_of_a_run_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="has no run under way"):
        read_line(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "r"}', '{"run_id": "r", "peers": {"k": {"port": 1}}}'])
def test_a_damaged_line_is_named(tmp_path: Path, text: str) -> None:
    write_line(tmp_path, KEPT)
    (tmp_path / LINE).write_text(text)
    with pytest.raises(ConfigError, match=r"line\.json"):
        read_line(tmp_path)


def test_a_pipe_in_place_of_a_line_is_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / LINE).parent.mkdir()
    os.mkfifo(tmp_path / LINE)
    with pytest.raises(ConfigError, match=r"line\.json.*no regular file"):
        read_line(tmp_path)
