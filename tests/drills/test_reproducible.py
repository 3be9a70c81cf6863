"""Same seed, same weights: on a loaded machine, after kill -9, and where nothing was kept."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.drills.launching import events, train, training, wait_for_step
from tools.harness.faults.processes import loaded_machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = ("--epochs", "60", "--checkpoint-every-epochs", "5")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """Digest of a run that nobody disturbed, and the number of seeds that it judged."""
    summary = train(tmp_path_factory.mktemp("runs") / "run", *STEPS)
    assert summary["reproducible"], summary["reproducible_cause"]
    assert summary["growth"]["judged"] > 0, "a drill without growth proves nothing"
    return summary["weights_digest"], summary["growth"]["judged"]


def test_load_changes_no_weight(unbroken: tuple[str, int], tmp_path: Path) -> None:
    with loaded_machine():
        summary = train(tmp_path / "run", *STEPS)
    assert summary["weights_digest"] == unbroken[0]
    assert summary["reproducible"]


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_run_resumes_to_the_same_weights(unbroken: tuple[str, int], tmp_path: Path, attempt: int) -> None:
    run_dir = tmp_path / "run"
    # Between the first checkpoint and the end; where exactly is for chance, and named when it fails.
    step = random.SystemRandom().randint(100, 1000)
    with training(run_dir, *STEPS) as process:
        wait_for_step(process, run_dir, step)
        process.kill()
        process.wait()
    summary = train(run_dir, *STEPS, "--resume")
    assert summary["weights_digest"] == unbroken[0], f"killed at step {step}"
    assert summary["growth"]["judged"] == unbroken[1], f"killed at step {step}"
    grafts = [e["seed_id"] for e in events(run_dir, "directive") if e["directive"] == "FOLD"]
    assert len(summary["seeds"]) == summary["growth"]["germinated"], grafts


def test_a_culled_seed_leaves_the_never_grown_weights(tmp_path: Path) -> None:
    wide = ("--hidden", "64,64", "--epochs", "60", "--checkpoint-every-epochs", "0")
    forced = train(tmp_path / "forced", *wide, "--grow", "always")
    never = train(tmp_path / "never", *wide, "--grow", "never")
    assert forced["growth"]["judged"] >= 1
    assert forced["growth"]["kept"] == 0
    assert forced["weights_digest"] == never["weights_digest"]
