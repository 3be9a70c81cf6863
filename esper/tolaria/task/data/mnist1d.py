"""MNIST-1D (Greydanus, arXiv 2011.14439): ten one-dimensional shapes, padded, scaled, sheared, shifted, noised.

Generated, not downloaded. The samples are the same for every seed of a run; the seed draws the split.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.data.splitting import classification

DEFAULT_SAMPLES = 5_000
LENGTH = 40
DRAW_SEED = 42

_FLATNESS = 6.0
_PADDING = (36, 60)
_LONGEST_SHIFT = 48
_SCALE = 0.4
_SHEAR = 0.75
_SMOOTH_NOISE = 0.25
_NOISE_WIDTH = 2.0
_WHITE_NOISE = 0.02

# Height of each digit's pen stroke at twelve points, as the paper draws them.
_STROKES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)


class Mnist1d:
    """So many generated samples, as [samples, 1, 40]."""

    def __init__(self, samples: int | None = None) -> None:
        self._samples = DEFAULT_SAMPLES if samples is None else samples

    def splits(self, seed: int) -> Splits:
        draw = np.random.default_rng(DRAW_SEED)
        labels = np.arange(self._samples) % len(_STROKES)
        drawn = np.stack([signal(_STROKES[label], draw) for label in labels])
        signals = ((drawn - drawn.mean()) / drawn.std()).astype(np.float32)
        return classification(
            torch.from_numpy(signals).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)), len(_STROKES), seed
        )


def signal(stroke: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """One sample of a digit."""
    padding = int(draw.integers(_PADDING[0], _PADDING[1] + 1))
    wave = np.concatenate([(stroke - stroke[0]) / stroke.std() / _FLATNESS, np.zeros(padding)])
    is_stroke = (np.arange(len(wave)) < len(stroke)).astype(np.float64)
    longest = len(stroke) + _PADDING[1]
    shift = int(draw.integers(0, _LONGEST_SHIFT))
    wave, is_stroke = (np.roll(_resampled(values, longest), shift) for values in (wave, is_stroke))
    wave = wave * (1 + _SCALE * (draw.random() - 0.5))
    # Around the stroke, slow noise looks like more strokes.
    wave = wave + (is_stroke == 0) * smoothed(_SMOOTH_NOISE * draw.standard_normal(longest))
    wave = wave + _WHITE_NOISE * draw.standard_normal(longest)
    wave = wave - _SHEAR * (draw.random() - 0.5) * np.linspace(-0.5, 0.5, longest)
    return _resampled(wave, LENGTH)


def smoothed(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise under a Gaussian window, as long as before; reflected at both ends, edge values included."""
    reach = int(4 * _NOISE_WIDTH)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _NOISE_WIDTH) ** 2)
    return np.convolve(np.pad(noise, reach, mode="symmetric"), window / window.sum(), mode="valid")


def _resampled(wave: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(wave)), wave)
    return values
