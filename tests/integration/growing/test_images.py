"""Classifiers through the real services: a ResNet stage that is kept by evidence and exported, a ViT that is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.cli.main import main as esper
from esper.tolaria.export import load_network
from esper.tolaria.launcher import main
from tests.drills.launching import events
from tests.unit.tolaria.stacks.test_stack_runs import LOADER
from tests.unit.tolaria.stacks.vision_hosts import near_sighted

HOSTS = "tests.unit.tolaria.stacks.vision_hosts"
DOTS = ("--data", f"{HOSTS}:dots", "--model", f"{HOSTS}:near_sighted", "--epochs", "20", "--lr", "2e-3")
DIGITS = ("--data", "digits", "--model", f"{HOSTS}:vit", "--epochs", "25", "--stack-shares", "0.2")


def finished(run_dir: Path, *flags: str) -> dict[str, Any]:
    assert main([*flags, "--plain", "--run-dir", str(run_dir)]) == 0
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stage_whose_field_is_too_small_is_kept_deeper_by_evidence_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = ("--stack-shares", "0.3", "--window-fraction", "0.2", "--stack-recovery-steps", "80")
    summary = finished(tmp_path / "run", *DOTS, *schedule, "--target-depth", "4")
    assert (summary["growth"]["judged"], summary["growth"]["kept"]) == (1, 1)
    (seed,) = summary["seeds"]
    told = seed["judgement"]
    assert (seed["fate"], seed["slot"]) == ("kept", "stack:layer2")
    assert told["z"] >= told["z_threshold"]
    assert told["gain"] > told["margin"] + told["gain_standard_error"] > 0.0
    assert (told["gain"], told["gain_standard_error"]) == (seed["gain"], seed["gain_se"])
    # The first of two looks may have been enough, at which the twin has not cost as much as the grown network yet.
    assert told["gain_at_equal_flops"] is None or told["gain_at_equal_flops"] > 0.0
    assert None not in told["forecast"].values()
    # The rest is what the memory of two arms was foreseen by.
    assert 0 < told["evaluation_macs"] <= summary["training_macs_by_use"]["side"]
    assert "nats" not in (tmp_path / "run" / "report.html").read_text()
    assert not [event for event in events(tmp_path / "run") if "nats" in str(event)]

    grown, deeper = load_network(tmp_path / "run").arm.model.eval(), near_sighted((1, 4, 40), 8, (1, 5)).eval()
    deeper.load_state_dict(grown.state_dict())
    images = torch.rand(7, 1, 4, 40)
    assert esper(["export", str(tmp_path / "run"), str(tmp_path / "grown.pt2")]) == 0
    torch.save(images, tmp_path / "in.pt")
    parts = [sys.executable, "-W", "ignore", "-c", LOADER, *(tmp_path / n for n in ("grown.pt2", "in.pt", "out.pt"))]
    subprocess.run([str(part) for part in parts], check=True, timeout=100)
    with torch.no_grad():
        assert torch.equal(deeper(images), grown(images))
        assert torch.allclose(torch.load(tmp_path / "out.pt"), grown(images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_vision_transformers_stack_is_judged_and_undone_where_it_gains_nothing(tmp_path: Path) -> None:
    strict = (*DIGITS, "--target-depth", "6", "--window-fraction", "0.2", "--stack-recovery-steps", "60")
    grown = finished(tmp_path / "grown", *strict, "--stack-margin", "2")  # Brier scores differ by less
    never = finished(tmp_path / "never", *strict, "--grow", "never")
    assert (grown["growth"]["judged"], grown["growth"]["kept"]) == (1, 0)
    assert grown["seeds"][0]["judgement"]["looks"] >= 2
    assert grown["weights_digest"] == never["weights_digest"]
    assert grown["reproducible"], grown["reproducible_cause"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_budget_with_room_for_one_block_grows_one_and_is_not_exceeded(tmp_path: Path) -> None:
    short = ("--epochs", "10", "--stack-shares", "0.2", "--window-fraction", "0.2", "--stack-recovery-steps", "40")
    loose = ("--stack-margin", "0", "--stack-error-rate", "0.5", "--min-samples", "400")
    flags = (*DOTS, *short, *loose, "--target-depth", "4", "--max-training-macs")
    finished(tmp_path / "none", *flags, "1")
    needed = next(event["detail"] for event in events(tmp_path / "none", "growth") if event["reason"] == "BUDGET")
    limit = needed.rpartition(" would be needed")[0].rpartition(" ")[2]
    summary = finished(tmp_path / "one", *flags, limit)
    (seed,) = summary["seeds"]
    assert seed["blueprint_id"] == "stack.part"
    assert seed["judgement"]["looks"] >= 1
    added = near_sighted((1, 4, 40), 8, (1, 4)), near_sighted((1, 4, 40), 8, (1, 3))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in added]
    assert summary["final_parameters"] in sizes
    assert summary["training_macs"] <= int(limit)
