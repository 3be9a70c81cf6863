"""A user's own loss and metric: functions of outputs and targets, tried before the first step.

The loss gives a number for each sample: training takes their mean, and the judge each one as a score, clipped so that
no single sample decides. The unit of such a number is nobody's but the user's, so it is clipped at four times the mean
magnitude of the untrained network's losses, as a squared error is at four variances. That constant is fixed before the
first step: with one that moved, scores of two looks, or of a network and its twin, would not be of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from math import isfinite
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.counted import counted
from esper.core.errors import ConfigError
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.passes.side_pass import side_pass
from esper.kernels import MAX_ROWS
from esper.leyline import TaskType
from esper.tolaria.config import BY_LOSSES, TrainConfig
from esper.tolaria.task.data.source import VALUES_AT_ONCE, Split, Splits
from esper.tolaria.task.entry_point import load
from esper.tolaria.task.objective.agreement import MISFITS, reason_of
from esper.tolaria.task.objective.task import JUDGE_BATCH, SplitTask, in_full
from esper.tolaria.task.randomness import key

CLIP_IN_FIRST_LOSSES = 4.0
PART = "loss "
"""Before the name of one of several losses, where figures of a set are told."""

Function = Callable[[Tensor, Tensor], Any]


class OwnLoss:
    """The function that `loss` names."""

    def __init__(self, name: str, function: Function) -> None:
        self.name = name
        self._function = function
        self._names: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of several losses, once some were given; empty where there is one."""
        return self._names or ()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples."""
        return self.each(outputs, targets).mean()

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample: [N]. Raises ConfigError where the function gives anything else."""
        return reduce(add, self.parts(outputs, targets).values())

    def parts(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each of several losses by name, the same names in the same order for every batch; of one the name is ''."""
        given, samples = self._function(outputs, targets), len(targets)
        is_several = isinstance(given, Mapping)
        names = tuple(given) if is_several else ()
        if is_several and (not names or any(not isinstance(name, str) or not name.strip() for name in names)):
            raise self.refused(f"gives a mapping with the names {list(names)}, expected words")
        if self._names is None:
            self._names = names
        if set(names) != set(self._names):
            now, first = (", ".join(found) or "a single loss" for found in (names, self._names))
            raise self.refused(f"gives {now} for a batch and gave {first} at first: give the same for every batch")
        if not is_several:
            return {"": self._of_samples(given, samples, "gives")}
        return {name: self._of_samples(given[name], samples, f"gives as {name}") for name in self._names}

    def _of_samples(self, losses: Any, samples: int, gives: str) -> Tensor:
        if not isinstance(losses, Tensor):
            raise self.refused(f"{gives} {type(losses).__name__}, expected a tensor with a loss for each sample, [N]")
        if losses.ndim == 0:
            remedy = "reduction='none', and a mean over what a sample holds"
            raise self.refused(
                f"{gives} one number for {counted(samples, 'sample')}, expected a loss for each, [N]: {remedy}"
            )
        if losses.shape != (samples,) or not losses.is_floating_point():
            what = f"{str(losses.dtype).removeprefix('torch.')} of shape {tuple(losses.shape)}"
            raise self.refused(
                f"{gives} {what} for {counted(samples, 'sample')}, expected floating-point losses ({samples},)"
            )
        return losses

    def tried(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same, where the function itself is on trial."""
        try:
            losses = self.each(outputs, targets)
        except MISFITS as error:
            given = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise self.refused(f"can't take {given}: {reason_of(error)}") from error
        if not bool(torch.isfinite(losses).all()):
            where = int((~torch.isfinite(losses)).nonzero()[0])
            raise self.refused(f"gives {float(losses[where].detach()):g} for sample {where} of a batch before any step")
        return losses

    def refused(self, why: str) -> ConfigError:
        """Why the function can't be used."""
        return ConfigError("loss", self.name, why)


class OwnTask(SplitTask):
    """A task that is learned by a user's own loss; what else there is to tell is told as the data's task does.

    To the control plane it is a regression, whose margins are shares of the twin's score and whose score has no unit;
    only a language model stays one, because its seeds must not look ahead.
    """

    def __init__(self, splits: Splits, own: OwnLoss, model: nn.Module, base: SplitTask | None) -> None:
        super().__init__(splits, own, counts_hits=base is not None and base.counts_hits)
        if splits.task != TaskType.TASK_TYPE_LANGUAGE_MODEL:
            self.type = TaskType.TASK_TYPE_REGRESSION
        self.has_posed_outputs = base is not None
        self._own = own
        self._base = base
        self.mixes_samples = False
        """Whether the loss of a sample depends on the others in its batch, as by an oversight in broadcasting."""
        self._unit = self._first_losses(model)
        self.clip = CLIP_IN_FIRST_LOSSES * self._unit

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._own.each(in_full(outputs), targets).clamp(-self.clip, self.clip)

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As shares of the untrained network's losses, so that a margin means the same for all of them."""
        scores, clipped = super().clipped_scores(outputs, targets)
        return scores / self._unit, clipped

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().hits(outputs, targets) if self._base is None else self._base.hits(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._base is None:
            return super().accuracy(outputs, targets, dtype)
        return self._base.accuracy(outputs, targets, dtype)

    def count(self, targets: Tensor) -> Tensor | int:
        return len(targets) if self._base is None else self._base.count(targets)

    def named_losses(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        parts = self._own.parts(outputs, targets) if self._own.names else {}
        return {name: losses.mean() for name, losses in parts.items()}

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        means = self.named_losses(outputs, targets)
        own = {PART + name: mean.double() * len(targets) for name, mean in means.items()}
        return own if self._base is None else own | self._base.sums(outputs, targets)

    def spread(self, split: Any) -> dict[str, Tensor]:
        return {} if self._base is None else self._base.spread(split)

    def metrics(self, sums: Mapping[str, float], split: Any) -> dict[str, float]:
        own = {name: total / len(split) for name, total in sums.items() if name.startswith(PART)}
        return own if self._base is None else own | self._base.metrics(sums, split)

    def check_loss(self, outputs: Tensor, targets: Tensor) -> None:
        self._own.tried(outputs, targets)
        for name, losses in self._own.parts(outputs, targets).items():
            if outputs.requires_grad and not losses.requires_grad:
                gives = f"gives as {name} losses" if name else "gives losses"
                remedy = "compute it from the outputs with torch alone, without detach(), item(), argmax() or NumPy"
                raise self._own.refused(f"{gives} without a gradient: {remedy}")

    def _mixes(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> bool:
        half = len(losses) // 2
        return half > 0 and not torch.allclose(
            self._own.tried(outputs[:half], targets[:half]), losses[:half], rtol=1e-3, atol=1e-5
        )

    def _first_losses(self, model: nn.Module) -> float:
        """The mean magnitude of a loss before any step, over some training samples."""
        found, samples = [], 0
        with side_pass([model], key=key(0, "own loss"), training=False), torch.no_grad():
            for inputs, targets in self.batches(self._splits.train):
                outputs = self.forward(model, inputs)
                if not isinstance(outputs, Tensor):
                    what = f"gives {type(outputs).__name__}, expected one tensor"
                    raise ConfigError("model", type(model).__name__, f"{what}; wrap it and return that alone")
                losses = self._own.tried(in_full(outputs), targets)
                self.mixes_samples |= self._mixes(losses, in_full(outputs), targets)
                found.append(losses.double().abs())
                samples += len(targets)
                if samples >= JUDGE_BATCH:
                    break
        unit = float(torch.cat(found).mean())
        if unit == 0.0:
            raise self._own.refused("is 0 for every sample before any step: there is nothing to learn")
        return unit


class OwnMetric:
    """The function that `metric` names: a number from all outputs and targets of a set, or one for each sample."""

    def __init__(self, text: str, function: Function) -> None:
        self._text = text
        self._function = function
        self.name = text.rpartition(":")[2].rpartition(".")[2]

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """The number, or the mean of those of the samples."""
        value = self._function(outputs, targets)
        if isinstance(value, Tensor) and value.shape in ((), (len(targets),)):
            return float(value.double().mean())
        if isinstance(value, int | float):
            return float(value)
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise self._refused(f"gives {what}, expected a number, or one for each of the {len(targets)} samples")

    def check(self, arm: TrainingArm, task: SplitTask, split: Split) -> None:
        """Refuse a function that can't be used, by all samples of a set, or whose outputs would fill the memory."""
        found: list[Tensor] = []
        with arm.measured(key(0, "metric"), is_evaluation=True):
            for inputs, _ in task.batches(split):
                found.append(in_full(task.forward(arm.model, inputs)))
                if (values := found[0][0].numel() * len(split)) > VALUES_AT_ONCE:
                    limit = f"{values:,} values, at most {VALUES_AT_ONCE:,}"
                    raise self._refused(f"wants all outputs of a set at once: {limit}; leave it out")
            self._try(torch.cat(found), split.targets)

    def _try(self, outputs: Tensor, targets: Tensor) -> None:
        try:
            value = self(outputs, targets)
        except MISFITS as error:
            given = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
            raise self._refused(f"can't take {given}: {reason_of(error)}") from error
        if not isfinite(value):
            raise self._refused(f"gives {value} for the network before any step")

    def _refused(self, why: str) -> ConfigError:
        return ConfigError("metric", self._text, why)


def own_loss(config: TrainConfig, given: Function | None = None) -> OwnLoss | None:
    """The loss that the settings name, or one that a script gives.

    Raises ConfigError for what is none, and for settings that mean another.
    """
    name = config.loss if given is None else name_of(given)
    if name is None:
        return None
    for setting in ("label_smoothing", "class_weights"):
        if value := getattr(config, setting):
            raise ConfigError(setting, value, f"is of the built-in losses; put it into {name}, or leave it out")
    return OwnLoss(name, _function("loss", name) if given is None else given)


def check_sources(config: TrainConfig, own: OwnLoss | None) -> None:
    """Refuse surgery between losses where there aren't several. Called once the loss was tried."""
    if config.surgery != BY_LOSSES:
        return
    count = 0 if own is None else len(own.names)
    if not 2 <= count <= MAX_ROWS:
        name = "the built-in loss" if own is None else own.name
        what = f"{name} gives {count}" if count else f"{name} is a single one"
        remedy = f"needs from 2 to {MAX_ROWS} losses, and {what}: let a function of --loss return them by name"
        raise ConfigError("surgery", config.surgery, remedy)


def own_metric(config: TrainConfig, given: Function | None = None) -> OwnMetric | None:
    """The metric that the settings name, or one that a script gives."""
    if given is not None:
        return OwnMetric(name_of(given), given)
    return None if config.metric is None else OwnMetric(config.metric, _function("metric", config.metric))


def name_of(function: Function) -> str:
    """A function in one word."""
    return getattr(function, "__name__", type(function).__name__)


def _function(setting: str, text: str) -> Function:
    found = load(setting, text)
    if not callable(found):
        raise ConfigError(setting, text, f"is {type(found).__name__}, expected a function of (outputs, targets)")
    function: Function = found
    return function
