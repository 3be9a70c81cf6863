"""What must hold of a host before a run relies on it, tried on copies: a twin, and a checkpoint.

The run itself is left as it was: it has made no step, and its generators stand where they stood.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.kasmina.executor import TrainingArm, differences, tensors_of, try_twin, unkept
from esper.kasmina.executor.contents.shared import Shared
from esper.kasmina.executor.passes.compiled import eagerly
from esper.kasmina.executor.passes.trace import in_words
from esper.tolaria.loop.step import Groups, Stepper
from esper.tolaria.ranks.pieces import piece_of
from esper.tolaria.recovery.checkpoint import decode, encode_proven
from esper.tolaria.task.device import computing_the_same
from esper.tolaria.task.posed import named_by_settings
from esper.tolaria.task.prepare import Prepared, built_again

Step = Callable[[TrainingArm, int], None]


def try_host(run: Prepared, step: Step | None = None) -> None:
    """Refuse to grow a host of which no twin can be made, or that no checkpoint can hold. Raises ConfigError.

    `step` makes the real step of a number in any arm, where that isn't as the settings say.
    """
    with _kept_generators(run.device):
        try:
            with computing_the_same(run.device):
                _try_host(run, step or _steps(run))
        except RuntimeError as error:
            if run.config.is_deterministic or "determinis" not in str(error):
                raise
            run.doubts.append(f"whether a twin is a true copy couldn't be tried bit for bit: {in_words(error)}")


def _try_host(run: Prepared, step: Step) -> None:
    config, arm = run.config, run.executor.arm
    if config.judge == "twin":
        with named_by_settings(config, arm.model):
            try_twin(arm, run.task, step)
    if config.checkpoint_every_epochs and (lost := unkept(arm, step)):
        remedy = "hold it as a buffer, a tensor, a plain value, or a list or dict of these"
        give_up = "or give --checkpoint-every-epochs 0"
        raise ConfigError("model", lost[0], f"changes in a step, and no checkpoint can hold it; {remedy}, {give_up}")


def try_stacks(run: Prepared) -> None:
    """Repeat each run of blocks on a copy; what can't be repeated is no slot, and is told why where it was asked for.

    Comes before the manifest is asked for. Raises ConfigError for a run that the user names.
    """
    if run.config.judge == "twin":
        with eagerly(), _kept_generators(run.device), named_by_settings(run.config, run.executor.arm.model):
            run.executor.places.try_stacks()


def tried_checkpoint(run: Prepared, step: Step | None = None) -> bool:
    """Whether a network that is built anew goes on from a checkpoint of the run as the run does.

    Where it doesn't, or where that can't be tried, a line of `run.doubts` says so. Raises ConfigError for a host that
    is to grow: its judgements would be of another network.
    """
    doubts = len(run.doubts)
    try:
        try_checkpoint(run, step)
    except ConfigError as error:
        if run.config.grow != "never":
            raise
        run.doubts.append(f"{error}; a run that is resumed may end in other weights, and says so")
    except Exception as error:  # noqa: BLE001 - a second network may not fit, and a factory may fail in any way
        run.doubts.append(f"whether a resumed run ends in the same weights couldn't be tried: {in_words(error)}")
    return len(run.doubts) == doubts


def try_checkpoint(run: Prepared, step: Step | None = None) -> None:
    """As `tried_checkpoint`; raises ConfigError, having noted what depends on something outside the model."""
    shared, step = Shared(run.executor.arm.model), step or _steps(run)
    with eagerly(), computing_the_same(run.device), _kept_generators(run.device):
        state, expected = _two_steps(run, step)
        fresh = built_again(run)
        fresh.load_state_dict(state["executor"]["arm"], lambda arm: [])
        step(fresh, 1)
    if differing := differences(expected, tensors_of(fresh)):
        run.outside.append(f"what {differing[0]} depends on outside the model")
        what = next(iter(shared.changed()), "something")
        cause = f"is another after a step from a checkpoint: it depends on {what} outside the model"
        remedy = "hold that in the model's attributes, or give --checkpoint-every-epochs 0"
        raise ConfigError("model", differing[0], f"{cause}; {remedy}")


def _two_steps(run: Prepared, step: Step) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint after the first step, and the tensors after the second; the network itself is gone by then."""
    arm = built_again(run)
    step(arm, 0)
    state = decode(encode_proven({"executor": {"arm": arm.state_dict()}}), "the checkpoint that was tried")
    step(arm, 1)
    return state, {name: tensor.detach().clone() for name, tensor in tensors_of(arm).items()}


def _steps(run: Prepared) -> Step:
    """Makes the run's real step of a number, with its batch and draws, in any arm."""
    stepper = Stepper(run.task, run.config, run.device)

    def step(arm: TrainingArm, number: int) -> None:
        arm.scheduler.apply(arm.optimizer, number)
        batch = run.loader.batch(number % run.loader.steps_per_epoch)
        # A rank may have no room for more than its own samples of a batch; each tries alone.
        own = batch if run.ranks.count == 1 else piece_of(batch, run.ranks.rank, run.ranks.count).batch
        stepper.run(arm, own, number, Groups(host=arm.host_parameters()))

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
