"""From settings to everything that a run trains with: data, host, task, training arm, seed executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from esper.core.errors import ConfigError, DependencyViolationError
from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.passes.compiled import compiled_parts
from esper.kasmina.executor.stacks.run import Run, find_runs
from esper.leyline import HostManifest, TaskType
from esper.tolaria.config import ADAPTER, AUTO_TASK, BY_LOSSES, TrainConfig
from esper.tolaria.task.agreement import agreed, as_posed, check_passes
from esper.tolaria.task.data import Splits, load_splits
from esper.tolaria.task.data.facts import described, doubts
from esper.tolaria.task.data.overlap import overlaps
from esper.tolaria.task.data.registry import SOURCES
from esper.tolaria.task.device import open_device
from esper.tolaria.task.inputs.augment import Augmented, augmented
from esper.tolaria.task.inputs.normalize import normalized
from esper.tolaria.task.inputs.transform import transformed
from esper.tolaria.task.interface import Interface, interface_of
from esper.tolaria.task.loader import Loader, StreamLoader, make_loader
from esper.tolaria.task.losses import LossSettings
from esper.tolaria.task.models import build_host, build_model
from esper.tolaria.task.optimizers import make_optimizer, optimizer_doubts
from esper.tolaria.task.own import OwnLoss, OwnTask, check_sources, own_loss, own_metric
from esper.tolaria.task.precision import AMP_TYPES, autocast
from esper.tolaria.task.schedule import make_schedule
from esper.tolaria.task.start.fitting import Start, Started, put_in
from esper.tolaria.task.start.frozen import keep_statistics
from esper.tolaria.task.task import SplitTask, make_task

FetchArtifact = Callable[[str], bytes]


@dataclass(kw_only=True, slots=True)
class Prepared:
    """The parts of one run, before its first step."""

    config: TrainConfig
    splits: Splits
    task: SplitTask
    loader: Loader | StreamLoader | Augmented
    executor: SeedExecutor
    device: torch.device
    total_steps: int
    growth_end_step: int
    host_parameters: int
    interface: Interface
    task_line: str
    """What is learned, in a few words."""
    doubts: list[str]
    """What a person should look at before the run, a line each."""
    compiled_runs: list[Run] = field(default_factory=list)
    """Runs of blocks that are compiled before the first step."""
    started: dict[str, Any] | None = None
    """The weights that it started from, as the summary tells of them; None where they are random."""
    start_line: str = ""
    """The same in a few words."""
    outside: list[str] = field(default_factory=list)
    """What the run depends on and no checkpoint holds, because it stands outside the model; found by trying."""
    _manifest: HostManifest | None = field(default=None, init=False)

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.config.run_id or self.config.run_dir.name

    def manifest(self) -> HostManifest:
        """The host as it is before any growth. Raises ConfigError where it has no usable slot."""
        if self._manifest is None:
            with named_by_settings(self.config, self.executor.arm.model):
                self._manifest = self.executor.manifest()
            self._manifest.model = self.config.model
        return self._manifest


def no_artifacts(digest: str) -> bytes:
    """For runs without a control plane: nothing can be fetched."""
    raise DependencyViolationError("tolaria", "artefact", digest, "this run has no control plane to fetch it from")


def prepare(config: TrainConfig, fetch_artifact: FetchArtifact = no_artifacts, start: Start | None = None) -> Prepared:
    """Load the data, build the host and wire it up. Raises ConfigError for whatever can't be used.

    `start` holds the weights that `init_from` names.
    """
    if (start is None) != (config.init_from is None):
        raise ConfigError("init_from", config.init_from, "its weights weren't read; this run can't start from any")
    device = open_device(config.device, is_deterministic=config.is_deterministic)
    torch.set_num_threads(config.threads)
    read = load_splits(config)
    # The sets of built-in sources are known.
    shared = [] if config.data in SOURCES else overlaps(read)
    given, scaling = normalized(config, transformed(config, read))
    host = build_host(config, given)
    model = host.model.to(device)
    told = _in_training_mode(config, model)
    started = None if start is None else put_in(config, model, start)
    own, splits = own_loss(config), host.splits.to(device)
    if own is None:
        check_sources(config, own)
        splits = agreed(config, model, splits)
        task, what = make_task(splits, LossSettings.of(config)), described(splits)
    else:
        fitting = as_posed(config, model, splits)
        splits = splits if fitting is None else fitting
        with named_by_settings(config, model):
            task = OwnTask(splits, own, model, None if fitting is None else make_task(fitting))
        what = f"{described(splits)}, by {config.loss}, scores clipped at {task.clip:.4g}"
        check_sources(config, own)
        if task.mixes_samples:
            told.append(f"{config.loss} gives a sample another loss beside other samples: scores depend on batches")
    check_judging_data(config, splits)
    loader = augmented(config, make_loader(config, splits, device))
    check_passes(config, model, task, loader, splits)
    total_steps = config.steps or config.epochs * loader.steps_per_epoch
    arm = _arm(config, model, total_steps)
    settings = ExecutorConfig(
        run_seed=config.seed,
        slots=config.slots or None,
        config_widths=config.config_widths,
        offers_layers=ADAPTER in config.blueprints,
        merges_adapters=config.adapters == "merge",
        twin=config.twin,
        pass_samples=-(-config.batch_size // config.accumulate),
        gradient_rows=_gradient_rows(config, own),
        accumulates=config.accumulate > 1 and not config.pcgrad,
        precision=partial(autocast, config.amp, device),
    )
    with named_by_settings(config, model):
        executor = SeedExecutor(arm, task, fetch_artifact=fetch_artifact, config=settings)
        compiled_runs = runs_to_compile(config, arm.model, task)
    check_isolable(config, executor)
    task.metric = metric = own_metric(config)
    if metric is not None:
        metric.check(arm, task, splits.judge)
    return Prepared(
        config=config,
        splits=splits,
        task=task,
        loader=loader,
        executor=executor,
        device=device,
        total_steps=total_steps,
        growth_end_step=arm.scheduler.growth_end_step,
        host_parameters=sum(parameter.numel() for parameter in model.parameters()),
        task_line=what,
        doubts=[
            *told,
            *doubts(splits, is_guessed=config.task == AUTO_TASK),
            *shared,
            *optimizer_doubts(arm.optimizer, model, grows_spans=_grows_spans(config, splits)),
        ],
        interface=interface_of(given, host.splits, scaling, config.transform),
        compiled_runs=compiled_runs,
        started=_entry(start, started),
        start_line="" if started is None else started.line,
    )


def _gradient_rows(config: TrainConfig, own: OwnLoss | None) -> int:
    """Gradients that surgery keeps side by side: of losses, or of microbatches."""
    if not config.pcgrad:
        return 0
    return config.accumulate if own is None or config.surgery != BY_LOSSES else len(own.names)


@contextmanager
def named_by_settings(config: TrainConfig, model: nn.Module) -> Iterator[None]:
    """Refusals of the model inside name it as the setting does: its class, often Sequential, says little."""
    try:
        yield
    except ConfigError as error:
        if (error.key, error.value) != ("model", type(model).__name__):
            raise
        raise ConfigError("model", config.model, error.remedy) from error


def built_again(run: Prepared) -> TrainingArm:
    """What a run that is resumed builds before it puts a checkpoint back; the data is the run's own."""
    model = build_model(run.config, run.interface.sample_shape, run.interface.outputs).to(run.device)
    _in_training_mode(run.config, model)
    if run.task.has_posed_outputs:
        agreed(run.config, model, run.splits)
    return _arm(run.config, model, run.total_steps)


