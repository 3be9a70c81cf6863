"""The steps of a user's loop: what is done before and after each, as `ArmSteps` does for a loop of ours.

The optimiser's own step tells when gradients are there: a hook that all optimisers call hears of it, because one that
hung on the user's would be copied with it. The twin makes its step at that moment, so that what the loop changes behind
it (a target network, a queue, the other network of a GAN) is for both arms what the next round begins with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm
from esper.kasmina.executor.graft.wiring import SEED_KEY
from esper.kasmina.executor.passes.batches import samples_in
from esper.tolaria.door.average import Average
from esper.tolaria.door.change import Change, change_between, shapes_of
from esper.tolaria.door.own_ranks import Passed
from esper.tolaria.door.own_step import TwinStep
from esper.tolaria.door.verify import Verification, norm_of
from esper.tolaria.door.wording import in_words_of_scripts
from esper.tolaria.loop.aggregation import SeedSources
from esper.tolaria.loop.session import Session
from esper.tolaria.loop.step import norms_of
from esper.tolaria.loop.step_log import StepResult
from esper.tolaria.task.randomness import all_kept, of_rank, seed_all

VERIFIED_STEPS = 2
"""Of a loop, from its start or from where it goes on: momentum and what else is remembered shows in the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What the user's loop is made of, beside the arm."""

    twin_step: TwinStep
    clip_norm: float | None
    average: Average | None
    on_change: Callable[[Change], None] | None
    grows: bool
    passed: Passed | None = None
    """The network as the loop passes it on many ranks; None in a process that is alone."""


