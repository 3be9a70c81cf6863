"""From settings to everything that a run trains with: data, host, task, training arm, seed executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from esper.core.errors import ConfigError, DependencyViolationError
from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.memory.forecast import BURSTS, LIVE, REFUSED, Decision, switched
from esper.kasmina.executor.memory.free import Free, free_memory
from esper.kasmina.executor.passes.compiled import compiled_parts
from esper.kasmina.executor.stacks.run import Run, find_runs
from esper.leyline import HostManifest, TaskType
from esper.tolaria.config import ADAPTER, BY_LOSSES, BY_SEEDS, SHARD, TrainConfig
from esper.tolaria.own_blueprints import NO_OWN, OwnBlueprints
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.shards import Shards
from esper.tolaria.ranks.support import check_bare, check_parts, check_run, is_in_parts
from esper.tolaria.task.data import Splits
from esper.tolaria.task.data.source import LabelKind
from esper.tolaria.task.device import open_device
from esper.tolaria.task.feeds.carrier import Carrier, carrier_for
from esper.tolaria.task.feeds.feed import BatchSets, FedLoader
from esper.tolaria.task.feeds.loader import Loader, StreamLoader
from esper.tolaria.task.given import NOTHING, Given
from esper.tolaria.task.inputs.augment import Augmented
from esper.tolaria.task.interface import Interface
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.objective.agreement import agreed
from esper.tolaria.task.objective.own import own_metric
from esper.tolaria.task.objective.task import SplitTask
from esper.tolaria.task.optimizers.optimizers import (
    make_capturable,
    make_optimizer,
    optimizer_doubts,
    optimizer_of,
    used_before,
)
from esper.tolaria.task.optimizers.schedule import make_schedule
from esper.tolaria.task.optimizers.sparse import check_sparse
from esper.tolaria.task.pace import paced
from esper.tolaria.task.posed import in_training_mode, named_by_settings, pose
from esper.tolaria.task.precision import AMP_TYPES, autocast
from esper.tolaria.task.randomness import of_rank
from esper.tolaria.task.start.fitting import Start, Started
from esper.tolaria.task.start.teacher import load_teacher

# How a twin lives, the best first.
TWIN_MODES = (LIVE, BURSTS, REFUSED)
FetchArtifact = Callable[[str], bytes]
AnyLoader = Loader | StreamLoader | FedLoader | Augmented


@dataclass(kw_only=True, slots=True)
class Prepared:
    """The parts of one run, before its first step."""

    config: TrainConfig
    """What it trains by: where nobody said, rules have."""
    as_given: TrainConfig
    """What was said."""
    splits: Splits | BatchSets
    task: SplitTask
    loader: AnyLoader
    carrier: Carrier
    """What brings the loader's batches onto the device."""
    executor: SeedExecutor
    device: torch.device
    total_steps: int
    growth_end_step: int
    host_parameters: int
    interface: Interface | None
    """What the network takes and gives; None where that is more than a tensor."""
    task_line: str
    """What is learned, in a few words."""
    doubts: list[str]
    """What a person should look at before the run, a line each."""
    ranks: Ranks = ALONE
    """The processes that train it."""
    has_own_loaders: bool = False
    """Whether each of them takes batches from a loader of its own."""
    shards: Shards | None = None
    """The arms in parts; None where each process holds them whole."""
    own: OwnBlueprints = NO_OWN
    """Blueprints of the user's own that it may grow."""
    is_given: bool = False
    """Whether a script made the network, so that nobody else can build it anew."""
    compiled_runs: list[Run] = field(default_factory=list)
    """Runs of blocks that are compiled before the first step."""
    started: dict[str, Any] | None = None
    """The weights that it started from, as the summary tells of them; None where they are random."""
    start_line: str = ""
    """The same in a few words."""
    used_line: str = ""
    """What the optimiser brings from an earlier run, in words."""
    outside: list[str] = field(default_factory=list)
    """What the run depends on and no checkpoint holds, because it stands outside the model; found by trying."""
    _manifest: HostManifest | None = field(default=None, init=False)

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.config.run_name

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


