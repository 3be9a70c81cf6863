"""Incubation: a seed learns beside a host that doesn't notice.

A shadow pass is a second forward on a quarter of the batch with the seed fully on; gradients go to the seed alone. The
seed's input is detached, and a sampled probe asserts that no host parameter can be reached from the seed's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.blend import Blend
from esper.kasmina.executor.graft.graft import Graft, SeedPlan
from esper.kasmina.executor.graft.wiring import HOST_KEY, group_by_host, optimizer_like
from esper.kasmina.executor.judge.isolation import reachable_parameters
from esper.kasmina.executor.judge.macs import counted
from esper.kasmina.executor.judge.scores import judge_scores, paired
from esper.kasmina.executor.judge.teacher import SHARE, Teacher
from esper.kasmina.executor.passes.batches import Batch, first, samples_in, shapes
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kasmina.executor.passes.task import Task
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import BlendConfig, BlendMode, BlendSchedule, PairedScore

BATCH_SHARE = 4
# BatchNorm has no statistics of a single sample.
LEAST_SAMPLES = 2
PROBE_EVERY = 25
HELD_OUT_ALPHA = 0.3
LONGEST_WARMUP = 50

FULLY_ON = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_target=1.0,
    alpha_start=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_LINEAR,
    schedule_steps=0,
)


class Incubation:
    """One seed's shadow training: its own optimiser, made like the host's."""

    def __init__(
        self,
        graft: Graft,
        host_optimizer: torch.optim.Optimizer,
        host: nn.Module,
        *,
        duration_steps: int,
        teacher: Teacher | None = None,
    ) -> None:
        self.start_step = graft.blend.start_step
        self.duration_steps = duration_steps
        self.steps_done = 0
        self.leaks = 0
        self.macs = 0
        self.has_score = False
        self.teacher = teacher
        """Whom the seed learns from beside the task; None: nobody."""
        self._divergence: Tensor | None = None
        self._graft = graft
        by_group = group_by_host(host_optimizer, graft.module, host)
        self._parameters = [parameter for parameter in graft.module.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise GraftFailed(f"seed {graft.seed_id} has nothing to train: it can't incubate")
        self._macs_by_shape: dict[tuple[torch.Size, ...], int] = {}
        self.optimizer = optimizer_like(host_optimizer, by_group)

    @property
    def end_step(self) -> int:
        return self.start_step + self.duration_steps

    @property
    def distillation_loss(self) -> float | None:
        """Divergence from the teacher in the last step; None without one."""
        return None if self._divergence is None else float(self._divergence)

    @property
    def rms_ratio(self) -> float | None:
        rms = self._graft.rms
        return None if rms is None else float(rms[0]) / max(float(rms[1]), 1e-12)

    def step(self, arm: TrainingArm, task: Task, batch: Batch, step: int, run_seed: int) -> list[Tensor]:
        """One shadow pass and one step of the seed, after the host's own step; returns the seed's gradients."""
        if step >= self.end_step:
            return []
        inputs, targets = first(batch, share_of(samples_in(batch[0])))
        self._graft.is_measuring = True
        self._graft.set_step(step, draw=run_seed)
        key = draw_key(run_seed, "shadow", self._graft.seed_id, step)
        with self._hung(arm), side_pass(arm.modules, key=key, training=None):
            self._graft.module.train()
            gradients, macs = self._gradients(arm, task, (inputs, targets))
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._take_step(arm)
        if self.steps_done % PROBE_EVERY == 1:
            with self._hung(arm):
                leaks, probed = counted(
                    lambda: reachable_parameters(arm, self._graft, inputs, key=key, forward=task.forward)
                )
            self.leaks, macs = self.leaks + leaks, macs + probed
        self.macs += macs
        return [gradient for gradient in gradients if gradient is not None]

    def held_out(self, arm: TrainingArm, task: Task, key: int) -> PairedScore:
        """Score without the seed minus score with it at a low alpha, on the judging data."""
        self.has_score = True
        without = judge_scores(arm, task, key=key)
        self._graft.set_alpha(HELD_OUT_ALPHA)
        was_training = self._graft.module.training
        self._graft.module.eval()
        with self._hung(arm):
            grown = judge_scores(arm, task, key=key)
        self._graft.module.train(was_training)
        self._graft.set_alpha(1.0)
        return paired(without, grown, task.judge_documents)

    def state_dict(self) -> dict[str, Any]:
        return {
            "start_step": self.start_step,
            "duration_steps": self.duration_steps,
            "steps_done": self.steps_done,
            "leaks": self.leaks,
            "macs": self.macs,
            "has_score": self.has_score,
            "distils": self.teacher is not None,
            "divergence": self._divergence,
            "rms": None if self._graft.rms is None else [part.clone() for part in self._graft.rms],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_done, self.leaks, self.macs = state["steps_done"], state["leaks"], state["macs"]
        self.has_score = state["has_score"]
        self._divergence = state.get("divergence")
        self._graft.rms = None if state["rms"] is None else (state["rms"][0], state["rms"][1])
        self.optimizer.load_state_dict(state["optimizer"])

    @contextmanager
    def _hung(self, arm: TrainingArm) -> Iterator[None]:
        self._graft.attach(arm.model, arm.grafts)
        try:
            yield
        finally:
            self._graft.detach()

    def _gradients(self, arm: TrainingArm, task: Task, batch: Batch) -> tuple[tuple[Tensor | None, ...], int]:
        """The seed's gradients and their work; work of one shape is counted once."""
        inputs, targets = batch

        def run() -> tuple[Tensor | None, ...]:
            outputs = task.forward(arm.model, inputs)
            loss = self._taught(task.loss(outputs, targets), task, inputs, outputs)
            return torch.autograd.grad(loss, self._parameters, allow_unused=True)

        form = shapes(inputs)
        if form in self._macs_by_shape:
            return run(), self._macs_by_shape[form]
        gradients, macs = counted(run)
        self._macs_by_shape[form] = macs
        return gradients, macs

    def _taught(self, loss: Tensor, task: Task, inputs: Any, outputs: Any) -> Tensor:
        """The task's loss, or the task's and the teacher's."""
        if self.teacher is None:
            return loss
        divergence = self.teacher.divergence(task, inputs, outputs)
        self._divergence = divergence.detach()
        return (1.0 - SHARE) * loss + SHARE * divergence

    def forget_teacher(self) -> None:
        """From now on the seed learns from the task alone."""
        self.teacher = self._divergence = None
        self._macs_by_shape.clear()

    def _take_step(self, arm: TrainingArm) -> None:
        self.steps_done += 1
        warmup = min(LONGEST_WARMUP, self.duration_steps // 4)
        factor = min(1.0, self.steps_done / (warmup + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = arm.optimizer.param_groups[group[HOST_KEY]]["lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def share_of(samples: int) -> int:
    """How many of a batch's samples an incubating seed learns from."""
    return min(samples, max(LEAST_SAMPLES, samples // BATCH_SHARE))


def shadow_graft(plan: SeedPlan, slot: Slot, module: nn.Module, start_step: int) -> Graft:
    """The seed fully on, for shadow passes that begin at a step."""
    graft = Graft(plan, slot, module, Blend(config=FULLY_ON, start_step=start_step), is_isolated=True)
    graft.set_shadow()
    return graft
