"""`esper.Growth`: the control plane inside a loop that exists.

    with esper.Growth(model, optimizer, step=step, judge=judge_loader, scheduler=scheduler, config={...}) as growth:
        for batch in growth.steps(loader):
            optimizer.zero_grad()
            loss = step(model, batch).mean()
            growth.note(loss)
            loss.backward()
            optimizer.step()
            scheduler.step()

The objects stay the user's own, changed in place. Under torchrun every process runs the same loop over a loader of its
own, and passes batches through `growth.model`. Every step's draws are keyed by the run's seed and the step's number;
with grow="never" no generator is touched and the loader is iterated as it is: that run is the bare loop, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from weakref import WeakSet

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from esper.core.errors import ConfigError
from esper.core.process.leaving import left
from esper.core.process.streams import say
from esper.kasmina.executor.fold.export import plain
from esper.rpc.otel import setup_tracing
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.average import Average
from esper.tolaria.door.callbacks import observers_of
from esper.tolaria.door.change import Change
from esper.tolaria.door.own_ranks import Passed, Passes
from esper.tolaria.door.own_run import own_run
from esper.tolaria.door.own_step import OwnStep, TwinStep
from esper.tolaria.door.own_steps import Loop, OwnSteps
from esper.tolaria.door.settings import check_surroundings, config_from, named
from esper.tolaria.door.train import Result
from esper.tolaria.door.wording import in_words_of_scripts
from esper.tolaria.following import follower
from esper.tolaria.own_blueprints import own_blueprints
from esper.tolaria.plane.shared_control import told_artifact
from esper.tolaria.ranks.group import ALONE
from esper.tolaria.ranks.joining import joined
from esper.tolaria.ranks.place import place
from esper.tolaria.ranks.support import check_bare, check_own_loop
from esper.tolaria.record.observer import Observer
from esper.tolaria.record.page.report import report_path, write_report
from esper.tolaria.recovery.continuing import restarted
from esper.tolaria.recovery.shared import call, heard_call, heard_summary, tell_summary
from esper.tolaria.run import Interruption, Shelf, opened
from esper.tolaria.run_dir import RunOptions, check_free, occupied
from esper.tolaria.task.optimizers.optimizers import optimizer_of
from esper.tolaria.task.prepare import Prepared
from esper.tolaria.task.randomness import seed_all
from esper.tolaria.trainer import Trainer

_IN_USE: WeakSet[nn.Module] = WeakSet()
LEFT = "left by its loop"
OWNED = (
    *("optimizer", "lr", "schedule", "weight_decay", "clip_norm", "accumulate", "pcgrad", "amp", "loss", "metric"),
    *("compile", "graphs", "seed_conflicts"),
)
"""Settings that a loop decides itself."""


class Growth:
    """A run around a loop of the user's own; a context, entered once."""

    @in_words_of_scripts()
    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        step: Callable[[nn.Module, Any], Tensor],
        judge: Any,
        test: Any = None,
        scheduler: LRScheduler | None = None,
        ema: Any = None,
        scaler: Any = None,
        clip_norm: float | None = None,
        config: TrainConfig | Mapping[str, Any] | None = None,
        on_change: Callable[[Change], None] | None = None,
        callbacks: Iterable[Observer | Callable[[Any], None]] = (),
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        """`step(model, batch)` gives the loss of each sample, [N], as the loop computes it; its mean trains.

        `judge` and `test` are batches of the kind that the loop trains on. What the loop does between backward and the
        optimiser's step must be said: `clip_norm` for clipping, `scaler` for scaling. `on_change` hears of every shape
        that changed. Raises ConfigError for what can't be used.
        """
        if not isinstance(model, nn.Module):
            raise ConfigError("model", type(model).__name__, "expected a torch.nn.Module")
        if not isinstance(optimizer, Optimizer):
            raise ConfigError("optimizer", type(optimizer).__name__, "expected a torch.optim.Optimizer")
        check_bare(model, is_own_loop=True)
        self._network = model
        self._ranks = ALONE
        self._passed: Passed | None = None
        self._optimizer = optimizer_of(optimizer, model)
        self._scheduler = _scheduler(scheduler, optimizer)
        self._scaler = _scaler(scaler)
        self._step = OwnStep(step)
        self._judge, self._test = judge, test
        self._average = None if ema is None else Average(ema, model)
        self._clip_norm = _norm(clip_norm)
        self._config = _settings(named(config_from(config), model=model, data=None))
        if on_change is not None and not callable(on_change):
            raise ConfigError("on_change", type(on_change).__name__, "expected a function of an esper.Change")
        self._on_change = on_change
        self._observers = observers_of(callbacks, _lost)
        self._how = RunOptions(resume=resume, overwrite=overwrite, tensorboard=False)
        self._interruption = Interruption()
        self._stack = ExitStack()
        self._course: _Course | None = None
        self._was_entered = self._has_looped = False
        self._is_inside = False
        self._summary: Mapping[str, Any] = {}
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """What the run became, after the with block."""
        if self._result is None:
            raise ConfigError("growth.result", None, "is there after the with block of a run that made its steps")
        return self._result

    @property
    def model(self) -> nn.Module:
        """What the loop passes batches through: the user's own network, on many ranks with the mean gradient of all."""
        return self._network if self._passed is None else self._passed

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Around passes that are not a round's last: many ranks average the gradients behind that one alone."""
        with nullcontext() if self._passed is None else self._passed.no_sync():
            yield

    @property
    def run_dir(self) -> Path:
        """Where the run's files are."""
        return self._config.run_dir

    @in_words_of_scripts()
    def __enter__(self) -> Growth:
        if self._was_entered:
            raise ConfigError("growth", "entered again", "is one run, entered once: make another esper.Growth")
        if self._network in _IN_USE:
            raise ConfigError("model", type(self._network).__name__, "grows already: one Growth at a time for a model")
        check_own_loop(self._config, place().count)
        self._was_entered = True
        _IN_USE.add(self._network)
        self._stack.callback(_IN_USE.discard, self._network)
        try:
            self._ranks = self._stack.enter_context(joined(self._config))
            self._begin()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        if self._ranks.count > 1:
            self._passed = Passed(self._network, self._ranks)
        self._is_inside = True
        return self

    def _begin(self) -> None:
        """The first rank holds the run's directory, and all go by its settings."""
        ranks = self._ranks
        if ranks.is_first:
            self._how = restarted(self._how, self._config.run_dir, place().restarts)
            check_free(self._config.run_dir, self._how)
            self._stack.enter_context(occupied(self._config.run_dir))
            call(ranks, self._config, resumes=self._how.resume)
            return
        config, resumes, _ = heard_call(ranks)
        self._config = self._config if config is None else config
        self._how = RunOptions(resume=resumes)

    @in_words_of_scripts()
    def steps(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of all steps of the run, epoch after epoch; what stands between two of them is a step."""
        if not self._is_inside:
            raise ConfigError("growth.steps", "outside", "is for the inside of `with esper.Growth(...) as growth:`")
        check_surroundings()
        if self._has_looped:
            raise ConfigError("growth.steps", "twice", "gives all steps of the run, of every epoch: call it once")
        self._has_looped = True
        self._course = self._opened(loader)
        return _rounds(self._course)

    def note(self, loss: Tensor) -> None:
        """Tell the loss of the batch, once in each step: what the run shows and is grown by."""
        if self._course is None or not self._is_inside:
            raise ConfigError("growth.note", "outside", "is for the rounds of `for batch in growth.steps(loader):`")
        if not isinstance(loss, Tensor):
            raise ConfigError("growth.note", type(loss).__name__, "expected the loss as a tensor")
        self._course.steps.note(loss)

    @in_words_of_scripts()
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_inside = False
        if isinstance(error, SystemExit):  # perhaps not the loop's own: a seed's or a network's
            say(f"esper.Growth: the run ends here: {left(error)}", sys.stderr)
        course = self._course
        if kind is not None or course is None:
            lost = self._ranks.lost_by(error)
            if lost is None:
                self._stack.__exit__(kind, error, traceback)
                return
            self._stack.__exit__(type(lost), lost, traceback)
            raise lost from error
        with self._stack:
            course.finish()
            trained = plain(course.run.executor.arm, takes_any=True)
        run_dir = self._config.run_dir
        self._result = Result(model=trained, summary=self._summary, report=report_path(run_dir), run_dir=run_dir)
        self._interruption.pass_on()

    def _tell_summary(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Of a run that came to its end, once what follows the trainer is done: its files are whole by then."""
        if kind is not None or self._course is None:
            return
        if not self._ranks.is_first:
            self._summary = heard_summary(self._ranks)
            return
        self._summary = dict(self._course.trainer.summary or {})
        write_report(self._config.run_dir)
        tell_summary(self._ranks, self._summary)

    def _opened(self, loader: Iterable[Any]) -> _Course:
        shelf, stack = Shelf(), self._stack
        run = own_run(
            self._config,
            self._network,
            self._optimizer,
            self._scheduler,
            self._scaler,
            step=self._step,
            loader=loader,
            judge=self._judge,
            test=self._test,
            average=self._average,
            fetch=told_artifact(shelf.fetch, self._ranks),
            own=own_blueprints(self._config, resumes=self._how.resume),
            ranks=self._ranks,
        )
        grows = self._config.grow != "never"
        passes = Passes(run)
        loop = Loop(
            twin_step=TwinStep(self._step, self._clip_norm, passes.of),
            clip_norm=self._clip_norm,
            average=self._average,
            on_change=self._on_change,
            grows=grows,
            passed=self._passed,
        )
        stack.push(self._tell_summary)
        stack.callback(setup_tracing("esper.Growth", self._config.otlp_endpoint))
        trainer = self._trainer(run, shelf, loop)
        steps = cast(OwnSteps, trainer.steps)
        stack.callback(steps.close)
        stack.enter_context(self._interruption.watched())
        trainer.begin(resume=self._how.resume)
        stack.callback(trainer.close)
        steps.settle()
        if self._passed is not None:
            passes.let_follow(self._passed, lambda: run.executor.arm)
            stack.callback(self._passed.follow, None)
        return _Course(run, trainer, steps)

    def _trainer(self, run: Prepared, shelf: Shelf, loop: Loop) -> Trainer:
        """Of the first rank with all that a run leaves behind; the others hear of it."""
        steps = partial(OwnSteps, loop=loop)
        tried = _trial_step(run, TwinStep(self._step, self._clip_norm))
        if not self._ranks.is_first:
            return follower(run, self._interruption, resumes=self._how.resume, steps=steps, tried=tried)
        return self._stack.enter_context(
            opened(run, shelf, self._how, self._observers, self._interruption, steps=steps, tried=tried)
        )


@dataclass(frozen=True, slots=True)
class _Course:
    """A run whose loop has begun."""

    run: Prepared
    trainer: Trainer
    steps: OwnSteps

    def finish(self) -> None:
        """End it, at its end or where the loop was left."""
        if self.trainer.is_going:
            self.trainer.stop(LEFT)
        self.trainer.drain()
        self.steps.settle()
        self.trainer.close()
        self.trainer.finish()


def _rounds(course: _Course) -> Iterator[Any]:
    """The batch of each step, and around it what growth does."""
    trainer, steps = course.trainer, course.steps
    while trainer.is_going:
        yield steps.begin()
        with in_words_of_scripts(), steps.as_stepped():
            trainer.advance(steps.make)
            steps.settle()


def _scheduler(scheduler: Any, optimizer: Optimizer) -> Any:
    if scheduler is None:
        return None
    name = type(scheduler).__name__
    if not isinstance(scheduler, LRScheduler):
        remedy = "leave it out of Growth: a twin takes the rates of the loop's own optimiser as they are"
        raise ConfigError("scheduler", name, f"is none of torch's; {remedy}")
    if scheduler.optimizer is not optimizer:
        raise ConfigError("scheduler", name, "is over another optimiser than the one that Growth was given")
    return scheduler


def _scaler(scaler: Any) -> Any:
    wanted = ("scale", "unscale_", "step", "update", "state_dict", "load_state_dict")
    if scaler is not None and not all(callable(getattr(scaler, name, None)) for name in wanted):
        raise ConfigError("scaler", type(scaler).__name__, "expected a torch.amp.GradScaler")
    return scaler


def _norm(clip_norm: Any) -> float | None:
    is_number = isinstance(clip_norm, (int, float)) and not isinstance(clip_norm, bool)
    if clip_norm is not None and not (is_number and clip_norm > 0):
        raise ConfigError("clip_norm", clip_norm, "expected the norm that the loop clips to, a number above 0")
    return clip_norm if clip_norm is None else float(clip_norm)


def _settings(config: TrainConfig) -> TrainConfig:
    """What a loop of the user's decides itself can't be settings too."""
    default = TrainConfig()
    for name in OWNED:
        if getattr(config, name) != getattr(default, name):
            raise ConfigError(name, getattr(config, name), "is the loop's own to decide; leave it out of the settings")
    if config.parallel != default.parallel:
        remedy = "is of esper.train and tolaria-train alone; a loop of your own shares batches: leave it out"
        raise ConfigError("parallel", config.parallel, remedy)
    for name in ("on_nonfinite", "on_divergence", "on_critical_gate"):
        if getattr(config, name) == "rollback":
            raise ConfigError(name, "rollback", f"can't take a loop of your own back; use {getattr(default, name)}")
    if config.twin == "bursts":
        raise ConfigError("twin", "bursts", "can't be in a loop of your own: its twin makes every step at once")
    return replace(config, twin="live")


def _trial_step(run: Prepared, twin_step: TwinStep) -> Callable[[Any, int], None]:
    """Makes the step of a number in a copy, as the loop is said to make it; each rank tries alone."""

    def step(arm: Any, number: int) -> None:
        seed_all(run.device, run.config.seed, "step", number)
        twin_step.backward(arm, run.loader.batch(number % run.loader.steps_per_epoch)[0])
        twin_step.finish(arm)

    return step


def _lost(error: BaseException) -> None:
    say(f"esper.Growth: a callback failed, the run goes on: {type(error).__name__}: {error}", sys.stderr)
