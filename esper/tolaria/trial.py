"""What must hold of a host before a run relies on it, tried on copies: a twin, and a checkpoint.

The run itself is left as it was: it has made no step, and its generators stand where they stood.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm, differences, tensors_of, try_twin, unkept
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.recovery.checkpoint import decode, encode_proven
from esper.tolaria.task.prepare import Prepared, named_by_settings


def try_host(run: Prepared) -> None:
    """Refuse to grow a host of which no twin can be made, or that no checkpoint can hold. Raises ConfigError."""
    config, arm = run.config, run.executor.arm
    with _kept_generators(run.device):
        if config.judge == "twin":
            with named_by_settings(config, arm.model):
                try_twin(arm, run.task, _steps(run))
        if config.checkpoint_every_epochs and (lost := unkept(arm, _steps(run))):
            remedy = "hold it as a buffer, a tensor, a plain value, or a list or dict of these"
            give_up = "or give --checkpoint-every-epochs 0"
            raise ConfigError(
                "model", lost[0], f"changes in a step, and no checkpoint can hold it; {remedy}, {give_up}"
            )


def try_checkpoint(stepped: Prepared, prepare_again: Callable[[], Prepared]) -> None:
    """A checkpoint of a run that made a step lets one that is built anew go on as it does. Raises ConfigError."""
    state = decode(encode_proven({"executor": stepped.executor.state_dict()}), "the checkpoint that was tried")
    with _kept_generators(stepped.device):
        _steps(stepped)(stepped.executor.arm, 1)
        expected = {name: tensor.detach().clone() for name, tensor in tensors_of(stepped.executor.arm).items()}
        fresh = prepare_again()
        fresh.executor.load_state_dict(state["executor"])
        _steps(fresh)(fresh.executor.arm, 1)
    if differing := differences(expected, tensors_of(fresh.executor.arm)):
        cause = "is another after a step from a checkpoint: it depends on something outside the model"
        raise ConfigError("model", differing[0], f"{cause}; hold that in the model's attributes")


def _steps(run: Prepared) -> Callable[[TrainingArm, int], None]:
    """Makes the run's real step of a number, with its batch and draws, in any arm."""
    stepper = Stepper(run.task, run.config, run.device)

    def step(arm: TrainingArm, number: int) -> None:
        arm.scheduler.apply(arm.optimizer, number)
        stepper.run(
            arm, run.loader.batch(number % run.loader.steps_per_epoch), number, Groups(host=arm.host_parameters())
        )

    return step


@contextmanager
def _kept_generators(device: torch.device) -> Iterator[None]:
    """Steps seed the process's generators anew; afterwards these stand where they stood."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
