"""From settings to everything that a run trains with: data, host, task, training arm, seed executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from esper.core.errors import ConfigError, DependencyViolationError
from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.leyline import HostManifest
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits, load_splits
from esper.tolaria.task.interface import Interface, interface_of
from esper.tolaria.task.loader import Loader
from esper.tolaria.task.models import build_host, check_outputs
from esper.tolaria.task.schedule import make_schedule
from esper.tolaria.task.task import SplitTask, make_task

FetchArtifact = Callable[[str], bytes]


@dataclass(kw_only=True, slots=True)
class Prepared:
    """The parts of one run, before its first step."""

    config: TrainConfig
    splits: Splits
    task: SplitTask
    loader: Loader
    executor: SeedExecutor
    device: torch.device
    total_steps: int
    growth_end_step: int
    host_parameters: int
    interface: Interface
    _manifest: HostManifest | None = field(default=None, init=False)

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.config.run_id or self.config.run_dir.name

    def manifest(self) -> HostManifest:
        """The host as it is before any growth. Raises ConfigError where it has no usable slot."""
        if self._manifest is None:
            self._manifest = self.executor.manifest()
            self._manifest.model = self.config.model
        return self._manifest


def no_artifacts(digest: str) -> bytes:
    """For runs without a control plane: nothing can be fetched."""
    raise DependencyViolationError("tolaria", "artefact", digest, "this run has no control plane to fetch it from")


def prepare(config: TrainConfig, fetch_artifact: FetchArtifact = no_artifacts) -> Prepared:
    """Load the data, build the host and wire it up. Raises ConfigError for whatever can't be used."""
    device = open_device(config.device)
    torch.set_num_threads(config.threads)
    given = load_splits(config)
    host = build_host(config, given)
    splits = host.splits.to(device)
    model = host.model.to(device)
    check_outputs(model, splits.train.inputs[:2], splits.outputs)
    check_judging_data(config, splits)
    task = make_task(splits)
    loader = Loader(splits.train, config.batch_size, config.seed)
    total_steps = config.epochs * loader.steps_per_epoch
    schedule = make_schedule(config, total_steps)
    scaler = torch.amp.GradScaler("cuda") if config.amp == "fp16" else None
    arm = TrainingArm(model, make_optimizer(config, model), schedule, scaler)
    settings = ExecutorConfig(run_seed=config.seed, slots=config.slots or None)
    return Prepared(
        config=config,
        splits=splits,
        task=task,
        loader=loader,
        executor=SeedExecutor(arm, task, fetch_artifact=fetch_artifact, config=settings),
        device=device,
        total_steps=total_steps,
        growth_end_step=schedule.decay_start,
        host_parameters=sum(parameter.numel() for parameter in model.parameters()),
        interface=interface_of(given, host.splits),
    )


def open_device(name: str) -> torch.device:
    """The device, made to compute the same results every time."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError("device", name, "expected cpu, cuda or cuda:INDEX") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("device", name, "expected cpu, cuda or cuda:INDEX")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ConfigError("device", name, f"torch sees {count} CUDA devices")
        # cuBLAS reads it when it is first used; without it, it may not compute the same sums twice.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        device = torch.device("cuda", device.index or 0)
    return device


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over the host's trainable parameters; fused, because a small step is mostly overhead."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ConfigError("model", config.model, "has no trainable parameter")
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay, fused=True)


def check_judging_data(config: TrainConfig, splits: Splits) -> None:
    """Growth needs enough independent samples to judge by."""
    samples = len(splits.judge)
    if config.grow != "never" and samples < config.min_samples:
        remedy = f"the judging set has only {samples}; give more data, lower min_samples, or --grow never"
        raise ConfigError("min_samples", config.min_samples, remedy)