def prepare(
    config: TrainConfig,
    fetch_artifact: FetchArtifact = no_artifacts,
    given: Given = NOTHING,
    *,
    start: Start | None = None,
    ranks: Ranks = ALONE,
    own: OwnBlueprints = NO_OWN,
) -> Prepared:
    """Load the data, build the host and wire it up. Raises ConfigError for whatever can't be used.

    `start` holds the weights that `init_from` names, `own` the blueprints that are the user's.
    """
    if (start is None) != (config.init_from is None):
        raise ConfigError("init_from", config.init_from, "its weights weren't read; this run can't start from any")
    if given.model is not None:
        check_bare(given.model)
    device = open_device(_device_of(config, ranks), is_deterministic=config.is_deterministic)
    torch.set_num_threads(config.threads)
    carrier = carrier_for(config, device)
    posed = pose(config, given, carrier, start)
    model, task, loader = posed.model, posed.task, posed.loader
    total_steps = config.steps or config.epochs * loader.steps_per_epoch
    used = used_before(given.optimizer)
    arm = _arm(config, given, model, total_steps)
    check_sparse(config, model, arm.optimizer)
    settings = ExecutorConfig(
        run_seed=config.seed,
        slots=config.slots or None,
        config_widths=config.config_widths,
        factories=own.factories,
        offers_layers=ADAPTER in config.blueprints,
        merges_adapters=config.adapters == "merge",
        twin=LIVE if is_in_parts(config, ranks) else twin_for(config, loader),
        pass_samples=-(-config.batch_size // (config.accumulate * ranks.count)),
        gradient_rows=_gradient_rows(config, posed.losses),
        accumulates=config.accumulate > 1 and (not config.pcgrad or config.surgery == BY_SEEDS),
        precision=partial(autocast, config.amp, device),
        halves_ends=config.stack_ends == "half",
        is_of_stacks=is_in_parts(config, ranks) and config.grow != "never",
        **together(config.seed, ranks),
    )
    with named_by_settings(config, model):
        executor = SeedExecutor(arm, task, fetch_artifact=fetch_artifact, config=settings)
        compiled_runs = runs_to_compile(config, arm.model, task)
    check_isolable(config, executor)
    if (teacher := load_teacher(config, executor, device, _label_kind(posed.sets))) is not None:
        executor.teach(teacher)
    check_run(config, ranks, is_replayable=loader.is_replayable, is_reentrant=executor.macs.is_reentrant)
    if isinstance(posed.sets, Splits):
        task.metric = metric = own_metric(config, given.metric)
        if metric is not None:
            metric.check(arm, task, posed.sets.judge)
    task.ranks = ranks
    shards = None
    if is_in_parts(config, ranks):
        check_parts(config, arm)
        runs, _ = find_runs(arm.model, task.probe_inputs(), forward=task.forward)
        shards = Shards(ranks, task, device, [run.path for run in runs])
    is_text = task.type == TaskType.TASK_TYPE_LANGUAGE_MODEL
    return Prepared(
        config=paced(config, total_steps, executor),
        as_given=config,
        splits=posed.sets,
        task=task,
        loader=loader,
        carrier=carrier,
        executor=executor,
        device=device,
        total_steps=total_steps,
        growth_end_step=arm.scheduler.growth_end_step,
        host_parameters=sum(parameter.numel() for parameter in model.parameters()),
        task_line=posed.line,
        doubts=[
            *posed.doubts,
            *optimizer_doubts(arm.optimizer, model, grows_spans=_grows_spans(config, is_text=is_text)),
            *rank_doubts(model, ranks),
            *_unshared(config, ranks),
        ],
        interface=posed.interface,
        ranks=ranks,
        shards=shards,
        own=own,
        is_given=given.model is not None,
        compiled_runs=compiled_runs,
        started=_entry(start, posed.started),
        used_line=used,
        start_line="" if posed.started is None else posed.started.line,
    )


def _label_kind(sets: Splits | BatchSets) -> LabelKind | None:
    return sets.label_kind if isinstance(sets, Splits) else None


def _device_of(config: TrainConfig, ranks: Ranks) -> str:
    """Each rank of a machine has a device of its own there."""
    return f"cuda:{ranks.local_rank}" if ranks.count > 1 and config.device == "cuda" else config.device


def together(seed: int, ranks: Ranks) -> dict[str, Any]:
    """Settings of an executor that is one of several: all decide alike, each draws for its own samples."""
    if ranks.count == 1:
        return {}

    def agreed(decision: Decision) -> Decision:
        worst = torch.tensor([TWIN_MODES.index(decision.mode)])
        ranks.largest(worst)
        mode = TWIN_MODES[int(worst)]
        return decision if mode == decision.mode else switched(decision, mode, "another rank has no more room")

    def shared_memory(device: torch.device) -> Free:
        free = free_memory(device)
        if device.type == "cuda" or free.size_bytes is None:
            return free
        return Free(free.size_bytes // ranks.local_count, f"{free.source}, for each of {ranks.local_count} ranks")

    return {"draws_seed": of_rank(seed, ranks.rank), "agreed": agreed, "free_memory": shared_memory}


def rank_doubts(model: nn.Module, ranks: Ranks) -> list[str]:
    """A person should know which figures are of a rank's own samples."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    if ranks.count == 1 or not any(isinstance(part, norms) and part.track_running_stats for part in model.modules()):
        return []
    return [
        f"each of {ranks.count} ranks has BatchNorm statistics of its own samples, and the first one's are kept: the "
        "run computes something else than one process would"
    ]


def _unshared(config: TrainConfig, ranks: Ranks) -> list[str]:
    """Who asks for parts and starts one process should know that it holds all of them."""
    if config.parallel != SHARD or ranks.count > 1:
        return []
    return ["parallel = 'shard': one process has nothing to share out and holds all weights; torchrun starts more"]


def _gradient_rows(config: TrainConfig, losses: int) -> int:
    """Gradients that are kept side by side: of losses, of microbatches, or of host, seed and what came through it."""
    if config.seed_conflicts or config.surgery == BY_SEEDS:
        return 3
    if not config.pcgrad:
        return 0
    return losses if config.surgery == BY_LOSSES else config.accumulate


def _entry(start: Start | None, started: Started | None) -> dict[str, Any] | None:
    """A run that is resumed tells of its weights what it told at first."""
    if start is None or started is None:
        return None
    return started.as_entry() if start.entry is None else dict(start.entry)


def twin_for(config: TrainConfig, loader: AnyLoader) -> str:
    """How a twin may make its steps: at once where no earlier batch can be had again."""
    if loader.is_replayable:
        return config.twin
    if config.twin == "bursts":
        remedy = "needs earlier batches again, and this data can't be replayed; leave it out"
        raise ConfigError("twin", "bursts", remedy)
    return "live"


def built_again(run: Prepared) -> TrainingArm:
    """What a run that is resumed builds before it puts a checkpoint back; the data is the run's own."""
    if run.is_given or run.interface is None:
        return run.executor.arm.clone()  # nobody builds it but the script, and it has made no step
    model = build_model(run.config, run.interface.sample_shape, run.interface.outputs).to(run.device)
    in_training_mode(run.config, model)
    if run.task.has_posed_outputs and isinstance(run.splits, Splits):
        agreed(run.config, model, run.splits)
    return _arm(run.config, NOTHING, model, run.total_steps)


def _arm(config: TrainConfig, given: Given, model: nn.Module, total_steps: int) -> TrainingArm:
    scaler = torch.amp.GradScaler("cuda") if config.amp == "fp16" else None
    optimizer = make_optimizer(config, model) if given.optimizer is None else optimizer_of(given.optimizer, model)
    schedule = make_schedule(config, total_steps, optimizer, given.scheduler)
    if config.graphs:
        make_capturable(optimizer)
    return TrainingArm(model, optimizer, schedule, scaler, amp=AMP_TYPES.get(config.amp), average_decay=config.ema)


def _grows_spans(config: TrainConfig, *, is_text: bool) -> bool:
    """Language models grow in depth, unless blueprints say otherwise; a stack needs no fold."""
    return config.grow != "never" and not (is_text and not config.blueprints)


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


def check_isolable(config: TrainConfig, executor: SeedExecutor) -> None:
    """What follows gradients through a seed finds none in re-entrant checkpoints, which don't record the pass."""
    wishes = {
        "isolate": config.isolate,
        "incubate": config.incubate != "none",
        "surgery": config.surgery == BY_SEEDS,
        "seed_conflicts": config.seed_conflicts,
    }
    for key, is_wished in wishes.items():
        if is_wished and config.grow != "never" and executor.macs.is_reentrant:
            remedy = f"can't be had with the re-entrant checkpoints of {config.model}: give them use_reentrant=False"
            raise ConfigError(key, getattr(config, key), remedy)
