"""Scores on the judging data: the grown arm against its twin, and against itself with the seed muted.

Every pass runs in eval mode without gradients and leaves no trace. Scores are bounded and paired sample by sample.
Samples of one document resemble each other, so the error of a mean counts documents where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.judge.parts import Part
from esper.kasmina.executor.passes.batches import Batch, as_one, first
from esper.kasmina.executor.passes.compiled import eagerly
from esper.kasmina.executor.passes.gradients import gradients
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task
from esper.leyline import JudgeResult, PairedScore, ProbeResult, StackEvaluation

GRADIENT_SAMPLES = 64


def judge_scores(arm: TrainingArm, task: Task, *, key: int) -> Tensor:
    """One score for each sample of the judging data: float64 [n] on the CPU."""

    def scored(batch: Batch) -> Tensor:
        inputs, targets = batch
        return task.scores(task.forward(arm.model, inputs), targets).double()

    # A seed in it, muted and not, would be graphs of their own for a look or two.
    with eagerly(), arm.measured(key, is_evaluation=True):
        return torch.cat(task.over_judging(scored)).cpu()


def paired(reference: Tensor, grown: Tensor, documents: Tensor | None = None) -> PairedScore:
    """Mean and variance (ddof 1) of `reference - grown`; positive favours the grown network."""
    difference = reference - grown
    score = PairedScore(
        mean=float(difference.mean()),
        variance=float(difference.var(unbiased=True)) if difference.numel() > 1 else float("nan"),
        samples=difference.numel(),
    )
    if documents is not None:
        score.documents, score.standard_error = clustered_error(difference, documents)
    return score


def clustered_error(difference: Tensor, documents: Tensor) -> tuple[int, float]:
    """Number of documents, and the standard error of the mean of [n] differences that is robust to what they share.

    The sandwich estimator with its correction for few clusters (Liang and Zeger 1986; Cameron and Miller 2015, 6.A);
    with one sample a document it is the usual error. NaN for a single document.
    """
    names, place = torch.unique(documents, return_inverse=True)
    count = len(names)
    sums = difference.new_zeros(count).index_add(0, place, difference - difference.mean())
    if count < 2:
        return count, math.nan
    return count, math.sqrt(count / (count - 1) * float(sums.square().sum())) / difference.numel()


@contextmanager
def muted(graft: Graft) -> Iterator[None]:
    """The host's value passes the seed by."""
    before, graft.is_muted = graft.is_muted, True
    try:
        yield
    finally:
        graft.is_muted = before


def judge(arm: TrainingArm, twin: TrainingArm | None, graft: Graft, task: Task, *, look: int, key: int) -> JudgeResult:
    """One look of the sequential test."""
    grown = judge_scores(arm, task, key=key)
    with muted(graft):
        without = judge_scores(arm, task, key=key)
    if twin is None:
        return JudgeResult(look=look, muted=paired(without, grown, task.judge_documents))
    twin_scores = judge_scores(twin, task, key=key)
    return JudgeResult(
        look=look,
        twin=paired(twin_scores, grown, task.judge_documents),
        mean_twin_score=float(twin_scores.mean()),
        muted=paired(without, grown, task.judge_documents),
    )


def evaluate_stack(
    arm: TrainingArm, twin: TrainingArm, task: Task, *, step: int, key: int, part: Part | None = None
) -> StackEvaluation:
    """Both arms at one step, on all of the judging set or a part; clipped is what is so in the arm with more of it."""
    rows = None if part is None else part.padded
    # One transfer for all four rows.
    found = torch.stack([row for each in (arm, twin) for row in _clipped_scores(each, task, rows, key=key)]).cpu()
    documents = task.judge_documents
    if part is not None:
        found = found[:, : len(part.rows)]
        documents = None if documents is None else documents[part.rows]
    grown, grown_clipped, reference, twin_clipped = found
    return StackEvaluation(
        step=step,
        twin=paired(reference, grown, documents),
        mean_twin_score=float(reference.mean()),
        clipped_share=max(float(grown_clipped.mean()), float(twin_clipped.mean())),
        part=None if part is None else part.number,
    )


def _clipped_scores(arm: TrainingArm, task: Task, rows: Tensor | None, *, key: int) -> tuple[Tensor, Tensor]:
    """For each sample of the judging data its score and the share of it that was clipped: float64 [n] on the device."""

    def scored(batch: Batch) -> Tensor:
        inputs, targets = batch
        return torch.cat(task.clipped_scores(task.forward(arm.model, inputs), targets)).double()

    with arm.measured(key, is_evaluation=True):
        found = task.over_judging(scored) if rows is None else task.over_judging_rows(scored, rows)
        parts = [part.chunk(2) for part in found]
    scores, clipped = (torch.cat(part) for part in zip(*parts, strict=True))
    return scores, clipped


def probe(arm: TrainingArm, graft: Graft, task: Task, *, key: int) -> ProbeResult:
    """Whether the seed's output has the host's shape, type and device at the write tap, and what muting it does."""
    mismatch = _mismatch(arm, graft, task, key)
    grown = judge_scores(arm, task, key=key)
    with muted(graft):
        without = judge_scores(arm, task, key=key)
    return ProbeResult(
        interface_matches=not mismatch,
        mismatch=mismatch,
        muted=paired(without, grown, task.judge_documents),
        interference=interference(arm, graft, task, key=key),
    )


def interference(arm: TrainingArm, graft: Graft, task: Task, *, key: int) -> float | None:
    """Cosine between the host's gradients with and without the seed, on a few samples; None where one is zero."""
    inputs, targets = first(next(iter(task.judge_batches())), GRADIENT_SAMPLES)
    parameters = arm.host_parameters()

    def of_now() -> list[Tensor]:
        with side_pass(arm.modules, key=key, training=False), torch.enable_grad():
            loss = task.loss(task.forward(arm.model, inputs), targets)
            found = gradients(loss, parameters, arm.modules)
        pairs = zip(found, parameters, strict=True)
        return [torch.zeros_like(p).double() if g is None else g.double() for g, p in pairs]

    grown = of_now()
    with muted(graft):
        without = of_now()
    product = sum(float((a * b).sum()) for a, b in zip(grown, without, strict=True))
    size = math.prod(math.sqrt(sum(float(part.square().sum()) for part in side)) for side in (grown, without))
    return product / size if 0.0 < size < math.inf else None


def probe_outputs(arm: TrainingArm, task: Task, *, key: int) -> Tensor:
    """The network's outputs for the probe batch, in eval mode; float64 on the CPU."""
    with arm.measured(key):
        outputs = task.forward(arm.model, task.probe_inputs())
    return as_one(outputs, type(arm.model).__name__).double().cpu()


def _mismatch(arm: TrainingArm, graft: Graft, task: Task, key: int) -> str:
    seen: list[tuple[Tensor, Tensor]] = []
    join = graft.join

    def watched(host: Tensor, place: int = 0) -> Tensor:
        joined = join(host, place)
        seen.append((host, joined))
        return joined

    graft.join = watched  # type: ignore[method-assign]
    try:
        probe_outputs(arm, task, key=key)
    finally:
        del graft.join
    if not seen:
        return f"{graft.slot.write_path} did not run in a forward pass"
    host, joined = seen[-1]
    facts = [("shape", tuple(host.shape), tuple(joined.shape)), ("type", host.dtype, joined.dtype)]
    facts.append(("device", host.device, joined.device))
    wrong = [f"{name} is {got}, the host's is {want}" for name, want, got in facts if want != got]
    return "; ".join(wrong) or ("" if bool(torch.isfinite(joined).all()) else "the blended value is not finite")
