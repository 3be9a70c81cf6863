"""Paired scores on the judging data, taken without a trace."""

from __future__ import annotations

import math

import pytest
import torch

from esper.kasmina.executor.judge.scores import interference, judge, judge_scores, paired, probe


def grown(rig, host="noisy mlp"):
    run = rig(host)
    run.train(2)
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    run.train(6)
    return run


def test_a_difference_favours_the_lower_score():
    score = paired(torch.tensor([0.5, 0.7, 0.9]).double(), torch.tensor([0.4, 0.7, 0.6]).double())
    assert score.mean == pytest.approx(0.4 / 3)
    assert score.variance == pytest.approx(torch.tensor([0.1, 0.0, 0.3]).double().var().item(), rel=1e-6)
    assert score.samples == 3
    assert math.isnan(paired(torch.ones(1).double(), torch.ones(1).double()).variance)


def test_a_look_compares_twin_grown_and_muted_sample_by_sample(rig):
    run = grown(rig)
    graft, twin = run.arm.grafts[0], run.executor.twin
    result = judge(run.arm, twin, graft, run.task, look=3, key=1)
    grown_scores, twin_scores = (judge_scores(arm, run.task, key=9) for arm in (run.arm, twin))
    assert result.look == 3
    assert result.twin == paired(twin_scores, grown_scores)
    assert result.mean_twin_score == pytest.approx(float(twin_scores.mean()))
    graft.is_muted = True
    assert result.muted == paired(judge_scores(run.arm, run.task, key=2), grown_scores)


def test_without_a_twin_only_the_muted_score_is_given(rig):
    run = grown(rig)
    result = judge(run.arm, None, run.arm.grafts[0], run.task, look=1, key=1)
    assert not result.HasField("twin")
    assert result.muted.samples == 32


@pytest.mark.parametrize("measure", ["judge", "probe"])
def test_measuring_changes_nothing(rig, measure):
    run, other = grown(rig), grown(rig)
    for _ in range(3):
        graft = run.arm.grafts[0]
        if measure == "judge":
            judge(run.arm, run.executor.twin, graft, run.task, look=1, key=run.step)
        else:
            probe(run.arm, graft, run.task, key=run.step)
        run.train(1)
        other.train(1)
    assert run.arm.digest() == other.arm.digest()
    assert run.executor.twin.digest() == other.executor.twin.digest()
    assert not run.arm.grafts[0].is_muted


def test_a_fresh_seed_leaves_the_hosts_gradient_and_a_trained_one_turns_it(rig):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    graft = run.arm.grafts[0]
    assert interference(run.arm, graft, run.task, key=1) == pytest.approx(1.0)
    run.train(8)
    assert -1.0 <= interference(run.arm, graft, run.task, key=1) < 0.9999
    assert probe(run.arm, graft, run.task, key=1).interference == interference(run.arm, graft, run.task, key=1)


def test_interference_is_unknown_where_a_gradient_vanishes(rig, monkeypatch):
    run = rig("mlp")
    run.graft("span.linear", "span_linear:fc1-fc2", width=4)
    monkeypatch.setattr(run.task, "loss", lambda outputs, targets: outputs.sum() * 0.0)
    assert interference(run.arm, run.arm.grafts[0], run.task, key=1) is None


def test_a_probe_names_what_does_not_match_the_host(rig):
    run = grown(rig)
    graft = run.arm.grafts[0]
    result = probe(run.arm, graft, run.task, key=1)
    assert result.interface_matches
    assert result.mismatch == ""
    graft._join = lambda host, seed, state: (host + seed).double()[:, :3]
    measured = probe_mismatch(run, graft)
    assert "shape is" in measured
    assert "type is torch.float64, the host's is torch.float32" in measured


def probe_mismatch(run, graft) -> str:
    """The mismatch alone, with a host that goes on with what it has."""
    from esper.kasmina.executor.judge.scores import _mismatch

    class Loose(torch.nn.Module):
        def __init__(self, host: torch.nn.Module) -> None:
            super().__init__()
            self.host = host

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            self.host.fc2(self.host.fc1(value))
            return value

    model, run.arm.model = run.arm.model, Loose(run.arm.model)
    try:
        return _mismatch(run.arm, graft, run.task, 1)
    finally:
        run.arm.model = model
