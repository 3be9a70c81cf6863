"""Paired scores on the judging data, taken without a trace."""

from __future__ import annotations

import math

import pytest
import torch

from esper.kasmina.executor.judge.parts import part_of
from esper.kasmina.executor.judge.scores import evaluate_stack, interference, judge, judge_scores, paired, probe


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


def test_an_error_by_documents_is_that_of_their_sums():
    difference = torch.tensor([0.5, 0.1, 0.3, -0.2, 0.4, 0.1]).double()
    documents = torch.tensor([7, 7, 2, 2, 2, 9])
    score = paired(difference, torch.zeros(6).double(), documents)
    mean = 1.2 / 6
    sums = [0.6 - 2 * mean, 0.5 - 3 * mean, 0.1 - mean]
    assert score.documents == 3
    assert score.standard_error == pytest.approx(math.sqrt(3 / 2 * sum(each**2 for each in sums)) / 6)
    assert score.variance == pytest.approx(float(difference.var()))


def test_an_error_by_documents_of_one_sample_each_is_the_usual_one():
    difference = torch.randn(50, generator=torch.Generator().manual_seed(1)).double()
    score = paired(difference, torch.zeros(50).double(), torch.randperm(50))
    assert score.standard_error == pytest.approx(math.sqrt(score.variance / 50))


def test_samples_that_stand_in_a_document_twice_tell_nothing_new():
    difference = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    once = paired(difference, torch.zeros(40).double(), torch.arange(40))
    twice = paired(difference.repeat(2), torch.zeros(80).double(), torch.arange(40).repeat(2))
    assert twice.standard_error == pytest.approx(once.standard_error)
    assert twice.samples == 80
    assert math.sqrt(twice.variance / 80) < 0.72 * once.standard_error


def test_a_single_document_has_no_error():
    score = paired(torch.randn(9).double(), torch.zeros(9).double(), torch.zeros(9, dtype=torch.int64))
    assert score.documents == 1
    assert math.isnan(score.standard_error)


def test_samples_without_documents_are_their_own_and_say_nothing_of_them():
    score = paired(torch.randn(9).double(), torch.zeros(9).double())
    assert not score.HasField("documents")
    assert not score.HasField("standard_error")


@pytest.mark.parametrize("kind", ["twin", "stack"])
def test_the_judges_count_the_documents_of_the_task(rig, kind):
    run = grown(rig) if kind == "twin" else rig("transformer")
    count = 32 if kind == "twin" else 16
    run.task.judge_documents = torch.arange(count) // 4
    if kind == "twin":
        result = judge(run.arm, run.executor.twin, run.arm.grafts[0], run.task, look=1, key=1)
        assert result.muted.documents == 8
        score = result.twin
    else:
        run.stack()
        run.train(2)
        score = evaluate_stack(run.arm, run.executor.twin, run.task, step=2, key=1).twin
    assert (score.samples, score.documents) == (count, count // 4)
    assert score.standard_error > 0.0


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


def test_an_evaluation_of_a_part_scores_its_documents_alone(rig):
    run = rig("transformer")
    run.task.judge_documents = torch.arange(16) // 2
    run.stack()
    run.train(2)
    whole = evaluate_stack(run.arm, run.executor.twin, run.task, step=2, key=1)
    parts = [part_of(run.task.judge_documents, number, 3) for number in range(3)]
    scored = [evaluate_stack(run.arm, run.executor.twin, run.task, step=2, key=1, part=part) for part in parts]
    assert [score.part for score in scored] == [0, 1, 2]
    assert sum(score.twin.samples for score in scored) == whole.twin.samples == 16
    mean = sum(score.twin.mean * score.twin.samples for score in scored) / 16
    assert mean == pytest.approx(whole.twin.mean, abs=1e-6)
    assert not whole.HasField("part")
