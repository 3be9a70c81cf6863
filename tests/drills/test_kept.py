"""A run judged by muting, with its real services: what was kept is tested, saved and exported, after a kill too."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.tolaria.export import export, load_network
from tests.drills.launching import events, train, training, wait_for_step

MUTED = ("--judge", "muted", "--epochs", "60", "--grow", "always", "--blueprints", "residual.linear", "--slots", "act1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_muted_run_keeps_as_a_module_is_there_at_its_end(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = train(whole, *MUTED)
    assert summary["growth"]["kept"] >= 1
    assert summary["final_parameters"] > summary["host_parameters"]
    assert summary["contradictions"] == []
    last = events(whole, "epoch")[-1]
    assert (last["val_loss"], last["val_accuracy"]) == (summary["val_loss"], summary["val_accuracy"])
    assert load_network(whole).arm.digest() == summary["weights_digest"]
    assert export(whole, tmp_path / "kept.pt2").path.suffix == ".pt2"

    with training(killed, *MUTED) as process:
        kept_at = next(event["step"] for event in events(whole, "transition") if event["to_stage"] == "FOSSILIZED")
        wait_for_step(process, killed, kept_at + 20)
        process.kill()
    resumed = train(killed, "--resume")
    assert resumed["weights_digest"] == summary["weights_digest"]
    assert resumed["contradictions"] == []
