"""Stacks through the real services: kept by evidence, refused and undone, killed and resumed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from esper.tolaria.export import load_network
from esper.tolaria.launcher import main
from tests.drills.launching import events, train, training, wait_for_step

MODEL = ("--model", "transformer", "--depth", "2", "--width", "16", "--heads", "2", "--context", "24")
SHORT = (
    "--steps",
    "240",
    "--decay-fraction",
    "0.1",
    "--batch-size",
    "8",
    "--window-fraction",
    "0.3",
    "--stack-recovery-steps",
    "30",
)
# At this rate two blocks learn the mirrors late, and four much sooner.
LONG = (
    *("--steps", "800", "--batch-size", "32", "--window-fraction", "0.3", "--stack-recovery-steps", "150"),
    *("--stack-shares", "0.1", "--lr", "1e-2"),
)
# A network as small as these learns in leaps.
LOOSE = ("--stack-margin", "0", "--stack-error-rate", "0.5")
COMMON = ("--min-samples", "50", "--stack-shares", "0.2", "--lr", "5e-3", "--plain", "--checkpoint-every-epochs", "1")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four letters, their mirror image, and the letters again: to be predicted by looking back twice."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("text") / "mirrors.txt"
    words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(4000)]
    path.write_text("".join(f"{word}|{word[::-1]} {word}\n" for word in words))
    return path


def flags(text: Path, *more: str) -> list[str]:
    return ["--data", f"text:{text}", *MODEL, *COMMON, *more]


def finished(run_dir: Path, arguments: list[str]) -> dict[str, Any]:
    assert main([*arguments, "--run-dir", str(run_dir)]) == 0
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def test_a_refused_stack_leaves_the_never_grown_weights_and_its_evidence(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = flags(text, *SHORT, "--stack-margin", "9", "--target-depth", "4")
    grown = finished(tmp_path / "grown", strict)
    never = finished(tmp_path / "never", [*strict, "--grow", "never"])
    assert (grown["growth"]["judged"], grown["growth"]["kept"]) == (1, 0)
    assert grown["weights_digest"] == never["weights_digest"]
    assert grown["reproducible"], grown["reproducible_cause"]
    looks = [e for e in events(tmp_path / "grown", "gate") if e["gate"] == "G4_SYSTEM_IMPACT"]
    (seed,) = grown["seeds"]
    culled = f"{seed['seed_id']} was culled: {looks[-1]['detail']}"
    assert grown["depth_shortfall"] == {"wanted": 4, "got": {"stack:blocks": 2}, "reason": culled}
    assert f"wanted depth 4, got 2: {culled}" in capsys.readouterr().out
    figures = {
        "gain",
        "document_error",
        "wander_error",
        "standard_error",
        "margin",
        "z",
        "z_threshold",
        "clipped_share",
    }
    assert all(figures <= set(look) for look in looks)
    assert looks[-1]["verdict"] == "FAIL"
    moves = [e["to_stage"] for e in events(tmp_path / "grown", "transition")]
    assert moves[:4] == ["GERMINATED", "SHADOWING", "PROBATIONARY", "CULLED"]
    command = next(e for e in events(tmp_path / "grown", "command"))
    assert "SCHEDULED" in str(command)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stack_is_kept_by_evidence_and_the_network_is_plainly_deeper(tmp_path: Path, text: Path) -> None:
    summary = finished(tmp_path / "run", flags(text, *LONG, *LOOSE, "--target-depth", "4"))
    assert (summary["growth"]["judged"], summary["growth"]["kept"]) == (1, 1)
    assert summary["final_parameters"] > summary["host_parameters"]
    assert len(load_network(tmp_path / "run").arm.model.blocks) == 4  # type: ignore[arg-type]
    (passed,) = [e for e in events(tmp_path / "run", "gate") if e["gate"].startswith("G4") and e["verdict"] == "PASS"]
    assert passed["z"] >= passed["z_threshold"]
    assert "gain_at_equal_flops" in passed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_inside_a_stacks_window_resumes_to_the_same_weights(tmp_path: Path, text: Path) -> None:
    arguments = flags(text, *SHORT, *LOOSE, "--steps-per-epoch", "10")
    whole = train(tmp_path / "whole", *arguments)
    judged = [e["step"] for e in events(tmp_path / "whole", "gate") if e["gate"] == "G4_SYSTEM_IMPACT"]
    assert judged
    with training(tmp_path / "killed", *arguments) as process:
        wait_for_step(process, tmp_path / "killed", judged[-1] - 10)
        process.kill()
        process.wait()
    resumed = train(tmp_path / "killed", *arguments, "--resume")
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert resumed["growth"] == whole["growth"]


@pytest.mark.slow
def test_a_twin_in_bursts_ends_in_the_same_weights_as_a_live_one_also_killed_and_resumed(
    tmp_path: Path, text: Path
) -> None:
    arguments = flags(text, *SHORT, *LOOSE, "--steps-per-epoch", "10")
    whole = train(tmp_path / "whole", *arguments, "--twin", "live")
    judged = [e["step"] for e in events(tmp_path / "whole", "gate") if e["gate"] == "G4_SYSTEM_IMPACT"]
    with training(tmp_path / "killed", *arguments, "--twin", "bursts") as process:
        wait_for_step(process, tmp_path / "killed", judged[-1] - 10)
        process.kill()
        process.wait()
    resumed = train(tmp_path / "killed", *arguments, "--twin", "bursts", "--resume")
    for name in ("weights_digest", "growth", "training_macs_by_use", "test_loss"):
        assert resumed[name] == whole[name], name
    assert [twin["mode"] for twin in resumed["memory"]["twins"]] == ["bursts"]
    (told,) = events(tmp_path / "whole", "memory")[:1]
    assert told["mode"] == "live"
    assert told["predicted_bytes"] < told["free_bytes"]
