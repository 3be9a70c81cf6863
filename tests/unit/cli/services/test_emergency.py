from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.cli.services.emergency import in_words, lines
from esper.core.security.run_line import Peer, RunLine, write_line
from esper.leyline import EmergencyLevel, EmergencySignal, ModeUpdate, SystemMode


@pytest.mark.parametrize("verb", [["list"], ["acknowledge"], ["raise", "--level", "L1", "--why", "a drill"]])
def test_a_directory_that_is_no_runs_is_named_before_any_key_is_asked_for(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ESPER_LEYLINE_SECRET", "ESPER_KEYRING"):
        monkeypatch.delenv(variable, raising=False)
    mistyped = tmp_path / "rnus"
    assert main(["emergency", *verb, str(mistyped)]) == 78
    assert capsys.readouterr().err == f"esper: RUN_DIR = '{mistyped}': is not there; give the directory of a run\n"
    assert main(["emergency", *verb, str(tmp_path)]) == 78
    assert "has no Weatherlight of its own and isn't under way: give --weatherlight" in capsys.readouterr().err


def test_an_emergency_without_a_cause_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emergency", "raise", "--level", "L1", "--why", "", str(tmp_path)]) == 64
    assert "argument --why: it is empty; say in a few words why" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["emergency", "list"], ["bus", "tail"], ["seed", "pause", "--why", "a look"]])
def test_who_speaks_to_a_run_doesnt_wait_for_torch_to_load(verb: list[str], tmp_path: Path) -> None:
    nobody = Peer(endpoint=f"unix:{tmp_path}/nobody.sock", token="t")
    write_line(tmp_path, RunLine(run_id="r", peers={"weatherlight": nobody, "kasmina": nobody}))
    (tmp_path / "summary.json").write_text('{"run_id": "r"}')
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "generation").write_text("1")
    said = [*verb, str(tmp_path), *(["s1"] if verb[0] == "seed" else [])]
    check = f"import sys; from esper.cli.main import main; code = main({said!r}); print(code, 'torch' in sys.modules)"
    environment = {
        "ESPER_LEYLINE_SECRET": "correct horse battery staple 0123456789 abcdef",
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "75 False\n", done.stderr


def test_what_others_say_of_the_plane_does_not_act_on_the_terminal() -> None:
    signal = EmergencySignal(
        emergency_id="e\x1b1",
        level=EmergencyLevel.EMERGENCY_LEVEL_L4_HALT,
        detail="wrong\ndata \x1b[31mred",
        origin="operator:\u202eann",
        training_run_id="r\r1",
    )
    update = ModeUpdate(
        mode=SystemMode.SYSTEM_MODE_EMERGENCY, cause="a line\nand one more\x1b[2J", open_emergencies=[signal]
    )
    drawn = list(lines(update))
    assert len(drawn) == 2
    assert all(line.isprintable() for line in (*drawn, in_words(signal)))
    assert r"wrong\ndata \x1b[31mred" in drawn[1]