def _arm(config: TrainConfig, model: nn.Module, total_steps: int) -> TrainingArm:
    scaler = torch.amp.GradScaler("cuda") if config.amp == "fp16" else None
    optimizer = make_optimizer(config, model)
    schedule = make_schedule(config, total_steps, [float(group["lr"]) for group in optimizer.param_groups])
    return TrainingArm(model, optimizer, schedule, scaler, amp=AMP_TYPES.get(config.amp), average_decay=config.ema)


def _entry(start: Start | None, started: Started | None) -> dict[str, Any] | None:
    """A run that is resumed tells of its weights what it told at first."""
    if start is None or started is None:
        return None
    return started.as_entry() if start.entry is None else dict(start.entry)


def _grows_spans(config: TrainConfig, splits: Splits) -> bool:
    """Language models grow in depth, unless blueprints say otherwise; a stack needs no fold."""
    is_deepened = splits.task == TaskType.TASK_TYPE_LANGUAGE_MODEL and not config.blueprints
    return config.grow != "never" and not is_deepened


def _in_training_mode(config: TrainConfig, model: nn.Module) -> list[str]:
    """A network is trained in training mode; parts of one that are in eval mode stay so. Returns what to tell."""
    if model.training:
        return []
    model.train()
    keep_statistics(config, model)
    return ["the model was handed over in eval mode; it trains in training mode"]


def runs_to_compile(config: TrainConfig, model: nn.Module, task: SplitTask) -> list[Run]:
    """The runs of equal blocks that `compile` asks for. Raises ConfigError where there is none."""
    if config.compile == "off":
        return []
    if parts := compiled_parts(model):
        remedy = f"the model compiles {parts[0] or 'itself'} already; leave one of both out"
        raise ConfigError("compile", config.compile, remedy)
    runs, refusals = find_runs(model, task.probe_inputs(), forward=task.forward)
    if not runs:
        why = "; ".join(f"{refusal.path}: {refusal.reason}" for refusal in refusals)
        found = f" ({why})" if why else ""
        remedy = f"{config.model} has no run of equal blocks{found}; leave --compile out"
        raise ConfigError("compile", config.compile, remedy)
    return runs


def check_judging_data(config: TrainConfig, splits: Splits) -> None:
    """Growth needs enough samples to judge by, of enough documents.

    With few documents, or a few large ones among many, an error that counts them is too small (Cameron and Miller 2015,
    6.B: "few" may mean 20 to 50); 30 of about one size err little.
    """
    if config.grow == "never":
        return
    samples, documents = len(splits.judge), splits.judge.document_count
    if samples < config.min_samples:
        remedy = f"the judging set has only {samples}; give more data, lower min_samples, or --grow never"
        raise ConfigError("min_samples", config.min_samples, remedy)
    if documents is not None and documents < max(2, config.min_documents):
        found = "a single document" if documents == 1 else f"only {documents} documents"
        remedy = (
            f"the {samples} judging samples are of {found}; divide documents further (--document-mark), give more of "
            "them, lower min_documents, or --grow never"
        )
        raise ConfigError("min_documents", config.min_documents, remedy)


def check_isolable(config: TrainConfig, executor: SeedExecutor) -> None:
    """Isolation is proven by gradients, which re-entrant checkpoints don't record."""
    wishes = {"isolate": config.isolate, "incubate": config.incubate != "none"}
    for key, is_wished in wishes.items():
        if is_wished and config.grow != "never" and executor.macs.is_reentrant:
            remedy = f"can't be had with the re-entrant checkpoints of {config.model}: give them use_reentrant=False"
            raise ConfigError(key, getattr(config, key), remedy)
