"""A network without its run: built by its factory, grown as its checkpoint says, on the CPU, shown made-up inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from esper.core.errors import ConfigError, CorruptRecord, DependencyViolationError, EsperError
from esper.kasmina.executor import ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.graft.average import swap_averages
from esper.tolaria.config import ADAPTER, TrainConfig
from esper.tolaria.own_blueprints import NO_OWN, OwnBlueprints, kept_blueprints
from esper.tolaria.recovery.checkpoint import CheckpointStore, read
from esper.tolaria.recovery.parts import whole
from esper.tolaria.recovery.snapshot import Snapshot, config_of
from esper.tolaria.task.interface import Interface, Shown
from esper.tolaria.task.models.models import build_model
from esper.tolaria.task.objective.agreement import EXAMPLES
from esper.tolaria.task.optimizers.optimizers import make_optimizer
from esper.tolaria.task.optimizers.schedule import make_schedule
from esper.tolaria.task.prepare import no_artifacts
from esper.tolaria.task.randomness import key


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A host with its permanent seeds, its settings, and what it takes and gives."""

    config: TrainConfig
    interface: Interface
    executor: SeedExecutor

    @property
    def arm(self) -> TrainingArm:
        return self.executor.arm

    def outputs(self, inputs: Tensor) -> Tensor:
        """What the trained network gives for inputs that nobody has normalised, in eval mode."""
        with self.arm.measured(key(0, "export")):
            outputs: Tensor = self.arm.model(self.interface.normalized(inputs))
        return outputs


LAST, AVERAGE, BEST = "last", "ema", "best"
"""Which weights of a run: those it ended with, their average, or those of its best epoch."""


def load_network(run_dir: Path, weights: str = LAST) -> Network:
    """The network of the finished run in `run_dir`, as it was tested. Raises the error tree."""
    path = CheckpointStore(run_dir / "checkpoints", keep=1).final_path
    if not path.exists():
        raise DependencyViolationError("tolaria", "final checkpoint", str(path), "only a finished run can be exported")
    snapshot = Snapshot.from_state(read(path))
    if snapshot.network is None:
        why = "it takes more than a tensor (save a script's result.model then), or it was written by an earlier version"
        raise CorruptRecord(f"{path} doesn't say what its network takes: {why}")
    config = config_of(snapshot.settings)
    with _same_factory(config):
        own = kept_blueprints(run_dir, config)
        network = shown_network(config, Interface.from_state(snapshot.network), own)
        network.executor.load_state_dict(whole(snapshot.executor, path.parent))
    if network.arm.digest() != snapshot.weights_digest:
        raise CorruptRecord(f"{path} gives other weights than the run ended with: was the factory changed since?")
    if weights == AVERAGE:
        _take_average(network)
    if weights == BEST:
        _take_best(network, snapshot)
    return network


def _take_best(network: Network, snapshot: Snapshot) -> None:
    best = snapshot.progress.get("best", {}).get("network")
    if best is None:
        raise ConfigError("weights", BEST, "the run kept no network of an earlier epoch; train with --keep-best")
    network.executor.load_network(best)


def _take_average(network: Network) -> None:
    if network.config.ema is None:
        raise ConfigError("weights", AVERAGE, "the run kept no average of its weights; train with --ema DECAY")
    swap_averages(network.arm.optimizer)


def shown_network(config: TrainConfig, interface: Interface, own: OwnBlueprints = NO_OWN) -> Network:
    """The network as it is before its first step."""
    config = replace(config, device="cpu", amp="off")
    model = build_model(config, interface.sample_shape, interface.outputs).to("cpu")
    if any(is_lazy(parameter) for parameter in model.parameters()):
        _materialize(model, interface)
    schedule = make_schedule(replace(config, schedule="constant", decay_fraction=None), 1)  # nothing is trained
    arm = TrainingArm(model, make_optimizer(config, model), schedule)
    settings = ExecutorConfig(
        run_seed=config.seed,
        slots=config.slots or None,
        config_widths=config.config_widths,
        factories=own.factories,
        offers_layers=ADAPTER in config.blueprints,
        merges_adapters=config.adapters == "merge",
    )
    executor = SeedExecutor(arm, Shown(interface), fetch_artifact=no_artifacts, config=settings)
    return Network(config=config, interface=interface, executor=executor)


def _materialize(model: nn.Module, interface: Interface) -> None:
    """Lazy layers learn their sizes from the first samples; an optimiser's groups depend on these."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        model.eval()(interface.inputs(EXAMPLES))
    for module, mode in modes:
        module.training = mode


@contextmanager
def _same_factory(config: TrainConfig) -> Iterator[None]:
    """What fails inside fails because the model's code isn't what it was."""
    try:
        yield
    except EsperError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = f"no longer builds the network that the run ended with ({reason}); export with the code of the run"
        raise ConfigError("model", config.model, remedy) from error
