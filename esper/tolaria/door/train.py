"""`esper.train`: the whole loop over a script's own network, data, loss, optimiser and scheduler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from esper.core.errors import ConfigError
from esper.core.process.streams import say
from esper.kasmina.executor.fold.export import Grown, plain
from esper.kasmina.executor.pretrained.loader import save_grown
from esper.rpc.otel import setup_tracing
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.callbacks import observers_of
from esper.tolaria.door.data import feed_of, splits_in
from esper.tolaria.door.settings import check_surroundings, config_from, named
from esper.tolaria.door.wording import in_words_of_scripts
from esper.tolaria.following import follow
from esper.tolaria.loop.profiled import trace_folder
from esper.tolaria.ranks.joining import joined
from esper.tolaria.ranks.place import place
from esper.tolaria.record.observer import Observer
from esper.tolaria.record.page.report import report_path, write_report
from esper.tolaria.recovery.continuing import restarted
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions, check_free, occupied
from esper.tolaria.task.entry_point import load
from esper.tolaria.task.given import Given
from esper.tolaria.task.prepare import Prepared

SAID_BY = {
    "optimizer": ("optimizer", "lr", "weight_decay", "decay_rule", "momentum", "beta2", "nesterov"),
    "scheduler": ("schedule", "warmup_steps"),
}
"""Settings of an optimiser and a schedule that a script's own replace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A finished run."""

    model: nn.Module
    """The trained network as a plain module of its own, in eval mode."""
    summary: Mapping[str, Any]
    """What the run was, did, cost and reached; as in summary.json."""
    report: Path
    run_dir: Path

    @in_words_of_scripts()
    def save_pretrained(self, folder: Path | str) -> Path | None:
        """Write a network that has `save_pretrained` by it, and a loader beside it where its configuration falls short.

        Returns the loader, `grown.py`, whose `load()` needs transformers alone; None where `from_pretrained` reads the
        folder. Raises ConfigError for another network, and for one beside which seeds stayed modules.
        """
        if isinstance(self.model, Grown):
            remedy = "seeds stayed beside it as modules, which save_pretrained would leave out"
            raise ConfigError(
                "model", type(self.model.host).__name__, f"{remedy}: torch.save(result.model, file) keeps them"
            )
        return save_grown(self.model, Path(folder))


@in_words_of_scripts()
def train(
    model: nn.Module | str,
    data: Any,
    *,
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    scheduler: Any = None,
    metric: Callable[..., Any] | None = None,
    config: TrainConfig | Mapping[str, Any] | None = None,
    callbacks: Iterable[Observer | Callable[[Any], None]] = (),
    resume: bool = False,
    overwrite: bool = False,
    profile: Path | str | None = None,
) -> Result:
    """Train a network under the control plane, as `tolaria-train` does, and return what it became.

    `data` is (inputs, targets), a Dataset, a DataLoader, an iterable, or these as train, judge and test; `loss` gives a
    number for each sample of (outputs, targets); `optimizer` and `scheduler` are of torch, or make one of parameters
    and of the optimiser. What isn't given is as `config` says. The first Ctrl-C ends the run behind a checkpoint, from
    which the same call with `resume=True` goes on. Under torchrun all processes make the call; the first one writes the
    files and tells the callbacks. `profile` is a folder for traces of some steps, for Perfetto. Raises the error tree
    (esper.core.errors).
    """
    check_surroundings()
    data = str(data) if isinstance(data, Path) else data
    settings = named(config_from(config), model=model, data=data)
    given = _given(settings, model, data, loss=loss, optimizer=optimizer, scheduler=scheduler, metric=metric)
    traces = trace_folder(profile)
    how = RunOptions(resume=resume, overwrite=overwrite, tensorboard=False, profile=traces)
    observers = observers_of(callbacks, _lost)
    interruption, runs = Interruption(), list[Prepared]()
    with joined(settings) as ranks:
        if not ranks.is_first:
            summary = follow(ranks, interruption, given, runs.append, traces)
        else:
            how = restarted(how, settings.run_dir, place().restarts)
            check_free(settings.run_dir, how)
            with occupied(settings.run_dir):
                end_tracing = setup_tracing("esper.train", settings.otlp_endpoint)
                try:
                    summary = grow(settings, how, observers, interruption, given, runs.append, ranks)
                    write_report(settings.run_dir)
                finally:
                    end_tracing()
    interruption.pass_on()
    if not runs:
        raise ConfigError("resume", str(settings.run_dir), "was finished but for its summary, which is written now")
    return Result(
        model=plain(runs[0].executor.arm, takes_any=True),
        summary=summary,
        report=report_path(settings.run_dir),
        run_dir=settings.run_dir,
    )


def _given(settings: TrainConfig, model: Any, data: Any, **parts: Any) -> Given:
    if not isinstance(model, (nn.Module, str)):
        raise ConfigError("model", type(model).__name__, "expected a torch.nn.Module, or the name of a model")
    network = model if isinstance(model, nn.Module) else None
    for name in ("loss", "metric"):
        if parts[name] is not None and getattr(settings, name) is not None:
            raise ConfigError(name, getattr(settings, name), "is given twice: in the settings, and as a function")
        if parts[name] is not None and not callable(parts[name]):
            raise ConfigError(name, type(parts[name]).__name__, "expected a function of (outputs, targets)")
    _check_unset(settings, parts)
    if isinstance(data, str):
        return Given(model=network, **parts)
    splits = splits_in(data)
    if splits is not None:
        return Given(model=network, splits=splits, **parts)
    if parts["loss"] is None and settings.loss is not None:
        parts["loss"] = load("loss", settings.loss)
    return Given(model=network, feed=feed_of(data, settings), **parts)


def _check_unset(settings: TrainConfig, parts: Mapping[str, Any]) -> None:
    """Refuse settings of what is handed over: they would say nothing."""
    default = TrainConfig()
    for part, names in SAID_BY.items():
        for name in names if parts[part] is not None else ():
            if (value := getattr(settings, name)) != getattr(default, name):
                raise ConfigError(name, value, f"is of the settings' own {part}, and another was given; leave one out")


def _lost(error: BaseException) -> None:
    say(f"esper.train: a callback failed, the run goes on: {type(error).__name__}: {error}", sys.stderr)