class OwnSteps:
    """Stands around the steps of a loop that somebody else makes."""

    def __init__(self, session: Session, loop: Loop) -> None:
        run = session.run
        self._session = session
        self._executor = run.executor
        self._ranks = run.ranks
        self._seed = of_rank(run.config.seed, run.ranks.rank)
        self._loop = loop
        self._stepper = loop.twin_step
        self._sources = SeedSources(run.config)
        self._norm_every = run.config.packet_steps
        self._to_verify = VERIFIED_STEPS if loop.grows and run.config.judge == "twin" else 0
        self._verification = Verification(run.device, run.ranks.count)
        self._copy: TrainingArm | None = None
        self._beside: StepResult | None = None
        """What the twin, or the copy, came to in the step that the loop makes."""
        self._shapes = shapes_of(self._executor.arm)
        self._parameters = self._listed()
        self._topology = self._executor.topology
        self._made = 0
        self._batch: Any = None
        self._loss: Tensor | None = None
        self._norm: Tensor | None = None
        self._norms: Mapping[nn.Parameter, Tensor] = {}
        self._rate = 0.0
        self._settings: list[dict[str, Any]] = []
        self._modules: list[nn.Module] = []
        self._members: list[nn.Parameter] = []
        self._modes: list[bool] = []
        """Whether each was in training mode when the loop made its last step."""
        self._learns: list[bool] = []
        """Whether each parameter learnt in that step."""
        self._followed: tuple[list[bool], list[bool]] | None = None
        """What of these the twin was put into."""
        self._list_modes()
        self._started_ns = 0
        self._hook = register_optimizer_step_pre_hook(self._before_optimizer)

    def begin(self) -> Any:
        """Prepare the next step; returns its batch."""
        session, executor = self._session, self._executor
        step = session.progress.step
        if self._to_verify or step % self._norm_every == 0:
            self._check_untouched()
        asked_ns = session.clock.monotonic_ns()
        batch = self._batch = session.run.loader.batch(step)[0]
        self._started_ns = session.clock.monotonic_ns()
        session.note_input(asked_ns)
        if session.run.loader.is_replayable:
            self._fetch(step + 1)
        if self._loop.grows:
            executor.before_step(step)
            for parameter in executor.seed_parameters():
                parameter.grad = None
        if self._to_verify and executor.twin is None:
            self._copy = executor.arm.clone()
        if self._loop.average is not None:
            self._loop.average.begin()
        self._made, self._rate, self._settings = 0, 0.0, []
        self._note_modes()
        self._loss, self._norm, self._norms, self._beside = None, None, {}, None
        if self._loop.passed is not None:
            self._loop.passed.passes = 0
        if self._loop.grows:
            seed_all(session.run.device, self._seed, "step", step)
        return batch

    def note(self, loss: Tensor) -> None:
        """The loop's loss of this step."""
        self._loss = loss.detach().mean() if loss.ndim else loss.detach()

    def make(self) -> None:
        """The loop has made its step: the twin makes its own, and what came of both is kept."""
        session, executor = self._session, self._executor
        step, batch = session.progress.step, self._batch
        loss = self._checked(step)
        if self._beside is None:  # a scaler left the optimiser's step out
            self._step_beside()
        result = StepResult(self._mean(loss), None, self._norm, None, self._norms)
        executor.note_norms(result.parameter_norms)
        if self._copy is not None and self._beside is not None:
            self._verify(self._copy, self._beside, step, loss)
        if executor.twin is not None and self._beside is not None:
            self._note_twin(executor.twin, self._beside, step)
        if self._loop.grows:
            executor.shadow_step(batch, None, step)
        samples = samples_in(batch) * self._ranks.count
        session.progress.macs.step(samples, executor.macs, executor.twin_macs)
        if (step + 1) % self._norm_every == 0:
            self._compare_rates()
        session.progress.step = step + 1
        if not session.run.loader.is_replayable:
            self._fetch(step + 1)
        step_ms = (session.clock.monotonic_ns() - self._started_ns) / 1e6
        session.timings.step_ms.append(step_ms)
        session.log.add(step + 1, step // session.run.loader.steps_per_epoch, result, rate=self._rate, step_ms=step_ms)

    @contextmanager
    def as_stepped(self) -> Iterator[None]:
        """With the network in the modes of the loop's step, for copies to take, not in those of a later validation."""
        modes = zip(self._modules, self._modes, strict=True)
        changed = [(module, module.training) for module, mode in modes if module.training != mode]
        for module, mode in changed:
            module.training = not mode
        try:
            yield
        finally:
            for module, mode in changed:
                module.training = mode

    def _fetch(self, step: int) -> None:
        """As `ArmSteps` does."""
        if step < self._session.run.total_steps:
            self._session.run.carrier.ahead(step)

    def settle(self) -> None:
        """After a boundary: what it changed is told, and is from now on what the network is."""
        executor, average = self._executor, self._loop.average
        if average is not None:
            average.follow(executor.arm, executor.twin)
        if executor.topology == self._topology:
            return
        self._topology = executor.topology
        before, self._shapes = self._shapes, shapes_of(executor.arm)
        self._parameters = self._listed()
        self._list_modes()
        self._tell(before)

    def close(self) -> None:
        """Hear no more of optimisers."""
        self._hook.remove()

    def regroup(self) -> None:
        """A saved state was put back."""
        self._topology = -1
        self._session.seed_meter.forget()
        self._parameters = self._listed()
        self._list_modes()
        self._to_verify = VERIFIED_STEPS if self._to_verify else 0

    @property
    def surgery_ms(self) -> float | None:
        """There is none."""
        return None

    def _before_optimizer(self, optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
        """Gradients are there, and not used yet."""
        executor = self._executor
        arm = executor.arm
        if optimizer is not arm.optimizer:
            self._check_alone(optimizer)
            return
        self._made += 1
        self._rate = float(optimizer.param_groups[0]["lr"])
        self._note_modes()
        if self._copy is not None or executor.twin is not None:
            self._settings = [_settings_of(group) for group in _host_groups(optimizer)]
        _unscale(optimizer)
        is_measured = self._loop.clip_norm is None and (self._session.progress.step + 1) % self._norm_every == 0
        if arm.grafts and self._loop.grows:
            executor.after_backward()
            if is_measured:
                self._sources.measure(arm, self._session.seed_meter.note)
            if self._loop.clip_norm is not None:
                nn.utils.clip_grad_norm_(executor.seed_parameters(), self._loop.clip_norm)
        if self._copy is not None:
            self._norm = norm_of(arm)
        elif is_measured:
            self._norm, self._norms = norms_of(executor.host_parameters())
        if self._made == 1 and (self._copy is not None or executor.twin is not None):
            with in_words_of_scripts(), all_kept(self._session.run.device), torch.enable_grad():
                self._step_beside()

    def _check_alone(self, other: Optimizer) -> None:
        """Raises ConfigError where another optimiser steps the network, as in adversarial training."""
        if not self._to_verify:
            return
        mine = {id(parameter) for parameter in self._members}
        if any(id(member) in mine for group in other.param_groups for member in group["params"]):
            remedy = "steps parameters of the network, too, and no twin can: give one optimiser all, in groups"
            alone = "or keep what the other one steps in a model of its own"
            raise ConfigError("optimizer", type(other).__name__, f"{remedy}, {alone}")

    def _checked(self, step: int) -> Tensor:
        """The loss of a step that was made as a step is to be. Raises ConfigError."""
        where = f"step {step + 1}"
        if self._loss is None:
            raise ConfigError("growth.note", where, "wasn't called: say growth.note(loss) in each round")
        if self._loop.passed is not None and not self._loop.passed.passes:
            remedy = "with many ranks the loop passes batches through growth.model, which averages their gradients"
            raise ConfigError("growth.model", where, f"was never passed: {remedy}")
        is_skipped = self._made == 0 and self._executor.arm.scaler is not None
        if self._made != 1 and not is_skipped:
            told = f"the optimiser made {self._made} steps"
            raise ConfigError("optimizer", where, f"{told}; each round makes one (accumulate inside a round)")
        return self._loss

    def _step_beside(self) -> None:
        """The twin's own step, or that of a copy that is held against the loop's."""
        arm = self._executor.twin if self._copy is None else self._copy
        if arm is not None:
            self._beside = self._stepped(arm, self._batch, self._session.progress.step)

    def _note_twin(self, twin: TrainingArm, result: StepResult, step: int) -> None:
        result = replace(result, loss=self._mean(result.loss))
        if self._loop.average is not None:
            self._loop.average.after_twin(twin)
        self._session.log.add_twin(self._executor.twin_of, step + 1, result)

    def _stepped(self, arm: TrainingArm, batch: Any, step: int) -> StepResult:
        """The same batch and draws, in the modes and at the rates of the user's step; a copy's with gradient norm."""
        if arm is self._copy or self._followed != (self._modes, self._learns):
            self._follow_modes(arm)
            self._followed = None if arm is self._copy else (self._modes, self._learns)
        self._follow_groups(arm)
        seed_all(self._session.run.device, self._seed, "step", step)
        result = self._stepper.backward(arm, batch)
        if arm is self._copy:
            result = replace(result, gradient_norm=norm_of(arm))
        for group, settings in zip(_host_groups(arm.optimizer), self._settings, strict=False):
            group.update(settings)
        self._rescale_seeds(arm)
        if self._made or arm is not self._copy:
            self._stepper.finish(arm)
        return result

    def _list_modes(self) -> None:
        model = self._executor.arm.model
        self._modules, self._members, self._followed = list(model.modules()), list(model.parameters()), None
        self._note_modes()

    def _note_modes(self) -> None:
        self._modes = [module.training for module in self._modules]
        self._learns = [parameter.requires_grad for parameter in self._members]

    def _follow_modes(self, arm: TrainingArm) -> None:
        """Train and eval, frozen and not, as the loop's network was in its step; and groups that it has added since."""
        mine, learns = self._executor.arm, dict(zip(self._members, self._learns, strict=True))
        parameters = dict(arm.model.named_parameters())
        for name, parameter in mine.model.named_parameters():
            if name in parameters and parameter in learns:
                parameters[name].requires_grad_(learns[parameter])
        modes = dict(zip(self._modules, self._modes, strict=True))
        theirs = dict(arm.model.named_modules())
        for name, module in mine.model.named_modules():
            if name in theirs and module in modes:
                theirs[name].training = modes[module]

    def _follow_groups(self, twin: TrainingArm) -> None:
        """A loop that thaws layers half-way may give them to its optimiser only then."""
        arm = self._executor.arm
        added = _host_groups(arm.optimizer)[len(_host_groups(twin.optimizer)) :]
        for group in added:
            names = {id(parameter): name for name, parameter in arm.model.named_parameters()}
            theirs = dict(twin.model.named_parameters())
            found = [theirs[names[id(member)]] for member in group["params"] if names.get(id(member), "") in theirs]
            twin.optimizer.add_param_group({**_settings_of(group), "params": found})

    def _rescale_seeds(self, arm: TrainingArm) -> None:
        """Seeds in the twin learn at a share of the rates, which came just now."""
        if arm.grafts:
            arm.set_step(self._session.progress.step, run_seed=self._session.run.config.seed)

    def _verify(self, copy: TrainingArm, result: StepResult, step: int, loss: Tensor) -> None:
        self._copy = None
        self._to_verify -= 1
        norm = cast(Tensor, result.gradient_norm)  # `_stepped` measures a copy's
        mine = norm if self._norm is None else self._norm
        self._verification.check(self._executor.arm, copy, (loss, result.loss), (mine, norm), step)
        if self._verification.is_rounded and not self._to_verify:
            told = "the loop adds in another order than step(): weights after a cull differ in their last bits"
            self._session.notice("tolaria.data_doubt", "WARNING", f"{told} from those of a run that never grew")

    def _mean(self, loss: Tensor) -> Tensor:
        """Over all ranks, whose batches count alike as their gradients do."""
        if self._ranks.count == 1:
            return loss
        told = loss.double() / self._ranks.count
        self._ranks.total(told)
        return told

    def _compare_rates(self) -> None:
        """Raises RanksDiffer where a rank's schedule goes by its own batches."""
        if self._ranks.count > 1:
            rates = [float(group["lr"]) for group in self._executor.arm.optimizer.param_groups]
            digest = hashlib.sha256(repr(rates).encode()).hexdigest()
            self._ranks.agree("learning rate", digest, "a scheduler must be given what is the same on every rank")

    def _check_untouched(self) -> None:
        """The network is the one that growth left. Raises ConfigError."""
        now = self._listed()
        if now == self._parameters:
            return
        names = [name for name in {**now, **self._parameters} if now.get(name) != self._parameters.get(name)]
        remedy = "changed behind growth's back: leave the network's parameters in place while it grows"
        raise ConfigError("model", names[0], remedy)

    def _listed(self) -> dict[str, int]:
        return {name: id(parameter) for name, parameter in self._executor.arm.model.named_parameters()}

    def _tell(self, before: dict[str, tuple[int, ...]]) -> None:
        executor, session = self._executor, self._session
        after = self._shapes
        grew = sum(map(_size, after.values())) > sum(map(_size, before.values()))
        seeds = session.progress.history.seeds
        seed_id = executor.twin_of or next(reversed(seeds), "")
        kind = "grafted" if grew else "undone" if len(after) < len(before) and not _folds(before, after) else "kept"
        depths = {path: depth.now for path, depth in executor.depths().items()}
        change = change_between(before, after, step=session.progress.step, seed_id=seed_id, kind=kind, depths=depths)
        if change is not None and self._loop.on_change is not None:
            self._loop.on_change(change)


def _host_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if SEED_KEY not in group]


def _settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """As they are now: schedulers write into a rate that is a tensor."""
    held = {name: value for name, value in group.items() if name != "params"}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in held.items()}


@torch.no_grad()
def _unscale(optimizer: Optimizer) -> None:
    """Fused optimisers are given scaled gradients with their scale, and leave them divided; so they are divided now."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return
    members = (member for group in optimizer.param_groups for member in group["params"])
    if gradients := [member.grad for member in members if member.grad is not None]:
        torch._foreach_div_(gradients, scale.to(gradients[0].device))
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _folds(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> bool:
    """Whether a seed went into its neighbours: some grew while it left."""
    return any(name in before and _size(shape) > _size(before[name]) for name, shape in after.items())
