from __future__ import annotations

from pathlib import Path

import pytest

from esper.cli.main import main
from esper.core import wal


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "reports.log"
    with wal.Log(path) as opened:
        for payload in (b"one", b"two", b"three"):
            opened.append(1, payload)
    return path


def damage(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def test_a_clean_log_says_so(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wal", "inspect", str(log)]) == 0
    assert capsys.readouterr().out.startswith("clean: 3 whole records")


def test_damage_is_located_and_its_remedy_named(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(log, 60)
    assert main(["wal", "inspect", str(log)]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("corrupt: 1 whole record in")
    assert "damage at byte 52; 1 whole record after it" in printed
    assert "esper wal repair" in printed


def test_a_backup_is_a_copy_and_overwrites_nothing(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert main(["wal", "backup", str(log), str(target)]) == 0
    assert target.read_bytes() == log.read_bytes()
    assert main(["wal", "backup", str(log), str(target)]) == 1


def test_a_repair_keeps_what_precedes_the_damage(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(log, 60)
    assert main(["wal", "repair", str(log)]) == 0
    assert "1 record kept" in capsys.readouterr().out
    assert main(["wal", "inspect", str(log)]) == 0
    assert log.with_name("reports.log.broken").exists()


def test_a_log_that_a_service_has_open_is_not_repaired(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with wal.Log(log):
        assert main(["wal", "repair", str(log)]) == 1
    assert "in use by another process" in capsys.readouterr().err


def test_a_repair_of_nothing_makes_no_log(tmp_path: Path) -> None:
    assert main(["wal", "repair", str(tmp_path / "absent.log")]) == 1
    assert not (tmp_path / "absent.log").exists()


def test_a_copy_is_put_back_and_the_damaged_log_is_kept(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    assert main(["wal", "backup", str(log), str(copy)]) == 0
    damage(log, 60)
    broken = log.read_bytes()
    assert main(["wal", "restore", str(copy), str(log)]) == 0
    assert "3 records put back" in capsys.readouterr().out
    assert log.read_bytes() == copy.read_bytes()
    assert log.with_name("reports.log.broken").read_bytes() == broken


def test_a_damaged_copy_is_not_put_back(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, before = tmp_path / "copy", log.read_bytes()
    copy.write_bytes(before[:-1])
    assert main(["wal", "restore", str(copy), str(log)]) == 1
    assert f"copy {copy} is torn" in capsys.readouterr().err
    assert log.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "reports.log"]


def test_a_log_in_use_is_not_replaced(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    wal.backup(log, copy)
    with wal.Log(log) as opened:
        assert main(["wal", "restore", str(copy), str(log)]) == 1
        assert "in use by another process" in capsys.readouterr().err
        assert opened.append(1, b"four") == 4
    assert main(["wal", "inspect", str(log)]) == 0
    assert "4 whole records" in capsys.readouterr().out


def test_a_copy_is_put_where_nothing_is(log: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost.log"
    assert main(["wal", "restore", str(log), str(lost)]) == 0
    assert lost.read_bytes() == log.read_bytes()
