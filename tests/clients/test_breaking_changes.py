"""What would break a client that was built against the last release is found, and what wouldn't is let through."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.languages import ROOT

pytestmark = [pytest.mark.node, pytest.mark.slow]


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the protos, to change."""
    if shutil.which("npm") is None:
        pytest.skip("buf needs npm (Debian: apt-get install npm)")
    probe = subprocess.run([ROOT / "tools" / "buf", "--version"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"buf couldn't be installed, is there a network? {probe.stderr.strip()[-200:]}")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    return tmp_path


def compared(copy: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "tools" / "buf_breaking", copy], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("string command_id = 1;", "bytes command_id = 1;", 'changed type from "string" to "bytes"'),
        ("string command_id = 1;", "string order_id = 1;", 'changed name from "command_id" to "order_id"'),
        ("string issued_by = 5;", "", 'Previously present field "5" with name "issued_by"'),
        ("string issued_by = 5;", 'reserved 5; reserved "issued_by"; string author = 90;', ""),
        ("string issued_by = 5;", "string issued_by = 5; string author = 90;", ""),
    ],
    ids=["type", "name", "number that is free again", "reserved", "new field"],
)
def test_a_change_that_breaks_clients_is_found(changed: Path, before: str, after: str, said: str) -> None:
    file = changed / "proto/esper/leyline/v1/command.proto"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
    answer = compared(changed)
    assert (answer.returncode == 0) is (said == ""), answer.stdout
    assert said in answer.stdout


def test_the_protos_as_they_are_break_no_client(changed: Path) -> None:
    answer = compared(changed)
    assert answer.returncode == 0, answer.stdout
