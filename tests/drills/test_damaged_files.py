"""Every file of a run and of its services' state directory damaged once: one line with its own cause, or a good state.

Never a hang, never a traceback. Services are started alone on a copy of the state directory, runs are resumed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from esper.rpc.clients import channel
from esper.rpc.clients.health import is_serving
from tests.drills.launching import LAUNCHER, environment, training, wait_for_step
from tools.harness.faults.files import DAMAGES, Damage, fill_disk
from tools.harness.faults.processes import services_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_S = 60.0
RUN = ("--epochs", "40", "--grow", "always", "--growth-warmup-steps", "60")
STOPPED_AT = 330

# Which service owns a file of the state directory.
SERVICE_FILES = {
    **{f"{name}.db{kind}": name for name in ("kasmina", "tamiyo", "weatherlight") for kind in ("", ".seal", ".lock")},
    **{f"oona.db{kind}": "weatherlight" for kind in ("", ".seal", ".lock")},
    "field_reports.log": "tamiyo",
    "policies/standing.json": "tamiyo",
}
# What a service prints goes to its launcher's file, which it never reads.
PRINTED = tuple(f"{name}.log" for name in ("kasmina", "tamiyo", "weatherlight"))
RUN_FILES = (
    *("checkpoints/generation", "checkpoints/step-*[0-9].ckpt", "events.jsonl", "secret", "summary.json"),
    *("report.html", "tensorboard/events.*", "services/kasmina.db", "services/kasmina.log"),
)
SERVICE_EXITS = (os.EX_DATAERR, os.EX_IOERR, os.EX_CONFIG)
TRAINER_EXITS = (1, os.EX_IOERR, os.EX_CONFIG)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was stopped on request."""
    run_dir = tmp_path_factory.mktemp("damage") / "run"
    with training(run_dir, *RUN) as process:
        wait_for_step(process, run_dir, STOPPED_AT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + signal.SIGTERM
    return run_dir


@pytest.fixture(scope="module")
def digest(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the weights that the undamaged run ends with."""
    run_dir = tmp_path_factory.mktemp("undamaged") / "run"
    shutil.copytree(stopped, run_dir)
    assert resumed(run_dir).returncode == 0
    return digest_of(run_dir)


def digest_of(run_dir: Path) -> str:
    return str(json.loads((run_dir / "summary.json").read_text())["weights_digest"])


def resumed(run_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [*LAUNCHER, "--run-dir", str(run_dir), "--resume", "--plain"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S, env=environment()
    )


def started(name: str, state_dir: Path, secret: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """Start a service; ask it to stop if it serves. Gives its exit code and what it printed."""
    socket = f"unix:{state_dir.parent}/s"
    command = [sys.executable, "-m", f"esper.{name}.server", "--listen", socket, "--state-dir", str(state_dir)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "ESPER_LEYLINE_SECRET": secret},
        preexec_fn=before,
    ) as process:
        try:
            with channel(socket) as link:
                deadline = time.monotonic() + PATIENCE_S
                while process.poll() is None and not is_serving(link, timeout_s=0.2):
                    assert time.monotonic() < deadline, "it neither serves nor ends"
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, said


def test_the_drill_knows_every_file(stopped: Path) -> None:
    found = {str(path.relative_to(stopped)) for path in stopped.rglob("*") if path.is_file()}
    known = (*RUN_FILES, *(f"services/{name}" for name in (*SERVICE_FILES, *PRINTED)))
    assert {name for name in found if not any(fnmatch(name, pattern) for pattern in known)} == set()
    assert {pattern for pattern in known if not any(fnmatch(name, pattern) for name in found)} == set()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", SERVICE_FILES)
def test_a_service_says_which_of_its_files_is_damaged_or_serves_on(
    name: str, damage: Damage, stopped: Path, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(stopped / "services", state_dir)
    damage(state_dir / name)
    code, said = started(SERVICE_FILES[name], state_dir, (stopped / "secret").read_text().strip())
    assert "Traceback" not in said
    if code != 0:
        assert code in SERVICE_EXITS, said
        lines = said.splitlines()
        assert len(lines) == 1, said
        assert name.removesuffix(".lock").removesuffix(".seal") in lines[0] or str(state_dir) in lines[0]
    else:
        # A file that a lock or the last whole record of a log stands for.
        assert name.endswith((".lock", ".log")), f"{name} was damaged and believed"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that was killed with its services: journals stand beside databases without a seal."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    with training(run_dir, *RUN) as process:
        wait_for_step(process, run_dir, STOPPED_AT)
        pids = services_of(run_dir)
        for pid in (process.pid, *pids.values()):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
    return run_dir


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["kasmina", "oona", "tamiyo", "weatherlight"])
def test_a_killed_services_journal_is_never_believed_in_part(
    name: str, damage: Damage, killed: Path, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(killed / "services", state_dir)
    damage(state_dir / f"{name}.db-wal")
    code, said = started(SERVICE_FILES[f"{name}.db"], state_dir, (killed / "secret").read_text().strip())
    assert code == os.EX_DATAERR, said
    assert len(said.splitlines()) == 1
    assert f"{name}.db-wal" in said


@pytest.mark.parametrize("name", ["kasmina", "tamiyo", "weatherlight"])
def test_a_service_on_a_full_disk_says_so(name: str, stopped: Path, tmp_path: Path) -> None:
    code, said = started(name, tmp_path / "state", (stopped / "secret").read_text().strip(), fill_disk)
    assert code == os.EX_IOERR, said
    assert "can't be written" in said or "can't be opened" in said


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("pattern", RUN_FILES)
def test_a_run_says_which_of_its_files_is_damaged_or_ends_with_the_same_weights(
    pattern: str, damage: Damage, stopped: Path, digest: str, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir)
    path = max(run_dir.glob(pattern))  # the newest
    damage(path)
    done = resumed(run_dir)
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    if done.returncode == 0:
        assert digest_of(run_dir) == digest
        return
    assert done.returncode in TRAINER_EXITS, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert path.name in lines[0] or "there is no run to go on with" in lines[0]
