"""Normalisation: each feature or channel to mean 0 and deviation 1, by the figures of the training set alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.task.data import Splits


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Of each feature or channel, which stand in the inputs' dimension 1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """Standard deviation; 1 for what is always the same."""

    def of_sample(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every value of a sample of this shape."""
        ones = [1] * (len(shape) - 1)
        mean, deviation = (torch.tensor(values).view(-1, *ones).expand(shape) for values in (self.mean, self.deviation))
        return mean, deviation


def normalized(config: TrainConfig, splits: Splits) -> tuple[Splits, Scaling | None]:
    """The sets with normalised inputs, and by what. Raises ConfigError for inputs that are no amounts."""
    if not config.normalize:
        return splits, None
    inputs = splits.train.inputs
    if splits.stream is not None or not inputs.is_floating_point():
        kind = str(inputs.dtype).removeprefix("torch.")
        raise ConfigError("normalize", True, f"{config.data} gives {kind}, tokens perhaps: only amounts have a scale")
    if inputs.ndim < 2:
        raise ConfigError("normalize", True, f"samples of shape {tuple(inputs.shape[1:])} have no features")
    scaling = scaling_of(inputs)
    mean, deviation = (part.to(inputs.dtype) for part in scaling.of_sample(splits.sample_shape))
    return splits.mapped(lambda split: replace(split, inputs=(split.inputs - mean) / deviation)), scaling


def scaling_of(inputs: Tensor) -> Scaling:
    """Mean and deviation of each feature or channel of [N, C, ...], rounded as float32."""
    by_channel = inputs.movedim(1, 0).flatten(1).double()
    deviation = by_channel.std(dim=1, correction=0)
    # What differs by rounding alone is always the same.
    is_still = deviation <= 1e-6 * by_channel.abs().amax(dim=1)
    deviation = torch.where(is_still, 1.0, deviation)
    return Scaling(mean=_floats(by_channel.mean(dim=1)), deviation=_floats(deviation))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(values.float().tolist())
